package broker

import "sync"

// tasks are goroutines for which Stop waits. The zero value is ready. Unlike with a bare sync.WaitGroup one may come while
// somebody waits already: it is run and waited for, or it is not run at all.
type tasks struct {
	mu    sync.Mutex // guards ended, and adding to group
	ended bool
	group sync.WaitGroup
}

// Go runs f on a goroutine of its own, unless end was called: false, and f is not run.
func (t *tasks) Go(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return false
	}
	t.group.Go(f)
	return true
}

// end waits for all that runs; nothing runs afterwards.
func (t *tasks) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.group.Wait()
}
