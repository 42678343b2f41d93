package main

import (
	"io"
	"sync"
)

const outputBytes = 1 << 20

// output writes what is appended, on a goroutine of its own: while one write is under way the next
// one gathers. So nothing waits in a buffer while there is nothing else to do, and under load
// writes are large, without a timer.
type output struct {
	w io.Writer

	mu     sync.Mutex
	work   sync.Cond // bytes to write, or closed
	room   sync.Cond // fewer than outputBytes wait
	buf    []byte
	closed bool
	err    error
	ended  chan struct{}
}

func newOutput(w io.Writer) *output {
	o := &output{w: w, ended: make(chan struct{})}
	o.work.L, o.room.L = &o.mu, &o.mu
	go o.run()
	return o
}

func (o *output) run() {
	defer close(o.ended)
	var taken []byte
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		for len(o.buf) == 0 && !o.closed {
			o.work.Wait()
		}
		if len(o.buf) == 0 || o.err != nil {
			return
		}
		taken, o.buf = o.buf, taken[:0]
		o.room.Signal()
		o.mu.Unlock()
		_, err := o.w.Write(taken)
		o.mu.Lock()
		if o.err = err; err != nil {
			o.room.Signal()
		}
	}
}

// append adds what f appends. It waits while too much is unwritten, and returns what a write failed with.
func (o *output) append(f func([]byte) []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.buf) >= outputBytes && o.err == nil {
		o.room.Wait()
	}
	o.buf = f(o.buf)
	if len(o.buf) > 0 {
		o.work.Signal()
	}
	return o.err
}

// close writes what is left.
func (o *output) close() error {
	o.mu.Lock()
	o.closed = true
	o.work.Signal()
	o.mu.Unlock()
	<-o.ended
	return o.err
}

// failed is what a write failed with, or nil.
func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
