package telemetry

import "sync"

// OtherStreams is the label that sums streams which have none of their own. No stream can have
// that name.
const OtherStreams = "(other)"

// Stream is what is counted for one stream, or for all that have no label of their own. Partitions
// of it share one.
type Stream struct {
	Label                string
	Published, Delivered Flow

	holders int // under Metrics.mu
}

// streamSet gives streams their labels. A stream that found none free stays among the others until
// the process ends or it is deleted, so that no counter ever goes back.
type streamSet struct {
	mu    sync.Mutex
	limit int
	named map[string]*Stream
	other Stream
}

// take gives the counters of a stream; each take wants a release.
func (s *streamSet) take(name string) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.named[name]; st != nil {
		st.holders++
		return st
	}
	if len(s.named) >= s.limit {
		return &s.other
	}
	st := &Stream{Label: name, holders: 1}
	s.named[name] = st
	return st
}

// release gives the label back once nobody holds it.
func (s *streamSet) release(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st == &s.other {
		return
	}
	if st.holders--; st.holders == 0 {
		delete(s.named, st.Label)
	}
}

// each calls f for every stream that has a label, and for the others.
func (s *streamSet) each(f func(*Stream)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.named {
		f(st)
	}
	f(&s.other)
}
