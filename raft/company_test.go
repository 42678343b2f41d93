package raft

import (
	"testing"
	"time"
)

// guessing is a script in which entries wait for company.
func guessing(t *testing.T) *scriptedRaft {
	s := scripted(t, 1)
	s.p.company.rest = 0
	return s
}

// slow makes the partition believe that its entries take so long, so that none ends a wait in this test but what comes.
func (s *scriptedRaft) slow(latency time.Duration) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.latency = latency
}

// wantWaiting checks how many entries are with raft.
func (s *scriptedRaft) wantWaiting(n int, when string) {
	s.t.Helper()
	if got := s.waiting(); got != n {
		s.t.Fatalf("%s %d entries are with raft, not %d", when, got, n)
	}
}

// Four producers with one batch in flight each, or one with four: one sync serves all of them.
func TestAnEntryWaitsForThoseJustAnswered(t *testing.T) {
	s := guessing(t)
	s.slow(time.Hour)
	pends := s.publish(0)
	pends = append(pends, s.publish(2, 4, 6)...)
	s.commit(s.take(), 1)
	s.wantWaiting(0, "before the first has come again")
	pends = append(pends, s.publish(8)...)
	if e := s.commit(s.take(), 1); e.Records != 8 {
		t.Fatalf("the second entry has %d records, not those of all four", e.Records)
	}
	pends = append(pends, s.publish(10, 12, 14)...)
	s.wantWaiting(0, "when three of four have come again")
	pends = append(pends, s.publish(16)...)
	if e := s.commit(s.take(), 1); e.Records != 8 {
		t.Fatalf("the third entry has %d records, not those of all four", e.Records)
	}
	s.answered(len(pends))
	wantOffsets(t, pends, 0, 2, 4, 6, 8, 10, 12, 14, 16)
}

// A single batch at a time never waits.
func TestOneInFlightWaitsForNobody(t *testing.T) {
	s := guessing(t)
	s.slow(time.Hour)
	for i := range uint64(5) {
		s.publish(2 * i)
		s.wantWaiting(1, "with nobody else about")
		s.commit(s.take(), 1)
	}
}

// Those who were answered say no more: the others wait for what an entry takes, or half of it.
func TestCompanyThatDoesNotCome(t *testing.T) {
	s := guessing(t)
	s.publish(0, 2)
	s.slow(20 * time.Millisecond)
	s.commit(s.take(), 1)
	if e := s.commit(s.take(), 1); e.Records != 2 {
		t.Fatalf("an entry of %d records", e.Records)
	}
}

// Few are waited for half as long: as many may come by chance.
func TestFewAreWaitedForHalfAsLong(t *testing.T) {
	for expected, want := range map[int]time.Duration{2: 30 * time.Minute, 3: 30 * time.Minute, 4: time.Hour, 9: time.Hour} {
		s := guessing(t)
		for i := range expected {
			s.publish(2 * uint64(i))
		}
		s.slow(time.Hour)
		s.commit(s.take(), 1)
		s.p.mu.Lock()
		got := time.Until(s.p.company.until)
		s.p.company.timer.Stop()
		s.p.mu.Unlock()
		if got > want || got < want-10*time.Minute {
			t.Errorf("%d are waited for %v, not about %v", expected, got, want)
		}
	}
}

// One stall of the disk is not what entries take; many are.
func TestAStallIsNotWaitedForAgain(t *testing.T) {
	s := guessing(t)
	s.slow(time.Millisecond)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.p.tookLocked(8 * time.Second); s.p.latency > 2*time.Millisecond {
		t.Errorf("entries of 1 ms, then one of 8 s: %v", s.p.latency)
	}
	for range 100 {
		s.p.tookLocked(8 * time.Second)
	}
	if s.p.latency < 7*time.Second {
		t.Errorf("100 entries of 8 s each: %v", s.p.latency)
	}
}

// A guess that was wrong is not made again for a while, which is longer the more often it was wrong.
func TestWrongGuessesBecomeRare(t *testing.T) {
	s := guessing(t)
	s.publish(0)
	next, a := uint64(2), s.take()
	for _, want := range []int{0, 1, 3, 7, 15, 31, 63, 63} {
		for rested := 0; ; rested++ {
			s.publish(next)
			next += 2
			s.slow(time.Hour)
			s.commit(a, 1)
			if s.waiting() == 0 {
				if rested != want {
					t.Fatalf("%d entries went at once, not %d", rested, want)
				}
				break
			}
			a = s.take()
		}
		s.p.mu.Lock()
		s.p.company.until = time.Time{}
		s.p.mu.Unlock()
		s.p.endWait()
		a = s.take()
	}
	s.commit(a, 1)
}

// What is large gains nothing by company, and what is closed waits for none.
func TestWhatDoesNotWaitForCompany(t *testing.T) {
	s := guessing(t)
	s.slow(time.Hour)
	large := batch(5, 2, companyBytes)
	s.publish(0)
	must(t, s.p.Publish(&Pending{Producer: 5, Sequence: 2, Count: 2}, large))
	s.commit(s.take(), 1)
	s.wantWaiting(1, "behind a small entry, with a large batch queued,")
	s.publish(4)
	s.commit(s.take(), 1)
	s.wantWaiting(1, "behind a large entry")
	s.publish(6)
	s.commit(s.take(), 1)
	s.wantWaiting(0, "behind a small entry again")
	s.p.mu.Lock()
	s.p.closed = true
	s.p.flushLocked()
	s.p.mu.Unlock()
	s.commit(s.take(), 1)
}
