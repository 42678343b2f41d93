package raft

import (
	"sync"
	"testing"
	"time"
)

// witness is an Observer that keeps what it is told.
type witness struct {
	mu        sync.Mutex
	entries   []EntryTimes
	snapshots int
	told      chan struct{}
}

func (w *witness) Entry(t EntryTimes) {
	w.mu.Lock()
	w.entries = append(w.entries, t)
	w.mu.Unlock()
	w.told <- struct{}{}
}

func (w *witness) Snapshot(_ time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.snapshots++
	}
}

// An observer is told of each entry once, with times in the order of the stages; a batch that asks gets the same.
func TestObserver(t *testing.T) {
	n := newNode(t)
	n.open()
	w := &witness{told: make(chan struct{}, 100)}
	p := n.partition(func(c *PartitionConfig) { c.Observer = w }).lead()
	var asked EntryTimes
	const entries = 3
	for i := range uint64(entries) {
		pend := &Pending{Producer: 1, Sequence: 2 * i, Count: 2}
		if i == entries-1 {
			pend.Times = &asked
		}
		must(t, p.Publish(pend, []byte("12345")))
		p.take(1)
		wait(t, w.told, "the observer")
	}
	var again EntryTimes
	must(t, p.Publish(&Pending{Producer: 1, Sequence: 0, Count: 2, Times: &again}, []byte("12345")))
	p.take(1)
	p.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.entries) != entries || w.snapshots != 1 {
		t.Fatalf("told of %d entries and %d snapshots, want %d and that of Close", len(w.entries), w.snapshots, entries)
	}
	for _, e := range w.entries {
		if e.Batches != 1 || e.Records != 2 || e.Bytes != 5 {
			t.Errorf("an entry of 1 batch, 2 records, 5 bytes: %+v", e)
		}
		at := e.Queued
		for _, next := range []time.Time{e.Proposed, e.Storing, e.Stored, e.Committed} {
			if next.IsZero() || next.Before(at) {
				t.Fatalf("stages are not in order: %+v", e)
			}
			at = next
		}
	}
	if asked != w.entries[entries-1] {
		t.Errorf("the batch was told %+v, the observer %+v", asked, w.entries[entries-1])
	}
	if again != (EntryTimes{}) {
		t.Errorf("a duplicate was told %+v", again)
	}
}

// Writes are found by any index they hold, the newest first, and forgotten in time.
func TestWriteTimes(t *testing.T) {
	var w writeTimes
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	w.add(1, 3, at(1), at(2))
	w.add(4, 4, at(3), at(4))
	w.add(3, 4, at(5), at(6)) // a suffix was cut and written again
	for index, want := range map[uint64]int{1: 1, 2: 1, 3: 5, 4: 5} {
		if began, ended := w.of(index); began != at(want) || ended != at(want+1) {
			t.Errorf("index %d: %v to %v, want that of %d", index, began, ended, want)
		}
	}
	for i := range len(w.ring) {
		w.add(uint64(100+i), uint64(100+i), at(9), at(9))
	}
	for _, index := range []uint64{1, 4, 99} {
		if began, ended := w.of(index); !began.IsZero() || !ended.IsZero() {
			t.Errorf("index %d is still known", index)
		}
	}
}
