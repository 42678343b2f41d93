package raft

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

// scriptedRaft is a proposer whose futures the test resolves, and a log with the rule of StoreLogs behind it.
type scriptedRaft struct {
	t testing.TB
	p *Partition

	mu        sync.Mutex
	submitted []attempt
	refuse    error
	failure   error

	arrived chan struct{} // a value for each attempt

	chain chain
	next  storage.Entry // index and base of the next entry
	log   []storage.Entry
	done  chan []*Pending
}

type attempt struct {
	data   []byte
	waiter waiter
}

func (s *scriptedRaft) submit(data []byte, w waiter) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	s.submitted = append(s.submitted, attempt{data, w})
	s.arrived <- struct{}{}
	return nil
}

func (s *scriptedRaft) notLeader() error       { return &NotLeaderError{Group: 1} }
func (s *scriptedRaft) Quorum() (uint8, uint8) { return 2, 3 }
func (s *scriptedRaft) Failed() error          { return s.failure }

// take waits for the oldest attempt and removes it.
func (s *scriptedRaft) take() attempt {
	s.t.Helper()
	wait(s.t, s.arrived, "an attempt")
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.submitted[0]
	s.submitted = s.submitted[1:]
	return a
}

func (s *scriptedRaft) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.submitted)
}

// commit logs and applies an attempt in term, and resolves its future, as raft does.
func (s *scriptedRaft) commit(a attempt, term storage.Term) storage.Entry {
	s.t.Helper()
	e := s.next
	e.Index, e.Term, e.Payload = e.Index+1, term, a.data
	var err error
	e.Records, e.Time, s.chain, err = partitionRule{}.weigh(s.chain, term, a.data)
	must(s.t, err)
	s.log = append(s.log, e)
	s.next = storage.Entry{Index: e.Index, Base: e.Base + storage.Offset(e.Records)}
	(*partitionMachine)(s.p).Apply(e)
	a.waiter.resolved(nil, nil)
	return e
}

// answered waits for n answers.
func (s *scriptedRaft) answered(n int) []*Pending {
	s.t.Helper()
	return (&testPartition{node: &testNode{tb: s.t}, answers: s.done}).take(n)
}

func scripted(t testing.TB, inFlight int) *scriptedRaft {
	s := &scriptedRaft{t: t, done: make(chan []*Pending, 1<<16), arrived: make(chan struct{}, 1<<16)}
	s.p = newPartition(PartitionConfig{
		InFlight:  inFlight,
		Committed: func(done []*Pending) { s.done <- slices.Clone(done) },
		Budget:    NewBudget(1 << 30),
	})
	s.p.to = s
	s.p.company.rest = 1 << 62 // nothing waits for company on a slow machine, unless that is the test
	s.p.leadership(true, 1)
	t.Cleanup(func() {
		s.p.leadership(false, 0)
		s.p.background.Wait()
		if used := s.p.cfg.Budget.Used(); used != 0 && len(s.p.inFlight) == 0 {
			t.Errorf("%d bytes of the budget were not given back", used)
		}
	})
	return s
}

// publish queues one batch of 2 records of producer 5 for each sequence.
func (s *scriptedRaft) publish(sequences ...uint64) []*Pending {
	s.t.Helper()
	var out []*Pending
	for _, sequence := range sequences {
		pend := &Pending{Producer: 5, Sequence: sequence, Count: 2}
		must(s.t, s.p.Publish(pend, batch(5, sequence, 30)))
		out = append(out, pend)
	}
	return out
}

func wantOffsets(t *testing.T, pends []*Pending, want ...storage.Offset) {
	t.Helper()
	for i, pend := range pends {
		if pend.Err != nil || pend.Offset != want[i] || pend.Quorum != 2 || pend.Voters != 3 {
			t.Fatalf("batch %d: %+v, want offset %d", i, pend, want[i])
		}
	}
}

