package broker

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/storage"
)

// fill publishes batches and waits for their acks.
func (p *peer) fill(st wire.StreamInfo, partition uint32, batches ...[]message) {
	p.t.Helper()
	corr, _ := p.open(st, wire.Open{Partition: partition})
	var out []byte
	sequence := uint64(0)
	for _, messages := range batches {
		out = wire.AppendPublish(out, corr, batch(p.t, sequence, messages...))
		sequence += uint64(len(messages))
	}
	p.send(out)
	p.acks(corr, 0, sequence)
	p.send(wire.AppendEmpty(nil, wire.OpClose, corr))
	p.recv(wire.OpOK)
}

func (p *peer) fetch(q wire.Fetch) (wire.RecordsHeader, []delivered) {
	p.t.Helper()
	p.send(q.AppendTo(nil, p.next()))
	return records(p.t, p.recv(wire.OpRecords))
}

func TestFetch(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("a")
	p.fill(st, 0, values("a", 5, "x%d"), values("a", 5, "y%d"))

	h, got := p.fetch(wire.Fetch{Stream: st.ID, MaxBytes: 1 << 20})
	if len(got) != 10 || h.Next != 10 || h.HighWatermark != 10 || got[9].value != "y4" {
		t.Errorf("%+v %+v", h, got)
	}
	// An offset inside a batch: the batch comes whole.
	if _, got = p.fetch(wire.Fetch{Stream: st.ID, Start: wire.Start{From: wire.FromOffset, Value: 7}, MaxBytes: 1}); len(got) == 0 || got[0].offset > 7 || got[len(got)-1].offset < 7 {
		t.Errorf("%+v", got)
	}
	if _, got = p.fetch(wire.Fetch{Stream: st.ID, Start: wire.Start{From: wire.FromLast}, MaxBytes: 1}); got[len(got)-1].value != "y4" {
		t.Errorf("%+v", got)
	}
	if h, got = p.fetch(wire.Fetch{Stream: st.ID, Start: wire.Start{From: wire.FromNext}, MaxBytes: 1}); len(got) != 0 || h.Next != 10 {
		t.Errorf("%+v %+v", h, got)
	}
	if h, got = p.fetch(wire.Fetch{Stream: st.ID, Start: wire.Start{From: wire.FromTime, Value: uint64(time.Now().Add(time.Hour).UnixMilli())}, MaxBytes: 1}); len(got) != 0 || h.Next != 10 {
		t.Errorf("%+v %+v", h, got)
	}
	if _, got = p.fetch(wire.Fetch{Stream: st.ID, Start: wire.Start{From: wire.FromTime, Value: 1}, MaxBytes: 1 << 20}); len(got) != 10 {
		t.Errorf("%+v", got)
	}
	p.send((&wire.Fetch{Stream: st.ID, Start: wire.Start{From: wire.FromOffset, Value: 11}, MaxBytes: 1}).AppendTo(nil, p.next()))
	p.recvError(wire.CodeOffsetRange)
}

func TestFetchWaits(t *testing.T) {
	n := startNode(t, t.TempDir())
	p, q := connect(t, n), connect(t, n)
	st := p.streamOf("a")
	corr := q.next()
	q.send((&wire.Fetch{Stream: st.ID, MaxBytes: 1000, MaxWait: 30 * time.Second}).AppendTo(nil, corr))
	q.send(wire.Ping{}.AppendTo(nil, wire.OpPing, 1000)) // behind the fetch, answered before it
	q.recv(wire.OpPong)
	p.fill(st, 0, values("a", 1, "hello"))
	if _, got := records(t, q.recv(wire.OpRecords)); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	if h, got := p.fetch(wire.Fetch{Stream: st.ID, Start: wire.Start{From: wire.FromNext}, MaxBytes: 1, MaxWait: time.Millisecond}); len(got) != 0 || h.HighWatermark != 1 {
		t.Errorf("%+v %+v", h, got)
	}
}

func TestSubscribeFollows(t *testing.T) {
	n := startNode(t, t.TempDir())
	p, q := connect(t, n), connect(t, n)
	st := p.create(wire.CreateStream{Name: "s", Subjects: []string{"s.>"}, Partitions: 3})
	sub := q.subscribe(wire.Subscribe{Filter: "s.>"})
	want := map[string]int{}
	for round := range 20 {
		for part := range uint32(3) {
			p.fill(st, part, values(fmt.Sprintf("s.p%d", part), 3, fmt.Sprintf("r%d-%%d", round)))
			want[fmt.Sprintf("s.p%d", part)] += 3
		}
	}
	next := map[string]uint64{}
	for _, r := range q.receive(sub, 180) {
		if r.offset != next[r.subject] {
			t.Fatalf("%+v, want offset %d", r, next[r.subject])
		}
		next[r.subject]++
		want[r.subject]--
	}
	for s, left := range want {
		if left != 0 {
			t.Errorf("%s: %d missing", s, left)
		}
	}
}

