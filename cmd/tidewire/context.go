package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
)

const contextLong = `A context is a node's address under a name, so that it need not be given each time.

Which node a command talks to, the first that is given:
  --server ADDRESS
  --context NAME
  TIDEWIRE_SERVER
  TIDEWIRE_CONTEXT
  the selected context
  ` + defaultServer + `

A protected context is for what must not be hit by accident: whatever removes data there
must be confirmed by typing the stream's name, or by --yes=NAME. It protects its
addresses in any spelling, also when they are given with --server, and at every other
address the cluster that they led to.

Contexts are kept in contexts.json in XDG_CONFIG_HOME/tidewire (~/.config/tidewire).

tidewire context lists them, tidewire context NAME selects one, tidewire context - goes
back to the one before.`

const contextExample = `  tidewire context add staging --server staging.example.org:7420
  tidewire context add prod --server a.example.org,b.example.org --protected
  tidewire context select staging
  tidewire ctx prod && tidewire ctx -
  PS1='$(tidewire context show --short) $ '`

// contextJSON is a context as it is shown.
type contextJSON struct {
	contextEntry
	Selected bool `json:"selected" doc:"commands use it unless told otherwise"`
	InForce  bool `json:"in_force" doc:"commands use it now: neither TIDEWIRE_SERVER nor TIDEWIRE_CONTEXT says otherwise"`
}

func (a *app) contextCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "context [NAME | -]",
		Aliases:           []string{"ctx", "contexts"},
		Short:             "Keep addresses of nodes under names",
		Long:              contextLong,
		Example:           contextExample,
		ValidArgsFunction: a.contextNames,
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return a.listContexts(nil)
		}
		if len(args) > 1 {
			return verbs(c, args)
		}
		if args[0] == "-" {
			return a.selectPrevious()
		}
		all, err := a.contexts()
		if err != nil {
			return err
		}
		if all.index(args[0]) < 0 && len(c.SuggestionsFor(args[0])) > 0 {
			return verbs(c, args)
		}
		return a.selectContext(args[0])
	}
	c.AddCommand(a.contextAddCommand(), a.contextLsCommand(), a.contextShowCommand(), a.contextSelectCommand(), a.contextEditCommand(), a.contextRmCommand())
	return c
}

func (a *app) contextNames(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	all, err := a.contexts()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return all.names(), cobra.ShellCompDirectiveNoFileComp
}

// contextFlags are the fields of a context as flags.
func contextFlags(c *cobra.Command, e *contextEntry) {
	c.Flags().StringVar(&e.Server, "server", "", "`ADDRESS` of a node, or several with commas")
	c.Flags().StringVar(&e.Description, "description", "", "what it is for")
	c.Flags().BoolVar(&e.Protected, "protected", false, "what removes data must be confirmed by the stream's name")
}

func (a *app) contextAddCommand() *cobra.Command {
	var e contextEntry
	var chosen bool
	c := &cobra.Command{
		Use:     "add NAME --server ADDRESS",
		Aliases: []string{"create"},
		Short:   "Add a context",
		Example: "  tidewire context add staging --server staging.example.org:7420\n  tidewire context add prod --server prod.example.org --protected --description 'the real one'",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if e.Name = args[0]; e.Server == "" {
				return usage(c, errors.New("--server is missing: a context is a node's address under a name"))
			}
			if err := errors.Join(e.check(), notAVerb(c, e.Name)); err != nil {
				return usage(c, err)
			}
			if _, err := a.contexts(); err != nil { // before anybody is asked
				return err
			}
			note := a.identify(c.Context(), &e)
			err := a.changeContexts(func(all *contexts) error {
				if all.index(e.Name) >= 0 {
					return &problem{id: explain.ContextExists, what: "there is a context " + e.Name + " already"}
				}
				all.Contexts = append(all.Contexts, e)
				if chosen || len(all.Contexts) == 1 {
					all.choose(e.Name)
				}
				chosen = all.Selected == e.Name
				return nil
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "context %s is added%s\n", e.Name, map[bool]string{true: " and selected"}[chosen])
			fmt.Fprint(a.err, note)
			return nil
		},
	}
	contextFlags(c, &e)
	c.Flags().BoolVar(&chosen, "select", false, "select it too; the first context is selected anyhow")
	return c
}

