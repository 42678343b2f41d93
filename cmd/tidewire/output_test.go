package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-runewidth"
	"go.yaml.in/yaml/v3"
)

// Every verb that shows things, in every format.
func TestFormats(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, false)
	c := newCLI(t, n)
	var story strings.Builder
	step := func(args string) {
		fmt.Fprintf(&story, "$ tidewire %s\n%s", strings.ReplaceAll(args, dir, "DIR"), strings.ReplaceAll(scrub(c.ok(strings.Fields(args)...)), dir, "DIR"))
	}
	formats := []string{"text", "wide", "json", "yaml"}
	for i, f := range formats {
		step(fmt.Sprintf("stream create s%d --max-age 7d --max-bytes 1GiB -o %s", i, f))
		step(fmt.Sprintf("pub s%d value -o %s", i, f))
	}
	for _, f := range []string{"text", "wide", "json"} {
		step("sub s0 --count 1 -o " + f)
	}
	for _, verb := range []string{"stream ls", "stream show s1", "explain TW-1020"} {
		for _, f := range formats {
			step(verb + " -o " + f)
		}
	}
	for i, f := range formats {
		step(fmt.Sprintf("stream rm s%d --yes -o %s", i, f))
	}
	stopNode(t, n)
	for _, f := range formats {
		step("log verify " + dir + "/partitions/1 -o " + f)
	}
	for _, verb := range []string{"stream rm", "pub", "log dump", "context ls"} {
		step(verb + " -o help")
	}
	golden(t, "formats.txt", story.String())
}

// JSON and YAML say the same, of every verb.
func TestYAMLIsJSON(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), false))
	c.ok("stream", "create", "a", "--max-records", "18446744073709551615")
	c.ok("stream", "create", "yes") // a word that YAML must quote
	for _, verb := range []string{"version", "stream ls", "stream show yes", "explain ls", "context ls", "bench pub --subject a --records 10 --warmup 0"} {
		var fromJSON, fromYAML any
		if err := json.Unmarshal([]byte(c.ok(append(strings.Fields(verb), "-o", "json")...)), &fromJSON); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal([]byte(c.ok(append(strings.Fields(verb), "-o", "yaml")...)), &fromYAML); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(verb, "bench") {
			if a, b := shapeOf(fromJSON), shapeOf(fromYAML); a != b {
				t.Errorf("%s: %s and %s", verb, a, b)
			}
			continue
		}
		b, err := json.Marshal(fromYAML)
		var again any
		if err == nil {
			err = json.Unmarshal(b, &again)
		}
		if err != nil || !reflect.DeepEqual(fromJSON, again) {
			t.Errorf("%s: JSON is %v, YAML is %v, %v", verb, fromJSON, again, err)
		}
	}
}

// shapeOf is a value's keys.
func shapeOf(v any) string {
	m, _ := v.(map[string]any)
	out := map[string]string{}
	for k, v := range m {
		out[k] = shapeOf(v)
	}
	b, _ := json.Marshal(out)
	return string(b)
}

// On a terminal tables are cut to its width; colour is there only if wanted.
func TestTerminal(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	c := newCLI(t, n)
	c.ok("stream", "create", "orders", "--subject", "orders.>", "--subject", "returns.of.a.rather.long.name.>", "--max-age", "30d", "--max-bytes", "10GiB")
	c.ok("context", "add", "a", "--server", "a.example.org,b.example.org,c.example.org,d.example.org,e.example.org", "--description", "grün und ünï 日本語の説明です")
	plain := c.ok("stream", "ls")
	var story strings.Builder
	for _, width := range []int{80, 40} {
		c.width = width
		for _, args := range []string{"stream ls", "stream show orders", "context ls", "explain TW-1047", "explain ls"} {
			out := c.ok(strings.Fields(args)...)
			if args != "explain ls" { // it changes with the catalogue
				fmt.Fprintf(&story, "$ tidewire %s # %d columns\n%s", args, width, scrubWords(out))
			}
			for line := range strings.Lines(out) {
				if w := runewidth.StringWidth(strings.TrimRight(line, "\n")); w > width && width == 80 {
					t.Errorf("%s: a line has %d cells of %d: %q", args, w, width, line)
				}
			}
			if strings.Contains(out, "\x1b") {
				t.Errorf("%s: colour without being asked: %q", args, out)
			}
		}
	}
	golden(t, "terminal.txt", story.String())
	c.color = true
	if out := c.ok("stream", "ls"); !strings.HasPrefix(out, "\x1b[1mNAME") {
		t.Errorf("on a terminal with colour: %q", out)
	}
	if out := c.ok("stream", "ls", "--color", "never"); strings.Contains(out, "\x1b") {
		t.Errorf("--color never: %q", out)
	}
	c.color, c.width = false, 0
	if out := c.ok("stream", "ls", "--color", "always"); out == plain || strings.NewReplacer("\x1b[1m", "", "\x1b[0m", "").Replace(out) != plain {
		t.Errorf("--color always: %q", out)
	}
	if r := c.run("stream", "show", "nope", "--color", "always"); !strings.HasPrefix(r.err, "\x1b[31merror TW-1020:\x1b[0m") {
		t.Errorf("--color always: %q", r.err)
	}
}

