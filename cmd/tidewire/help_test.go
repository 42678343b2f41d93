package main

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command has a help of its own, with a summary and examples, kept as a golden file.
func TestHelp(t *testing.T) {
	c := newCLI(t, nil)
	var reference strings.Builder
	reference.WriteString(`# Commands

What every command says with --help. This page is generated (` + "`go test ./cmd/tidewire -update`" + `). What commands
print as JSON and YAML is in [output.md](output.md), what errors mean in [errors.md](errors.md).
`)
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "help" || cmd.Name() == "completion" || cmd.Parent() != nil && cmd.Parent().Name() == "completion" {
			return
		}
		args := strings.Fields(cmd.CommandPath())[1:]
		out := c.ok(append(args, "--help")...)
		golden(t, "help/"+strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".txt", out)
		if !cmd.Hidden && (cmd.Parent() == nil || !cmd.Parent().Hidden) {
			fmt.Fprintf(&reference, "\n## %s\n\n```text\n%s```\n", cmd.CommandPath(), out)
		}
		if cmd.Example == "" && !cmd.Hidden {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(out) {
			if len([]rune(strings.TrimRight(line, "\n"))) > 120 {
				t.Errorf("%s --help has a line wider than 120: %q", cmd.CommandPath(), line)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	a := &app{getenv: func(string) string { return "" }}
	walk(a.root())
	golden(t, "../../../docs/reference/cli.md", reference.String())
	if got := c.ok("--help"); !strings.Contains(got, "\n  demo ") || strings.Contains(got, "\n  man ") {
		t.Errorf("demo is not shown, or the hidden verb is:\n%s", got)
	}
	if got := c.ok(); got != c.ok("--help") {
		t.Error("no arguments are not --help")
	}
}

func TestUsageErrors(t *testing.T) {
	c := newCLI(t, nil)
	for _, x := range []struct {
		args  string
		words []string
	}{
		{"pup", []string{`there is no command "pup"`, "did you mean tidewire pub"}},
		{"quux", []string{`there is no command "quux"`, "see tidewire --help"}},
		{"stream lx", []string{`there is no stream command "lx"`, "did you mean tidewire stream ls"}},
		{"log veryfy d", []string{"did you mean tidewire log verify"}},
		{"--nope", []string{"unknown flag: --nope", "see tidewire --help"}},
		{"pub", []string{"an argument is missing: it is called as tidewire pub SUBJECT [DATA | -]", "see tidewire pub --help"}},
		{"pub a b --kye c", []string{"unknown flag: --kye; did you mean --key?"}},
		{"pub a b c", []string{"3 arguments: it is called as tidewire pub SUBJECT"}},
		{"pub a b --header x", []string{`--header "x" is not NAME=VALUE`}},
		{"pub a b --header =x", []string{"is not NAME=VALUE"}},
		{"pub a b --batch-records 0", []string{"--batch-records 0 is not 1 to 65535"}},
		{"pub a b --batch-bytes 2MiB", []string{"is not 1KiB to 1MiB"}},
		{"pub a b --batch-bytes lots", []string{`"lots" is no number of bytes`}},
		{"pub a b --timeout 0s", []string{"--timeout 0s is not above 0"}},
		{"pub a b --timeout soon", []string{"invalid argument", "soon"}},
		{"sub", []string{"an argument is missing"}},
		{"sub a --from yesterday", []string{`--from "yesterday" is no place to begin`, "first, last, next"}},
		{"sub a --format %q", []string{`unknown %q`, "%v value"}},
		{"sub a --count -1", []string{`"-1" for "--count" flag: it is no whole number from 0 on`, "do:  "}},
		{"sub a..b", []string{"empty token"}},
		{"pub a..b x", []string{"empty token"}},
		{"pub a.* x", []string{"wildcard"}},
		{"stream create a --subject a..b", []string{"empty token"}},
		{"stream create ü", []string{"stream name"}},
		{"bench pub --subject a..b", []string{"empty token"}},
		{"bench sub --subject a..b", []string{"empty token"}},
		{"bench rtt --subject a..b", []string{"empty token"}},
		{"server --data d --listen 127.0.0.1:99999", []string{"is no address"}},
		{"sub a --count 0", []string{"--count 0 would print nothing"}},
		{"sub a --json --format %v", []string{"--format and --output exclude each other"}},
		{"stream ls --json -n", []string{"--names and --output exclude each other"}},
		{"stream create", []string{"an argument is missing"}},
		{"stream create a --partitions 0", []string{"--partitions 0 is below 1"}},
		{"stream create a --max-age tomorrow", []string{`"tomorrow" is no duration`}},
		{"stream create a --max-age -1h", []string{"not above 0"}},
		{"stream create a --max-age 0", []string{"not above 0; leave the flag out to keep records for ever"}},
		{"bench pub --records 0", []string{"--records 0 measures nothing"}},
		{"help nosuch", []string{`there is no command "nosuch"`}},
		{"help strem", []string{"did you mean tidewire stream?"}},
		{"help stream lz", []string{`there is no stream command "lz"`, "stream ls"}},
		{"bench pub --in-flight 0", []string{"--in-flight 0 is below 1"}},
		{"bench pub --rate -1", []string{"rate -1 is below 0"}},
		{"bench pub --batch 70000", []string{"batch 70000 is not 1 to 65,535 records"}},
		{"bench rtt --rate 0", []string{"--rate 0 is not above 0"}},
		{"server", []string{"data is not set", "--data"}},
		{"server --data d --listen here", []string{`--listen: address "here"`}},
		{"server --data d --log-level loud", []string{`--log-level: log.level: "loud" is not debug`}},
		{"server --data d --log-format xml", []string{`--log-format: log.format: "xml" is not text or json`}},
		{"dev a --temp", []string{"--temp makes a directory of its own"}},
		{"dev a --data b", []string{"named twice"}},
		{"version now", []string{"1 argument: it is called as tidewire version"}},
	} {
		c.fails(exitUsage, strings.Fields(x.args), x.words...)
	}
	typed := newCLI(t, nil)
	typed.typed = true
	typed.fails(exitUsage, []string{"pub", "a"}, "there is nothing to publish")
}

func TestVersionAndCompletion(t *testing.T) {
	c := newCLI(t, nil)
	if out := c.ok("version"); !strings.HasPrefix(out, "tidewire 0.") || !strings.Contains(out, "protocol  1\n") {
		t.Errorf("version says %q", out)
	}
	if out := c.ok("version", "--json"); !strings.Contains(out, `"protocol": 1`) || !strings.Contains(out, `"durable": true`) {
		t.Errorf("version --json says %q", out)
	}
	if flag, verb := c.ok("--version"), c.ok("version"); flag != verb {
		t.Errorf("--version says %q, version %q", flag, verb)
	}
	if out := c.ok("help", "stream", "ls"); out != c.ok("stream", "ls", "--help") {
		t.Errorf("help stream ls says %q", out)
	}
	if out := c.ok("__complete", "server", "--data"); !strings.HasPrefix(out, "--data\tDIR of the node's data") {
		t.Errorf("completion says %q", out)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := c.ok("completion", shell); len(out) < 500 || !strings.Contains(out, "tidewire") {
			t.Errorf("completion for %s: %q", shell, out)
		}
	}
}

// docs/reference/output.md is what -o json and -o yaml print, by verb.
func TestOutputDocument(t *testing.T) {
	a := &app{getenv: func(string) string { return "" }}
	root := a.root()
	var b strings.Builder
	b.WriteString("# Output of commands\n\n`--output text` (the default) and `wide` are for people and may change. `json` and `yaml` are for programs: one\n" +
		"schema, in which fields are added, but neither removed nor changed within a major version. `--json` is short for\n`-o json`; `-o help` prints a verb's schema and does nothing else.\n\n" +
		"`sub` and `log dump`, whose output may have no end, have no YAML: their JSON is an object a line.\n\n" +
		"Results go to standard output, everything else to standard error. A list without anything in it is `[]`.\n" +
		"Colour and the width of the terminal matter on a terminal alone: `--color auto|always|never`, `NO_COLOR`, `TERM=dumb`.\n\n" +
		"With `-o json` an error is an object on standard error too:\n\n")
	fields := func(of reflect.Type) {
		b.WriteString("| field | type | what it is |\n|---|---|---|\n")
		for _, f := range schemaOf(of) {
			if f.doc == "" {
				t.Errorf("%v: %s has no description", of, f.path)
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.path, f.kind, f.doc)
		}
	}
	fields(reflect.TypeFor[problemJSON]())
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if v := a.views[c]; v != nil {
			fmt.Fprintf(&b, "\n## %s\n\nJSON is %s.\n\n", c.CommandPath(), v.shows())
			fields(v.schema)
			if v.ofMany != nil {
				b.WriteString("\nOf many records it is one object with their sum:\n\n")
				fields(v.ofMany)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	golden(t, "../../../docs/reference/output.md", b.String())
}
