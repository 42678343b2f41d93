package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// The formats of --output. JSON and YAML are one schema (docs/reference/output.md); text is for people and may change.
const (
	formatText   = "text"
	formatWide   = "wide"
	formatJSON   = "json"
	formatYAML   = "yaml"
	formatSchema = "help" // the schema, and nothing is done
)

// view is --output of a verb that shows things.
type view struct {
	app    *app
	lines  bool         // a value a line, as they come; otherwise one value
	schema reflect.Type // of what is shown
	ofMany reflect.Type // of what is shown when there are many; nil: the same
}

// view gives c the flags --output and --json. value is of the type that JSON and YAML show.
func (a *app) view(c *cobra.Command, value any, formats ...string) *view {
	if len(formats) == 0 {
		formats = []string{formatText, formatWide, formatJSON, formatYAML}
	}
	v := &view{app: a, schema: reflect.TypeOf(value), lines: !slices.Contains(formats, formatYAML)}
	if a.views == nil {
		a.views = map[*cobra.Command]*view{}
	}
	a.views[c] = v
	a.format = formatText
	choose(c, c.Flags(), &a.format, "output", "o", append(formats, formatSchema), "`FORMAT` of the result: "+strings.Join(formats, ", ")+"; help: its schema")
	c.Flags().BoolFunc("json", "short for --output json", func(s string) error {
		on, err := strconv.ParseBool(s)
		if on {
			a.format = formatJSON
		}
		return err
	})
	return v
}

// is reports whether the format was asked for.
func (v *view) is(format string) bool { return v.app.format == format }

func (v *view) wide() bool { return v.is(formatWide) }

// print shows value in the format asked for; text prints it for a person.
func (v *view) print(value any, text func()) error {
	switch v.app.format {
	case formatJSON:
		return writeJSON(v.app.out, value)
	case formatYAML:
		return writeYAML(v.app.out, value)
	}
	text()
	return nil
}

// writeYAML writes what writeJSON would, in the same order, as YAML.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil { // JSON is YAML, in its flow style
		return err
	}
	unflow(&n)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&n); err != nil {
		return err
	}
	return enc.Close()
}

// unflow lets the encoder choose the style again. Empty lists and objects have none but the flow style.
func unflow(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode || len(n.Content) > 0 {
		n.Style = 0
	}
	for _, c := range n.Content {
		unflow(c)
	}
}

// choice is a flag that takes one of a few words.
type choice struct {
	value   *string
	allowed []string
}

func (c choice) String() string { return *c.value }
func (c choice) Type() string   { return "WORD" }

func (c choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("it is none of %s", strings.Join(c.allowed, ", "))
	}
	*c.value = s
	return nil
}

// choose adds a flag that takes one of a few words, and completes them.
func choose(c *cobra.Command, f *pflag.FlagSet, value *string, name, short string, allowed []string, usage string) {
	f.VarP(choice{value, allowed}, name, short, usage)
	_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(allowed, cobra.ShellCompDirectiveNoFileComp)) // fails for unknown flags alone
}
