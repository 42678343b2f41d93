package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

func TestContexts(t *testing.T) {
	c := newCLI(t, nil)
	var story strings.Builder
	step := func(args ...string) {
		r := c.run(args...)
		fmt.Fprintf(&story, "$ tidewire %s\n%s%s", strings.Join(args, " "), r.out, r.err)
		if r.code != 0 {
			fmt.Fprintf(&story, "exit code %d\n", r.code)
		}
	}
	step("context", "ls")
	step("context", "ls", "-o", "json")
	step("context", "show")
	step("context", "show", "--short")
	step("context", "add", "staging", "--server", "staging.example.org:7420")
	step("context", "add", "prod", "--server", "a.example.org,b.example.org", "--protected", "--description", "the real one")
	step("context", "add", "prod", "--server", "x")
	step("context", "add", "bad name", "--server", "x")
	step("context", "add", "x")
	step("context", "add", "x", "--server", "x:99999")
	step("context", "ls")
	step("context", "select", "prod")
	step("ctx", "-")
	step("ctx", "--", "-")
	step("ctx", "staging")
	step("ctx", "sel")
	step("ctx", "prud")
	step("context", "show", "prod")
	step("context", "show", "-o", "yaml")
	step("context", "show", "--short")
	step("context", "edit", "staging", "--server", "other.example.org", "--description", "moved")
	step("context", "edit", "staging")
	step("context", "ls", "-o", "json")
	step("context", "ls", "-o", "yaml")
	step("context", "rm", "staging")
	step("ctx", "-")
	step("context", "show", "--short")
	step("context", "rm", "staging")
	golden(t, "contexts.txt", story.String())

	file := filepath.Join(c.env["XDG_CONFIG_HOME"], "tidewire", "contexts.json")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for bad, why := range map[string]string{"": "it is empty", `{"version":1,`: "it ends in the middle", "{\n\"version\":1,\n]": "line 3: invalid character ']'"} {
		if _, err := parseContexts([]byte(bad)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", bad, err, why)
		}
	}
	for _, bad := range []string{"", "{", `{"version":2,"contexts":[]}`, `{"version":1,"contexts":[{"name":"a/b","server":"x"}]}`,
		`{"version":1,"contexts":[{"name":"a","server":"x"},{"name":"a","server":"y"}]}`, `{"version":1,"contexts":[],"more":1}`, `{"version":1,"contexts":[]}{}`} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range []string{"context ls", "context add x --server y", "context -", "stream ls"} {
			c.fails(exitError, strings.Fields(args), "TW-6028", file, "mend the file")
		}
		if b, _ := os.ReadFile(file); string(b) != bad {
			t.Errorf("%q became %q", bad, b)
		}
	}
}