func TestSubscribeFilters(t *testing.T) {
	n := startNode(t, t.TempDir())
	p, q := connect(t, n), connect(t, n)
	st := p.create(wire.CreateStream{Name: "s", Subjects: []string{"s.>"}})
	p.fill(st, 0,
		values("s.a", 2, "one%d"),
		values("s.b", 2, "two%d"),
		[]message{{"s.a", "", "m0"}, {"s.b", "", "m1"}, {"s.a", "k", "m2"}, {"s.c.d", "", "m3"}},
		values("s.b", 1, "three%d"),
		values("s.a", 1, "four%d"))
	got := q.receive(q.subscribe(wire.Subscribe{Filter: "s.a"}), 5)
	want := []delivered{{0, "s.a", "one0"}, {1, "s.a", "one1"}, {4, "s.a", "m0"}, {6, "s.a", "m2"}, {9, "s.a", "four0"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	got = q.receive(q.subscribe(wire.Subscribe{Filter: "*.*.*"}), 1)
	if want := (delivered{7, "s.c.d", "m3"}); got[0] != want {
		t.Errorf("got %+v", got)
	}
}

func TestSubscribeNewStreams(t *testing.T) {
	n := startNode(t, t.TempDir())
	p, q := connect(t, n), connect(t, n)
	sub := q.subscribe(wire.Subscribe{Filter: ">", Start: wire.Start{From: wire.FromNext}})
	for i := range 5 {
		subject := fmt.Sprintf("stream%d.x", i)
		p.fill(p.streamOf(subject), 0, values(subject, 1, "first%d"))
		if got := q.receive(sub, 1); got[0].subject != subject || got[0].offset != 0 {
			t.Errorf("%+v", got)
		}
	}
}

// Damage is told by the offsets that are lost, of which the last is not the one after, and by where reading goes on.
func TestDamageIsToldExactly(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	part, err := n.find(p.streamOf("a").ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	told := n.readError(&cursor{part: part}, &storage.CorruptError{Start: 41, End: 6719})
	if told.Code != wire.CodeDataLoss || told.Value != 6719 || !strings.Contains(told.Message, "offsets 41 to 6718 ") {
		t.Errorf("%v, value %d", told, told.Value)
	}
}

// A subscription from NEXT sees what is published behind its OK, whatever else goes on.
func TestFromNextIsTheMomentOfOK(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory = 1 })
	p, q := connect(t, n), connect(t, n)
	st := p.streamOf("a")
	for i := range uint64(20) {
		sub := q.subscribe(wire.Subscribe{Filter: "a", Start: wire.Start{From: wire.FromNext}})
		p.fill(st, 0, values("a", 1, "v%d"))
		if got := q.receive(sub, 1); got[0].offset != i {
			t.Fatalf("got %+v, want offset %d", got, i)
		}
		q.send(wire.AppendEmpty(nil, wire.OpUnsub, sub))
		q.recv(wire.OpOK)
	}
}

// A FETCH that is still looking for its place when the node stops waits for nothing there.
func TestFetchOfATimeBesideGoaway(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("a")
	p.fill(st, 0, values("a", 5, "%d"))
	for _, l := range n.loops {
		l.post(func() {
			for s := range l.sessions {
				q := wire.Fetch{Stream: st.ID, MaxBytes: 1, MaxWait: maxFetchWait, Start: wire.Start{From: wire.FromTime, Value: 1 << 50}}
				if err := s.fetch(100, &q); err != nil {
					t.Error(err)
				}
				s.goaway()
			}
		})
	}
	p.recv(wire.OpGoaway)
	if h, got := records(t, p.recv(wire.OpRecords)); len(got) != 0 || h.Next != 5 {
		t.Errorf("%+v %+v", h, got)
	}
}

// Who is caught up holds no file: retention gives the space back.
func TestWaitingReadersHoldNoSegment(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory = 1; c.SegmentBytes = 1 << 20 })
	p, q := connect(t, n), connect(t, n)
	st := p.streamOf("a")
	big := string(make([]byte, 200<<10))
	for range 10 {
		p.fill(st, 0, []message{{"a", "", big}})
	}
	sub := q.subscribe(wire.Subscribe{Filter: "a"})
	q.receive(sub, 10)
	part := n.partitions.all()[partKey{st.ID, 0}]
	waits := func() bool {
		found := make(chan bool, len(n.loops))
		for _, l := range n.loops {
			l.post(func() {
				for s := range l.sessions {
					if sub, ok := s.conversations[sub].(*subscription); ok {
						c := sub.cursors[partKey{st.ID, 0}]
						found <- c.state == cursorWaiting && !c.cold && !c.reader.Holds()
						return
					}
				}
				found <- false
			})
		}
		any := false
		for range n.loops {
			any = <-found || any
		}
		return any
	}
	for deadline := time.Now().Add(patience); !waits(); {
		if time.Now().After(deadline) {
			t.Fatal("the cursor keeps its segment")
		}
		runtime.Gosched()
	}
	if part.raft.HighWatermark() != 10 {
		t.Error("high watermark", part.raft.HighWatermark())
	}
}

