package broker

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
)

// gate is a log that does not take what is said of one stream while it is shut: whoever says it waits.
type gate struct {
	zapcore.LevelEnabler
	stream string
	marked bool // with the stream's name
	*barrier
}

type barrier struct {
	mu      sync.Mutex
	open    chan struct{} // closed while it is open
	waiting chan struct{} // one for each that came to it while it was shut
}

func newGate(stream string) gate {
	open := make(chan struct{})
	close(open)
	return gate{zapcore.DebugLevel, stream, false, &barrier{open: open, waiting: make(chan struct{}, 1024)}}
}

// shut shuts the gate; the function it returns opens it, once.
func (b *barrier) shut() (open func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := make(chan struct{})
	b.open = ch
	return sync.OnceFunc(func() { close(ch) })
}

func (b *barrier) pass() {
	b.mu.Lock()
	open := b.open
	b.mu.Unlock()
	select {
	case <-open:
	default:
		b.waiting <- struct{}{}
		<-open
	}
}

// With implements zapcore.Core.
func (g gate) With(fields []zapcore.Field) zapcore.Core {
	for _, f := range fields {
		if f.Key == "stream" && f.String == g.stream {
			g.marked = true
			g.pass()
		}
	}
	return g
}

// Check implements zapcore.Core.
func (g gate) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, g)
}

// Write implements zapcore.Core.
func (g gate) Write(zapcore.Entry, []zapcore.Field) error {
	if g.marked {
		g.pass()
	}
	return nil
}

// Sync implements zapcore.Core.
func (g gate) Sync() error { return nil }

// What is still being made counts as room that is taken, and as nothing that is wrong.
func TestRoomForWhatIsBeingMade(t *testing.T) {
	g := newGate("first")
	n := startNode(t, t.TempDir(), func(c *Config) {
		c.Logger = zap.New(g)
		c.MaxConnections = openFileLimit() - fileReserve(openFileLimit()) - 303 // room for 101
	})
	p, q := connect(t, n), connect(t, n)
	open := g.shut()
	defer open()
	p.send((&wire.CreateStream{Name: "first", Partitions: 60}).AppendTo(nil, p.next()))
	<-g.waiting
	if err := n.checkPartitions(); err != nil {
		t.Error(err)
	}
	q.send((&wire.CreateStream{Name: "second", Partitions: 42}).AppendTo(nil, q.next()))
	if e := q.recvError(wire.CodeLimit); e.Value != 101 {
		t.Errorf("%+v", e)
	}
	q.create(wire.CreateStream{Name: "second", Partitions: 41})
	open()
	p.recv(wire.OpTopology)
}

// A node that is stopped while it purges a stream goes on when it starts again.
func TestPurgeGoesOnAfterAStop(t *testing.T) {
	g := newGate("many")
	dir := t.TempDir()
	n := startNode(t, dir, func(c *Config) { c.Logger = zap.New(g) })
	p := connect(t, n)
	p.create(wire.CreateStream{Name: "many", Partitions: 4})
	many := n.catalog.State().Stream("many")
	left := func(n *Node) bool {
		return slices.ContainsFunc(many.Partitions, func(part cluster.Partition) bool { return n.data.exists(partitionDir(part.Group)) })
	}
	open := g.shut()
	defer open()
	p.send((&wire.DeleteStream{Name: "many", Purge: true}).AppendTo(nil, p.next()))
	p.recv(wire.OpOK)
	<-g.waiting // its partitions cannot be closed
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stopNode(t, n)
	}()
	<-n.ctx.Done()
	open()
	<-stopped
	if entries, err := os.ReadDir(filepath.Join(dir, "partitions")); err != nil || len(entries) == 0 {
		t.Fatalf("the node was not stopped before the purge: %v, %v", entries, err)
	}
	n = startNode(t, dir)
	until(t, "what was purged is removed", func() bool { return !left(n) && len(n.catalog.State().Purged) == 0 })
}

