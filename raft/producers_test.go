package raft

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidewire/tidewire/storage"
)

// naiveTable is what producerTable must do, written to be obviously right.
type naiveTable struct {
	limits    tableLimits
	producers []*naiveProducer // from the one idle longest
	expired   uint64
}

type naiveProducer struct {
	id     uint64
	epoch  uint16
	last   int64
	ranges []seqRange
}

func (n *naiveTable) find(id uint64) (int, *naiveProducer) {
	for i, p := range n.producers {
		if p.id == id {
			return i, p
		}
	}
	return -1, nil
}

func (n *naiveTable) record(id uint64, epoch uint16, r seqRange, ms int64) {
	i, p := n.find(id)
	if p == nil {
		p = &naiveProducer{id: id, epoch: epoch}
	} else {
		n.producers = slices.Delete(n.producers, i, i+1)
	}
	if epoch > p.epoch {
		p.epoch, p.ranges = epoch, nil
	}
	if k := len(p.ranges) - 1; k >= 0 && p.ranges[k].sequence+p.ranges[k].count == r.sequence &&
		p.ranges[k].offset+storage.Offset(p.ranges[k].count) == r.offset && p.ranges[k].term == r.term {
		p.ranges[k].count += r.count
	} else {
		p.ranges = append(p.ranges, r)
	}
	if len(p.ranges) > 256 {
		p.ranges = p.ranges[1:]
	}
	p.last = ms
	n.producers = append(n.producers, p)
	for {
		total := 0
		for _, p := range n.producers {
			total += len(p.ranges)
		}
		oldest := n.producers[0]
		tooMany := len(n.producers) > n.limits.producers || total > n.limits.ranges && len(n.producers) > 1
		if oldest.last >= ms-n.limits.retention.Milliseconds() && !tooMany {
			return
		}
		n.expired = max(n.expired, oldest.id)
		n.producers = n.producers[1:]
	}
}

func compareTables(t *rapid.T, got *producerTable, want *naiveTable) {
	if got.expired != want.expired || len(got.producers) != len(want.producers) {
		t.Fatalf("%d producers, %d expired; want %d, %d", len(got.producers), got.expired, len(want.producers), want.expired)
	}
	total := 0
	p := got.oldest
	for _, w := range want.producers {
		if p == nil || got.producers[w.id] != p || p.id != w.id || p.epoch != w.epoch || p.last != w.last ||
			!slices.Equal(p.kept(), w.ranges) || p.next != w.ranges[len(w.ranges)-1].end() {
			t.Fatalf("producer %+v, want %+v", p, w)
		}
		for _, r := range w.ranges {
			if found, ok := p.find(r.sequence+r.count-1, 1); !ok || found != r {
				t.Fatalf("found %+v, %v instead of %+v", found, ok, r)
			}
		}
		total += len(w.ranges)
		p = p.newer
	}
	if p != nil || got.ranges != total {
		t.Fatalf("%d ranges are counted, there are %d", got.ranges, total)
	}
}

func TestProducerTableProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := tableLimits{
			producers: rapid.IntRange(1, 6).Draw(t, "producers"),
			ranges:    rapid.IntRange(1, 600).Draw(t, "ranges"),
			retention: time.Duration(rapid.IntRange(1, 200).Draw(t, "retention")) * time.Millisecond,
		}
		state := &partitionState{table: newProducerTable(limits)}
		want := &naiveTable{limits: limits}
		next := map[uint64]uint64{}
		epochs := map[uint64]uint16{}
		offset, ms, term := storage.Offset(0), int64(0), storage.Term(1)
		t.Repeat(map[string]func(*rapid.T){
			"record": func(t *rapid.T) {
				id := rapid.Uint64Range(1, 9).Draw(t, "id")
				for range rapid.SampledFrom([]int{1, 3, 40}).Draw(t, "times") {
					count := uint64(1 + offset%3)
					if _, p := want.find(id); p == nil {
						next[id] = 0 // forgotten
					}
					r := seqRange{sequence: next[id], count: count, offset: offset, term: term}
					state.table.record(id, epochs[id], r, ms)
					state.table.expire(ms)
					want.record(id, epochs[id], r, ms)
					next[id] += count
					offset += storage.Offset(count)
					if rapid.Bool().Draw(t, "gap in offsets") {
						offset++
					}
				}
			},
			"epoch": func(t *rapid.T) {
				id := rapid.Uint64Range(1, 9).Draw(t, "id")
				epochs[id]++
				next[id] = 0
				offset++
			},
			"term": func(*rapid.T) { term++ },
			"time": func(t *rapid.T) { ms += rapid.Int64Range(1, 150).Draw(t, "ms") },
			"restore": func(t *rapid.T) {
				b := state.encode()
				again, err := decodeState(b, limits)
				if err != nil {
					t.Fatal(err)
				}
				state = again
			},
			"": func(t *rapid.T) { compareTables(t, state.table, want) },
		})
	})
}

