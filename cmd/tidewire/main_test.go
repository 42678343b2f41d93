package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/broker"
)

var update = flag.Bool("update", false, "write the golden files anew")

// asBinary in the environment makes the test binary behave as tidewire itself: so tests have processes to
// signal and kill, without a build.
const asBinary = "TIDEWIRE_TEST_AS_BINARY"

func TestMain(m *testing.M) {
	if os.Getenv(asBinary) != "" {
		main()
		return
	}
	// gnet's package has a pool of goroutines that lasts as long as the process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start"))
}

// result is what a command came to.
type result struct {
	code     int
	out, err string
}

// cli is one user's terminal, without a terminal.
type cli struct {
	t       *testing.T
	env     map[string]string
	in      io.Reader
	typed   bool
	watched bool // standard error is a terminal
	width   int  // of a terminal that standard output is; 0: it is none
	color   bool
}

func newCLI(t *testing.T, n *broker.Node) *cli {
	c := &cli{t: t, env: map[string]string{"XDG_CONFIG_HOME": t.TempDir()}}
	if n != nil {
		c.env["TIDEWIRE_SERVER"] = n.Addr().String()
	}
	return c
}

func (c *cli) run(args ...string) result {
	c.t.Helper()
	in := c.in
	if in == nil {
		in = strings.NewReader("")
	}
	var out, err buffer
	a := &app{in: in, out: &out, err: &err, getenv: func(k string) string { return c.env[k] }, environ: c.environ, typed: c.typed, terminal: c.watched, width: c.width, outColor: c.color,
		exit: func(code int) { panic("exit in the middle of a test") }}
	r := result{a.run(args), out.String(), err.String()}
	if strings.Contains(r.err, "error") && !numberedError.MatchString(r.err) {
		c.t.Errorf("tidewire %s: an error without a number:\n%s", strings.Join(args, " "), r.err)
	}
	return r
}

func (c *cli) environ() (all []string) {
	for k, v := range c.env {
		all = append(all, k+"="+v)
	}
	return all
}

// ok runs args, which must succeed, and returns what they printed.
func (c *cli) ok(args ...string) string {
	c.t.Helper()
	r := c.run(args...)
	if r.code != 0 {
		c.t.Fatalf("tidewire %s: exit code %d\n%s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// fails runs args, which must end with code and say each of words on stderr.
func (c *cli) fails(code int, args []string, words ...string) {
	c.t.Helper()
	r := c.run(args...)
	if r.code != code {
		c.t.Errorf("tidewire %s: exit code %d, want %d\n%s", strings.Join(args, " "), r.code, code, r.err)
	}
	for _, w := range words {
		if !strings.Contains(r.err, w) {
			c.t.Errorf("tidewire %s: stderr lacks %q:\n%s", strings.Join(args, " "), w, r.err)
		}
	}
}

func (c *cli) typing(s string) *cli {
	d := *c
	d.in = strings.NewReader(s)
	return &d
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu    sync.Mutex
	b     bytes.Buffer
	grown chan struct{} // closed by the next write; nil if nobody waits
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.grown != nil {
		close(b.grown)
		b.grown = nil
	}
	return b.b.Write(p)
}

// await waits until the buffer holds word, or late comes.
func (b *buffer) await(word string, late <-chan time.Time) bool {
	for {
		b.mu.Lock()
		if bytes.Contains(b.b.Bytes(), []byte(word)) {
			b.mu.Unlock()
			return true
		}
		if b.grown == nil {
			b.grown = make(chan struct{})
		}
		grown := b.grown
		b.mu.Unlock()
		select {
		case <-grown:
		case <-late:
			return false
		}
	}
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// startNode runs a node in this process.
func startNode(t *testing.T, dir string, dev bool) *broker.Node {
	t.Helper()
	n, err := broker.Start(t.Context(), broker.Config{Address: "127.0.0.1:0", DataDir: dir, Dev: dev})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, n) })
	return n
}

func stopNode(t *testing.T, n *broker.Node) {
	t.Helper()
	if err := n.Stop(context.Background()); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// What differs from run to run, and what stands for it in golden files.
var scrubs = []struct{ re, with string }{
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "TIME"},
	{`127\.0\.0\.1:\d{4,5}`, "ADDRESS"},
	{`\d+(\.\d+)? (µs|ms|s)\b`, "SPAN"},
	{`\d+(\.\d+)? ?[kM]?/s`, "RATE"},
	{`\d+(\.\d+)? [KMG]?i?B/s`, "RATE"},
	{`\d+(\.\d+)? [KMG]iB\b|\b\d+ B\b`, "SIZE"},
	{`"bytes":( ?)\d+`, `"bytes":${1}NUMBER`},
	{`"(\w+_us|took_ns|\w+_per_s)": [0-9.e+]+`, `"$1": NUMBER`},
	{`(?m)^( *(?:- )?)(\w+_us|took_ns|\w+_per_s|bytes): [0-9.e+]+$`, "${1}${2}: NUMBER"},
	{`cluster [0-9a-f]{32}`, "cluster CLUSTER"},
	{`"cluster":"[0-9a-f]{32}"`, `"cluster":"CLUSTER"`},
}

func scrub(s string) string {
	return regexp.MustCompile(`(\S) {3,}`).ReplaceAllString(scrubWords(s), "$1  ") // columns are as wide as what was scrubbed
}

func scrubWords(s string) string {
	for _, x := range scrubs {
		s = regexp.MustCompile(x.re).ReplaceAllString(s, x.with)
	}
	return s
}

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test ./cmd/tidewire -update writes it)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./cmd/tidewire -update, if that is meant)\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}
