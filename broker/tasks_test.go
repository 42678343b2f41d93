package broker

import (
	"sync"
	"sync/atomic"
	"testing"
)

// What comes while somebody waits is waited for or refused, never left behind.
func TestTasksEnd(t *testing.T) {
	for range 1000 {
		var ts tasks
		var ran, running, accepted atomic.Int64
		var starters sync.WaitGroup
		begin := make(chan struct{})
		for range 4 {
			starters.Go(func() {
				<-begin
				for range 20 {
					if ts.Go(func() { running.Add(1); ran.Add(1); running.Add(-1) }) {
						accepted.Add(1)
					}
				}
			})
		}
		close(begin)
		ts.end()
		after := ran.Load()
		if got := running.Load(); got != 0 {
			t.Fatalf("%d run behind the end", got)
		}
		starters.Wait()
		if ts.Go(func() {}) {
			t.Fatal("a task was taken behind the end")
		}
		if ran.Load() != after || accepted.Load() != after {
			t.Fatalf("%d ran when the end was told, %d in all, %d were taken", after, ran.Load(), accepted.Load())
		}
	}
}
