package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidewire/tidewire/internal/explain"
)

// app is what a verb knows of the world around it.
type app struct {
	self     string // how this program was called
	in       io.Reader
	out      io.Writer // results
	err      io.Writer // everything said beside them
	getenv   func(string) string
	environ  func() []string // nil: empty
	exit     func(code int)  // ends the process at once, without unwinding
	typed    bool            // in is a terminal: somebody would have to type
	terminal bool            // err is a terminal: somebody is watching
	color    bool            // of err
	outColor bool            // of out
	width    int             // of the terminal that out is, in cells; 0: it is none

	colors string                   // --color
	format string                   // --output
	bars   barFlags                 // --progress, --no-progress
	views  map[*cobra.Command]*view // by verb
}

// run does what args say and returns the exit code.
func (a *app) run(args []string) int {
	out := &checkedOutput{w: a.out}
	a.out = out
	root := a.root()
	if len(args) > 0 && strings.HasPrefix(args[0], "__complete") {
		plainUsage(root)
	}
	root.SetArgs(append([]string{}, args...)) // not nil: cobra would take the process's own
	err := root.ExecuteContext(context.Background())
	if failed := out.failed(); err == nil && failed != nil {
		err = &problem{id: explain.OutputFailed, what: "the output could not be written", err: failed}
	}
	return a.report(err)
}

// plainUsage takes the backticks out of the help of flags, with which --help marks the value's name: completion shows it as it is.
func plainUsage(c *cobra.Command) {
	for _, set := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
		set.VisitAll(func(f *pflag.Flag) { f.Usage = strings.ReplaceAll(f.Usage, "`", "") })
	}
	for _, sub := range c.Commands() {
		plainUsage(sub)
	}
}

// checkedOutput remembers that a write failed, so that no verb has to look at each.
type checkedOutput struct {
	w   io.Writer
	mu  sync.Mutex
	err error
}

func (o *checkedOutput) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.err = err
	}
	return n, err
}

func (o *checkedOutput) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

const rootLong = `Tidewire is a durable streaming broker. An acknowledged record is fsynced on a
majority of its replicas; offsets have no gaps, nothing is lost, doubled or reordered.

This one binary is the node, and the tools to use and examine one.`

const rootExample = `  tidewire dev                          # a node to try things on, in this terminal
  tidewire pub orders.new 'hello'       # in another: publish a record
  tidewire sub 'orders.>'               # and read it, and what follows

  seq 1000000 | tidewire pub numbers -  # a record a line
  tidewire stream ls                    # what is there
  tidewire bench pub                    # how fast it is, on this machine`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "tidewire",
		Short:         "a durable streaming broker",
		Long:          rootLong,
		Example:       rootExample,
		SilenceErrors: true, // said by report
		SilenceUsage:  true,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if before, _, number := strings.Cut(err.Error(), "strconv.ParseUint"); number {
			err = errors.New(before + "it is no whole number from 0 on")
		} else if before, _, number := strings.Cut(err.Error(), "strconv.Parse"); number {
			err = errors.New(before + "it is no number")
		}
		if name, unknown := strings.CutPrefix(err.Error(), "unknown flag: --"); unknown {
			if near := nearest(name, flagNames(c)); near != "" {
				err = fmt.Errorf("%w; did you mean --%s?", err, near)
			}
		}
		return usage(c, err)
	})
	a.colors = "auto"
	choose(root, root.PersistentFlags(), &a.colors, "color", "", []string{"auto", "always", "never"},
		"`WHEN` to use colour: auto, always, never; auto heeds NO_COLOR and TERM=dumb")
	var version bool
	root.Flags().BoolVar(&version, "version", false, "say which version this is, as tidewire version does")
	root.RunE = func(c *cobra.Command, args []string) error {
		if version && len(args) == 0 {
			fmt.Fprint(a.out, currentVersion())
			return nil
		}
		return verbs(c, args)
	}
	root.PersistentPreRun = func(*cobra.Command, []string) {
		if a.colors != "auto" {
			a.color = a.colors == "always"
			a.outColor = a.color
		}
	}
	root.AddGroup(
		&cobra.Group{ID: "node", Title: "Run a node:"},
		&cobra.Group{ID: "use", Title: "Use one:"},
		&cobra.Group{ID: "look", Title: "Measure and examine:"},
	)
	add := func(group string, verbs ...*cobra.Command) {
		for _, c := range verbs {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("node", a.devCommand(), a.serverCommand(), a.configCommand())
	add("use", a.pubCommand(), a.subCommand(), a.streamCommand(), a.contextCommand(), a.nodeCommand())
	add("look", a.healthCommand(), a.benchCommand(), a.logCommand(), a.explainCommand(), a.demoCommand())
	root.AddCommand(a.versionCommand(), a.manCommand(root))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	a.explainCompletion(root)
	refuseHelp(root)
	a.refuseUnknown(root)
	return root
}

// refuseHelp lets help about what is not there end as an error; cobra prints the whole program's.
func refuseHelp(root *cobra.Command) {
	for _, c := range root.Commands() {
		if c.Name() != "help" {
			continue
		}
		c.Run, c.RunE = nil, func(_ *cobra.Command, args []string) error {
			about, rest, _ := root.Find(args) // how far it is known
			if len(rest) > 0 {
				return verbs(about, rest)
			}
			about.InitDefaultHelpFlag() // as --help of it would
			return about.Help()
		}
	}
}

// verbs is what a command does that only has verbs below it.
func verbs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	what := "command"
	if c.HasParent() {
		what = c.Name() + " command"
	}
	p := &problem{id: explain.UnknownVerb, what: fmt.Sprintf("there is no %s %q", what, args[0]), code: exitUsage,
		todo: fmt.Sprintf("see %s --help", c.CommandPath())}
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		p.todo = "did you mean " + c.CommandPath() + " " + strings.Join(near, ", or "+c.CommandPath()+" ") + "?"
	}
	return p
}

// refuseUnknown lets wrong arguments of c and of all below it end as usage errors.
func (a *app) refuseUnknown(c *cobra.Command) {
	c.SuggestionsMinimumDistance = 2
	if c.HasSubCommands() {
		c.Args = cobra.ArbitraryArgs
		if c.Run == nil && c.RunE == nil {
			c.RunE = verbs
		}
	} else if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if v := a.views[c]; v != nil && v.is(formatSchema) {
				v.printSchema()
				return errSilent(0)
			}
			switch err := check(c, args); {
			case err == nil:
				return nil
			case len(args) == 0:
				return usage(c, fmt.Errorf("an argument is missing: it is called as %s", c.UseLine()))
			default:
				return usage(c, fmt.Errorf("%s: it is called as %s", plural(len(args), "argument"), c.UseLine()))
			}
		}
	}
	for _, sub := range c.Commands() {
		a.refuseUnknown(sub)
	}
}

// flagNames are the names of all flags that c takes.
func flagNames(c *cobra.Command) (names []string) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// usage makes err an error of how the command was called.
func usage(c *cobra.Command, err error) error {
	if p := new(problem); errors.As(err, &p) {
		return err
	}
	return &problem{id: explain.Usage, what: c.CommandPath() + " was not called right", err: err, code: exitUsage,
		todo: "see " + c.CommandPath() + " --help"}
}
