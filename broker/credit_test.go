package broker

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

func TestCredit(t *testing.T) {
	n := startNode(t, t.TempDir())
	p, q := connect(t, n), connect(t, n)
	st := p.streamOf("a")
	for range 5 { // five entries, so five frames at least
		p.fill(st, 0, values("a", 1, "0123456789%d"))
	}
	sub := q.subscribe(wire.Subscribe{Filter: "a", Credit: 1})
	f := q.recv(wire.OpRecords) // overdraws
	size := uint64(len(f.Body) + wire.HeaderBytes)
	_, got := records(t, f)
	q.send(wire.Credit{Bytes: size - 1}.AppendTo(nil, sub)) // pays the debt, to nothing
	q.send(wire.Ping{}.AppendTo(nil, wire.OpPing, 900))
	q.recv(wire.OpPong) // and no RECORDS before it
	q.send(wire.Credit{Bytes: 1 << 20}.AppendTo(nil, sub))
	for len(got) < 5 {
		_, more := records(t, q.recv(wire.OpRecords))
		got = append(got, more...)
	}
	for i, r := range got {
		if r.offset != uint64(i) {
			t.Fatalf("%+v", got)
		}
	}
	q.send(wire.AppendEmpty(nil, wire.OpUnsub, sub))
	q.recv(wire.OpOK)
	q.send(wire.Credit{Bytes: 100}.AppendTo(nil, sub)) // of a subscription that ended: ignored
	q.send(wire.Ping{}.AppendTo(nil, wire.OpPing, 901))
	q.recv(wire.OpPong)
	sub = q.subscribe(wire.Subscribe{Filter: "b"})
	q.send(wire.Credit{Bytes: 1 << 40}.AppendTo(nil, sub))
	q.recvError(wire.CodeCredit)
	q.recvEnd()
}

// However many partitions have something to send, no frame is sent without credit for its first byte.
func TestCreditOverColdPartitions(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory = 1; c.SegmentBytes = 1 << 20 })
	p, q := connect(t, n), connect(t, n)
	st := p.create(wire.CreateStream{Name: "s", Partitions: 6})
	big := string(make([]byte, 100<<10))
	total := 0
	for part := range uint32(6) {
		for range 12 {
			p.fill(st, part, []message{{"s", "", big}})
			total++
		}
	}
	const window = 300 << 10
	credit := int64(window)
	sub := q.subscribe(wire.Subscribe{Filter: "s", Credit: window})
	for got := 0; got < total; {
		f := q.recv(wire.OpRecords)
		if credit <= 0 {
			t.Fatalf("a frame at credit %d", credit)
		}
		size := int64(len(f.Body) + wire.HeaderBytes)
		credit -= size
		_, records := records(t, f)
		got += len(records)
		if credit <= 0 { // only now: several cursors must wait for it
			q.send(wire.Credit{Bytes: uint64(window - credit)}.AppendTo(nil, sub))
			credit = window
		}
	}
}

// takes has all clients count as such that have taken so many bytes: for who takes much, more is read ahead.
func takes(n *Node, bytes int64) {
	onSession(n, func(s *session) { s.progress.written = bytes })
}

// coldStream has partitions that each hold an entry of almost a megabyte, which is not in memory.
func coldStream(p *peer, name string, partitions uint32) wire.StreamInfo {
	p.t.Helper()
	st := p.create(wire.CreateStream{Name: name, Partitions: partitions})
	big := strings.Repeat("x", 1000<<10)
	for part := range partitions {
		p.fill(st, part, []message{{name, "", big}})
	}
	return st
}

