package raft

import (
	"sync"
	"time"

	"github.com/tidewire/tidewire/storage"
)

// Observer is told what a group does. Its methods must not block: Entry runs on the state machine's goroutine.
type Observer interface {
	// Entry is called for each entry with records that this node proposed, after its batches were answered.
	Entry(EntryTimes)
	// Snapshot is called when one was taken, or failed.
	Snapshot(took time.Duration, err error)
}

// EntryTimes says how one entry went through its stages. The times are monotonic clock readings of this node.
type EntryTimes struct {
	Batches int
	Records uint64
	Bytes   int // of its batches

	Queued    time.Time // its first batch was enqueued
	Proposed  time.Time // it was handed to raft
	Storing   time.Time // StoreLogs began to write it; zero if that is not known any more
	Stored    time.Time // it was on stable storage here
	Committed time.Time // the state machine took it, which answers it
}

// timesOf gathers the times of an entry that is being applied (FSM goroutine).
func (p *Partition) timesOf(o *outgoing, e storage.Entry) EntryTimes {
	t := EntryTimes{
		Batches: len(o.pendings), Records: uint64(e.Records), Bytes: len(Batches(e)),
		Queued: o.opened, Proposed: o.sealed, Committed: time.Now(),
	}
	if p.group != nil { // nil in tests with a script for raft
		t.Storing, t.Stored = p.group.logs.writes.of(uint64(e.Index))
	}
	return t
}

// writeTimes remembers when the last few writes to the log began and ended: more than may be stored and not yet
// applied, which is MaxInFlight of a partition and a few that are nobody's.
type writeTimes struct {
	mu   sync.Mutex // between raft's main goroutine and the state machine's
	ring [4 * MaxInFlight]writeTime
	next int
}

type writeTime struct {
	first, last  uint64 // indexes
	began, ended time.Time
}

func (w *writeTimes) add(first, last uint64, began, ended time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ring[w.next] = writeTime{first, last, began, ended}
	w.next = (w.next + 1) % len(w.ring)
}

// of finds the newest write of an entry; zero times if it was forgotten.
func (w *writeTimes) of(index uint64) (began, ended time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.ring {
		t := &w.ring[(w.next-1-i+2*len(w.ring))%len(w.ring)]
		if t.first <= index && index <= t.last {
			return t.began, t.ended
		}
	}
	return time.Time{}, time.Time{}
}
