package raft

import (
	"errors"
	"slices"
	"testing"

	hraft "github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/tidewire/tidewire/storage"
)

// TestPublishProperty drives a partition through publishes, resends, commits, refusals, changes of leader and
// snapshots in any order, and then checks the log: each record of a producer stands there once and in order, and
// each batch was answered once, truly.
func TestPublishProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &publishWorld{rt: rt, t: t, term: 1, answered: map[*Pending]int{}, next: map[uint64]uint64{}}
		w.s = scripted(t, rapid.IntRange(1, MaxInFlight).Draw(rt, "in flight"))
		rt.Repeat(map[string]func(*rapid.T){
			"publish": w.publish,
			"resend":  w.resend,
			"commit":  w.commit,
			"refuse":  w.refuse,
			"lose":    w.lose,
			"restore": w.restore,
		})
		w.finish()
	})
}

type publishWorld struct {
	rt       *rapid.T
	t        *testing.T
	s        *scriptedRaft
	term     storage.Term
	pends    []*Pending
	answered map[*Pending]int
	next     map[uint64]uint64 // what each producer's client sends next
}

func (w *publishWorld) try(pend *Pending) {
	err := w.s.p.Publish(pend, batch(pend.Producer, pend.Sequence, 20+int(pend.Count)))
	if err == nil {
		w.pends = append(w.pends, pend)
		return
	}
	var gap *SequenceError
	if errors.As(err, &gap) && errors.Is(err, ErrSequenceGap) {
		// Batches before it were never written: the client goes back, as it must.
		w.next[pend.Producer] = gap.Expected
		return
	}
	w.rt.Fatalf("publish of %+v: %v", pend, err)
}

func (w *publishWorld) publish(t *rapid.T) {
	id := rapid.Uint64Range(1, 3).Draw(t, "id")
	for range rapid.IntRange(1, 4).Draw(t, "batches") {
		pend := &Pending{Producer: id, Sequence: w.next[id], Count: uint32(rapid.IntRange(1, 3).Draw(t, "count"))}
		w.next[id] += uint64(pend.Count)
		w.try(pend)
	}
}

// resend sends again a batch that was accepted once; where it failed it is new again, or a gap.
func (w *publishWorld) resend(t *rapid.T) {
	if len(w.pends) == 0 {
		return
	}
	old := rapid.SampledFrom(w.pends).Draw(t, "which")
	pend := &Pending{Producer: old.Producer, Sequence: old.Sequence, Count: old.Count}
	err := w.s.p.Publish(pend, batch(pend.Producer, pend.Sequence, 20+int(pend.Count)))
	switch {
	case err == nil:
		w.pends = append(w.pends, pend)
		w.next[pend.Producer] = max(w.next[pend.Producer], pend.Sequence+uint64(pend.Count))
	case errors.Is(err, ErrSequenceGap), errors.Is(err, ErrBadSequence):
		// The first try failed, and the client meanwhile cut its records into other batches.
	default:
		w.rt.Fatalf("resend of %+v: %v", pend, err)
	}
}

func (w *publishWorld) commit(*rapid.T) {
	if w.s.waiting() > 0 {
		w.s.commit(w.s.take(), w.term)
	}
}

// refuse lets raft refuse the oldest attempt because of a transfer; those behind it become void.
func (w *publishWorld) refuse(*rapid.T) {
	if w.s.waiting() == 0 {
		return
	}
	w.s.take().waiter.resolved(nil, hraft.ErrLeadershipTransferInProgress)
	w.rest()
	w.s.p.mu.Lock()
	retry := w.s.p.retry
	w.s.p.retry = nil
	if retry != nil {
		retry.Stop()
		w.s.p.settleLocked()
	}
	w.s.p.mu.Unlock()
}

// rest commits every attempt that raft has.
func (w *publishWorld) rest() {
	for w.s.waiting() > 0 {
		w.s.commit(w.s.take(), w.term)
	}
}

// lose changes the leader and back: of what is in flight the first few entries make it into the log.
func (w *publishWorld) lose(t *rapid.T) {
	survive := rapid.IntRange(0, MaxInFlight).Draw(t, "survive")
	early := rapid.Bool().Draw(t, "told early")
	if early {
		w.s.p.leadership(false, w.term)
	}
	for w.s.waiting() > 0 {
		a := w.s.take()
		if survive > 0 {
			survive--
			w.s.commitOnly(a, w.term)
		}
		a.waiter.resolved(nil, hraft.ErrLeadershipLost)
	}
	if !early {
		w.s.p.leadership(false, w.term)
	}
	w.term += 2
	w.s.p.leadership(true, w.term)
	for id := range w.next {
		_, w.next[id], _ = w.s.p.NextSequence(id)
	}
}

// restore puts the state through a snapshot.
func (w *publishWorld) restore(*rapid.T) {
	b, err := (*partitionMachine)(w.s.p).Snapshot()
	must(w.t, err)
	state, err := decodeState(b, defaultLimits)
	must(w.t, err)
	w.s.p.mu.Lock()
	w.s.p.state = state
	w.s.p.mu.Unlock()
}

func (w *publishWorld) finish() {
	w.rest()
	w.s.p.leadership(false, w.term)
	w.s.p.background.Wait()
	close(w.s.done)
	for done := range w.s.done {
		for _, pend := range done {
			w.answered[pend]++
		}
	}
	type record struct{ producer, sequence uint64 }
	offsets := map[record]storage.Offset{}
	next := map[uint64]uint64{}
	var end storage.Offset
	for _, e := range w.s.log {
		seq, err := Descriptors(e)
		must(w.t, err)
		for d := range seq {
			if d.Offset != end || d.Sequence != next[d.Producer] {
				w.rt.Fatalf("offset %d holds %+v; expected offset %d, sequence %d", d.Offset, d, end, next[d.Producer])
			}
			for i := range uint64(d.Count) {
				offsets[record{d.Producer, d.Sequence + i}] = d.Offset + storage.Offset(i)
			}
			end += storage.Offset(d.Count)
			next[d.Producer] += uint64(d.Count)
		}
	}
	if hw := w.s.p.HighWatermark(); hw != end {
		w.rt.Fatalf("high watermark %d, the log ends at %d", hw, end)
	}
	for _, pend := range w.pends {
		if w.answered[pend] != 1 {
			w.rt.Fatalf("%+v was answered %d times", pend, w.answered[pend])
		}
		if pend.Err != nil {
			if !errors.Is(pend.Err, ErrNotLeader) && !errors.Is(pend.Err, ErrUnknownOutcome) {
				w.rt.Fatalf("%+v", pend)
			}
			continue
		}
		for i := range uint64(pend.Count) {
			if got, ok := offsets[record{pend.Producer, pend.Sequence + i}]; !ok || got != pend.Offset+storage.Offset(i) {
				w.rt.Fatalf("acknowledged %+v, the log has record %d at %d (%v)", pend, i, got, ok)
			}
		}
	}
	if len(w.answered) != len(w.pends) {
		w.rt.Fatalf("%d answers to %d batches", len(w.answered), len(w.pends))
	}
	if slices.Contains(w.s.p.inFlight, nil) {
		w.rt.Fatal("a nil entry is in flight")
	}
}
