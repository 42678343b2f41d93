package client

import (
	"context"
	"sync"
	"sync/atomic"
)

// budget bounds the bytes of records that are not yet acknowledged. While there is room it costs
// one compare-and-swap; at the bound, those who wait are served in order.
type budget struct {
	limit int64
	used  atomic.Int64
	queue atomic.Int32 // len(waiting), readable without mu

	mu      sync.Mutex
	waiting []*grant
	closed  bool
}

type grant struct {
	n     int64
	given chan error // buffered
}

// tryAcquire takes n bytes if there is room. A record larger than the whole budget may go alone.
func (b *budget) tryAcquire(n int64) bool {
	for {
		used := b.used.Load()
		if used != 0 && used+n > b.limit {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// acquire takes n bytes, and waits for them until ctx ends.
func (b *budget) acquire(ctx context.Context, n int64) error {
	if b.queue.Load() == 0 && b.tryAcquire(n) {
		return nil
	}
	g := &grant{n: n, given: make(chan error, 1)}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	b.waiting = append(b.waiting, g)
	b.queue.Add(1) // before the attempt: a release either comes before it, or sees the queue
	b.grantLocked()
	b.mu.Unlock()
	select {
	case err := <-g.given:
		return err
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, w := range b.waiting {
		if w == g {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			b.queue.Add(-1)
			b.grantLocked() // the next one may be smaller
			return context.Cause(ctx)
		}
	}
	if err := <-g.given; err != nil { // it was decided at the same moment
		return err
	}
	b.used.Add(-n)
	b.grantLocked()
	return context.Cause(ctx)
}

func (b *budget) release(n int64) {
	b.used.Add(-n)
	if b.queue.Load() > 0 {
		b.mu.Lock()
		b.grantLocked()
		b.mu.Unlock()
	}
}

func (b *budget) grantLocked() {
	for len(b.waiting) > 0 && b.tryAcquire(b.waiting[0].n) {
		b.waiting[0].given <- nil
		b.waiting[0] = nil
		b.waiting = b.waiting[1:]
		b.queue.Add(-1)
	}
}

func (b *budget) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, g := range b.waiting {
		g.given <- ErrClosed
		b.queue.Add(-1)
	}
	b.waiting = nil
}
