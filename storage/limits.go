package storage

import "sync/atomic"

// Memory is a node-wide budget for the hot tails of its logs. It refuses nobody: a log that appends while the node is
// over budget drops its own oldest entries until the node is within it again or the log holds none. Those that do not append
// keep theirs until they are told to Cool.
type Memory struct {
	limit atomic.Int64
	used  atomic.Int64
}

// NewMemory returns a budget of limit bytes.
func NewMemory(limit int64) *Memory {
	m := new(Memory)
	m.SetLimit(limit)
	return m
}

// SetLimit changes the limit. Logs come back within a lower one as they append.
func (m *Memory) SetLimit(limit int64) { m.limit.Store(limit) }

// Limit is the budget, in bytes.
func (m *Memory) Limit() int64 { return m.limit.Load() }

// Used is the number of bytes all hot tails hold.
func (m *Memory) Used() int64 {
	if m == nil {
		return 0
	}
	return m.used.Load()
}

func (m *Memory) add(n int64) {
	if m != nil {
		m.used.Add(n)
	}
}

func (m *Memory) over() bool { return m != nil && m.used.Load() > m.limit.Load() }

// crowded reports whether more than half of the budget is in use.
func (m *Memory) crowded() bool { return m != nil && m.used.Load() > m.limit.Load()/2 }

// SyncLimit bounds how many syncs run at once on a node. Without it a hundred busy partitions make a hundred blocked
// threads, and the slowest sync gets slower with each.
type SyncLimit struct {
	slots chan struct{}
	most  atomic.Int64 // slots that were taken when a sync began
}

// NewSyncLimit returns a limit of n syncs, at least one.
func NewSyncLimit(n int) *SyncLimit { return &SyncLimit{slots: make(chan struct{}, max(n, 1))} }

// sync runs f.Sync when there is a slot.
func (s *SyncLimit) sync(f File) error {
	if s == nil {
		return f.Sync()
	}
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	for n := int64(len(s.slots)); ; {
		if most := s.most.Load(); n <= most || s.most.CompareAndSwap(most, n) {
			return f.Sync()
		}
	}
}

// Most is how many syncs ran at once, at most, since it was last called.
func (s *SyncLimit) Most() int { return max(int(s.most.Swap(0)), len(s.slots)) }