// An editor changes a context; what it breaks is refused.
func TestContextEditor(t *testing.T) {
	c := newCLI(t, nil)
	c.typed = true
	c.ok("context", "add", "a", "--server", "x")
	c.ok("context", "add", "b", "--server", "y")
	editor := filepath.Join(t.TempDir(), "editor")
	edit := func(script string) {
		if err := os.WriteFile(editor, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c.env["EDITOR"] = editor
	edit(`sed -i 's/"x"/"z:1"/; s/"a"/"c"/' "$1"`)
	c.ok("context", "edit", "a")
	if got := c.ok("context", "show"); !strings.Contains(got, "name         c\n") || !strings.Contains(got, "server       z:1\n") {
		t.Errorf("after the editor the selected context is\n%s", got)
	}
	edit(`sed -i 's/"c"/"b"/' "$1"`)
	c.fails(exitError, []string{"context", "edit", "c"}, "there is a context b already")
	edit(`echo nonsense > "$1"`)
	c.fails(exitError, []string{"context", "edit", "c"}, "TW-6031", "was not changed")
	edit("exit 3")
	c.fails(exitError, []string{"context", "edit", "c"}, "TW-6031", "exit status 3")
}

// Processes that change the contexts at once lose nothing of one another.
func TestContextsAtOnce(t *testing.T) {
	c := newCLI(t, nil)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() { c.ok("context", "add", fmt.Sprintf("c%d", i), "--server", "x") })
	}
	all.Wait()
	var list []contextJSON
	if err := json.Unmarshal([]byte(c.ok("context", "ls", "-o", "json")), &list); err != nil || len(list) != 20 {
		t.Errorf("%d contexts, %v", len(list), err)
	}
	left, _ := filepath.Glob(filepath.Join(c.env["XDG_CONFIG_HOME"], "tidewire", "*.tmp"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// --server goes before --context, that before TIDEWIRE_SERVER, TIDEWIRE_CONTEXT, and the selected context.
func TestWhichNode(t *testing.T) {
	c := newCLI(t, nil)
	for _, name := range []string{"selected", "named", "fromenv"} {
		c.ok("context", "add", name, "--server", name+".invalid")
	}
	for _, x := range []struct{ args, server, context, want string }{
		{"--server flag.invalid --context named", "env.invalid", "fromenv", "flag.invalid"},
		{"--context named", "env.invalid", "fromenv", "named.invalid"},
		{"", "env.invalid", "fromenv", "env.invalid"},
		{"", "", "fromenv", "fromenv.invalid"},
		{"", "", "", "selected.invalid"},
	} {
		c.env["TIDEWIRE_SERVER"], c.env["TIDEWIRE_CONTEXT"] = x.server, x.context
		c.fails(exitError, append([]string{"stream", "ls", "--timeout", "5s"}, strings.Fields(x.args)...), "no connection to "+x.want+"\n")
	}
	c.env["TIDEWIRE_CONTEXT"] = "nope"
	c.fails(exitUsage, []string{"stream", "ls"}, "TW-6026")
}

// On a protected context what removes data must be confirmed by name, however its address was given.
func TestProtected(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	c := newCLI(t, nil)
	address := n.Addr().String()
	c.ok("context", "add", "prod", "--server", "other.invalid,"+address, "--protected")
	c.env["TIDEWIRE_SERVER"] = address
	c.ok("stream", "create", "s")
	for _, yes := range []string{"", "--yes", "--yes=t"} {
		c.fails(exitUsage, strings.Fields("stream rm s "+yes), "TW-6030", "protected context prod")
		c.fails(exitUsage, strings.Fields("stream rm s --server "+address+" "+yes), "TW-6030")
	}
	c.typed = true
	c.typing("y\n").fails(exitUsage, []string{"stream", "rm", "s"}, "TW-6030", "Type the stream's name: ")
	c.ok("stream", "show", "s")
	c.typing("s\n").ok("stream", "rm", "s")
	c.ok("stream", "create", "t")
	c.ok("stream", "rm", "t", "--yes=t")

	c.typed = false
	for _, yes := range []string{"", "--yes", "--yes=t"} {
		c.fails(exitUsage, strings.Fields("context rm prod "+yes), "TW-6030", "give --yes=prod")
	}
	c.typed = true
	c.typing("y\n").fails(exitUsage, []string{"context", "rm", "prod"}, "TW-6030", "Type its name: ")
	c.typing("prod\n").ok("context", "rm", "prod")
}

// It is protected in every spelling of its address, and as the same cluster at an address that the context does not know.
func TestProtectedElsewhere(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	_, port, err := net.SplitHostPort(n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := newCLI(t, nil)
	direct, other := "127.0.0.1:"+port, relay(t, n.Addr().String())
	c.ok("stream", "create", "s", "--server", direct)
	c.ok("context", "add", "prod", "--server", "localhost:"+port, "--protected")
	for _, address := range []string{"localhost:" + port, "LocalHost:" + port, direct, other} {
		for _, verb := range []string{"rm s --yes", "rm s --purge --yes", "edit s --max-records 1 --yes"} {
			c.fails(exitUsage, append([]string{"stream", "--server", address}, strings.Fields(verb)...), "TW-6030", "protected context prod")
		}
	}
	// Added while nobody answers, the cluster is remembered at the first use.
	c.ok("context", "rm", "prod", "--yes=prod")
	if r := c.run("context", "add", "prod", "--server", "nobody.invalid", "--protected"); r.code != 0 || !strings.Contains(r.err, "no node answers") {
		t.Errorf("%+v", r)
	}
	c.ok("context", "edit", "prod", "--server", other, "--protected=false")
	c.ok("stream", "rm", "s", "--server", direct, "--yes")
	c.ok("context", "edit", "prod", "--protected")
	c.ok("stream", "ls", "--context", "prod")
	c.fails(exitUsage, []string{"stream", "purge", "s", "--server", direct, "--yes"}, "TW-6030")
	c.ok("stream", "purge", "s", "--server", direct, "--yes=s")
}

// The cluster is kept by whoever uses a protected context whose node did not answer when it was added.
func TestClusterRemembered(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	c := newCLI(t, nil)
	file := filepath.Join(c.env["XDG_CONFIG_HOME"], "tidewire", "contexts.json")
	c.ok("context", "add", "prod", "--server", n.Addr().String(), "--protected")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	forgotten := regexp.MustCompile(`,\s*"cluster": "[0-9a-f]{32}"`).ReplaceAll(b, nil)
	if len(forgotten) == len(b) {
		t.Fatalf("the cluster was not kept:\n%s", b)
	}
	if err := os.WriteFile(file, forgotten, 0o600); err != nil {
		t.Fatal(err)
	}
	c.ok("stream", "ls")
	if now, err := os.ReadFile(file); err != nil || string(now) != string(b) {
		t.Errorf("%v:\n%s", err, now)
	}

	other := regexp.MustCompile(`"cluster": "[0-9a-f]{32}"`).ReplaceAll(b, []byte(`"cluster": "`+strings.Repeat("ab", 16)+`"`))
	if err := os.WriteFile(file, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := c.run("stream", "ls"); r.code != 0 || !strings.Contains(r.err, "context prod leads to cluster") {
		t.Errorf("that the context leads elsewhere is not said: %+v", r)
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != string(other) {
		t.Errorf("the cluster that is protected was overwritten: %v\n%s", err, now)
	}
}

func TestResolved(t *testing.T) {
	for _, x := range []struct {
		context, given string
		protected      bool
	}{
		{"localhost:7420", "127.0.0.1", true},
		{"127.0.0.1", "LOCALHOST", true},
		{"[::ffff:127.0.0.1]:7420", "127.0.0.1", true},
		{"[0:0:0:0:0:0:0:1]:1", "[::1]:1", true},
		{"127.0.0.1:7420", "localhost:7421", false},
		{"a.invalid,localhost", "b.invalid,127.0.0.1:7420", true},
		{"a.invalid", "b.invalid", false},
	} {
		all := &contexts{Contexts: []contextEntry{{Name: "open", Server: x.given}, {Name: "prod", Server: x.context, Protected: true}}}
		if got := all.protects(t.Context(), x.given, "") == "prod"; got != x.protected {
			t.Errorf("%s by %s: protected is %v", x.context, x.given, got)
		}
	}
}

// relay gives another address for one.
func relay(t *testing.T, to string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				all.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					way[0].Close()
					way[1].Close()
				})
			}
		}
	})
	return l.Addr().String()
}

