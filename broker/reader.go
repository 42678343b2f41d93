package broker

import "sync"

// readers runs cursors that must touch the disk, a bounded number at a time. What waits is
// bounded by the cursors there are: each waits at most once.
type readers struct {
	mu    sync.Mutex // guards queue and closed
	more  sync.Cond
	queue []*cursor
	close bool
	wg    sync.WaitGroup
}

func newReaders(n int) *readers {
	r := &readers{}
	r.more.L = &r.mu
	for range n {
		r.wg.Go(r.work)
	}
	return r
}

// submit takes the cursor over; its loop gets it back with postRead. It never blocks.
func (r *readers) submit(c *cursor) {
	r.mu.Lock()
	r.queue = append(r.queue, c)
	r.mu.Unlock()
	r.more.Signal()
}

func (r *readers) work() {
	for {
		r.mu.Lock()
		for len(r.queue) == 0 && !r.close {
			r.more.Wait()
		}
		if len(r.queue) == 0 {
			r.mu.Unlock()
			return
		}
		c := r.queue[0]
		r.queue[0] = nil
		if r.queue = r.queue[1:]; len(r.queue) == 0 {
			r.queue = nil
		}
		r.mu.Unlock()
		c.run()
		c.session.loop.postRead(c)
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
