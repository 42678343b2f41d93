package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/broker"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestConfigCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tidewire.yaml")
	writeFile(t, file, "limits: {max-requests: 7}\n")
	c := newCLI(t, nil)
	if out := c.ok("config", "check", file); out != "ok\n" {
		t.Errorf("check said %q", out)
	}
	c.env["TIDEWIRE_CONFIG"], c.env["TIDEWIRE_LIMITS_MAX_CURSORS"] = file, "8"
	c.ok("config", "check")
	var shown []shownSetting
	if err := json.Unmarshal([]byte(c.ok("config", "show", "--origin", "--output", "json", "--data", "d")), &shown); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, s := range shown {
		got[s.Key] = string(s.Value) + " " + s.Origin
	}
	for key, want := range map[string]string{"limits.max-requests": "7 " + file + ":1:10", "limits.max-cursors": "8 TIDEWIRE_LIMITS_MAX_CURSORS",
		"data": `"d" --data`, "listen": `"` + defaultServer + `" default`, "dev": "false default", "telemetry.sample-ratio": "0.001 default",
		"timeouts.idle": `"2m" default`, "storage.segment-bytes": `"64MiB" default`} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	c.fails(exitUsage, []string{"config", "show", "--output", "xml"}, "it is none of text, wide, json, yaml")
	c.env["TIDEWIRE_LIMITS_MAX_CURSOR"] = "8"
	c.fails(exitConfig, []string{"config", "check"}, "did you mean TIDEWIRE_LIMITS_MAX_CURSORS?")
	delete(c.env, "TIDEWIRE_LIMITS_MAX_CURSOR")
	for name, meant := range map[string]string{"TIDEWIRE_MAX_CURSORS": "TIDEWIRE_LIMITS_MAX_CURSORS", "TIDEWIRE_LOG_LEVL": "TIDEWIRE_LOG_LEVEL", "TIDEWIRE_SERVR": "TIDEWIRE_SERVER",
		"TIDEWIRE_TIMEOUT_DRAIN": "TIDEWIRE_TIMEOUTS_DRAIN"} {
		c.env[name] = "1"
		c.fails(exitConfig, []string{"config", "check"}, name+": it is no setting: did you mean "+meant+"?")
		delete(c.env, name)
	}
	c.env["TIDEWIRE_FOO"] = "1" // of somebody else
	c.ok("config", "check")
	delete(c.env, "TIDEWIRE_FOO")
	writeFile(t, file, "limts: {}\nlog: {level: loud}\n")
	for _, args := range []string{"server --data d", "dev --temp", "config check", "config show"} {
		c.fails(exitConfig, strings.Fields(args), "wrong in 2 places", file+":1:1", "did you mean limits?", file+":2:7", "TW-2102")
	}
	var found configChecked
	r := c.run("config", "check", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &found); err != nil || r.code != exitConfig || found.OK || len(found.Problems) != 2 ||
		found.Problems[0].Where != file+":1:1" || found.Problems[0].ID != "TW-2102" || !strings.Contains(found.Problems[0].What, "did you mean limits?") {
		t.Errorf("%v: %+v", err, r)
	}
	for _, listen := range []string{"127.0.0.1", "21001"} {
		newCLI(t, nil).fails(exitUsage, []string{"server", "--data", "d", "--listen", listen}, "give host:port, such as 127.0.0.1:7420 (TW-")
	}
	if out := c.ok("config", "example"); !strings.Contains(out, "#  max-requests: 1024") {
		t.Errorf("example:\n%s", out)
	}
}