// What the shells ask for: names that a node and the contexts have.
func TestCompletion(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	c := newCLI(t, n)
	c.ok("stream", "create", "alpha")
	c.ok("stream", "create", "beta", "--subject", "b.>")
	c.ok("context", "add", "prod", "--server", "x")
	for args, want := range map[string]string{
		"stream show |":             "alpha\nbeta\n:4\n",
		"stream rm |":               "alpha\nbeta\n:4\n",
		"stream show alpha |":       ":4\n",
		"sub |":                     "alpha\nalpha.>\nb.>\n:4\n",
		"context select |":          "prod\n:4\n",
		"context rm |":              "prod\n:4\n",
		"stream ls --context |":     "prod\n:4\n",
		"stream ls -o |":            "text\nwide\njson\nyaml\nhelp\n:4\n",
		"sub x --output |":          "text\nwide\njson\nhelp\n:4\n",
		"stream ls --color |":       "auto\nalways\nnever\n:4\n",
		"server --log-level |":      "debug\ninfo\nwarn\nerror\n:4\n",
		"dev --log-format |":        "text\njson\n:4\n",
		"config show --log-level |": "debug\ninfo\nwarn\nerror\n:4\n",
		"explain TW-102|":           "TW-1020\tunknown stream\n",
		"stream show --server x:1|": ":",
	} {
		words := strings.Fields(strings.TrimSuffix(args, "|"))
		if strings.HasSuffix(args, " |") {
			words = append(words, "")
		}
		if got := c.ok(append([]string{"__complete"}, words...)...); !strings.Contains(got, want) {
			t.Errorf("%s completes to %q, not %q", args, got, want)
		}
	}
	// Without a node, or a way to find one, nothing is completed and nothing fails.
	c.env["TIDEWIRE_SERVER"] = "127.0.0.1:1"
	if got := c.ok("__complete", "stream", "show", ""); got != ":4\n" {
		t.Errorf("without a node: %q", got)
	}
	for shell, word := range map[string]string{"bash": "complete -o default", "zsh": "#compdef tidewire", "fish": "complete -c tidewire", "powershell": "Register-ArgumentCompleter"} {
		if got := c.ok("completion", shell); !strings.Contains(got, word) {
			t.Errorf("completion %s lacks %q", shell, word)
		}
	}
	if help := c.ok("completion", "--help"); !strings.Contains(help, "bash-completion") || !strings.Contains(help, "$PROFILE") {
		t.Errorf("completion --help does not say how to install it:\n%s", help)
	}
}

// bash itself completes a stream's name, by the script that completion prints.
func TestCompletionInBash(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	c := newCLI(t, n)
	c.ok("stream", "create", "alpha")
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "completion.bash")
	if err := errors.Join(os.WriteFile(script, []byte(c.ok("completion", "bash")), 0o600), os.Symlink(self, filepath.Join(dir, "tidewire"))); err != nil {
		t.Fatal(err)
	}
	// What the package bash-completion would provide, as far as the script needs it.
	cmd := exec.CommandContext(t.Context(), "bash", "--norc", "-c", `
_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD; }
_init_completion() { _get_comp_words_by_ref; }
__ltrim_colon_completions() { :; }
compopt() { :; }
source "$1"
COMP_WORDS=(tidewire stream show al) COMP_CWORD=3 COMP_LINE="tidewire stream show al" COMP_POINT=23 COMP_TYPE=9
__start_tidewire
printf '%s\n' "${COMPREPLY[@]}"`, "bash", script)
	cmd.Env = append(os.Environ(), asBinary+"=1", "TIDEWIRE_SERVER="+n.Addr().String(), "PATH="+dir+":"+os.Getenv("PATH"), "XDG_CONFIG_HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "alpha" {
		t.Errorf("bash completes to %q, %v", out, err)
	}
}

func TestManualPages(t *testing.T) {
	c := newCLI(t, nil)
	dir := filepath.Join(t.TempDir(), "man")
	c.ok("man", dir)
	b, err := os.ReadFile(filepath.Join(dir, "tidewire-stream-ls.1"))
	if err != nil || !strings.Contains(string(b), "List the streams") {
		t.Errorf("%v: %s", err, b)
	}
	c.fails(exitError, []string{"man", "/dev/null/x"}, "TW-6")
}

func TestPace(t *testing.T) {
	for _, x := range []struct {
		done, total int64
		took        time.Duration
		want        string
	}{
		{0, 0, 7 * time.Second, ", 7s"},
		{25, 100, 10 * time.Second, ", 10s, 30s left"},
		{25, 100, time.Second, ", 1s"},
		{100, 100, 10 * time.Second, ", 10s"},
		{0, 100, 10 * time.Second, ", 10s"},
		{200, 100, 10 * time.Second, ", 10s"},
	} {
		if got := pace(x.done, x.total, x.took); got != x.want {
			t.Errorf("%d of %d after %v: %q, want %q", x.done, x.total, x.took, got, x.want)
		}
	}
}