func TestSubscribeResumesAtPositions(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "s", Partitions: 2})
	p.fill(st, 0, values("s", 10, "p0-%d"))
	p.fill(st, 1, values("s", 10, "p1-%d"))
	sub := p.subscribe(wire.Subscribe{Filter: "s", Positions: []wire.Position{{Stream: st.ID, Partition: 0, Offset: 4}, {Stream: st.ID, Partition: 1, Offset: 9}}})
	seen := map[string]bool{}
	for len(seen) < 7 {
		_, got := records(t, p.recv(wire.OpRecords))
		for _, r := range got {
			if r.value >= "p1" && r.offset >= 9 || r.value < "p1" && r.offset >= 4 {
				seen[r.value] = true
			}
		}
	}
	p.send(wire.AppendEmpty(nil, wire.OpUnsub, sub))
	p.recv(wire.OpOK)
	gone := wire.Position{Stream: st.ID + 1, Offset: 4} // of a stream that was deleted, say
	for _, positions := range [][]wire.Position{nil, {{Stream: st.ID, Offset: 4}, gone}} {
		p.send((&wire.Subscribe{Filter: "s", Credit: 1, Start: wire.Start{From: wire.FromOffset, Value: 3}, Positions: positions}).AppendTo(nil, p.next()))
		p.recvError(wire.CodeUnsupported)
	}
}

// Of positions that the filter does not meet, however many, a bounded number is remembered.
func TestPositionsAreBounded(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("s")
	p.fill(st, 0, values("s", 10, "%d"))
	q := wire.Subscribe{Filter: "s", Credit: 1 << 20}
	for i := range uint64(100_000) {
		q.Positions = append(q.Positions, wire.Position{Stream: st.ID + 1 + i, Offset: 4})
	}
	q.Positions = append(q.Positions, wire.Position{Stream: st.ID, Offset: 4}, wire.Position{Stream: st.ID, Offset: 7})
	p.subscribe(q)
	if h, _ := records(t, p.recv(wire.OpRecords)); h.First != 7 || h.Next != 10 {
		t.Errorf("%+v", h)
	}
	onSession(n, func(s *session) {
		if s.left != mostLeft {
			t.Errorf("%d positions are remembered", s.left)
		}
	})
}

// Many cursors that wait for the same partition end in any order, and those that are left are woken.
func TestManyWaitForOne(t *testing.T) {
	const count = 100
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("s")
	var subs []uint32
	for range count {
		subs = append(subs, p.subscribe(wire.Subscribe{Filter: "s", Start: wire.Start{From: wire.FromNext}, Credit: 1 << 16}))
	}
	for i := range count - 10 { // from both ends
		corr := subs[0]
		if subs = subs[1:]; i%2 == 1 {
			corr, subs = subs[len(subs)-1], append([]uint32{corr}, subs[:len(subs)-1]...)
		}
		p.send(wire.AppendEmpty(nil, wire.OpUnsub, corr))
		p.recv(wire.OpOK)
	}
	part := n.partitions.all()[partKey{st.ID, 0}]
	waiting := 0
	n.everyLoop(func(l *loop) { waiting += len(part.watches[l.index].cursors) })
	if waiting != len(subs) {
		t.Errorf("%d wait, of %d that are left", waiting, len(subs))
	}
	q := connect(t, n)
	q.fill(st, 0, values("s", 1, "%d"))
	told := map[uint32]bool{}
	for len(told) < len(subs) {
		f := p.recv(wire.OpRecords)
		if told[f.Corr] || !slices.Contains(subs, f.Corr) {
			t.Fatalf("RECORDS on %d, of %v", f.Corr, subs)
		}
		told[f.Corr] = true
	}
}