func (a *app) contextLsCommand() *cobra.Command {
	var v *view
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the contexts",
		Example: "  tidewire context ls\n  tidewire context ls -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.listContexts(v)
		},
	}
	v = a.view(c, []contextJSON{})
	return c
}

// listContexts prints them, as v says or else as text, and then which is in force and why.
func (a *app) listContexts(v *view) error {
	all, err := a.contexts()
	if err != nil {
		return err
	}
	out := []contextJSON{}
	rows := [][]string{{"", "NAME", "SERVER", "PROTECTED", "DESCRIPTION"}}
	for i := range all.Contexts {
		j := a.contextJSON(all, &all.Contexts[i])
		out = append(out, j)
		rows = append(rows, []string{map[bool]string{true: "*"}[j.Selected], j.Name, j.Server, yesNo(j.Protected), orDash(j.Description)})
	}
	text := func() {
		if len(out) > 0 {
			a.headed(rows)
		} else {
			fmt.Fprintln(a.err, "there are no contexts; make one with `tidewire context add NAME --server ADDRESS`")
		}
		fmt.Fprintln(a.err, a.inForce(all))
	}
	if v == nil {
		text()
		return nil
	}
	return v.print(out, text)
}

func (a *app) contextJSON(all *contexts, e *contextEntry) contextJSON {
	return contextJSON{*e, e.Name == all.Selected, a.getenv("TIDEWIRE_SERVER") == "" && e.Name == a.currentContext(all)}
}

// inForce says what commands talk to that are told nothing else, and why.
func (a *app) inForce(all *contexts) string {
	name := a.currentContext(all)
	e, err := all.find(name)
	switch address := a.getenv("TIDEWIRE_SERVER"); {
	case address != "" && name != "":
		return fmt.Sprintf("in force: %s, which TIDEWIRE_SERVER says; it goes before context %s", address, name)
	case address != "":
		return fmt.Sprintf("in force: %s, which TIDEWIRE_SERVER says", address)
	case name == "":
		return fmt.Sprintf("in force: %s, as nothing is selected", defaultServer)
	case err != nil:
		return fmt.Sprintf("in force: none, as TIDEWIRE_CONTEXT says %s, which is not there", name)
	case a.getenv("TIDEWIRE_CONTEXT") != "":
		return fmt.Sprintf("in force: context %s (%s), which TIDEWIRE_CONTEXT says", name, e.Server)
	}
	return fmt.Sprintf("in force: context %s (%s), which is selected", name, e.Server)
}

// notAVerb refuses a context that `+"`tidewire context NAME`"+` could not select, as there is a command of that name.
func notAVerb(c *cobra.Command, name string) error {
	for _, verb := range c.Parent().Commands() {
		if verb.Name() == name || verb.HasAlias(name) {
			return fmt.Errorf("%s is a command of tidewire context: choose another name", name)
		}
	}
	return nil
}

// identifyPatience bounds how long a node is waited for whose cluster a context is to remember.
const identifyPatience = 2 * time.Second

// identify finds out which cluster a protected context is, and says what follows if nobody answers.
func (a *app) identify(ctx context.Context, e *contextEntry) (note string) {
	if !e.Protected {
		e.Cluster = ""
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, identifyPatience)
	defer cancel()
	cl, err := client.Connect(ctx, e.Server, client.WithName("tidewire"), client.WithDialTimeout(identifyPatience))
	if err != nil {
		return fmt.Sprintf("no node answers at %s now: until one has, only these addresses are protected, not the cluster at others\n", e.Server)
	}
	defer cl.Close()
	id := cl.Server().Cluster
	e.Cluster = hex.EncodeToString(id[:])
	return ""
}