// Clients that have records read for them and give no credit stop nobody else's reading, however many they are.
func TestWithheldCreditStopsNobody(t *testing.T) {
	const memory = 8 << 20
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory, c.OutboundMemory = 1, memory })
	p := connect(t, n)
	coldStream(p, "cold", 4)
	healthy := connect(t, n)
	st := p.create(wire.CreateStream{Name: "fresh", Partitions: 1})
	sub := healthy.subscribe(wire.Subscribe{Filter: "fresh"})
	for range 32 {
		q := connect(t, n)
		takes(n, 4*readAhead)
		q.subscribe(wire.Subscribe{Filter: "cold", Start: wire.Start{From: wire.FromFirst}, Credit: chunkBytes + 44<<10})
		q.recv(wire.OpRecords) // overdraws: the other one that was read has to wait
		until(t, "all that is read has arrived", func() bool {
			var coming atomic.Int64
			onSession(n, func(s *session) { coming.Add(s.coming + int64(s.backlog())) })
			return coming.Load() == 0
		})
	}
	if held := n.outbound.Load(); held < wire.MaxBatch || held > memory/2+wire.MaxBatch {
		t.Errorf("%d bytes are kept for who gives no credit, of %d for all", held, memory)
	}
	const others = memory * 5 / 4 // that others have not taken
	n.outbound.Add(others)
	defer n.outbound.Add(-others)
	p.fill(st, 0, values("fresh", 1, "%d"))
	healthy.receive(sub, 1)
	late := connect(t, n) // and one whose records are on disk
	late.receive(late.subscribe(wire.Subscribe{Filter: "fresh", Start: wire.Start{From: wire.FromFirst}}), 1)
}

// Who has nothing unsent is not closed for what others have not taken, and has what is new.
func TestFullOfOthers(t *testing.T) {
	const memory = 8 << 20
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory, c.OutboundMemory = 1<<20, memory })
	p, q, r := connect(t, n), connect(t, n), connect(t, n)
	coldStream(p, "cold", 4)
	st := p.create(wire.CreateStream{Name: "fresh", Partitions: 1})
	corr := r.subscribe(wire.Subscribe{Filter: "fresh"})
	const others = memory*5/4 + 1
	n.outbound.Add(others)
	cold := q.subscribe(wire.Subscribe{Filter: "cold", Start: wire.Start{From: wire.FromFirst}, Credit: 16 << 20})
	for i := range 20 {
		p.fill(st, 0, values("fresh", 1, "%d"))
		if got := r.receive(corr, 1); got[0].offset != uint64(i) {
			t.Fatalf("got %+v, want offset %d", got, i)
		}
	}
	n.outbound.Add(-others)
	q.receive(cold, 4)
	if got := n.closures[closedUnsent].Load(); got != 0 {
		t.Errorf("%d closed", got)
	}
}

// However little a client asks for, whole batches come, and not many are read for one client at a time.
func TestManyFetchesOfLittle(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory, c.OutboundMemory = 1, 16<<20 })
	p, q := connect(t, n), connect(t, n)
	st := coldStream(p, "cold", 1)
	const fetches = 64
	var out []byte
	for corr := range uint32(fetches) {
		out = (&wire.Fetch{Stream: st.ID, MaxBytes: 1}).AppendTo(out, 1+corr)
	}
	q.send(out)
	answered := 0
	for range fetches {
		onSession(n, func(s *session) {
			if most := s.node.config().backlog() + wire.MaxBatch; s.reading > most {
				t.Errorf("%d bytes are read for one client, at most %d may be", s.reading, most)
			}
		})
		f, err := q.read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == wire.OpRecords {
			answered++
		}
	}
	if answered == 0 {
		t.Error("none was answered with records")
	}
}

// What is parked goes on however long the loop has been at work when it gets to it.
func TestParkedOnABusyLoop(t *testing.T) {
	n := startNode(t, t.TempDir())
	p, q := connect(t, n), connect(t, n)
	p.fill(p.streamOf("a"), 0, values("a", 1, "%d"))
	const others = 1 << 40 // that others have not taken
	n.outbound.Add(others)
	corr := q.subscribe(wire.Subscribe{Filter: "a", Start: wire.Start{From: wire.FromFirst}})
	until(t, "it is parked", func() bool {
		var parked atomic.Bool
		n.everyLoop(func(l *loop) {
			for s := range l.sessions {
				if len(s.parked) > 0 {
					parked.Store(true)
				}
			}
		})
		return parked.Load()
	})
	n.everyLoop(func(l *loop) {
		for s := range l.sessions {
			if len(s.parked) == 0 {
				continue
			}
			n.outbound.Add(-others)
			l.began = time.Now().Add(-time.Second)
			l.unpark()
			if len(s.parked) > 0 {
				t.Error("it is parked as before")
			}
		}
	})
	if n.outbound.Load() >= others {
		t.Fatal("it was not parked: nothing is tested")
	}
	q.receive(corr, 1)
}

