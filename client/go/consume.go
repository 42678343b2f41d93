package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/tidewire/tidewire/proto/wire"
)

// positions is what was delivered, by partition.
type positions struct {
	mu sync.Mutex
	m  map[partitionKey]*position
}

type position struct {
	key    partitionKey
	stream string
	next   atomic.Uint64 // offset of the next record to deliver
}

func (p *positions) get(key partitionKey) *position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.m[key]
}

func (p *positions) add(key partitionKey, stream string, next uint64) *position {
	pos := &position{key: key, stream: stream}
	pos.next.Store(next)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.m[key] = pos
	return pos
}

// Positions tells where the iteration stands in each partition it has seen: the offset after the
// last record delivered, the one being handled included. Save it after handling a record, and
// FromPositions goes on with the one after.
func (s *Subscription) Positions() []Position {
	s.positions.mu.Lock()
	defer s.positions.mu.Unlock()
	out := make([]Position, 0, len(s.positions.m))
	for _, p := range s.positions.m {
		out = append(out, Position{Stream: p.stream, StreamID: p.key.stream, Partition: p.key.partition, Offset: p.next.Load()})
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].StreamID != out[j].StreamID {
			return out[i].StreamID < out[j].StreamID
		}
		return out[i].Partition < out[j].Partition
	})
	return out
}

// cursor is where an iteration stands in what has arrived. It outlives a broken-off iteration:
// the next one goes on behind the last record delivered.
type cursor struct {
	s       *Subscription
	taken   []item // from the queue
	at      int    // of taken: the next one
	frame   item   // being read; frame.buf nil: none
	header  wire.RecordsHeader
	pos     *position
	runs    []byte // not yet read
	run     wire.Run
	base    uint64 // offset of the next batch in run
	batches []byte // of run, not yet read
	batch   wire.Batch
	inBatch bool
	it      wire.Iterator
	record  wire.Record
	scratch []byte // decompressed records
	subject subjects
	damage  struct { // the last found
		key    partitionKey
		offset uint64
	}
}

// subjects makes strings of subjects without making the same one twice in a row.
type subjects struct {
	last string
	seen map[string]string
}

const maxSubjects = 4096

func (s *subjects) string(b []byte) string {
	if s.last == string(b) {
		return s.last
	}
	v, ok := s.seen[string(b)]
	if !ok {
		if s.seen == nil || len(s.seen) >= maxSubjects {
			s.seen = make(map[string]string)
		}
		v = string(b)
		s.seen[v] = v
	}
	s.last = v
	return v
}

var errIterating = errors.New("tidewire: the subscription is being iterated already")

// All yields the records as they come, until ctx ends, the subscription or the client is closed, or
// the loop breaks off. A later All goes on with the record after the last one yielded. One
// goroutine at a time may iterate.
//
// A record's bytes are valid until the next iteration; Clone keeps them.
//
// Errors come with a zero Record. After these the iteration goes on if the loop does:
// ErrOffsetRange (records were removed by retention before they were read; Value is where it goes on; a position above the last
// record, as after an older copy was put back, ends it),
// ErrDataLoss (Value is the first offset after the damage), ErrUnknownStream (a stream was deleted: it goes on with what else the
// filter meets, and there too if it is undeleted), ErrChecksum (a batch arrived damaged more
// than once; it is asked for again) and ErrMalformed (records their producer made wrong; it goes on
// behind them). After any other error, ctx's included, it ends.
func (s *Subscription) All(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if !s.reading.TryLock() {
			yield(Record{}, errIterating)
			return
		}
		defer s.reading.Unlock()
		c := &s.cursor
		for {
			for c.inBatch && c.it.Next(&c.record) {
				rec := &c.record
				offset := c.base + uint64(rec.OffsetDelta)
				if offset < c.pos.next.Load() {
					continue // the batch begins before the position asked for
				}
				c.pos.next.Store(offset + 1)
				r := Record{
					Stream:    c.pos.stream,
					Partition: c.header.Partition,
					Offset:    offset,
					Epoch:     c.run.Epoch,
					Key:       rec.Key,
					Value:     rec.Value,
					time:      rec.Time,
					stored:    int64(c.run.Time),
					streamID:  c.header.Stream,
				}
				if string(rec.Subject) == c.subject.last {
					r.Subject = c.subject.last
				} else {
					r.Subject = c.subject.string(rec.Subject)
				}
				if rec.HeaderCount() > 0 {
					r.raw = rec
				}
				if !yield(r, nil) {
					return
				}
				if s.over.Load() {
					break
				}
			}
			if final, err := c.advance(ctx); err != nil && (!yield(Record{}, err) || final) {
				return
			}
		}
	}
}

// Each calls f with every record until f or the iteration returns an error, and returns that. A
// record's bytes are valid until f returns.
func (s *Subscription) Each(ctx context.Context, f func(Record) error) error {
	for rec, err := range s.All(ctx) {
		if err != nil {
			return err
		}
		if err := f(rec); err != nil {
			return err
		}
	}
	return nil
}