// rememberCluster keeps the id of the cluster that the context's addresses led to, unless the context was changed
// meanwhile, or knows one. What cannot be written is found out again the next time.
func (a *app) rememberCluster(of *contextEntry, cluster string) {
	_ = a.changeContexts(func(all *contexts) error {
		if i := all.index(of.Name); i >= 0 && all.Contexts[i].Server == of.Server && all.Contexts[i].Cluster == "" {
			all.Contexts[i].Cluster = cluster
		}
		return nil
	})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (a *app) contextShowCommand() *cobra.Command {
	var v *view
	var short bool
	c := &cobra.Command{
		Use:               "show [NAME]",
		Aliases:           []string{"info"},
		Short:             "Show a context, the selected one if none is named",
		Long:              "Show a context, the selected one if none is named. --short prints its name alone, and\nnothing if none is selected: for a shell's prompt.",
		Example:           "  tidewire context show\n  PS1='$(tidewire context show --short) $ '",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.contextNames,
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := a.contexts()
			if err != nil {
				return err
			}
			name := a.currentContext(all)
			if len(args) == 1 {
				name = args[0]
			}
			if short && name == "" {
				return nil
			}
			if name == "" {
				return &problem{id: explain.UnknownContext, what: "no context is selected", code: exitUsage, todo: a.inForce(all) + "; select one with `tidewire context select NAME`"}
			}
			e, err := all.find(name)
			if err != nil {
				return err
			}
			if short {
				fmt.Fprintln(a.out, e.Name)
				return nil
			}
			j := a.contextJSON(all, e)
			return v.print(j, func() {
				rows := [][]string{{"name", e.Name}, {"server", e.Server}, {"description", orDash(e.Description)}, {"protected", yesNo(e.Protected)}}
				if e.Protected {
					rows = append(rows, []string{"cluster", orDash(e.Cluster)})
				}
				a.details(append(rows, []string{"selected", yesNo(j.Selected)}, []string{"in force", yesNo(j.InForce)}))
			})
		},
	}
	v = a.view(c, contextJSON{})
	c.Flags().BoolVar(&short, "short", false, "print the name alone")
	return c
}

// currentContext is what a command uses that is told nothing else.
func (a *app) currentContext(all *contexts) string {
	if name := a.getenv("TIDEWIRE_CONTEXT"); name != "" {
		return name
	}
	return all.Selected
}

func (a *app) contextSelectCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "select NAME | -",
		Aliases:           []string{"use"},
		Short:             "Select the context that commands use",
		Long:              "Select the context that commands use; - is the one that was selected before.",
		Example:           "  tidewire context select staging\n  tidewire ctx select -",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.contextNames,
		RunE: func(_ *cobra.Command, args []string) error {
			if args[0] == "-" {
				return a.selectPrevious()
			}
			return a.selectContext(args[0])
		},
	}
}

func (a *app) selectContext(name string) error {
	return a.selecting(func(all *contexts) (*contextEntry, error) { return all.find(name) })
}

func (a *app) selectPrevious() error {
	return a.selecting(func(all *contexts) (*contextEntry, error) {
		if all.Previous == "" {
			return nil, &problem{id: explain.NoPrevious, what: "there is no context to go back to"}
		}
		return all.find(all.Previous)
	})
}

func (a *app) selecting(which func(*contexts) (*contextEntry, error)) error {
	var e contextEntry
	err := a.changeContexts(func(all *contexts) error {
		found, err := which(all)
		if err != nil {
			return err
		}
		e = *found
		all.choose(e.Name)
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "context %s is selected: %s\n", e.Name, e.Server)
	for _, name := range []string{"TIDEWIRE_SERVER", "TIDEWIRE_CONTEXT"} {
		if a.getenv(name) != "" {
			fmt.Fprintf(a.err, "but %s is set, and goes before it\n", name)
		}
	}
	return nil
}

func (a *app) contextRmCommand() *cobra.Command {
	var yes answer
	c := &cobra.Command{
		Use:               "rm NAME",
		Aliases:           []string{"delete"},
		Short:             "Forget a context",
		Long:              "Forget a context. One that is protected must be named again: its nodes are protected no more.",
		Example:           "  tidewire context rm staging\n  tidewire context rm prod --yes=prod",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.contextNames,
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := a.contexts()
			if err != nil {
				return err
			}
			if e, err := all.find(args[0]); err != nil {
				return err
			} else if err := a.confirmUnprotected(e, yes); err != nil {
				return err
			}
			err = a.changeContexts(func(all *contexts) error {
				e, err := all.find(args[0])
				if err != nil {
					return err
				}
				name := e.Name
				all.Contexts = slices.Delete(all.Contexts, all.index(name), all.index(name)+1)
				if all.Selected == name {
					all.Selected = ""
				}
				if all.Previous == name {
					all.Previous = ""
				}
				return nil
			})
			if err == nil {
				fmt.Fprintf(a.out, "context %s is forgotten\n", args[0])
			}
			return err
		},
	}
	yes.flag(c)
	c.Flags().Lookup("yes").Usage = "do not ask; of a protected context --yes=`NAME` must name it"
	return c
}

