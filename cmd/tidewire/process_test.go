package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/tidewire/tidewire/broker"
)

// process is tidewire in a process of its own.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    *bufio.Reader
	err    buffer
	exited chan struct{}
}

// spawn starts tidewire with args; wrap, if given, is a shell command that ends in "exec "$@"".
func spawn(t *testing.T, wrap string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(self, args...), exited: make(chan struct{})}
	if wrap != "" {
		p.cmd = exec.Command("sh", append([]string{"-c", wrap, "sh", self}, args...)...)
	}
	p.cmd.Env = append(os.Environ(), asBinary+"=1")
	p.cmd.Stderr = &p.err
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout = w
	p.out = bufio.NewReader(r)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		_ = p.cmd.Wait() // the exit code is in ProcessState
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		r.Close()
	})
	return p
}

func (p *process) line() string {
	line, _ := p.out.ReadString('\n')
	return strings.TrimSuffix(line, "\n")
}

// ready waits until the node is, and returns its address.
func (p *process) ready() string {
	p.t.Helper()
	line := p.line()
	address, ok := strings.CutPrefix(line, "ready ")
	if !ok {
		<-p.exited
		p.t.Fatalf("the node said %q; stderr:\n%s", line, p.err.String())
	}
	return address
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for the end and checks the exit code and what was said on stderr.
func (p *process) ends(code int, words ...string) {
	p.t.Helper()
	<-p.exited
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit code %d, want %d; stderr:\n%s", got, code, p.err.String())
	}
	for _, w := range words {
		if !strings.Contains(p.err.String(), w) {
			p.t.Errorf("stderr lacks %q:\n%s", w, p.err.String())
		}
	}
}

func TestServerStopsOnSignal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for _, s := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		p := spawn(t, "", "server", "--data", dir, "--listen", "127.0.0.1:0", "--dev", "--log-format", "json")
		c := newCLI(t, nil)
		c.env["TIDEWIRE_SERVER"] = p.ready()
		c.ok("pub", "s", "x")
		p.signal(s)
		p.ends(0, `"msg":"draining; the same signal again stops at once"`, `"msg":"stopped"`)
	}
}

