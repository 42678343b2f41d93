package broker

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"runtime"
	"testing"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
)

var idempotent = wire.Open{Idempotent: true}

func TestPublishAcksInOrder(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("orders.new")
	if st.Name != "orders" || len(st.Partitions) != 1 || st.Partitions[0].Leader != 1 {
		t.Fatalf("stream %+v", st)
	}
	corr, opened := p.open(st, idempotent)
	if opened.Producer == 0 || opened.NextSequence != 0 {
		t.Fatalf("opened %+v", opened)
	}
	var out []byte
	sequence := uint64(0)
	for i := range 200 {
		b := batch(t, sequence, values("orders.new", i%7+1, "v%d")...)
		out = wire.AppendPublish(out, corr, b)
		sequence += uint64(i%7 + 1)
	}
	p.send(out)
	offset := uint64(0)
	for _, a := range p.acks(corr, 0, sequence) {
		if a.Offset != offset {
			t.Fatalf("ack %+v, want offset %d", a, offset)
		}
		offset += a.Count
	}
}

func TestResendIsAnsweredWithFirstOffset(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("a")
	corr, opened := p.open(st, idempotent)
	first, second := batch(t, 0, values("a", 3, "x%d")...), batch(t, 3, values("a", 2, "y%d")...)
	p.send(wire.AppendPublish(wire.AppendPublish(nil, corr, first), corr, second))
	p.acks(corr, 0, 5)

	// As after a reconnect: the same id, the same bytes.
	q := connect(t, n)
	again, o := q.open(st, wire.Open{Idempotent: true, Producer: opened.Producer, Epoch: opened.Epoch})
	if o.NextSequence != 5 {
		t.Errorf("next sequence %d, want 5", o.NextSequence)
	}
	third := batch(t, 5, values("a", 1, "z%d")...)
	q.send(wire.AppendPublish(wire.AppendPublish(wire.AppendPublish(nil, again, first), again, second), again, third))
	acked := make(map[uint64]bool) // those of what was stored before may come out of turn (docs/protocol.md)
	for len(acked) < 6 {
		f := q.recv(wire.OpAck)
		var a wire.Ack
		if err := a.Decode(f.Body); err != nil || f.Corr != again || a.Count == 0 || a.Offset != a.Sequence || a.Sequence+a.Count > 6 {
			t.Fatalf("ack %+v on %d (%v), want the offset to be the sequence", a, f.Corr, err)
		}
		for i := range a.Count {
			if acked[a.Sequence+i] {
				t.Errorf("sequence %d acknowledged twice", a.Sequence+i)
			}
			acked[a.Sequence+i] = true
		}
	}
	sub := q.subscribe(wire.Subscribe{Filter: "a"})
	if got := q.receive(sub, 6); got[5].value != "z0" || got[5].offset != 5 {
		t.Errorf("records %+v", got)
	}
}

func TestOneBatchRefused(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("a.b")
	for name, tc := range map[string]struct {
		batch []byte
		code  wire.Code
	}{
		"checksum":       {func() []byte { b := batch(t, 0, message{"a.b", "", "v"}); b[len(b)-1] ^= 1; return b }(), wire.CodeBadChecksum},
		"other stream":   {batch(t, 0, message{"b", "", "v"}), wire.CodeSubjectMismatch},
		"mixed, outside": {batch(t, 0, message{"a.b", "", "v"}, message{"c", "", "v"}), wire.CodeSubjectMismatch},
		"poison":         {poison(t), wire.CodeBadBatch},
		"gap":            {batch(t, 17, message{"a.b", "", "v"}), wire.CodeSequenceGap},
	} {
		t.Run(name, func(t *testing.T) {
			corr, _ := p.open(st, idempotent)
			p.send(wire.AppendPublish(nil, corr, tc.batch))
			e := p.recvError(tc.code)
			if e.Bits&wire.ErrorOneBatch == 0 || e.Bits&(wire.ErrorEndsConnection|wire.ErrorEndsCorr) != 0 {
				t.Errorf("bits %d", e.Bits)
			}
			p.send(wire.AppendPublish(nil, corr, batch(t, 0, message{"a.b", "", "after " + name})))
			p.acks(corr, 0, 1)
		})
	}
}