func TestProducerTableKeepsTheLast256Ranges(t *testing.T) {
	table := newProducerTable(defaultLimits)
	for i := range uint64(1000) {
		table.record(1, 0, seqRange{sequence: i, count: 1, offset: storage.Offset(2 * i), term: 1}, 0)
		if kept := len(table.producers[1].kept()); kept != int(min(i+1, 256)) || table.ranges != kept {
			t.Fatalf("after %d: %d kept, %d counted", i+1, kept, table.ranges)
		}
	}
	p := table.producers[1]
	if _, ok := p.find(743, 1); ok {
		t.Fatal("an older range is still there")
	}
	if r, ok := p.find(744, 1); !ok || r.offset != 1488 {
		t.Fatalf("%+v, %v", r, ok)
	}
	if cap(p.ranges) > 2048 {
		t.Fatalf("it holds %d ranges of memory", cap(p.ranges))
	}
}

func TestWhatAPublisherIsTold(t *testing.T) {
	s := scripted(t, 1)
	commit := func(pend *Pending, size int) *Pending {
		t.Helper()
		must(t, s.p.Publish(pend, batch(pend.Producer, pend.Sequence, size)))
		s.commit(s.take(), 1)
		s.answered(1)
		must(t, pend.Err)
		return pend
	}
	commit(&Pending{Producer: 5, Epoch: 1, Sequence: 0, Count: 10}, 30)
	commit(&Pending{Producer: 5, Epoch: 1, Sequence: 10, Count: 5}, 30)
	commit(&Pending{Producer: 6, Sequence: 0, Count: 1}, 30)
	commit(&Pending{Producer: 5, Epoch: 1, Sequence: 15, Count: 5}, 30)
	s.p.state.table.expired = 3
	for _, c := range []struct {
		name     string
		pend     Pending
		want     error
		expected uint64 // of a *SequenceError
	}{
		{"a gap", Pending{Producer: 5, Epoch: 1, Sequence: 21, Count: 1}, ErrSequenceGap, 20},
		{"an overlap in part", Pending{Producer: 5, Epoch: 1, Sequence: 18, Count: 5}, ErrBadSequence, 20},
		{"an overlap of two ranges", Pending{Producer: 5, Epoch: 1, Sequence: 14, Count: 2}, ErrBadSequence, 20},
		{"a sequence that wraps", Pending{Producer: 5, Epoch: 1, Sequence: 3, Count: 4_294_967_295}, ErrBadSequence, 20},
		{"a new producer not at 0", Pending{Producer: 7, Sequence: 1, Count: 1}, ErrSequenceGap, 0},
		{"a lower epoch", Pending{Producer: 5, Epoch: 0, Sequence: 20, Count: 1}, ErrProducerFenced, 0},
		{"a higher epoch not at 0", Pending{Producer: 5, Epoch: 2, Sequence: 20, Count: 1}, ErrSequenceGap, 0},
		{"an unknown id below an expired one", Pending{Producer: 2, Sequence: 0, Count: 1}, ErrProducerExpired, 0},
		{"an expired id, sequence going on", Pending{Producer: 3, Sequence: 77, Count: 1}, ErrProducerExpired, 0},
		{"no records", Pending{Producer: 5, Epoch: 1, Sequence: 20}, ErrFormat, 0},
	} {
		err := s.p.Publish(&c.pend, batch(1, 1, 30))
		wantErr(t, err, c.want)
		switch e := err.(type) { //nolint:errorlint // as returned
		case *SequenceError:
			if e.Expected != c.expected || e.Producer != c.pend.Producer {
				t.Errorf("%s: %+v", c.name, e)
			}
		case *ProducerError:
			if e.Producer != c.pend.Producer {
				t.Errorf("%s: %+v", c.name, e)
			}
		}
		if s.waiting() != 0 {
			t.Fatalf("%s: it was written", c.name)
		}
	}
	wantErr(t, s.p.Publish(&Pending{Count: 1}, make([]byte, MaxEntryBytes+1)), ErrTooLarge)
	wantErr(t, s.p.Publish(&Pending{Count: 1}, nil), ErrTooLarge)

	// Resends, whole or part of what was merged, are answered with their first offset.
	for _, c := range []struct {
		sequence uint64
		count    uint32
		offset   storage.Offset
	}{{0, 10, 0}, {10, 5, 10}, {12, 1, 12}, {15, 5, 16}, {0, 15, 0}} {
		pend := &Pending{Producer: 5, Epoch: 1, Sequence: c.sequence, Count: c.count}
		must(t, s.p.Publish(pend, batch(1, 1, 30)))
		s.answered(1)
		if pend.Err != nil || !pend.Duplicate || pend.Offset != c.offset || pend.Term != 1 || pend.Voters != 3 {
			t.Errorf("resend of %d+%d: %+v", c.sequence, c.count, pend)
		}
	}
	if epoch, next, known := s.p.NextSequence(5); epoch != 1 || next != 20 || !known {
		t.Fatalf("next sequence %d of epoch %d, %v", next, epoch, known)
	}
	if _, _, known := s.p.NextSequence(99); known {
		t.Fatal("a producer it never saw")
	}

	// A new epoch begins at 0; the old one is fenced.
	commit(&Pending{Producer: 5, Epoch: 2, Sequence: 0, Count: 1}, 30)
	wantErr(t, s.p.Publish(&Pending{Producer: 5, Epoch: 1, Sequence: 20, Count: 1}, batch(1, 1, 30)), ErrProducerFenced)
	// Producer 0 is never a duplicate.
	a := commit(&Pending{Count: 1}, 30)
	b := commit(&Pending{Count: 1}, 30)
	if a.Offset == b.Offset || b.Duplicate {
		t.Fatal("a batch of producer 0 was deduplicated")
	}
}

