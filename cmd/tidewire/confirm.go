package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/internal/explain"
)

// answer is --yes: nothing, yes, or the name of the stream, as a protected context wants it.
type answer string

const anyStream answer = "true" // --yes alone; a stream of that name is confirmed by it too

func (y *answer) String() string     { return string(*y) }
func (y *answer) Type() string       { return "NAME" }
func (y *answer) Set(s string) error { *y = answer(s); return nil }

func (y *answer) flag(c *cobra.Command) {
	c.Flags().VarPF(y, "yes", "y", "do not ask; on a protected context --yes=`NAME` must name the stream").NoOptDefVal = string(anyStream)
}

// confirm asks whether to remove data; without a terminal there is nobody to ask. A protected context wants the stream's name.
// It comes after connect, which finds out what cluster this is.
func (cn *connection) confirm(c *cobra.Command, stream, question string, yes answer) error {
	a := cn.app
	all, err := a.contexts() // also when it was not needed to find the node: unreadable protection is none
	if err != nil {
		return err
	}
	name := all.protects(c.Context(), cn.address(), cn.cluster)
	switch {
	case name == "" && yes != "" && yes != anyStream && string(yes) != stream:
		return &problem{id: explain.NotConfirmed, what: "stream " + stream + " was not touched", err: fmt.Errorf("--yes names %s", yes), code: exitUsage,
			todo: "give --yes=" + stream + ", if that is the one"}
	case name == "" && yes != "" || string(yes) == stream:
		return nil
	case name == "" && a.typed:
		if s := a.ask(question + " [y/N] "); strings.EqualFold(s, "y") || strings.EqualFold(s, "yes") {
			return nil
		}
		return &problem{id: explain.NotConfirmed, what: "stream " + stream + " was not touched: the answer was not yes"}
	case name == "":
		return usage(c, errors.New("there is no terminal to ask on: give --yes to do it without a question"))
	case yes == "" && a.typed && a.ask(fmt.Sprintf("%s\n%s is a node of the protected context %s. Type the stream's name: ", question, cn.address(), name)) == stream:
		return nil
	}
	return &problem{id: explain.Protected, what: "stream " + stream + " was not touched", err: fmt.Errorf("%s is a node of the protected context %s", cn.address(), name),
		todo: "type the stream's name when asked, or give --yes=" + stream, code: exitUsage}
}

// confirmUnprotected wants the name of a protected context before it is forgotten.
func (a *app) confirmUnprotected(e *contextEntry, yes answer) error {
	if !e.Protected || string(yes) == e.Name ||
		yes == "" && a.typed && a.ask(fmt.Sprintf("Context %s is protected, and its nodes (%s) will be no more. Type its name: ", e.Name, e.Server)) == e.Name {
		return nil
	}
	return &problem{id: explain.Protected, what: "context " + e.Name + " was not forgotten", err: errors.New("it is protected, and without it its nodes are not"),
		todo: "type its name when asked, or give --yes=" + e.Name, code: exitUsage}
}

// ask puts a question on the terminal and gives the answer.
func (a *app) ask(question string) string {
	fmt.Fprint(a.err, question)
	line, _ := bufio.NewReader(a.in).ReadString('\n')
	return strings.TrimSpace(line)
}
