package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// Fetched is what one Fetch gave. Its records' bytes are its own: they may be kept, and keep
// each other.
type Fetched struct {
	Records       []Record
	Next          uint64 // go on with FromOffset(Next)
	HighWatermark uint64 // offset after the last record that can be read now
	LogStart      uint64 // offset of the first record kept
}

// Fetch reads records of one partition, by default from its first. It gives what there is, up to
// MaxBytes, and nothing (not an error) if there is nothing after MaxWait.
//
// Errors: ErrUnknownStream, ErrUnknownPartition, ErrOffsetRange (Value is the log start, or the high watermark for an offset above it),
// ErrDataLoss (Value is the first offset after the damage), ErrChecksum.
func (c *Client) Fetch(ctx context.Context, stream string, partition uint32, opts ...FetchOption) (*Fetched, error) {
	cfg := fetchConfig{maxBytes: wire.MaxBatch}
	for _, o := range opts {
		o.fetch(&cfg)
	}
	if cfg.maxBytes < 1 || cfg.maxWait < 0 || cfg.maxWait.Milliseconds() > math.MaxUint32 {
		return nil, fmt.Errorf("tidewire: Fetch: MaxBytes %d or MaxWait %v is out of range", cfg.maxBytes, cfg.maxWait)
	}
	st, err := c.named(ctx, stream)
	if err != nil {
		return nil, err
	}
	m := wire.Fetch{
		Stream:    st.id,
		Partition: partition,
		Start:     cfg.start,
		MaxBytes:  uint32(min(cfg.maxBytes, wire.MaxBatch)),
		MaxWait:   cfg.maxWait.Round(time.Millisecond),
		Read:      cfg.read,
		MinOffset: cfg.min,
	}
	if cfg.start.From == wire.FromLast {
		// The batch that holds the last record may begin before it; so its offset must be known.
		if m.Start, err = c.lastOf(ctx, stream, partition); err != nil {
			return nil, err
		}
	}
	hint, forgot := "", false
	for attempt := 0; ; attempt++ {
		frames, err := c.fetch(ctx, st, partition, hint, &m)
		if err == nil {
			return fetched(st, &m, frames)
		}
		hint = ""
		var r *redirect
		switch {
		case errors.Is(err, ErrUnknownStream) && !forgot: // another stream may have the name by now
			forgot = true
			c.topology.forget(st.id)
			if st, err = c.named(ctx, stream); err != nil {
				return nil, err
			}
			m.Stream = st.id
			continue
		case errors.As(err, &r) && attempt < 3:
			hint = r.leader
			continue
		}
		if err = c.retry(ctx, attempt, false, err); err != nil {
			return nil, err
		}
	}
}

func (c *Client) fetch(ctx context.Context, st *stream, partition uint32, hint string, m *wire.Fetch) ([]wire.Frame, error) {
	cn, err := c.main(ctx)
	if err == nil && hint != "" {
		cn, err = c.leader(ctx, st, partition, hint)
	}
	if err != nil {
		return nil, err
	}
	return cn.call(ctx, m.AppendTo)
}

func (c *Client) lastOf(ctx context.Context, stream string, partition uint32) (wire.Start, error) {
	s, err := c.Stream(ctx, stream)
	if err != nil {
		return wire.Start{}, err
	}
	if int64(partition) >= int64(len(s.Partitions)) {
		return wire.Start{}, &Error{
			Code:    wire.CodeUnknownPart,
			Message: fmt.Sprintf("stream %s has %d partitions, numbered from 0; there is no %d", stream, len(s.Partitions), partition),
			Value:   uint64(len(s.Partitions)),
		}
	}
	p := s.Partitions[partition]
	offset := p.HighWatermark
	if offset > p.LogStart {
		offset--
	}
	return wire.Start{From: wire.FromOffset, Value: offset}, nil
}

func fetched(st *stream, m *wire.Fetch, frames []wire.Frame) (*Fetched, error) {
	if err := expect(frames, wire.OpRecords); err != nil {
		return nil, err
	}
	out := &Fetched{}
	var subject subjects
	for _, f := range frames {
		var h wire.RecordsHeader
		runs, err := h.Decode(f.Body)
		if err != nil {
			return nil, refused(err)
		}
		if h.Stream != m.Stream || h.Partition != m.Partition {
			return nil, protocolError("RECORDS of stream %d, partition %d answer a FETCH of %d, %d", h.Stream, h.Partition, m.Stream, m.Partition)
		}
		out.Next, out.HighWatermark, out.LogStart = h.Next, h.HighWatermark, h.LogStart
		from := uint64(0)
		switch m.Start.From {
		case wire.FromOffset:
			from = m.Start.Value
		case wire.FromFirst:
			from = h.LogStart
		}
		for len(runs) > 0 {
			var run wire.Run
			if run, runs, err = wire.NextRun(runs); err != nil {
				return nil, refused(err)
			}
			if err := out.add(st, m.Partition, &run, from, &subject); err != nil {
				return nil, fmt.Errorf("tidewire: %s/%d from offset %d: %w", st.name, m.Partition, run.Base, refused(err))
			}
		}
	}
	return out, nil
}

// add decodes one run.
func (out *Fetched) add(st *stream, partition uint32, run *wire.Run, from uint64, subject *subjects) error {
	base := run.Base
	for rest := run.Batches; len(rest) > 0; {
		b, err := wire.ParseBatch(rest)
		if err != nil {
			return err
		}
		if err := b.Verify(); err != nil {
			return err
		}
		rest = rest[len(b.Bytes):]
		raw, err := b.Raw(nil)
		if err != nil {
			return err
		}
		it := b.Iterate(raw)
		var rec wire.Record
		for it.Next(&rec) {
			offset := base + uint64(rec.OffsetDelta)
			if offset < from {
				continue
			}
			r := Record{
				Stream:    st.name,
				Subject:   subject.string(rec.Subject),
				Partition: partition,
				Offset:    offset,
				Epoch:     run.Epoch,
				Key:       rec.Key,
				Value:     rec.Value,
				time:      rec.Time,
				stored:    int64(run.Time),
				streamID:  st.id,
			}
			if rec.HeaderCount() > 0 {
				raw := rec
				r.raw = &raw
			}
			out.Records = append(out.Records, r)
		}
		if err := it.Err(); err != nil {
			return err
		}
		base += uint64(b.Span)
	}
	return nil
}
