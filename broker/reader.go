package broker

import (
	"sync"

	"github.com/tidewire/tidewire/storage"
)

// readers runs cursors that must touch the disk, a bounded number at a time. What waits is
// bounded by the cursors there are: each waits at most once.
type readers struct {
	mu    sync.Mutex // guards queue and closed
	more  sync.Cond
	queue []job
	close bool
	wg    sync.WaitGroup
}

// job is one thing to do off the loops: move a cursor, or close a reader that holds a segment.
type job struct {
	cursor *cursor
	close  *storage.Reader
}

func newReaders(n int) *readers {
	r := &readers{}
	r.more.L = &r.mu
	for range n {
		r.wg.Go(r.work)
	}
	return r
}

// submit takes the job; a cursor's loop gets it back with postRead. It never blocks.
func (r *readers) submit(j job) {
	r.mu.Lock()
	r.queue = append(r.queue, j)
	r.mu.Unlock()
	r.more.Signal()
}

func (r *readers) work() {
	yieldToOthers() // who reads what is old does not delay who publishes
	for {
		r.mu.Lock()
		for len(r.queue) == 0 && !r.close {
			r.more.Wait()
		}
		if len(r.queue) == 0 {
			r.mu.Unlock()
			return
		}
		j := r.queue[0]
		r.queue[0] = job{}
		if r.queue = r.queue[1:]; len(r.queue) == 0 {
			r.queue = nil
		}
		r.mu.Unlock()
		if j.close != nil {
			j.close.Close()
			continue
		}
		j.cursor.run()
		j.cursor.session.loop.postRead(j.cursor)
	}
}

// stop ends the readers once the queue is empty.
func (r *readers) stop() {
	r.mu.Lock()
	r.close = true
	r.mu.Unlock()
	r.more.Broadcast()
	r.wg.Wait()
}
