package broker

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidewire/tidewire/proto/wire"
)

// refused starts a node that must not start, and gives the error.
func refused(t *testing.T, cfg Config) error {
	t.Helper()
	n, err := Start(context.Background(), cfg)
	if err == nil {
		stopNode(t, n)
		t.Fatal("it started")
	}
	return err
}

// Whoever posts while the node ends, or behind that, wakes nobody: gnet would write to whatever file has the number of its
// descriptor by then.
func TestPostsBehindTheEnd(t *testing.T) {
	core, logs := observer.New(zapcore.ErrorLevel)
	n := startNode(t, t.TempDir(), func(c *Config) { c.Logger = zap.New(core) })
	for range 2 * len(n.loops) {
		connect(t, n)
	}
	var posters sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		posters.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					n.eachLoop(func(*loop) {})
				}
			}
		})
	}
	stopNode(t, n)
	close(done)
	posters.Wait()
	for _, l := range n.loops {
		l.mu.Lock()
		l.waking = false // as if nothing had been posted since it ended
		l.mu.Unlock()
		l.post(func() { t.Error("a loop runs behind the end") })
	}
	if all := logs.All(); len(all) != 0 {
		t.Error(all)
	}
}

func TestStartRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := refused(t, Config{Address: taken.Addr().String(), DataDir: t.TempDir()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("port in use: %v", err)
	}
	if err := refused(t, Config{Address: "0.0.0.0:0", DataDir: t.TempDir()}); !strings.Contains(err.Error(), "insecure") {
		t.Errorf("open address: %v", err)
	}
	if err := refused(t, Config{Address: "nonsense", InFlightBytes: 1}); !strings.Contains(err.Error(), "nonsense") ||
		!strings.Contains(err.Error(), "data directory") || !strings.Contains(err.Error(), "in flight") {
		t.Errorf("not every bad field was named: %v", err)
	}
}