// notified reads what the node tells its supervisor.
func notified(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 200)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// SIGHUP takes over what is right, refuses what is not, and tells the supervisor of each step.
func TestReloadBySignal(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	socket, err := os.MkdirTemp("", "tw") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(socket)
	supervisor, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket + "/s", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer supervisor.Close()
	t.Setenv("NOTIFY_SOCKET", socket+"/s")

	writeFile(t, file, "data: "+dir+"/data\nlisten: 127.0.0.1:0\nlimits: {max-requests: 9}\n")
	p := spawn(t, "", "server", "--config", file, "--log-format", "json")
	p.ready()
	if got := notified(t, supervisor); got != "READY=1" {
		t.Errorf("told %q", got)
	}
	reload := func() {
		t.Helper()
		p.signal(syscall.SIGHUP)
		if got := notified(t, supervisor); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
			t.Errorf("told %q", got)
		}
		if got := notified(t, supervisor); got != "READY=1" {
			t.Errorf("told %q", got)
		}
	}
	said := func(words ...string) {
		t.Helper()
		late := time.After(20 * time.Second) // the log comes through a pipe of its own
		for _, w := range words {
			if !p.err.await(w, late) {
				t.Fatalf("the log lacks %q:\n%s", w, p.err.String())
			}
		}
	}
	writeFile(t, file, "data: "+dir+"/other\nlisten: 127.0.0.1:0\nlimits: {max-requests: 10}\n")
	reload()
	said(`"key":"limits.max-requests","from":"9","to":"10"`, `"setting needs a restart; the old value holds","key":"data"`)
	writeFile(t, file, "data: "+dir+"/data\nlimts: {}\nlimits: {max-requests: 0}\n")
	reload()
	said("did you mean limits?", `max-requests: \"0\" is below 1`)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	reload()
	said("no such file or directory")
	p.signal(syscall.SIGTERM)
	if got := notified(t, supervisor); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
	p.ends(0)
}

// Who logs does not wait for whoever reads the log, and what comes meanwhile is kept as far as there is room.
func TestLogThatNobodyReads(t *testing.T) {
	read, write := io.Pipe() // a write waits until it is read
	log, _, err := (&app{err: write}).logger("info", "text")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		log.Info(fmt.Sprintf("line %d of 100", i))
	}
	_ = log.Sync() // gives up
	scan := bufio.NewScanner(read)
	for i := range 100 {
		if want := fmt.Sprintf("line %d of 100", i); !scan.Scan() || !strings.HasSuffix(scan.Text(), want) {
			t.Fatalf("%q, want %s; %v", scan.Text(), want, scan.Err())
		}
	}
	if err := log.Sync(); err != nil {
		t.Error(err)
	}

	var dropped atomic.Int64
	out := stuck{make(chan struct{}, 1), make(chan struct{})}
	l := &lines{out: out, dropped: &dropped}
	_, _ = l.Write([]byte("line\n"))
	<-out.entered
	for range logQueue + 3 {
		_, _ = l.Write([]byte("line\n"))
	}
	if n := dropped.Load(); n != 3 {
		t.Errorf("%d lines were left out, want 3", n)
	}
	close(out.open)
	_ = l.Sync()
}

// stuck is a reader of the log that stands still until open is closed.
type stuck struct{ entered, open chan struct{} }

func (s stuck) Write(b []byte) (int, error) {
	select {
	case s.entered <- struct{}{}:
	default:
	}
	<-s.open
	return len(b), nil
}

// A signal that comes while the node starts ends it before it serves.
func TestStopWhileStarting(t *testing.T) {
	dir := t.TempDir()
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	v := &server{app: &app{}}
	cfg := broker.Config{Address: "127.0.0.1:0", DataDir: dir}
	if n, err := v.start(t.Context(), cfg, signals, zap.NewNop()); n != nil || err != nil {
		t.Errorf("node %v, error %v", n, err)
	}
	n, err := v.start(t.Context(), cfg, signals, zap.NewNop()) // nothing holds the directory
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// No client fills a disk with lines about it, be they all the same or each another; the level holds at once.
func TestLogIsBounded(t *testing.T) {
	var err buffer
	log, level, e := (&app{err: &err}).logger("info", "json")
	if e != nil {
		t.Fatal(e)
	}
	for range 100_000 {
		log.Warn("a frame that does not decode")
	}
	_ = log.Sync()
	if n := strings.Count(err.String(), "\n"); n < logFirst || n > 3*logFirst+2*100_000/logThereafter {
		t.Errorf("%d of 100,000 equal lines", n)
	}
	began := time.Now()
	for i := range 20_000 {
		log.Info(fmt.Sprintf("message %d", i))
	}
	seconds := int(time.Since(began)/time.Second) + 2
	_ = log.Sync()
	if n := strings.Count(err.String(), `"msg":"message`); n < logRate/2 || n > seconds*logRate {
		t.Errorf("%d of 20,000 different lines in at most %d s", n, seconds)
	}
	log.Error("a write failed") // what is less does not use up its room
	_ = log.Sync()
	if !strings.Contains(err.String(), "a write failed") {
		t.Error("an error was lost in the flood")
	}
	level.SetLevel(zap.ErrorLevel)
	log.Named("x").Warn("not this one")
	_ = log.Sync()
	if strings.Contains(err.String(), "not this one") {
		t.Error("the level does not hold")
	}
}