// advance moves on to the next batch, in this frame or a later one. An error is to be yielded; with
// final the iteration ends.
func (c *cursor) advance(ctx context.Context) (final bool, err error) {
	if c.s.over.Load() {
		c.drop()
		c.dropTaken()
		return true, ErrSubscriptionClosed
	}
	if c.inBatch {
		c.inBatch = false
		if err := c.it.Err(); err != nil {
			return false, c.unreadable(err)
		}
		c.base += uint64(c.batch.Span)
	}
	for {
		switch {
		case ctx.Err() != nil:
			return true, context.Cause(ctx)
		case len(c.batches) > 0:
			if err := c.nextBatch(); err != nil {
				if err = c.damaged(err); err != nil {
					return false, err
				}
			}
			if c.inBatch {
				return false, nil
			}
		case len(c.runs) > 0:
			if c.run, c.runs, err = wire.NextRun(c.runs); err != nil {
				if err = c.damaged(err); err != nil {
					return false, err
				}
				continue
			}
			c.base, c.batches = c.run.Base, c.run.Batches
		default:
			c.release()
			if final, err := c.nextFrame(ctx); err != nil {
				return final, err
			}
		}
	}
}

// nextBatch begins the next batch of the run, or passes over it if it is all delivered.
func (c *cursor) nextBatch() (err error) {
	if c.batch, err = wire.ParseBatch(c.batches); err != nil {
		return err
	}
	if err := c.batch.Verify(); err != nil {
		return err
	}
	c.batches = c.batches[len(c.batch.Bytes):]
	if c.base+uint64(c.batch.Span) <= c.pos.next.Load() {
		c.base += uint64(c.batch.Span)
		return nil
	}
	raw, err := c.batch.Raw(c.scratch)
	if err != nil {
		return c.unreadable(err)
	}
	if c.batch.Compressed() {
		c.scratch = raw
	}
	c.it = c.batch.Iterate(raw)
	c.inBatch = true
	return nil
}

// nextFrame waits for a frame and opens it.
func (c *cursor) nextFrame(ctx context.Context) (final bool, err error) {
	it, err := c.take(ctx)
	if err != nil {
		return true, err
	}
	if it.err != nil {
		return false, it.err
	}
	runs, err := c.header.Decode(it.body)
	if err != nil {
		panic("client: a RECORDS the reader accepted does not decode: " + err.Error())
	}
	key := partitionKey{c.header.Stream, c.header.Partition}
	if c.pos == nil || c.pos.key != key {
		pos := c.s.positions.get(key)
		if pos == nil {
			name, ok := c.s.c.streamName(ctx, key.stream)
			if !ok && ctx.Err() != nil {
				c.at-- // for the next iteration
				c.taken[c.at] = it
				return true, context.Cause(ctx)
			}
			pos = c.s.positions.add(key, name, c.s.first(&c.header))
		}
		c.pos = pos
	}
	c.frame, c.runs = it, runs
	return false, nil
}

// first is the offset below which the records of a partition's first frame are not wanted: a batch may
// begin before it.
func (s *Subscription) first(h *wire.RecordsHeader) uint64 {
	switch s.start.From {
	case wire.FromOffset:
		return s.start.Value
	case wire.FromFirst:
		return h.LogStart
	}
	return 0
}

// release is done with the frame at hand. It may lead further than its last record: the rest was
// filtered out.
func (c *cursor) release() {
	if c.frame.buf != nil {
		if next := c.header.Next; next > c.pos.next.Load() {
			c.pos.next.Store(next)
		}
		c.drop()
	}
}

// drop gives the frame at hand back.
func (c *cursor) drop() {
	if c.frame.buf == nil {
		return
	}
	c.frame.buf.free()
	c.s.consumed(c.frame.size)
	c.frame = item{}
	c.runs, c.batches, c.inBatch = nil, nil, false
}

// take waits for the next frame or error.
func (c *cursor) take(ctx context.Context) (item, error) {
	s := c.s
	for {
		if c.at < len(c.taken) {
			it := c.taken[c.at]
			c.taken[c.at] = item{}
			c.at++
			return it, nil
		}
		s.mu.Lock()
		if len(s.queue) > 0 {
			c.taken, s.queue, c.at = s.queue, c.taken[:0], 0
			s.mu.Unlock()
			continue
		}
		err := s.err
		s.mu.Unlock()
		if err != nil {
			return item{}, err
		}
		select {
		case <-s.wake:
		case <-s.done:
		case <-ctx.Done():
			return item{}, context.Cause(ctx)
		}
	}
}

// damaged handles bytes that are not what the node sent, or should have: everything behind what was
// delivered is asked for again. If the same place fails twice, the error is to be yielded.
func (c *cursor) damaged(err error) error {
	if unreadable, ok := err.(*unreadableError); ok {
		return unreadable.error
	}
	err = fmt.Errorf("tidewire: %s/%d, offset %d and on, arrived damaged: %w", c.pos.stream, c.header.Partition, c.base, refused(err))
	again := c.damage.key == c.pos.key && c.damage.offset == c.base
	c.damage.key, c.damage.offset = c.pos.key, c.base
	c.s.c.cfg.logger.Warn("asking again for damaged records", "error", err)
	c.drop()
	c.dropTaken()
	c.s.restart()
	if again {
		return err
	}
	return nil
}

// unreadable handles a batch whose checksum holds and whose records do not decode: its producer made
// it so. Reading goes on behind it.
func (c *cursor) unreadable(err error) error {
	end := c.base + uint64(c.batch.Span)
	err = fmt.Errorf("tidewire: %s/%d, offsets %d to %d, were published malformed: %w", c.pos.stream, c.header.Partition,
		max(c.base, c.pos.next.Load()), end-1, refused(err))
	c.base = end
	c.pos.next.Store(max(end, c.pos.next.Load()))
	return &unreadableError{err}
}

type unreadableError struct{ error }

func (e *unreadableError) Unwrap() error { return e.error }

func (c *cursor) dropTaken() {
	for ; c.at < len(c.taken); c.at++ {
		it := c.taken[c.at]
		c.taken[c.at] = item{}
		it.buf.free()
		c.s.consumed(it.size)
	}
}
