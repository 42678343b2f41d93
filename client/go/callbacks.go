package client

import (
	"fmt"
	"sync"
)

// completion is who wants to know about one record of a batch: a goroutine in Publish, or a
// callback of PublishAsync.
type completion struct {
	index uint32 // of the record in its batch
	wait  *waiter
	call  func(Ack, error)
}

// waiter is one Publish that waits.
type waiter struct {
	done chan struct{} // buffered: nobody may be there any more
	ack  Ack
	err  error
}

var waiters = sync.Pool{New: func() any { return &waiter{done: make(chan struct{}, 1)} }}

// told is what a batch came to, on its way to the callbacks.
type told struct {
	ack   Ack // of the first record
	err   error
	calls []completion
	mark  chan struct{} // instead of all that: closed when its turn comes
}

// callbacks calls what PublishAsync was given, on one goroutine, in the order batches were
// answered: a slow callback delays other callbacks, never the connection.
type callbacks struct {
	wake chan struct{}

	mu     sync.Mutex
	queue  []told
	spare  [][]completion
	closed bool
}

func (c *callbacks) add(some ...told) {
	c.mu.Lock()
	first := len(c.queue) == 0
	c.queue = append(c.queue, some...)
	c.mu.Unlock()
	if first {
		c.signal()
	}
}

func (c *callbacks) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// slice gives an empty slice for a batch's completions.
func (c *callbacks) slice() []completion {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.spare); n > 0 {
		s := c.spare[n-1]
		c.spare = c.spare[:n-1]
		return s
	}
	return nil
}

// close ends run once everything queued is called.
func (c *callbacks) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
}

func (c *callbacks) run() {
	var batch []told
	for {
		c.mu.Lock()
		batch, c.queue = c.queue, batch[:0]
		closed := c.closed
		c.mu.Unlock()
		if len(batch) == 0 {
			if closed {
				return
			}
			<-c.wake
			continue
		}
		for i := range batch {
			t := &batch[i]
			if t.mark != nil {
				close(t.mark)
				continue
			}
			for _, done := range t.calls {
				ack := t.ack
				if t.err == nil {
					ack.Offset += uint64(done.index)
				}
				done.call(ack, t.err)
			}
			clear(t.calls)
			c.mu.Lock()
			if len(c.spare) < 64 {
				c.spare = append(c.spare, t.calls[:0])
			}
			c.mu.Unlock()
		}
		clear(batch)
	}
}

// failures remembers what went wrong with records published asynchronously, for Flush.
type failures struct {
	mu    sync.Mutex
	first error
	count uint64
}

func (f *failures) add(err error, records uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == nil {
		f.first = err
	}
	f.count += records
}

func (f *failures) take() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == nil {
		return nil
	}
	err := fmt.Errorf("%d records were refused or left unacknowledged, the first: %w", f.count, f.first)
	f.first, f.count = nil, 0
	return err
}