// What waits for credit of one subscription keeps nothing else of the connection waiting.
func TestStarvedBesideFetch(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory = 1 })
	p, q := connect(t, n), connect(t, n)
	coldStream(p, "cold", 4)
	st := p.create(wire.CreateStream{Name: "other", Partitions: 1})
	p.fill(st, 0, values("other", 1, "%d"))
	takes(n, 4*readAhead)
	sub := q.subscribe(wire.Subscribe{Filter: "cold", Start: wire.Start{From: wire.FromFirst}, Credit: chunkBytes + 44<<10})
	q.recv(wire.OpRecords)
	takes(n, 0)
	q.send((&wire.Fetch{Stream: st.ID, MaxBytes: 1 << 10}).AppendTo(nil, q.next()))
	if f := q.recv(wire.OpRecords); f.Corr != q.corr {
		t.Fatalf("RECORDS on %d, want %d", f.Corr, q.corr)
	}
	for range 3 { // and all of the first comes when there is credit
		q.send(wire.Credit{Bytes: 1 << 20}.AppendTo(nil, sub))
		if f := q.recv(wire.OpRecords); f.Corr != sub {
			t.Fatalf("RECORDS on %d, want %d", f.Corr, sub)
		}
	}
}

// Cursors that wait for a client that takes nothing are forgotten when they end, and the others go on once it reads.
func TestParkedCursorsEnd(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory = 1 })
	p := connect(t, n)
	coldStream(p, "cold", 8)
	const last = 1000
	onSession(n, func(s *session) {
		unread := len(s.output())
		s.write(make([]byte, readAhead+1))
		kept := len(s.out)
		all := wire.Subscribe{Filter: "cold", Start: wire.Start{From: wire.FromFirst}, Credit: 16 << 20}
		for corr := range uint32(last) {
			s.loop.began = time.Now() // a turn for each
			if err := s.subscribe(1+corr, &all); err != nil {
				t.Error(err)
			}
			if 1+corr < last {
				s.finish(1 + corr)
			}
		}
		if got := len(s.parked) + len(s.loaded); got < 8 || got > 256 {
			t.Errorf("%d are parked, of which 8 have not ended", got)
		}
		s.out = append(s.out[:unread], s.out[kept:]...)
	})
	for range last {
		p.recv(wire.OpOK)
	}
	p.receive(last, 8)
}

// Those that wait for credit and end meanwhile are forgotten: a subscription lives longer than streams do.
func TestStarvedOfDeletedStreams(t *testing.T) {
	n := startNode(t, t.TempDir())
	p, q := connect(t, n), connect(t, n)
	sub := q.next()
	q.send((&wire.Subscribe{Filter: ">", Credit: 1}).AppendTo(nil, sub))
	q.recv(wire.OpOK)
	for i := range 5 {
		name := fmt.Sprintf("s%d", i)
		p.fill(p.create(wire.CreateStream{Name: name, Subjects: []string{name + ".>"}, Partitions: 1, Replicas: 1}), 0, values(name+".a", 1, "%d"))
		if i == 0 {
			q.recv(wire.OpRecords) // and the credit is gone
		}
		until(t, "it waits for credit", func() (waits bool) {
			onSession(n, func(s *session) {
				if sub, ok := s.conversations[sub].(*subscription); ok {
					waits = len(sub.turn) == 1
				}
			})
			return waits
		})
		p.send((&wire.DeleteStream{Name: name}).AppendTo(nil, p.next()))
		p.recv(wire.OpOK)
		q.recv(wire.OpError)
	}
	onSession(n, func(s *session) {
		if sub, ok := s.conversations[sub].(*subscription); ok && len(sub.turn) != 0 {
			t.Errorf("%d cursors of streams that are gone wait for credit", len(sub.turn))
		}
	})
	p.fill(p.create(wire.CreateStream{Name: "last", Partitions: 1, Replicas: 1}), 0, values("last", 1, "%d"))
	q.send(wire.Credit{Bytes: 1 << 20}.AppendTo(nil, sub))
	q.recv(wire.OpRecords)
}
