package harness

import (
	"testing"
	"time"
)

// Usage is what a process has used; zero on systems that do not tell.
type Usage struct {
	CPU      time.Duration // user and system, over all threads, so far
	Resident int64         // bytes of memory now
	Peak     int64         // and at most so far
}

// Usage reads what the node has used.
func (s *Server) Usage(t testing.TB) Usage {
	t.Helper()
	u, err := usage(s.Pid())
	if err != nil {
		t.Fatal(err)
	}
	return u
}