// TIDEWIRE_SERVER goes before the selected context, which a person is told: of what a command prints it is no part.
func TestServerBeatsContext(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	c := newCLI(t, n)
	c.ok("context", "add", "far", "--server", "far.invalid")
	const said = "which TIDEWIRE_SERVER says, and not to context far"
	if r := c.run("stream", "ls"); strings.Contains(r.err, said) {
		t.Errorf("told to a program: %s", r.err)
	}
	c.watched = true
	for _, args := range []string{"stream ls -o json", "stream ls --deleted -o json", "health -o json"} {
		if r := c.run(strings.Fields(args)...); r.code != 0 || strings.Count(r.err, said) != 1 || !json.Valid([]byte(r.out)) {
			t.Errorf("%s: %+v", args, r)
		}
	}
	for _, args := range []string{"stream ls --server " + n.Addr().String(), "stream ls --context far --timeout 1s", "health --quiet"} {
		if r := c.run(strings.Fields(args)...); strings.Contains(r.err, said) {
			t.Errorf("%s: %s", args, r.err)
		}
	}
	c.ok("context", "add", "near", "--server", n.Addr().String(), "--select")
	if r := c.run("stream", "ls"); strings.Contains(r.err, said) {
		t.Errorf("it leads to the same: %s", r.err)
	}
	c.watched = false
	for _, x := range []struct{ server, context, want, inForce string }{
		{"x:1", "", "in force: x:1, which TIDEWIRE_SERVER says; it goes before context near\n", ""},
		{"", "far", "in force: context far (far.invalid), which TIDEWIRE_CONTEXT says\n", "far"},
		{"", "nope", "in force: none, as TIDEWIRE_CONTEXT says nope, which is not there\n", ""},
		{"", "", "in force: context near (", "near"},
	} {
		c.env["TIDEWIRE_SERVER"], c.env["TIDEWIRE_CONTEXT"] = x.server, x.context
		for _, args := range []string{"context ls", "ctx"} {
			if r := c.run(strings.Fields(args)...); r.code != 0 || !strings.Contains(r.err, x.want) {
				t.Errorf("%s with %+v: %+v", args, x, r)
			}
		}
		var list []contextJSON
		if err := json.Unmarshal([]byte(c.ok("context", "ls", "-o", "json")), &list); err != nil || len(list) != 2 {
			t.Fatalf("%v, %v", list, err)
		}
		for _, j := range list {
			if j.InForce != (j.Name == x.inForce) {
				t.Errorf("%+v: %+v", x, j)
			}
		}
	}
}

