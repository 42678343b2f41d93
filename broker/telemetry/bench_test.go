package telemetry

import (
	"testing"
	"time"

	"github.com/tidewire/tidewire/raft"
)

// BenchmarkBatch is what a batch costs on its event loop.
func BenchmarkBatch(b *testing.B) {
	m := New(Config{State: func() State { return State{} }})
	l := m.Loop(0)
	b.ReportAllocs()
	for b.Loop() {
		l.Acknowledged(1, 128)
	}
}

// BenchmarkEntry is what a Raft entry costs on the state machine's goroutine, after its batches were answered.
func BenchmarkEntry(b *testing.B) {
	m := New(Config{State: func() State { return State{} }})
	o := m.Partition(m.Stream("s"))
	now := time.Now()
	t := raft.EntryTimes{Batches: 1, Records: 1, Bytes: 128, Queued: now, Proposed: now.Add(time.Millisecond),
		Storing: now.Add(time.Millisecond), Stored: now.Add(2 * time.Millisecond), Committed: now.Add(3 * time.Millisecond)}
	b.ReportAllocs()
	for b.Loop() {
		o.Entry(t)
	}
}
