package client

import (
	"io"
	"net"
	"sync"
	"syscall"
)

const (
	// A frame up to smallFrame bytes is copied behind others of its kind: one more slice in a
	// writev costs more than the copy.
	smallFrame   = 4 << 10
	scratchBytes = 64 << 10
)

// outbox is the write side of a connection. Many goroutines add frames; at any time at most one
// writes, and it takes all that is there in one system call.
//
// Who adds a frame then calls push (write now, from this goroutine, if that needs no waiting) or
// kick (let the writer goroutine do it, which gathers what is added meanwhile).
//
// The slices belong to the outbox until they are written. The caller keeps a batch unchanged
// until it is answered, and an answer cannot come before.
type outbox struct {
	nc     net.Conn
	raw    syscall.RawConn // nil if nc is no socket itself: then the writer goroutine writes everything
	vector io.Writer       // nc, for several slices

	mu     sync.Mutex
	queue  [][]byte
	bytes  int  // in queue
	busy   bool // somebody writes, or was told to: whoever that is looks at queue again before he leaves
	closed bool
	wake   chan struct{} // to the writer goroutine, from whoever made it busy

	inline sync.Mutex // held through a write by push; outbox.stop waits for it

	// Owned by whoever made it busy.
	taken   [][]byte
	rest    []byte // what a write by push left over
	scratch []byte
	slices  net.Buffers
	try     func(fd uintptr) bool // one attempt at writing tryBytes
	tryFrom []byte
	tryN    int
	tryErr  error
}

func (o *outbox) init(nc net.Conn) {
	o.nc = nc
	o.wake = make(chan struct{}, 1)
	o.vector = struct{ io.Writer }{nc}
	var socket syscall.Conn
	switch nc := nc.(type) { // what embeds one may have a Write of its own, and passes those off as its own that go round it
	case *net.TCPConn:
		socket, o.vector = nc, nc
	case *net.UnixConn:
		socket, o.vector = nc, nc
	}
	if socket != nil && canTryWrite {
		if raw, err := socket.SyscallConn(); err == nil {
			o.raw = raw
			o.try = func(fd uintptr) bool {
				o.tryN, o.tryErr = tryWrite(fd, o.tryFrom)
				return true
			}
		}
	}
}

// add queues one frame.
func (o *outbox) add(frame []byte) {
	o.mu.Lock()
	if !o.closed {
		o.queue = append(o.queue, frame)
		o.bytes += len(frame)
	}
	o.mu.Unlock()
}

// kick has what is queued written by the writer goroutine.
func (o *outbox) kick() {
	o.mu.Lock()
	if !o.busy && len(o.queue) > 0 {
		o.busy = true
		o.wake <- struct{}{} // never blocks: only who sets busy sends
	}
	o.mu.Unlock()
}

// push writes what is queued if the socket takes it at once, and leaves the rest to the writer
// goroutine. It does not block.
func (o *outbox) push() {
	o.mu.Lock()
	if o.busy || len(o.queue) == 0 {
		o.mu.Unlock()
		return
	}
	o.busy = true
	if o.raw == nil || len(o.queue) > 1 && o.bytes > scratchBytes {
		o.wake <- struct{}{}
		o.mu.Unlock()
		return
	}
	o.inline.Lock()
	o.takeLocked()
	o.mu.Unlock()

	from := o.taken[0]
	if len(o.taken) > 1 {
		o.scratch = o.scratch[:0]
		for _, f := range o.taken {
			o.scratch = append(o.scratch, f...)
		}
		from = o.scratch
	}
	o.tryFrom, o.tryN, o.tryErr = from, 0, nil
	err := o.raw.Write(o.try)
	if err == nil && o.tryErr == nil {
		o.rest = from[o.tryN:]
	} else {
		o.rest = from // the writer goroutine will meet the same error, and report it
	}
	o.tryFrom = nil
	clear(o.taken)
	o.inline.Unlock()

	o.mu.Lock()
	if len(o.rest) == 0 && len(o.queue) == 0 {
		o.busy = false
	} else {
		o.wake <- struct{}{}
	}
	o.mu.Unlock()
}

func (o *outbox) takeLocked() {
	o.taken, o.queue = o.queue, o.taken[:0]
	o.bytes = 0
}

// run is the writer goroutine. It ends with the first error, or when done is closed.
func (o *outbox) run(done <-chan struct{}) error {
	for {
		select {
		case <-o.wake:
		case <-done:
			return nil
		}
		for {
			if len(o.rest) > 0 {
				if _, err := o.nc.Write(o.rest); err != nil {
					return err
				}
				o.rest = nil
			}
			o.mu.Lock()
			if len(o.queue) == 0 {
				o.busy = false
				o.mu.Unlock()
				break
			}
			o.takeLocked()
			o.mu.Unlock()
			if err := o.write(); err != nil {
				return err
			}
		}
	}
}

// write sends taken: small frames gathered, large ones from where they are.
func (o *outbox) write() error {
	if cap(o.scratch) < scratchBytes {
		o.scratch = make([]byte, 0, scratchBytes)
	}
	defer func() { clear(o.taken) }()
	for i := 0; i < len(o.taken); {
		o.scratch = o.scratch[:0]
		v := o.slices[:0]
		gathered := -1 // where in scratch the last slice of v begins, if it is one of scratch
		for ; i < len(o.taken); i++ {
			f := o.taken[i]
			if len(f) > smallFrame {
				v = append(v, f)
				gathered = -1
				continue
			}
			if len(o.scratch)+len(f) > cap(o.scratch) {
				break
			}
			if gathered < 0 {
				gathered = len(o.scratch)
				v = append(v, nil)
			}
			o.scratch = append(o.scratch, f...)
			v[len(v)-1] = o.scratch[gathered:]
		}
		o.slices = v
		var err error
		if len(v) == 1 {
			_, err = o.nc.Write(v[0])
		} else {
			_, err = v.WriteTo(o.vector) // moves v, not o.slices
		}
		clear(o.slices)
		if err != nil {
			return err
		}
	}
	return nil
}

// stop drops what is queued, and waits until no push writes. The writer goroutine has ended.
func (o *outbox) stop() {
	o.mu.Lock()
	o.closed = true
	clear(o.queue)
	o.queue = o.queue[:0]
	o.mu.Unlock()
	o.inline.Lock() // a push that began before sees the closed socket and leaves
	o.scratch = nil
	o.inline.Unlock()
}