func TestWhatQueuesMeanwhileTravelsTogether(t *testing.T) {
	s := scripted(t, 1)
	pends := s.publish(0, 2, 4, 6)
	if s.waiting() != 1 {
		t.Fatalf("%d entries are in flight", s.waiting())
	}
	first := s.commit(s.take(), 1)
	if first.Records != 2 || s.waiting() != 1 {
		t.Fatalf("the first entry has %d records, %d are in flight", first.Records, s.waiting())
	}
	if second := s.commit(s.take(), 1); second.Records != 6 {
		t.Fatalf("the second entry has %d records", second.Records)
	}
	if got := s.answered(4); !slices.Equal(got, pends) {
		t.Fatal("the answers are out of order")
	}
	wantOffsets(t, pends, 0, 2, 4, 6)
	if s.p.HighWatermark() != 8 {
		t.Fatalf("high watermark %d", s.p.HighWatermark())
	}
}

// Entry N is refused during a transfer, N+1 was queued before and is appended: it is void, and both come again in
// their order.
func TestRefusedEntriesAreProposedAgainInOrder(t *testing.T) {
	s := scripted(t, 3)
	pends := s.publish(0, 2, 4)
	one, two, three := s.take(), s.take(), s.take()
	s.commit(one, 1)
	if e := s.commit(three, 1); e.Records != 0 {
		t.Fatal("an entry was given offsets before the one it follows")
	}
	if s.waiting() != 0 {
		t.Fatal("an entry was proposed again while another was under way")
	}
	late := s.publish(6) // waits: it would be void
	if s.waiting() != 0 {
		t.Fatal("an entry was submitted behind a refused one")
	}
	two.waiter.resolved(nil, hraft.ErrLeadershipTransferInProgress)
	// After a moment both come again, with the same bytes, and then the late one.
	for _, want := range []attempt{two, three} {
		a := s.take()
		if &a.data[0] != &want.data[0] {
			t.Fatal("not the entry expected")
		}
		s.commit(a, 1)
	}
	s.commit(s.take(), 1)
	s.answered(4)
	wantOffsets(t, append(pends, late...), 0, 2, 4, 6)
}

func TestLostLeadershipAnswersEverything(t *testing.T) {
	s := scripted(t, 2)
	pends := s.publish(0, 2, 4, 6) // two in flight, two queued
	one, two := s.take(), s.take()
	one.waiter.resolved(nil, hraft.ErrLeadershipLost)
	// The queue was never with raft, the first entry may be in the log.
	got := s.answered(3)
	for _, pend := range got {
		want := ErrNotLeader
		if pend == pends[0] {
			want = ErrUnknownOutcome
		}
		wantErr(t, pend.Err, want)
	}
	wantErr(t, s.p.Publish(&Pending{Producer: 5, Sequence: 8, Count: 2}, batch(5, 8, 30)), ErrNotLeader)
	// The new leader commits both: what was not answered yet is true.
	s.p.leadership(false, 1)
	s.commitOnly(one, 1)
	s.commitOnly(two, 1)
	if got := s.answered(1); got[0] != pends[1] || got[0].Err != nil || got[0].Offset != 2 {
		t.Fatalf("%+v", got[0])
	}
	two.waiter.resolved(nil, hraft.ErrLeadershipLost)
	// The table knows both: a resend under a new leader is answered with the first offset.
	s.p.leadership(true, 2)
	again := s.publish(0, 2)
	for _, pend := range s.answered(2) {
		if !pend.Duplicate || pend.Err != nil || pend.Term != 1 {
			t.Fatalf("%+v", pend)
		}
	}
	wantOffsets(t, again, 0, 2)
}

// commitOnly logs and applies an attempt without resolving its future.
func (s *scriptedRaft) commitOnly(a attempt, term storage.Term) {
	a.waiter = ignored{}
	s.commit(a, term)
}

type ignored struct{}

func (ignored) resolved(hraft.Future, error) {}

func TestEntriesRefusedForGoodAreAnsweredWithNotLeader(t *testing.T) {
	s := scripted(t, 2)
	s.publish(0, 2, 4)
	one, two := s.take(), s.take()
	one.waiter.resolved(nil, hraft.ErrNotLeader)
	two.waiter.resolved(nil, hraft.ErrNotLeader)
	for _, pend := range s.answered(3) {
		wantErr(t, pend.Err, ErrNotLeader)
	}
	if s.waiting() != 0 {
		t.Fatal("something was proposed again")
	}
}

