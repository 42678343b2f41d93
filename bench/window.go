package bench

import (
	"context"
	"sync/atomic"

	client "github.com/tidewire/tidewire/client/go"
)

// window bounds the calls in flight and remembers when each began. One goroutine takes places, one
// gives them back; neither takes a lock while there are places.
type window struct {
	free   []*place // a ring
	mask   uint64
	head   atomic.Uint64 // taken so far, by the sender
	tail   atomic.Uint64 // given back so far; counts the places the ring began with
	starve atomic.Bool   // the sender waits at wake
	wake   chan struct{}
	total  uint64
}

// place is one call in flight.
type place struct {
	began    int64 // nanoseconds on the run's clock
	measured bool
	done     func(client.Ack, error) // made once, so that a call costs no allocation
}

func newWindow(n int) *window {
	size := 1
	for size < n {
		size *= 2
	}
	w := &window{free: make([]*place, size), mask: uint64(size - 1), wake: make(chan struct{}, 1), total: uint64(n)}
	for i := range n {
		w.free[i] = &place{}
	}
	w.tail.Store(uint64(n))
	return w
}

// each visits all places, before the first is taken.
func (w *window) each(f func(*place)) {
	for i := range w.total {
		f(w.free[i])
	}
}

// take gives a free place, and waits for one until ctx ends: nil.
func (w *window) take(ctx context.Context) *place {
	head := w.head.Load()
	if !w.await(ctx, head+1) {
		return nil
	}
	p := w.free[head&w.mask]
	w.head.Store(head + 1)
	return p
}

// drain waits until every place is back.
func (w *window) drain(ctx context.Context) bool { return w.await(ctx, w.head.Load()+w.total) }

// await waits until tail has reached n.
func (w *window) await(ctx context.Context, n uint64) bool {
	for w.tail.Load() < n {
		w.starve.Store(true)
		if w.tail.Load() >= n { // given back between the look and the flag
			w.starve.Store(false)
			return true
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// give returns a place.
func (w *window) give(p *place) {
	tail := w.tail.Load()
	w.free[tail&w.mask] = p
	w.tail.Store(tail + 1)
	if w.starve.Load() && w.starve.CompareAndSwap(true, false) {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}