// A line of the text log has its date and time in UTC, no key twice, and nothing that only the event loop's makers want to know.
func TestTextLog(t *testing.T) {
	p := spawn(t, "", "server", "--data", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--dev", "--log-level", "debug")
	c := newCLI(t, nil)
	c.env["TIDEWIRE_SERVER"] = p.ready()
	c.ok("pub", "s", "x")
	p.signal(syscall.SIGTERM)
	p.ends(0)
	line, key := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  (debug|info|warn|error)  `), regexp.MustCompile(`"(\w+)":`)
	groups := 0
	for s := range strings.Lines(p.err.String()) {
		seen := map[string]bool{}
		for _, m := range key.FindAllStringSubmatch(s, -1) {
			if seen[m[1]] {
				t.Errorf("%s is twice in %s", m[1], s)
			}
			seen[m[1]] = true
		}
		if seen["group"] {
			groups++
		}
		if !line.MatchString(s) || strings.Contains(s, "gnet") && strings.Contains(s, "  info  ") {
			t.Errorf("a line of the log is %s", s)
		}
	}
	if groups == 0 {
		t.Errorf("no line is about a group:\n%s", p.err.String())
	}
}

// What was acknowledged before a SIGKILL is there after it.
func TestServerKilled(t *testing.T) {
	dir := t.TempDir()
	c := newCLI(t, nil)
	for i := range 3 {
		p := spawn(t, "", "server", "--data", dir, "--listen", "127.0.0.1:0", "--dev")
		c.env["TIDEWIRE_SERVER"] = p.ready()
		c.ok("pub", "s", fmt.Sprint(i))
		p.signal(syscall.SIGKILL)
		<-p.exited
		want := fmt.Sprintf("%s in %s", plural(i+1, "record"), numbered(i+1, "batch", "batches"))
		if out := c.ok("log", "verify", dir); !strings.Contains(out, want) || !strings.Contains(out, "not closed in good order") {
			t.Errorf("after the kill verify says\n%s", out)
		}
	}
	p := spawn(t, "", "server", "--data", dir, "--listen", "127.0.0.1:0")
	c.env["TIDEWIRE_SERVER"] = p.ready()
	if got := c.ok("sub", "s", "--count", "3"); got != "0\n1\n2\n" {
		t.Errorf("after three kills there is %q", got)
	}
}

// A publisher goes on by itself when its node is killed and comes back, and nothing is lost, doubled or reordered.
func TestPubOutlivesTheNode(t *testing.T) {
	dir := t.TempDir()
	p := spawn(t, "", "server", "--data", dir, "--listen", "127.0.0.1:0", "--dev")
	address := p.ready()
	r, w := io.Pipe()
	var out, stderr buffer
	a := &app{in: r, out: &out, err: &stderr, getenv: func(string) string { return "" }}
	done := make(chan int)
	go func() {
		done <- a.run([]string{"pub", "s", "-", "--server", address, "--timeout", "1m", "--batch-records", "10", "--json"})
	}()
	var want strings.Builder
	write := func(from, to int) {
		for i := from; i < to; i++ {
			fmt.Fprintln(&want, i)
			if _, err := fmt.Fprintln(w, i); err != nil {
				t.Error(err)
			}
		}
	}
	write(0, 2000)
	p.signal(syscall.SIGKILL) // in the middle: some are acknowledged, some on their way
	write(2000, 2500)
	<-p.exited
	p = spawn(t, "", "server", "--data", dir, "--listen", address, "--dev")
	p.ready()
	write(2500, 4000)
	w.Close()
	if code := <-done; code != 0 || !strings.Contains(out.String(), `"records": 4000`) {
		t.Fatalf("exit code %d: %s%s", code, out.String(), stderr.String())
	}
	c := newCLI(t, nil)
	if got := c.ok("sub", "s", "--count", "4000", "--server", address); got != want.String() {
		t.Error("what came back is not what was published")
	}
	if got := c.ok("stream", "show", "s", "--server", address); !strings.Contains(got, "4,000") {
		t.Errorf("there are more or fewer than 4,000:\n%s", got)
	}
}

func TestServerRefusedDirectory(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, false)
	spawn(t, "", "server", "--data", dir, "--listen", "127.0.0.1:0").ends(exitDataDir, "the node did not start", fmt.Sprintf("in use by process %d", os.Getpid()))

	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "letter.txt"), []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	spawn(t, "", "server", "--data", foreign, "--listen", "127.0.0.1:0").ends(exitDataDir, "letter.txt", "name an empty directory")

	free := t.TempDir()
	spawn(t, "", "server", "--data", free, "--listen", n.Addr().String()).ends(exitError, n.Addr().String()+" is in use", "--listen")
	letter := filepath.Join(foreign, "letter.txt")
	spawn(t, "", "server", "--data", letter, "--listen", "127.0.0.1:0").ends(exitDataDir, "the node did not start", "do:  name a directory: "+letter+" is a file")
	spawn(t, "", "dev", filepath.Join(letter, "below"), "--listen", "127.0.0.1:0").ends(exitDataDir, "do:  name a directory: ")
	spawn(t, "", "server", "--data", "/proc/x", "--listen", "127.0.0.1:0").ends(exitDataDir, "TW-3006", "the data directory /proc/x cannot be made")
	spawn(t, "", "server", "--data", free, "--listen", "0.0.0.0:0").ends(exitUsage, "can be reached by others", "--insecure")
}

// A write that fails ends the node with its own exit code; what was acknowledged stays.
func TestServerFailedWrite(t *testing.T) {
	dir := t.TempDir()
	p := spawn(t, `trap "" XFSZ; ulimit -f 2048; exec "$@"`, "server", "--data", dir, "--listen", "127.0.0.1:0", "--dev")
	c := newCLI(t, nil)
	c.env["TIDEWIRE_SERVER"] = p.ready()
	c.ok("pub", "s", "before")
	c.typing(strings.Repeat(strings.Repeat("x", 1000)+"\n", 3000)).run("pub", "s", "-", "--timeout", "2s") // how it ends is not the point
	p.ends(exitWrite, "a write failed")

	p = spawn(t, "", "server", "--data", dir, "--listen", "127.0.0.1:0")
	c.env["TIDEWIRE_SERVER"] = p.ready()
	if got := c.ok("sub", "s", "--count", "1"); got != "before\n" {
		t.Errorf("after the failure there is %q", got)
	}
}

// A directory whose logs do not fit its votes, or whose catalog is damaged, is refused, with advice.
func TestServerRefusedContents(t *testing.T) {
	for name, harm := range map[string]func(dir string) error{
		"a partition is gone": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "partitions", "1")) },
		"the votes are gone":  func(dir string) error { return os.Remove(filepath.Join(dir, "stable.db")) },
		"the catalog is gone": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "catalog")) },
		"the catalog is damaged": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "catalog", "manifest"), []byte("TWMANFST damaged damaged"), 0o640)
		},
	} {
		dir := t.TempDir()
		n := startNode(t, dir, true)
		newCLI(t, n).ok("pub", "s", "x")
		stopNode(t, n)
		if err := harm(dir); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		spawn(t, "", "server", "--data", dir, "--listen", "127.0.0.1:0").ends(exitDataDir, "the node did not start", "do:  ", "tidewire log verify "+dir)
	}
}

// A node to try things on ends with its terminal.
func TestDevHangsUp(t *testing.T) {
	p := spawn(t, "", "dev", "--temp", "--listen", "127.0.0.1:0")
	for line := ""; !strings.Contains(line, "Ctrl-C stops it."); line = p.line() {
		if line == "" && p.cmd.ProcessState != nil {
			t.Fatal(p.err.String())
		}
	}
	p.signal(syscall.SIGHUP)
	p.ends(0)
}

func TestDev(t *testing.T) {
	p := spawn(t, "", "dev", "--temp", "--listen", "127.0.0.1:0")
	var story strings.Builder
	var address, dir string
	for !strings.HasPrefix(story.String(), "Tidewire is ready.") || !strings.Contains(story.String(), "Ctrl-C stops it.") {
		line := p.line()
		if f := strings.Fields(line); len(f) > 1 && f[0] == "address" {
			address = f[1]
		} else if len(f) > 1 && f[0] == "data" {
			dir = f[1]
		} else if line == "" && p.cmd.ProcessState != nil {
			t.Fatal(p.err.String())
		}
		story.WriteString(line + "\n")
	}
	golden(t, "dev.txt", scrub(strings.NewReplacer(dir, "DIR", os.Args[0], "tidewire").Replace(story.String())))
	c := newCLI(t, nil)
	c.ok("pub", "orders.new", "hello", "--server", address)
	if got := c.ok("sub", "orders.>", "--count", "1", "--server", address); got != "hello\n" {
		t.Errorf("read back: %q", got)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
	p.signal(os.Interrupt)
	p.signal(os.Interrupt) // the same once more, as a shell and a parent both send it
	if line := p.line(); line != "stopped; data removed" {
		t.Errorf("at the end it says %q", line)
	}
	p.ends(0)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("--temp leaves %s behind: %v", dir, err)
	}
}

// A client that is told to stop ends in good order, and says what it did.
func TestSubInterrupted(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	newCLI(t, n).ok("pub", "s", "x")
	p := spawn(t, "", "sub", "s", "--server", n.Addr().String())
	if got := p.line(); got != "x" {
		t.Fatalf("it printed %q: %s", got, p.err.String())
	}
	p.signal(os.Interrupt)
	p.ends(0, "1 record, 1 B in ")

	p = spawn(t, "", "sub", "s", "--count", "5", "--server", n.Addr().String())
	if got := p.line(); got != "x" {
		t.Fatalf("it printed %q: %s", got, p.err.String())
	}
	p.signal(os.Interrupt)
	p.ends(exitInterrupted, "1 record of 5, 1 B in ")
}

// interrupted runs the binary, gives it an input that does not end, and tells it to stop once meanwhile has returned.
func interrupted(t *testing.T, input []byte, meanwhile func(), args ...string) (code int, said string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return interruptedReading(t, r, func() {
		if _, err := w.Write(input); err != nil {
			t.Fatal(err)
		}
		meanwhile()
	}, args...)
}

// interruptedReading runs the binary with in for its input, which it closes, and tells it to stop once meanwhile has returned.
func interruptedReading(t *testing.T, in *os.File, meanwhile func(), args ...string) (code int, said string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env, cmd.Stdin = append(os.Environ(), asBinary+"=1"), in
	var out buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	meanwhile()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the exit code is in ProcessState
	return cmd.ProcessState.ExitCode(), out.String()
}

// pub that waits for a line stores what it has read when it is told to stop.
func TestPubInterrupted(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	stored := func() {
		if got := newCLI(t, n).ok("sub", "s", "--count", "1"); got != "one\n" { // a line is stored when it comes
			t.Errorf("stored is %q", got)
		}
	}
	code, said := interrupted(t, []byte("one\n"), stored, "pub", "s", "-", "--server", n.Addr().String())
	if code != 0 || !strings.Contains(said, "1 record, 3 B in ") {
		t.Errorf("exit code %d: %s", code, said)
	}
}

// Half a line is no record, and pub that is told to stop behind one does not end as if all were stored.
func TestPubInterruptedWithinALine(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	stored := func() { newCLI(t, n).ok("sub", "s", "--count", "1") }
	code, said := interrupted(t, []byte("one\ntw"), stored, "pub", "s", "-", "--server", n.Addr().String())
	if code != exitInterrupted || !strings.Contains(said, "line 1 is stored") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if got := newCLI(t, n).ok("sub", "s", "--no-follow", "--quiet"); got != "one\n" {
		t.Errorf("stored: %q", got)
	}
}

// pub that is told to stop in the middle of its input says where to go on, and does not end as if it were done.
func TestPubInterruptedInTheMiddle(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	file := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(file, bytes.Repeat([]byte("line\n"), 20_000_000), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	begun := func() { newCLI(t, n).ok("sub", "s", "--count", "1000") }
	code, said := interruptedReading(t, in, begun, "pub", "s", "-", "--server", n.Addr().String(), "-o", "json")
	stored := strings.Count(newCLI(t, n).ok("sub", "s", "--no-follow", "--quiet"), "\n")
	said = strings.ReplaceAll(said, " ", "")
	if code != exitInterrupted || !strings.Contains(said, fmt.Sprintf(`"stored_lines":%d`, stored)) ||
		!strings.Contains(said, fmt.Sprintf(`"next_line":%d`, stored+1)) {
		t.Errorf("exit code %d with %d lines stored: %s", code, stored, said)
	}
}

// pub --whole that waits for the end of its input has stored nothing when it is told to stop.
func TestPubWholeInterrupted(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	input := make([]byte, 512<<10) // more than a pipe holds: when it is written, pub is reading
	code, said := interrupted(t, input, func() {}, "pub", "s", "--whole", "--server", n.Addr().String())
	if code != exitInterrupted || !strings.Contains(said, "nothing was stored") {
		t.Errorf("exit code %d: %s", code, said)
	}
	newCLI(t, n).fails(exitError, []string{"sub", "s", "--no-follow"}, "no stream captures s")
}

func TestDemo(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("line\n\n\x00\xff\r\n", 500)+"the last one"), 0o600); err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	p := spawn(t, "", "demo", "--file", text)
	var story strings.Builder
	for line := p.line(); line != "" || story.Len() < 900; line = p.line() {
		story.WriteString(line + "\n")
		if line == "What was acknowledged is what is there." {
			break
		}
		select {
		case <-p.exited:
			t.Fatalf("%s\n%s", story.String(), p.err.String())
		default:
		}
	}
	p.ends(0)
	for _, want := range []string{"1,501 records (the text once, ", "every ack rests on: fsynced on 1 of 1", "kill -9 ", "1,501 records in ", "each is there once, in order, byte for byte"} {
		if !strings.Contains(story.String(), want) {
			t.Errorf("the story lacks %q:\n%s", want, story.String())
		}
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
		t.Errorf("it leaves %v behind", left)
	}
}

// However the demo ends, it leaves no process and no file behind.
func TestDemoStopped(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("line\n", 200_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"head", "SIGHUP", "SIGTERM", "SIGQUIT", "SIGPIPE", "SIGKILL"} {
		tmp := t.TempDir()
		t.Setenv("TMPDIR", tmp)
		wrap := ""
		if how == "head" {
			wrap = `"$@" | head -3`
		}
		p := spawn(t, wrap, "demo", "--file", text)
		switch how {
		case "head":
			for range 3 {
				p.line()
			}
		default:
			for !strings.Contains(p.line(), "; process ") {
			}
			p.signal(map[string]syscall.Signal{"SIGHUP": syscall.SIGHUP, "SIGTERM": syscall.SIGTERM, "SIGQUIT": syscall.SIGQUIT,
				"SIGPIPE": syscall.SIGPIPE, "SIGKILL": syscall.SIGKILL}[how])
		}
		<-p.exited
		if how != "SIGKILL" {
			waitFor(t, how+": its files to go", func() bool { left, _ := filepath.Glob(filepath.Join(tmp, "*")); return len(left) == 0 })
		}
		waitFor(t, how+": its node to end", func() bool { return !strings.Contains(commandLines(), tmp) })
	}
}

// commandLines is how every process of this machine was called.
func commandLines() string {
	var all strings.Builder
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		b, _ := os.ReadFile(name) // it may have ended
		all.Write(b)
		all.WriteByte('\n')
	}
	return all.String()
}

// What cannot be written is an error.
func TestOutputFails(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	newCLI(t, n).ok("pub", "s", "x")
	for _, args := range [][]string{{"pub", "s", "x"}, {"stream", "ls"}, {"stream", "show", "s"}, {"sub", "s", "--count", "1"}} {
		spawn(t, `exec "$@" >/dev/full`, append(args, "--server", n.Addr().String())...).ends(exitError, "error TW-6003: ", "no space left")
	}
	spawn(t, `exec "$@" >/dev/full`, "version").ends(exitError, "error TW-6003: ", "no space left")
}

func TestDemoRefusesText(t *testing.T) {
	c := newCLI(t, nil)
	text := filepath.Join(t.TempDir(), "text")
	c.fails(exitError, []string{"demo", "--file", text}, "there is no text to publish", "no such file")
	for content, want := range map[string]string{"": "not one line", "short\n" + strings.Repeat("x", 1_000_001): "line 2: it is longer than 1,000,000 bytes"} {
		if err := os.WriteFile(text, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c.fails(exitError, []string{"demo", "--file", text}, want)
	}
}

// The check of the demo can fail.
func TestDemoCheckFinds(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	c := newCLI(t, n)
	text := filepath.Join(t.TempDir(), "text")
	check := func(content, passes string, words ...string) {
		t.Helper()
		if err := os.WriteFile(text, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c.fails(exitError, []string{"demo", "check", text, "--passes", passes}, words...)
	}
	c.typing("one\ntwo\n").ok("pub", "demo", "-")
	check("one\ntoo\n", "1", `offset 1 holds "two", published was "too"`)
	check("two\none\n", "1", `offset 0 holds "one", published was "two"`)
	check("one\n", "1", `offset 1 holds a record that was never published: "two"`)
	check("one\ntwo\nthree\n", "1", `the record after offset 2 is missing: "three"`)
	check("one\ntwo\n", "2", `the record after offset 2 is missing: "one"`)
	if err := os.WriteFile(text, []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.ok("demo", "check", text, "--passes", "1")
}

// No more than one node listens on an address, in one process or in two.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	spawn(t, "", "server", "--data", t.TempDir(), "--listen", l.Addr().String()).ends(exitError, l.Addr().String()+" is in use")
	if _, err := broker.Start(t.Context(), broker.Config{Address: l.Addr().String(), DataDir: t.TempDir()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("error is %v", err)
	}
}