// A context that a command's name would hide cannot be made.
func TestContextOfVerb(t *testing.T) {
	c := newCLI(t, nil)
	for _, name := range []string{"ls", "list", "rm", "select", "use"} {
		c.fails(exitUsage, []string{"context", "add", name, "--server", "x"}, "is a command of tidewire context")
	}
}

// What is no node is told apart.
func TestNotANode(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var greeting sync.WaitGroup
	defer greeting.Wait()
	defer other.Close()
	greeting.Go(func() {
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "220 mail.example.org ESMTP ready\r\n")
			_, _ = c.Read(make([]byte, 1<<10)) // else its reset may overtake the greeting
			c.Close()
		}
	})
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c := newCLI(t, nil)
	for _, x := range []struct{ address, id, why string }{
		{other.Addr().String(), "TW-5004", `why: what answers there is not a Tidewire node: it says "220 mail.example.org ESMTP ready"`},
		{plain.Listener.Addr().String(), "TW-5004", `why: what answers there is not a Tidewire node: it says "HTTP/1.0 404 Not Found"`},
		{secure.Listener.Addr().String(), "TW-5005", "why: what answers there wants TLS"},
		{silent.Addr().String(), "TW-5003", "no answer in time"},
		{"127.0.0.1:1", "TW-5001", ""},
		{"nosuch.invalid", "TW-5002", ""},
	} {
		c.fails(exitError, []string{"stream", "ls", "--server", x.address, "--timeout", "1s"}, "error "+x.id+": no connection to "+x.address, "do:  ", x.why)
		if r := c.run("stream", "ls", "--server", x.address, "--timeout", "1s"); strings.Contains(r.err, "frame") {
			t.Errorf("words of the protocol about %s: %s", x.address, r.err)
		}
	}
	c.fails(exitUsage, []string{"stream", "ls", "--server", "x:y:z"}, "TW-5009")
	c.fails(exitUsage, []string{"stream", "ls", "--server", "ftp://x"}, "TW-5009", "leave out ftp://")
	// It is not waited for until the end.
	c.fails(exitError, []string{"stream", "ls", "--server", plain.Listener.Addr().String(), "--timeout", "10m"}, "TW-5004", "it says \"HTTP/1.0 404 Not Found\"")
}