func (a *app) contextEditCommand() *cobra.Command {
	var with contextEntry
	c := &cobra.Command{
		Use:   "edit NAME",
		Short: "Change a context",
		Long: `Change a context, by flags; or without one in the editor that VISUAL or EDITOR names, as
JSON.`,
		Example:           "  tidewire context edit staging --server staging2.example.org\n  tidewire context edit prod --protected=false",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.contextNames,
		RunE: func(c *cobra.Command, args []string) error {
			return a.editContext(c, args[0], &with)
		},
	}
	contextFlags(c, &with)
	return c
}

func (a *app) editContext(c *cobra.Command, name string, with *contextEntry) error {
	all, err := a.contexts()
	if err != nil {
		return err
	}
	before, err := all.find(name)
	if err != nil {
		return err
	}
	after := *before
	f := c.Flags()
	byFlags := f.Changed("server") || f.Changed("description") || f.Changed("protected")
	switch {
	case byFlags:
		after.merge(f.Changed, with)
	case !a.typed:
		return usage(c, errors.New("there is no terminal for an editor: give --server, --description or --protected"))
	default:
		if after, err = a.inEditor(before); err != nil {
			return err
		}
	}
	err = after.check()
	if after.Name != name {
		err = errors.Join(err, notAVerb(c, after.Name))
	}
	if err != nil {
		return usage(c, err)
	}
	note := ""
	if after.Server != before.Server || after.Protected != before.Protected {
		note = a.identify(c.Context(), &after)
	}
	err = a.changeContexts(func(all *contexts) error {
		now, err := all.find(name)
		if err != nil {
			return err
		}
		switch {
		case byFlags:
			now.merge(f.Changed, with)
			if now.Server == after.Server && now.Protected == after.Protected {
				now.Cluster = after.Cluster
			}
			return nil
		case *now != *before:
			return &problem{id: explain.ContextExists, what: "context " + name + " was changed meanwhile, and not by this", todo: "edit it again, if that is still wanted"}
		case after.Name != name && all.index(after.Name) >= 0:
			return &problem{id: explain.ContextExists, what: "there is a context " + after.Name + " already"}
		}
		for _, of := range []*string{&all.Selected, &all.Previous} {
			if *of == name {
				*of = after.Name
			}
		}
		*now = after
		return nil
	})
	if err == nil {
		fmt.Fprintf(a.out, "context %s is changed\n", name)
		fmt.Fprint(a.err, note)
	}
	return err
}

// merge takes over what was given.
func (e *contextEntry) merge(given func(string) bool, with *contextEntry) {
	if given("server") {
		e.Server = with.Server
	}
	if given("description") {
		e.Description = with.Description
	}
	if given("protected") {
		e.Protected = with.Protected
	}
}

// inEditor lets somebody change e as JSON.
func (a *app) inEditor(e *contextEntry) (out contextEntry, err error) {
	failed := func(err error) error {
		return &problem{id: explain.EditorFailed, what: "context " + e.Name + " was not changed", err: err}
	}
	editor := a.getenv("VISUAL")
	if editor == "" {
		editor = a.getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	f, err := os.CreateTemp("", "tidewire-context-*.json")
	if err != nil {
		return out, failed(err)
	}
	defer os.Remove(f.Name())
	if err := errors.Join(writeJSON(f, e), f.Close()); err != nil {
		return out, failed(err)
	}
	words := append(strings.Fields(editor), f.Name())
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, a.out, a.err
	if out, ok := a.out.(*checkedOutput); ok {
		cmd.Stdout = out.w // the terminal itself, not a pipe
	}
	if err := cmd.Run(); err != nil {
		return out, failed(fmt.Errorf("%s: %w", editor, err))
	}
	b, err := os.ReadFile(f.Name())
	if err == nil {
		err = strictJSON(b, &out)
	}
	if err != nil {
		return out, failed(err)
	}
	return out, nil
}