// Entries of an older term that come to the log late are void, and a node that leads again has long answered them.
func TestANewTermBeginsItsOwnChain(t *testing.T) {
	s := scripted(t, 2)
	old := s.publish(0, 2)
	one, two := s.take(), s.take()
	s.commit(one, 1)
	two.waiter.resolved(nil, hraft.ErrLeadershipLost)
	s.answered(2)
	wantErr(t, old[1].Err, ErrUnknownOutcome)
	s.p.leadership(false, 1)
	s.p.leadership(true, 3)
	fresh := s.publish(2) // the producer sends it again
	a := s.take()
	s.commit(a, 3)
	s.commitOnly(two, 3) // too late
	s.answered(1)
	wantOffsets(t, fresh, 2)
	if s.next.Base != 4 {
		t.Fatalf("the log ends at %d", s.next.Base)
	}
}

func TestARefusedSubmitStepsDown(t *testing.T) {
	s := scripted(t, 1)
	s.refuse = ErrClosed
	s.publish(0)
	if got := s.answered(1); !errors.Is(got[0].Err, ErrNotLeader) {
		t.Fatalf("%v", got[0].Err)
	}
	wantErr(t, s.p.Publish(&Pending{Count: 1}, batch(0, 0, 20)), ErrNotLeader)
}

// A duplicate of a batch in flight waits for it, and shares its fate.
func TestDuplicatesInFlight(t *testing.T) {
	s := scripted(t, 1)
	first := s.publish(0, 2, 4)
	twice := s.publish(0, 4)
	s.commit(s.take(), 1)
	s.commit(s.take(), 1)
	s.answered(5)
	wantOffsets(t, first, 0, 2, 4)
	wantOffsets(t, twice, 0, 4)
	if first[0].Duplicate || !twice[0].Duplicate || !twice[1].Duplicate {
		t.Fatal("which is the duplicate?")
	}
	// And when the entry is lost.
	s.publish(6)
	s.publish(6)
	s.take().waiter.resolved(nil, hraft.ErrLeadershipLost)
	for _, pend := range s.answered(2) {
		wantErr(t, pend.Err, ErrUnknownOutcome)
	}
}

// Nobody has a node wait for as many duplicates as he likes.
func TestDuplicatesCountAgainstTheBudget(t *testing.T) {
	s := scripted(t, 1)
	s.publish(0)
	budget := s.p.cfg.Budget
	budget.SetLimit(budget.Used() + 3*batchOverhead + batchOverhead/2)
	s.publish(0, 0, 0)
	wantErr(t, s.p.Publish(&Pending{Producer: 5, Count: 2}, batch(5, 0, 30)), ErrOverloaded)
	s.commit(s.take(), 1)
	s.answered(4)
}

func TestBrokerTimeNeverRunsBackwards(t *testing.T) {
	s := scripted(t, 1)
	ms := int64(1000)
	s.p.cfg.Clock = func() time.Time { return time.UnixMilli(ms) }
	var last int64
	for i, now := range []int64{1000, 900, 1100, 50} {
		ms = now
		s.publish(uint64(2 * i))
		e := s.commit(s.take(), 1)
		if e.Time < last {
			t.Fatalf("time went from %d to %d", last, e.Time)
		}
		last = e.Time
	}
	if last != 1100 {
		t.Fatalf("last time %d", last)
	}
	s.answered(4)
}

// An entry that was committed in the moment in which a later write failed: it is not acknowledged.
func TestNothingIsAcknowledgedAfterAFailure(t *testing.T) {
	s := scripted(t, 1)
	pend := s.publish(0)[0]
	s.failure = ErrFailed
	s.commit(s.take(), 1)
	if got := s.answered(1); got[0] != pend || !errors.Is(pend.Err, ErrUnknownOutcome) || !errors.Is(pend.Err, ErrFailed) {
		t.Fatalf("%+v", got[0])
	}
	wantErr(t, s.p.Publish(&Pending{Count: 1}, batch(0, 0, 20)), ErrFailed)
}