// A batch of many subjects has the loop look at each filter of the stream for each of them: there is a bound to that.
func TestManySubjectsTimesFilters(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	var filters []string
	for i := range wire.MaxStreamSubjects - 1 {
		filters = append(filters, fmt.Sprintf("aaaa.b%d", i))
	}
	st := p.create(wire.CreateStream{Name: "a", Subjects: append(filters, "aaaa.c.*")})
	const most = mostMatches / wire.MaxStreamSubjects
	subjects := func(count int) (out []message) {
		for i := range count {
			out = append(out, message{fmt.Sprintf("aaaa.c.%d", i), "", "v"})
		}
		return out
	}
	corr, _ := p.open(st, wire.Open{})
	twice := append(subjects(most/2), subjects(most/2)...)
	p.send(wire.AppendPublish(nil, corr, batch(t, 0, append(twice, twice...)...))) // what comes again counts once
	p.acks(corr, 0, 2*most)
	p.send(wire.AppendPublish(nil, corr, batch(t, 2*most, subjects(most)...)))
	p.acks(corr, 2*most, 3*most)
	p.send(wire.AppendPublish(nil, corr, batch(t, 3*most, subjects(most+1)...)))
	if e := p.recvError(wire.CodeLimit); e.Value != most || e.Bits&wire.ErrorOneBatch == 0 {
		t.Errorf("%+v", e)
	}
	p.send(wire.AppendPublish(nil, corr, batch(t, 5*most, message{"aaaa.c.1", "", "after"})))
	p.acks(corr, 5*most, 5*most+1)
}

func TestOpenRefused(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("a")
	for name, tc := range map[string]struct {
		open wire.Open
		code wire.Code
	}{
		"no stream":    {wire.Open{Stream: 99, MapVersion: 1}, wire.CodeUnknownStream},
		"no partition": {wire.Open{Stream: st.ID, Partition: 5, MapVersion: st.MapVersion}, wire.CodeUnknownPart},
		"stale map":    {wire.Open{Stream: st.ID, MapVersion: st.MapVersion + 7}, wire.CodeStaleMap},
		"not minted":   {wire.Open{Stream: st.ID, MapVersion: st.MapVersion, Idempotent: true, Producer: 1 << 40}, wire.CodeProducerExpired},
	} {
		t.Run(name, func(t *testing.T) {
			p.send(tc.open.AppendTo(nil, p.next()))
			if e := p.recvError(tc.code); e.Bits&wire.ErrorEndsCorr == 0 {
				t.Errorf("bits %d", e.Bits)
			}
		})
	}
}

func TestBytesInFlightAreBounded(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.InFlightBytes = wire.MaxBatch })
	p := connect(t, n)
	st := p.streamOf("a")
	corr, _ := p.open(st, wire.Open{})
	big := make([]byte, 700<<10)
	var out []byte
	for i := range uint64(3) {
		out = wire.AppendPublish(out, corr, batch(t, i, message{"a", "", string(big)}))
	}
	p.send(out)
	acked, refused := uint64(0), 0
	for acked+uint64(refused) < 3 {
		f, err := p.read()
		if err != nil {
			t.Fatal(err)
		}
		switch f.Op {
		case wire.OpAck:
			var a wire.Ack
			_ = a.Decode(f.Body)
			acked += a.Count
		case wire.OpError:
			var e wire.Error
			_ = e.Decode(f.Body)
			if e.Code != wire.CodeInFlight || !e.Retriable() {
				t.Fatalf("%v", &e)
			}
			refused++
		}
	}
	if acked == 0 {
		t.Error("nothing was acknowledged")
	}
}

func TestClose(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	corr, _ := p.open(p.streamOf("a"), idempotent)
	p.send(wire.AppendEmpty(wire.AppendPublish(nil, corr, batch(t, 0, values("a", 4, "%d")...)), wire.OpClose, corr))
	p.acks(corr, 0, 4)
	if f := p.recv(wire.OpOK); f.Corr != corr {
		t.Errorf("OK on %d", f.Corr)
	}
	p.send(wire.AppendPublish(nil, corr, batch(t, 4, message{"a", "", "late"})))
	p.recvError(wire.CodeState)
}

