package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
)

// explained is an entry of the catalogue as it is shown.
type explained struct {
	ID     string `json:"id" doc:"the number"`
	Name   string `json:"name" doc:"a few words"`
	Cause  string `json:"cause" doc:"why it happens"`
	Remedy string `json:"remedy" doc:"what to do"`
}

func toExplained(e explain.Entry) explained {
	return explained{e.ID.String(), e.Name, e.Cause, e.Remedy}
}

func (a *app) explainCommand() *cobra.Command {
	var v *view
	c := &cobra.Command{
		Use:     "explain ID",
		Short:   "Explain an error by its number",
		Long:    "Explain an error by its number, as errors have it: TW-1020, or 1020. A code of the wire\nprotocol may be given by its name too: UNKNOWN_STREAM, or unknown-stream.",
		Example: "  tidewire explain TW-1020\n  tidewire explain UNKNOWN_STREAM\n  tidewire explain ls",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) (out []string, _ cobra.ShellCompDirective) {
			for _, e := range explain.All() {
				if len(args) == 0 {
					out = append(out, e.ID.String()+"\t"+e.Name)
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		id, err := explain.Parse(args[0])
		if code, ok := wireID(args[0]); ok {
			id, err = code, nil
		}
		if err != nil || len(args) > 1 {
			return verbs(c, args)
		}
		e, ok := explain.Lookup(id)
		if !ok {
			return unknownID(id)
		}
		return v.print(toExplained(e), func() {
			a.details([][]string{{e.ID.String(), e.Name}, {"cause", e.Cause}, {"remedy", e.Remedy}})
		})
	}
	v = a.view(c, explained{})
	c.AddCommand(a.explainLsCommand())
	return c
}

// wireID finds the entry of a code of the wire protocol by its name, in whatever case and with - for _.
func wireID(name string) (explain.ID, bool) {
	name = strings.ReplaceAll(strings.TrimRight(name, ":"), "-", "_")
	for _, e := range explain.All() {
		if code := e.ID - explain.Wire(0); code > 0 && code < 1000 && strings.EqualFold(wire.Code(code).String(), name) {
			return e.ID, true
		}
	}
	return 0, false
}

// unknownID names the entry whose number is nearest.
func unknownID(id explain.ID) error {
	var near explain.Entry
	least := uint(1000)
	for _, e := range explain.All() {
		if d := uint(max(e.ID-id, id-e.ID)); d < least {
			near, least = e, d
		}
	}
	p := &problem{id: explain.UnknownError, what: "there is no error " + id.String(), code: exitUsage}
	if near.ID != 0 {
		p.todo = fmt.Sprintf("did you mean %s (%s)? `tidewire explain ls` lists all", near.ID, near.Name)
	}
	return p
}

func (a *app) explainLsCommand() *cobra.Command {
	var v *view
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List all errors",
		Example: "  tidewire explain ls\n  tidewire explain ls -o json | jq -r '.[].remedy'",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			out := []explained{}
			rows := [][]string{{"ID", "NAME", "REMEDY"}}
			if v.wide() {
				rows[0] = []string{"ID", "NAME", "CAUSE", "REMEDY"}
			}
			for _, e := range explain.All() {
				out = append(out, toExplained(e))
				row := []string{e.ID.String(), e.Name, oneLine(e.Cause), oneLine(e.Remedy)}
				if !v.wide() {
					row = append(row[:2], row[3])
				}
				rows = append(rows, row)
			}
			return v.print(out, func() { a.headed(rows) })
		},
	}
	v = a.view(c, []explained{})
	return c
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