func TestProducersExpireByBrokerTime(t *testing.T) {
	s := scripted(t, 1)
	now := time.UnixMilli(1_000_000)
	s.p.cfg.Clock = func() time.Time { return now }
	commit := func(pend *Pending) {
		t.Helper()
		must(t, s.p.Publish(pend, batch(pend.Producer, pend.Sequence, 30)))
		s.commit(s.take(), 1)
		s.answered(1)
		must(t, pend.Err)
	}
	commit(&Pending{Producer: 10, Count: 1})
	commit(&Pending{Producer: 12, Count: 1})
	sequence := uint64(1)
	for range int64(producerRetention/time.Millisecond) / maxGap { // more at once would be a jump of the clock
		now = now.Add(time.Duration(maxGap) * time.Millisecond)
		commit(&Pending{Producer: 12, Sequence: sequence, Count: 1})
		sequence++
	}
	if s.p.Producers() != 2 {
		t.Fatal("expired too early")
	}
	now = now.Add(time.Millisecond)
	commit(&Pending{Producer: 12, Sequence: sequence, Count: 1})
	if s.p.Producers() != 1 {
		t.Fatal("not expired")
	}
	// Neither its next nor a resend is appended.
	for _, sequence := range []uint64{0, 1} {
		wantErr(t, s.p.Publish(&Pending{Producer: 10, Sequence: sequence, Count: 1}, batch(10, 1, 30)), ErrProducerExpired)
	}
	commit(&Pending{Producer: 11, Count: 1}) // minted later than 10, never expired
	// One that comes back in time is kept by the very entry that brings it.
	now = now.Add(producerRetention + time.Hour)
	commit(&Pending{Producer: 12, Sequence: sequence + 1, Count: 1})
	if _, next, known := s.p.NextSequence(12); next != sequence+2 || !known {
		t.Fatalf("next %d, %v", next, known)
	}
}

// A clock that jumps by years, forward and back, makes no producer expire, also not behind a snapshot.
func TestProducersOutliveClockJumps(t *testing.T) {
	s := scripted(t, 1)
	now := time.UnixMilli(1_000_000)
	s.p.cfg.Clock = func() time.Time { return now }
	commit := func(producer, sequence uint64) {
		t.Helper()
		pend := &Pending{Producer: producer, Sequence: sequence, Count: 1}
		must(t, s.p.Publish(pend, batch(producer, sequence, 30)))
		s.commit(s.take(), 1)
		s.answered(1)
		must(t, pend.Err)
	}
	commit(1, 0)
	for i, jump := range []time.Duration{10 * 365 * 24 * time.Hour, -20 * 365 * 24 * time.Hour, 30 * 365 * 24 * time.Hour} {
		now = now.Add(jump)
		commit(2, uint64(i))
	}
	commit(1, 1)
	again, err := decodeState(s.p.state.encode(), defaultLimits)
	must(t, err)
	if again.elapsed != s.p.state.elapsed || again.elapsed != 2*maxGap || again.table.producers[1].last != again.elapsed {
		t.Errorf("elapsed %d, in the snapshot %d, want %d", s.p.state.elapsed, again.elapsed, 2*maxGap)
	}
}