// What is acknowledged and not yet written when CLOSE is served comes before its OK.
func TestCloseBehindGatheredAcks(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	corr, _ := p.open(p.streamOf("a"), idempotent)
	served := make(chan struct{})
	for _, l := range n.loops {
		l.post(func() {
			for s := range l.sessions {
				if producer, ok := s.conversations[corr].(*producer); ok {
					pub := &publication{Pending: raft.Pending{Count: 4, Quorum: 1, Voters: 1}, producer: producer}
					producer.waiting++
					producer.done(pub) // as the mailbox does before it calls who gave way
					producer.close()
					close(served)
				}
			}
		})
	}
	<-served
	p.acks(corr, 0, 4)
	p.recv(wire.OpOK)
}

// A producer whose stream was deleted keeps nothing of its partition, however long it stays open.
func TestDeletedPartitionsAreLetGo(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "a"})
	corr, _ := p.open(st, wire.Open{})
	p.send(wire.AppendPublish(nil, corr, batch(t, 0, values("a", 4, "%d")...)))
	p.acks(corr, 0, 4)
	collected := make(chan struct{})
	part, err := n.find(st.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	runtime.AddCleanup(part.raft, func(c chan struct{}) { close(c) }, collected)
	p.send((&wire.DeleteStream{Name: "a", Purge: true}).AppendTo(nil, p.next()))
	p.recv(wire.OpOK)
	until(t, "nothing refers to the partition", func() bool {
		runtime.GC()
		select {
		case <-collected:
			return true
		default:
			return false
		}
	})
	p.send(wire.AppendPublish(nil, corr, batch(t, 4, message{"a", "", "late"})))
	p.recvError(wire.CodeUnknownStream)
	p.send(wire.AppendEmpty(nil, wire.OpClose, corr))
	p.recv(wire.OpOK)
}

func TestRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir)
	p := connect(t, n)
	st := p.streamOf("a")
	corr, opened := p.open(st, idempotent)
	p.send(wire.AppendPublish(nil, corr, batch(t, 0, values("a", 10, "v%d")...)))
	p.acks(corr, 0, 10)
	cluster := n.identity.Cluster
	stopNode(t, n)

	n = startNode(t, dir)
	if n.identity.Cluster != cluster {
		t.Error("another cluster id after a restart")
	}
	p = connect(t, n)
	corr, o := p.open(st, wire.Open{Idempotent: true, Producer: opened.Producer, Epoch: opened.Epoch})
	if o.NextSequence != 10 {
		t.Errorf("next sequence %d, want 10", o.NextSequence)
	}
	_, fresh := p.open(st, idempotent)
	if fresh.Producer == opened.Producer {
		t.Error("a producer id was minted twice")
	}
	p.send(wire.AppendPublish(nil, corr, batch(t, 10, message{"a", "", "v10"})))
	if a := p.acks(corr, 10, 11); a[0].Offset != 10 {
		t.Errorf("ack %+v", a)
	}
	if got := p.receive(p.subscribe(wire.Subscribe{Filter: "a"}), 11); got[10].value != "v10" {
		t.Errorf("records %+v", got)
	}
}

// poison is a zstd batch whose raw records are not what its count says, with a good checksum.
func poison(t *testing.T) []byte {
	t.Helper()
	var b wire.Builder
	b.Reset(nil, wire.MaxBatch)
	for range 100 {
		if err := b.Append("a.b", nil, []byte("the same again and again"), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	out := b.Finish(0, true)
	if h, err := wire.ParseBatch(out); err != nil || !h.Compressed() {
		t.Fatal("not compressed", err)
	}
	out[10]++ // Count
	binary.LittleEndian.PutUint32(out[4:], crc32.Checksum(out[8:], crc32.MakeTable(crc32.Castagnoli)))
	return out
}