func TestColdReads(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory = 1; c.SegmentBytes = 1 << 20 })
	p := connect(t, n)
	st := p.streamOf("a")
	value := string(make([]byte, 32<<10))
	const batches = 200
	var all [][]message
	for i := range batches {
		all = append(all, []message{{"a", "", fmt.Sprint(i) + value}})
	}
	p.fill(st, 0, all...)
	q := connect(t, n)
	for i, r := range q.receive(q.subscribe(wire.Subscribe{Filter: "a"}), batches) {
		if r.offset != uint64(i) || r.value != fmt.Sprint(i)+value {
			t.Fatalf("record %d came as %d", i, r.offset)
		}
	}
}

func TestStreams(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.Dev = false })
	p := connect(t, n)
	refused := func(b []byte, code wire.Code) {
		t.Helper()
		p.send(b)
		p.recvError(code)
	}
	refused((&wire.Metadata{Select: wire.SelectSubject, Name: "a", Create: true}).AppendTo(nil, p.next()), wire.CodeUnknownStream)
	refused((&wire.Metadata{Select: wire.SelectStream, Name: "a"}).AppendTo(nil, p.next()), wire.CodeUnknownStream)
	refused((&wire.Metadata{Select: wire.SelectSubject, Name: "a..b"}).AppendTo(nil, p.next()), wire.CodeBadName)
	refused((&wire.CreateStream{Name: "a/b"}).AppendTo(nil, p.next()), wire.CodeBadName)
	refused((&wire.CreateStream{Name: "a", Partitions: 5000}).AppendTo(nil, p.next()), wire.CodeLimit)
	refused((&wire.CreateStream{Name: "a", Replicas: 3}).AppendTo(nil, p.next()), wire.CodeUnsupported)
	st := p.create(wire.CreateStream{Name: "a", Partitions: 2})
	if !slices.Equal(st.Subjects, []string{"a", "a.>"}) || len(st.Partitions) != 2 {
		t.Errorf("%+v", st)
	}
	refused((&wire.CreateStream{Name: "a", Subjects: []string{"z"}}).AppendTo(nil, p.next()), wire.CodeStreamExists)
	refused((&wire.CreateStream{Name: "b", Subjects: []string{"a.*.c"}}).AppendTo(nil, p.next()), wire.CodeSubjectOverlap)
	p.create(wire.CreateStream{Name: "b", Subjects: []string{"b.*"}})
	p.send((&wire.Metadata{}).AppendTo(nil, p.next()))
	if topo := p.topology(); len(topo.Streams) != 2 || topo.Streams[0].Name != "a" || len(topo.Nodes) != 1 || topo.Nodes[0].Address != n.Addr().String() {
		t.Errorf("%+v", topo)
	}
	p.send((&wire.Metadata{Select: wire.SelectFilter, Name: "b.>"}).AppendTo(nil, p.next()))
	if topo := p.topology(); len(topo.Streams) != 1 || topo.Streams[0].Name != "b" {
		t.Errorf("%+v", topo)
	}
	corr, _ := p.open(st, wire.Open{})
	p.send((&wire.DeleteStream{Name: "a"}).AppendTo(nil, p.next()))
	p.recv(wire.OpOK)
	refused((&wire.DeleteStream{Name: "a"}).AppendTo(nil, p.next()), wire.CodeUnknownStream)
	refused((&wire.Open{Stream: st.ID, MapVersion: 1}).AppendTo(nil, p.next()), wire.CodeUnknownStream)
	refused(wire.AppendPublish(nil, corr, batch(t, 0, message{"a", "", "late"})), wire.CodeUnknownStream)
	if again := p.create(wire.CreateStream{Name: "a"}); again.ID == st.ID {
		t.Error("a stream id was used twice")
	}
}

