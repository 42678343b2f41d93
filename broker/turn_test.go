package broker

import (
	"bytes"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// asks are so many requests for the topology in one piece.
func asks(count int) (b []byte) {
	for i := range count {
		b = (&wire.Metadata{}).AppendTo(b, uint32(i+1))
	}
	return b
}

// Who asks much at once has to wait; others on the same loop do not wait for it.
func TestManyAsks(t *testing.T) {
	n := startNode(t, t.TempDir())
	var others []*peer
	for range 4 * len(n.loops) { // some on every loop
		others = append(others, connect(t, n))
	}
	p := connect(t, n)
	p.streamOf("orders")
	const count = 100_000
	flood := asks(count)
	var answered atomic.Int64
	served := make(chan error, 1)
	go func() {
		for answered.Load() < count {
			f, err := p.read()
			if err == nil && f.Op != wire.OpTopology {
				err = fmt.Errorf("%s is no answer", f.Op)
			}
			if err != nil {
				served <- err
				return
			}
			answered.Add(1)
		}
		served <- nil
	}()
	p.send(flood) // all but what the socket buffers hold has been read by the node
	for _, o := range others {
		o.send(wire.Ping{Data: 1}.AppendTo(nil, wire.OpPing, 0))
	}
	for i, o := range others {
		o.recv(wire.OpPong)
		if got := answered.Load(); got >= count {
			t.Fatalf("%d others waited for all of %d answers", i+1, got)
		}
	}
	if err := <-served; err != nil {
		t.Errorf("after %d answers: %v", answered.Load(), err)
	}
}

// Who sends on and on what cannot be served so fast is told, and costs the node no more than it says.
func TestTooManyAsks(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.InFlightBytes = wire.MaxBatch })
	p := connect(t, n)
	p.streamOf("orders")
	flood := asks(3 << 20 / len(asks(1))) // more than may wait, less than would be cut off
	go func() { _, _ = p.conn.Write(flood) }()
	for {
		f, err := p.read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op != wire.OpError {
			continue
		}
		var e wire.Error
		if err := e.Decode(f.Body); err != nil || e.Code != wire.CodeOverloaded || !e.Retriable() || e.Bits&wire.ErrorEndsConnection == 0 || e.Value != 2*wire.MaxBatch {
			t.Errorf("%v, %v", &e, err)
		}
		break
	}
	connect(t, n).streamOf("orders")
}

// Many partitions are described away from the loops, one list at a time, each in full.
func TestLongTopology(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	for i := range 3 {
		p.create(wire.CreateStream{Name: fmt.Sprintf("wide%d", i), Partitions: 200})
	}
	const times = 50
	p.send(asks(times))
	var want []byte
	for range times {
		f := p.recv(wire.OpTopology)
		if want == nil {
			var top wire.Topology
			if err := top.Decode(f.Body); err != nil {
				t.Fatal(err)
			}
			for _, st := range top.Streams {
				if len(st.Partitions) != 200 || slices.ContainsFunc(st.Partitions, func(p wire.PartitionInfo) bool { return p.Leader != n.identity.Node }) {
					t.Errorf("%s: %+v", st.Name, st.Partitions)
				}
			}
			if len(top.Streams) != 3 {
				t.Errorf("%d streams", len(top.Streams))
			}
			want = f.Body
		} else if !bytes.Equal(f.Body, want) {
			t.Error("the same question has another answer")
		}
	}
	p.send((&wire.Metadata{Select: wire.SelectFilter, Name: "wide1.>"}).AppendTo(nil, p.next()+times))
	var top wire.Topology
	if f := p.recv(wire.OpTopology); top.Decode(f.Body) != nil || len(top.Streams) != 1 || top.Streams[0].Name != "wide1" {
		t.Errorf("%+v", top)
	}
}

// A connection that had much open is forgotten bit by bit, and wholly.
func TestManyConversationsEnd(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	const count = 20_000
	var all []byte
	for i := range count {
		all = (&wire.Subscribe{Filter: "nothing", Credit: 1}).AppendTo(all, uint32(i+1))
	}
	go func() { _, _ = p.conn.Write(all) }()
	for range count {
		p.recv(wire.OpOK)
	}
	subscriptions := func() (sum int64) {
		for _, l := range n.loops {
			sum += l.count.Subscriptions.Load()
		}
		return sum
	}
	if got := subscriptions(); got != count {
		t.Fatalf("%d subscriptions", got)
	}
	_ = p.conn.Close()
	until(t, "nothing of it is left", func() bool { return subscriptions() == 0 && n.weight.Load() == 0 })
}

// What gives way goes on in its order, and nothing is called by two turns.
func TestTurns(t *testing.T) {
	n := startNode(t, t.TempDir())
	connect(t, n) // its loop has begun
	l := n.loops[slices.IndexFunc(n.loops, func(l *loop) bool { l.mu.Lock(); defer l.mu.Unlock(); return l.events != nil })]
	for _, queue := range []func(func()){l.yield, l.pace} {
		var got []int
		done := make(chan struct{})
		l.post(func() {
			for i := range 100 {
				queue(func() {
					for began := time.Now(); time.Since(began) < turn/4; { // a few fit into a turn
					}
					if got = append(got, i); i%10 == 0 {
						queue(func() { got = append(got, 1000+i) })
					}
					if i == 99 {
						queue(func() { close(done) })
					}
				})
			}
		})
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("some were never called")
		}
		if want := 110; len(got) != want || !slices.IsSorted(got[:100]) || !slices.IsSorted(got[100:]) {
			t.Errorf("%d calls: %v", len(got), got)
		}
	}
}
