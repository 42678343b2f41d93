package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// call is one request on one connection. It stays in the table until it is answered, also when
// nobody waits any more, so that a late answer meets its conversation.
type call struct {
	corr   uint32
	frames []wire.Frame // what came so far
	done   chan error   // buffered
}

func (k *call) frame(cn *conn, f wire.Frame, own *buffer) error {
	if f.Op == wire.OpError {
		var e wire.Error
		if err := e.Decode(f.Body); err != nil {
			return err
		}
		k.finish(cn, fromWire(&e), e.Leader)
		if e.Bits&wire.ErrorEndsConnection != 0 {
			return fromWire(&e)
		}
		return nil
	}
	if own != nil {
		cn.kept = true // and never freed: the answer is the caller's
	} else {
		f.Body = bytes.Clone(f.Body)
	}
	k.frames = append(k.frames, f)
	if f.Flags&wire.FlagMore == 0 {
		k.finish(cn, nil, "")
	}
	return nil
}

// redirect is an error that names a better node.
type redirect struct {
	error
	leader string
}

func (r *redirect) Unwrap() error { return r.error }

func (k *call) finish(cn *conn, err error, leader string) {
	if err != nil && leader != "" {
		err = &redirect{err, leader}
	}
	k.done <- err
	cn.mu.Lock()
	cn.calls--
	cn.mu.Unlock()
	cn.end(k.corr)
}

func (k *call) lost(_ *conn, err error) { k.done <- err }

// call sends what encode appends and waits for the whole answer.
func (cn *conn) call(ctx context.Context, encode func(dst []byte, corr uint32) []byte) ([]wire.Frame, error) {
	k := &call{done: make(chan error, 1)}
	cn.mu.Lock()
	corr, err := cn.openLocked(k)
	if err != nil {
		cn.mu.Unlock()
		return nil, &notSent{err}
	}
	k.corr = corr
	cn.calls++
	cn.mu.Unlock()
	cn.out.add(encode(nil, corr))
	cn.out.push()
	select {
	case err := <-k.done:
		return k.frames, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// notSent marks the loss of a connection before the request went out on it.
type notSent struct{ error }

func (e *notSent) Unwrap() error { return e.error }

// request makes a call on the connection to the cluster, and again after a lost connection or a
// retriable error, until ctx ends. With once it is not repeated if a node may have acted on it.
func (c *Client) request(ctx context.Context, once bool, encode func(dst []byte, corr uint32) []byte) ([]wire.Frame, error) {
	var refusal *Error // the last one that was to be tried again
	for attempt := 0; ; attempt++ {
		cn, err := c.main(ctx)
		if err != nil {
			return nil, refusal.because(ctx, err)
		}
		frames, err := cn.call(ctx, encode)
		if err == nil {
			return frames, nil
		}
		if e := (*Error)(nil); errors.As(err, &e) && e.Retriable {
			refusal = e
		}
		if err = c.retry(ctx, attempt, once, err); err != nil {
			return nil, refusal.because(ctx, err)
		}
	}
}

// because is err, or e if it is for e's sake that ctx ended before there was another answer.
func (e *Error) because(ctx context.Context, err error) error {
	if e == nil || ctx.Err() == nil {
		return err
	}
	with := *e
	with.Err = err
	return &with
}

// retry waits before the next attempt, or returns the error that ends them.
func (c *Client) retry(ctx context.Context, attempt int, once bool, err error) error {
	var e *Error
	var unsent *notSent
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case c.ctx.Err() != nil:
		return ErrClosed
	case errors.As(err, &unsent):
		if attempt == 0 {
			return nil
		}
		return c.sleep(ctx, attempt, 0)
	case errors.Is(err, ErrDisconnected) && once:
		return &Error{Code: wire.CodeUnknownOutcome, Message: "the request may or may not have been carried out", Err: err}
	case errors.Is(err, ErrDisconnected):
		return c.sleep(ctx, attempt, 0)
	case errors.As(err, &e) && e.Retriable && e.Code != wire.CodeUnknownOutcome:
		return c.sleep(ctx, attempt, e.RetryAfter)
	}
	return err
}

// sleep waits at least the given time, or the backoff of the attempt, until ctx or the client ends.
func (c *Client) sleep(ctx context.Context, attempt int, least time.Duration) error {
	t := time.NewTimer(max(least, c.cfg.backoff(attempt)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.ctx.Done():
		return ErrClosed
	}
}

func expect(frames []wire.Frame, op wire.Op) error {
	for _, f := range frames {
		if f.Op != op {
			return protocolError("%s where %s belongs", f.Op, op)
		}
	}
	return nil
}

// Ping asks the node for an answer and returns how long it took.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	var start time.Time
	frames, err := c.request(ctx, false, func(dst []byte, corr uint32) []byte {
		start = time.Now()
		return wire.Ping{Data: uint64(start.UnixNano())}.AppendTo(dst, wire.OpPing, corr)
	})
	if err != nil {
		return 0, err
	}
	if err := expect(frames, wire.OpPong); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

func (c *config) hello() string {
	const software = "tidewire-go"
	if c.name == "" {
		return software
	}
	return fmt.Sprintf("%s %s", c.name, software)
}