// Cutting tiny records out of large batches makes them larger: no frame may exceed what the client takes.
func TestCutBatchesKeepTheFrameLimit(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "s", Subjects: []string{"s.*"}})
	const each, batches = 65_000, 8
	messages := make([]message, each)
	for i := range messages {
		messages[i] = message{"s.a", "", ""}
	}
	messages[each/2] = message{"s.b", "", ""}
	corr, _ := p.open(st, wire.Open{})
	var out []byte
	for i := range uint64(batches) {
		out = wire.AppendPublish(out, corr, batch(t, i*each, messages...))
	}
	p.send(out)
	p.acks(corr, 0, batches*each)

	q := dial(t, n)
	h := hello()
	h.FrameLimit = wire.MinFrameLimit
	q.send(h.AppendTo([]byte(wire.Magic), 0))
	q.recv(wire.OpWelcome)
	sub := q.subscribe(wire.Subscribe{Filter: "s.a", Credit: 32 << 20})
	next, got := uint64(0), 0
	for got < batches*(each-1) {
		f := q.recv(wire.OpRecords)
		if len(f.Body)+wire.HeaderBytes-4 > wire.MinFrameLimit {
			t.Fatalf("a frame of %d bytes, limit %d", len(f.Body), wire.MinFrameLimit)
		}
		_, records := records(t, f)
		for _, r := range records {
			if next%each == each/2 {
				next++ // the one cut out
			}
			if r.offset != next || r.subject != "s.a" {
				t.Fatalf("%+v, want offset %d", r, next)
			}
			next++
		}
		got += len(records)
		q.send(wire.Credit{Bytes: uint64(len(f.Body) + wire.HeaderBytes)}.AppendTo(nil, sub))
	}
}

// What cutting leaves of compressed batches is many times what is stored of them: batches that are taken whole behind them
// must wait for the next frame as well.
func TestWholeBatchesBehindCutOnesKeepTheFrameLimit(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "s", Subjects: []string{"s.*"}})
	corr, _ := p.open(st, wire.Open{})
	const each, rounds = 65_000, 4
	mixed := slices.Repeat([]message{{"s.a", "", "12345678"}}, each+1)
	mixed[0] = message{"s.b", "", ""}
	whole := message{"s.a", "", strings.Repeat("y", 200_000)}
	var out []byte
	for i := range uint64(rounds) {
		out = wire.AppendPublish(out, corr, encode(t, i*(each+2), true, mixed...))
		out = wire.AppendPublish(out, corr, encode(t, i*(each+2)+each+1, false, whole))
	}
	p.send(out)
	p.acks(corr, 0, rounds*(each+2))

	q := dial(t, n)
	h := hello()
	h.FrameLimit = wire.MinFrameLimit
	q.send(h.AppendTo([]byte(wire.Magic), 0))
	q.recv(wire.OpWelcome)
	q.subscribe(wire.Subscribe{Filter: "s.a", Start: wire.Start{From: wire.FromFirst}, Credit: 32 << 20})
	next, got := uint64(0), 0
	for got < rounds*(each+1) {
		f := q.recv(wire.OpRecords)
		if len(f.Body)+wire.HeaderBytes-4 > wire.MinFrameLimit {
			t.Fatalf("a frame of %d bytes, limit %d", len(f.Body), wire.MinFrameLimit)
		}
		_, records := records(t, f)
		for _, r := range records {
			if next%(each+2) == 0 {
				next++ // the one cut out
			}
			if r.offset != next {
				t.Fatalf("offset %d, want %d", r.offset, next)
			}
			next++
		}
		got += len(records)
	}
}

// Who asks and does not read is closed before it fills the node's memory.
func TestAnswersNobodyReads(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	flood := make([]byte, 0, 1<<20)
	for len(flood) < 1<<20-20 {
		flood = wire.Ping{}.AppendTo(flood, wire.OpPing, 1)
	}
	sent := 0
	for ; sent < 1<<30; sent += len(flood) {
		if _, err := p.conn.Write(flood); err != nil {
			break
		}
	}
	if sent >= 1<<30 {
		t.Error("a gigabyte of pings was taken")
	}
	connect(t, n).streamOf("still.here")
}

// A change of a stream is no new partition to one that reads it, and that reads as many as it may.
func TestFollowWhatIsRead(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.MaxCursors = 1 })
	p := connect(t, n)
	p.streamOf("orders")
	p.subscribe(wire.Subscribe{Filter: "orders"})
	parts := slices.Collect(maps.Values(n.partitions.all()))
	n.everyLoop(func(l *loop) { l.follow(parts) })
	p.send(wire.Ping{Data: 1}.AppendTo(nil, wire.OpPing, 0))
	p.recv(wire.OpPong) // and nothing before it
}