func TestDataDirRefused(t *testing.T) {
	write := func(dir, name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		file, content, want string
	}{
		"foreign":      {"thesis.tex", "x", "it is not a node's"},
		"lost":         {"stable.db", "x", "put the file back"},
		"newer":        {"node.json", `{"format":9,"cluster":"00112233445566778899aabbccddeeff","node":1,"incarnation":1}`, "format 9"},
		"damaged":      {"node.json", `{"format":`, "damaged"},
		"short id":     {"node.json", `{"format":1,"cluster":"0011","node":1,"incarnation":1}`, "damaged"},
		"without node": {"node.json", `{"format":1,"cluster":"00112233445566778899aabbccddeeff","incarnation":1}`, "damaged"},
	} {
		dir := t.TempDir()
		write(dir, tc.file, tc.content)
		err := refused(t, Config{Address: "127.0.0.1:0", DataDir: dir})
		if !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if b, _ := os.ReadFile(filepath.Join(dir, tc.file)); string(b) != tc.content {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestOneNodePerDirectory(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir)
	var refusal *DataDirError
	if err := refused(t, Config{Address: "127.0.0.1:0", DataDir: dir}); !errors.As(err, &refusal) || refusal.Pid != os.Getpid() {
		t.Errorf("%v", err)
	}
	stopNode(t, n)
	startNode(t, dir) // the lock is free again
}

func TestStopDrains(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("a")
	corr, _ := p.open(st, wire.Open{})
	var out []byte
	for i := range uint64(100) {
		out = wire.AppendPublish(out, corr, batch(t, i, message{"a", "", string(make([]byte, 10<<10))}))
	}
	p.send(out)
	p.recv(wire.OpAck) // the node has the frames, or most of them
	stopped := make(chan error)
	go func() { stopped <- n.Stop(context.Background()) }()
	goaway := false
	for {
		f, err := p.read()
		if err != nil {
			break
		}
		switch f.Op {
		case wire.OpGoaway:
			goaway = true
		case wire.OpError:
			var e wire.Error
			if _ = e.Decode(f.Body); e.Code != wire.CodeShutdown || !e.Retriable() {
				t.Errorf("%v", &e)
			}
		}
	}
	if !goaway {
		t.Error("no GOAWAY")
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Clients that connect again and again while the node stops do not hold it until its time is over.
func TestStopBesideReconnects(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	n := startNode(t, t.TempDir(), func(c *Config) { c.Logger, c.DrainTimeout = zap.New(core), 5*time.Second })
	alive(t, connect(t, n))
	var clients sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		clients.Go(func() {
			var last net.Conn
			for {
				select {
				case <-done:
					if last != nil {
						_ = last.Close()
					}
					return
				default:
				}
				c, err := net.Dial("tcp", n.Addr().String())
				if err != nil {
					continue
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				_, _ = c.Write(hello().AppendTo([]byte(wire.Magic), 0))
				_, _ = c.Read(make([]byte, 4<<10)) // WELCOME, and GOAWAY
				if last != nil {                   // so that there is always one
					_ = last.Close()
				}
				last = c
			}
		})
	}
	until(t, "they connect", func() bool { return n.connections.Load() > 1 })
	stopNode(t, n)
	close(done)
	clients.Wait()
	for _, e := range logs.FilterMessageSnippet("have not taken").All() {
		t.Error(e.Message)
	}
}

// A partition on disk that the catalog does not know is nobody's to delete.
func TestStraysAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir)
	connect(t, n).streamOf("a")
	stopNode(t, n)
	stray := filepath.Join(dir, "partitions", "99", "keep")
	if err := os.MkdirAll(filepath.Dir(stray), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stray, []byte("mine"), 0o640); err != nil {
		t.Fatal(err)
	}
	n = startNode(t, dir)
	connect(t, n).streamOf("b")
	if group := n.catalog.State().Stream("b").Partitions[0].Group; group <= 99 {
		t.Errorf("a new partition has number %d, which may be that of the stray's data", group)
	}
	stopNode(t, n)
	if b, err := os.ReadFile(stray); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
}

// A catalog put back from a copy does not know what was made since. That stays on disk, and nothing that is made then has its numbers.
func TestOlderCatalog(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir)
	p := connect(t, n)
	a := p.streamOf("a")
	stopNode(t, n)
	copied := filepath.Join(t.TempDir(), "catalog")
	if err := os.CopyFS(copied, os.DirFS(filepath.Join(dir, "catalog"))); err != nil {
		t.Fatal(err)
	}
	n = startNode(t, dir)
	if next := n.catalog.State().NextStream; next != a.ID+1 {
		t.Errorf("after a stop and a start the next stream is #%d", next)
	}
	p = connect(t, n)
	corr, opened := p.open(a, idempotent)
	p.send(wire.AppendPublish(nil, corr, batch(t, 0, values("a", 1, "%d")...)))
	p.acks(corr, 0, 1)
	x := p.streamOf("x")
	p.fill(x, 0, values("x", 3, "%d"))
	lost := n.catalog.State().Stream("x").Partitions[0].Group
	stopNode(t, n)
	if err := os.RemoveAll(filepath.Join(dir, "catalog")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "catalog"), os.DirFS(copied)); err != nil {
		t.Fatal(err)
	}
	n = startNode(t, dir)
	p = connect(t, n)
	y := p.streamOf("y")
	if y.ID == x.ID || y.Partitions[0].HighWatermark != 0 {
		t.Errorf("a new stream after a lost one %+v: %+v", x, y)
	}
	if _, again := p.open(a, idempotent); again.Producer == opened.Producer {
		t.Errorf("two producers have id %d", again.Producer)
	}
	p.send((&wire.DeleteStream{Name: "y", Purge: true}).AppendTo(nil, p.next()))
	p.recv(wire.OpOK)
	until(t, "the new stream is removed", func() bool { return len(n.catalog.State().Purged) == 0 })
	if !n.data.exists(partitionDir(lost)) {
		t.Error("what the catalog had forgotten was removed with another stream")
	}
}

// Deleting is soft: the data stay until they are purged, and purging removes no other's.
func TestDeleteAndPurge(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir)
	p := connect(t, n)
	for _, name := range []string{"a", "b"} {
		p.fill(p.streamOf(name), 0, values(name, 3, "%d"))
	}
	dirs := func() int {
		entries, err := os.ReadDir(filepath.Join(dir, "partitions"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	p.send((&wire.DeleteStream{Name: "a"}).AppendTo(nil, p.next()))
	p.recv(wire.OpOK)
	if dirs() != 2 {
		t.Errorf("%d partitions on disk after a soft delete", dirs())
	}
	p.send((&wire.DeleteStream{Name: "b", Purge: true}).AppendTo(nil, p.next()))
	p.recv(wire.OpOK)
	stopNode(t, n) // waits for the purge
	if dirs() != 1 {
		t.Errorf("%d partitions on disk after a purge", dirs())
	}
}
