package client

import (
	"context"
	"errors"

	"github.com/tidewire/tidewire/proto/wire"
)

// Publish stores one record and waits until it is durable: fsynced on a majority of the
// partition's replicas. Records published at the same time, from other goroutines or by
// PublishAsync, travel and are synced together.
//
// If ctx ends once the record is handed over, the error matches ErrUnknownOutcome as well as ctx's
// own: it is on its way and may still be stored. If ctx ends before, for want of a connection or of
// room, the error is ctx's alone, and nothing was sent. Other errors: ErrBadName, ErrTooLarge, ErrUnknownStream, ErrClosed,
// and whatever the node refused the record with. Lost connections, elections and overload are not
// errors: the record is sent again, and stored once.
func (c *Client) Publish(ctx context.Context, m Message) (Ack, error) {
	w := waiters.Get().(*waiter)
	if err := c.publish(ctx, &m, w, nil); err != nil {
		waiters.Put(w)
		return Ack{}, err
	}
	select {
	case <-w.done:
		ack, err := w.ack, w.err
		w.err = nil
		waiters.Put(w)
		return ack, err
	case <-ctx.Done():
		return Ack{}, c.unknown(ctx) // w is told later, and collected
	}
}

// PublishAsync hands over one record to be stored and returns; done is told what became of it.
// done may be nil: then, and also otherwise, Flush tells of failures.
//
// Calls from one goroutine keep their order within a partition. PublishAsync waits only while the
// bytes in flight are at their bound (WithMaxInFlight), and to find the stream of a subject that no
// stream seen so far captures; ctx bounds that wait and nothing else. If PublishAsync returns an
// error the record was not taken, and done is not called.
//
// Callbacks run one after the other, on a goroutine of their own, in order within a partition. They
// may call PublishAsync, but neither Publish, Flush nor Close, and should not block: what other
// callbacks are to be told waits in memory meanwhile.
func (c *Client) PublishAsync(ctx context.Context, m Message, done func(Ack, error)) error {
	return c.publish(ctx, &m, nil, done)
}

func (c *Client) publish(ctx context.Context, m *Message, w *waiter, done func(Ack, error)) error {
	cost := c.cost(m)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r, err := c.route(ctx, m.Subject)
		if err != nil {
			return err
		}
		producers := *r.stream.producers.Load()
		if len(producers) == 0 {
			return unknownStream("stream %s has no partitions", r.stream.name)
		}
		p := producers[0]
		if len(producers) > 1 {
			key := m.Key
			if len(key) == 0 {
				key = r.key // the same result as with the subject, and nothing to convert
			}
			p = producers[wire.PartitionOf(m.Subject, key, uint32(len(producers)))]
		}
		if err := c.budget.acquire(ctx, cost); err != nil {
			return err
		}
		err = p.append(m, cost, w, done)
		if err == nil {
			return nil
		}
		c.budget.release(cost)
		if !errors.Is(err, errGone) { // otherwise: a stream of another id may capture the subject by now
			return err
		}
	}
}

// cost is the bytes a record holds of the budget: what it takes in the batch, at most, and its
// share of what a batch takes besides.
func (c *Client) cost(m *Message) int64 {
	n := len(m.Subject) + len(m.Key) + len(m.Value) + 24 + 1024/c.cfg.maxBatchRecords
	for i := range m.Headers {
		n += len(m.Headers[i].Name) + len(m.Headers[i].Value) + 8
	}
	return int64(n)
}

// Flush waits until everything published before is acknowledged and its callbacks have returned.
// It sends what is still being gathered at once. The error is the first one of PublishAsync's
// records since the last Flush (matched by errors.Is), or ctx's.
func (c *Client) Flush(ctx context.Context) error {
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	return c.flushAll(ctx)
}

func (c *Client) flushAll(ctx context.Context) error {
	c.mu.Lock()
	producers := make([]*producer, 0, len(c.producers))
	for p := range c.producers {
		producers = append(producers, p)
	}
	c.mu.Unlock()
	var waits []<-chan struct{}
	for _, p := range producers {
		if w := p.flush(); w != nil {
			waits = append(waits, w)
		}
	}
	mark := make(chan struct{})
	for _, w := range waits {
		select {
		case <-w:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c.callbacks.add(told{mark: mark})
	select {
	case <-mark:
	case <-c.closed:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := c.failures.take(); err != nil {
		return err
	}
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	return nil
}