// While a stream of many partitions starts, and while it is stopped and purged, other streams are created and
// published to: the large one cannot go on until that is done.
func TestLargeStreamKeepsNobodyWaiting(t *testing.T) {
	const partitions = 4 * startParallel
	g := newGate("many")
	n := startNode(t, t.TempDir(), func(c *Config) { c.Logger = zap.New(g) })
	held := func() { // as many of its partitions as may be under way
		for range streamParallel {
			select {
			case <-g.waiting:
			case <-time.After(patience):
				t.Fatal("the large stream does not come to the gate")
			}
		}
	}
	neighbour := func(subject string) {
		t.Helper()
		p := connect(t, n)
		st := p.streamOf(subject)
		group := n.catalog.State().Stream(subject).Partitions[0].Group
		corr, _ := p.open(st, wire.Open{})
		p.send(wire.AppendPublish(nil, corr, batch(t, 0, values(subject, 3, "v%d")...)))
		p.acks(corr, 0, 3)
		p.send((&wire.DeleteStream{Name: subject, Purge: true}).AppendTo(nil, p.next()))
		p.recv(wire.OpOK)
		until(t, "the neighbour's purged stream is gone", func() bool { return !n.data.exists(partitionDir(group)) })
	}

	open := g.shut()
	defer open()
	p := connect(t, n)
	p.send((&wire.CreateStream{Name: "many", Partitions: partitions}).AppendTo(nil, p.next()))
	held()
	neighbour("first")
	if many := n.catalog.State().Stream("many"); many == nil || n.serves(many) {
		t.Error("the large stream was not starting meanwhile")
	}
	open()
	p.topology()
	many := n.catalog.State().Stream("many")
	if !n.serves(many) {
		t.Error("the large stream does not serve though it was said to")
	}

	for len(g.waiting) > 0 {
		<-g.waiting
	}
	open = g.shut()
	defer open()
	p.send((&wire.DeleteStream{Name: "many", Purge: true}).AppendTo(nil, p.next()))
	p.recv(wire.OpOK)
	held()
	neighbour("second")
	if !n.data.exists(partitionDir(many.Partitions[partitions-1].Group)) {
		t.Error("the large stream was not stopping meanwhile")
	}
	open()
	until(t, "every partition of the large stream is removed", func() bool {
		return !slices.ContainsFunc(many.Partitions, func(part cluster.Partition) bool { return n.data.exists(partitionDir(part.Group)) })
	})
	n.partitions.mu.Lock()
	defer n.partitions.mu.Unlock()
	if locks := len(n.partitions.locks); locks > 1 { // the last one may be about to be let go
		t.Errorf("%d locks of streams are left", locks)
	}
}

// Many partitions start at once, and a node that cannot have their files refuses them before they exist.
func TestManyPartitions(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir)
	p := connect(t, n)
	if st := p.create(wire.CreateStream{Name: "wide", Partitions: 100}); len(st.Partitions) != 100 {
		t.Errorf("%d partitions", len(st.Partitions))
	}
	stopNode(t, n)
	n = startNode(t, dir, func(c *Config) { c.MaxConnections = openFileLimit() - fileReserve(openFileLimit()) - 303 }) // room for 101
	p = connect(t, n)
	p.send((&wire.CreateStream{Name: "more", Partitions: 2}).AppendTo(nil, p.next()))
	if e := p.recvError(wire.CodeLimit); e.Value != 101 {
		t.Errorf("%+v", e)
	}
	p.create(wire.CreateStream{Name: "one"})
}

func TestMissingPartitionIsRefused(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir)
	p := connect(t, n)
	p.fill(p.streamOf("a"), 0, values("a", 3, "%d"))
	stopNode(t, n)
	gone, away := filepath.Join(dir, "partitions", "1"), filepath.Join(t.TempDir(), "1")
	if err := os.Rename(gone, away); err != nil {
		t.Fatal(err)
	}
	if err := refused(t, Config{Address: "127.0.0.1:0", DataDir: dir}); !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), `partitions/1 (stream "a", partition 0) is missing`) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) {
		t.Error("the refused start made the directory")
	}
	if err := os.Rename(away, gone); err != nil {
		t.Fatal(err)
	}
	n = startNode(t, dir)
	p = connect(t, n)
	if got := p.receive(p.subscribe(wire.Subscribe{Filter: "a"}), 3); len(got) != 3 {
		t.Errorf("%+v", got)
	}
}
