package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
)

// checksumRetries is how often records are asked for again that were damaged on the way.
const checksumRetries = 3

// readPresent prints what filter selects of what there is now.
func (v *sub) readPresent(ctx context.Context, cl *client.Client, filter string, start client.Start, write func([]byte, *client.Record) []byte) error {
	asking, cancel := v.request(ctx)
	defer cancel()
	streams, err := cl.Streams(asking)
	if offset, number := strconv.ParseUint(v.from, 10, 64); err == nil && number == nil {
		err = checkOffset(asking, cl, filter, offset)
	}
	if _, worded := errors.AsType[*problem](err); worded {
		return err
	}
	if err != nil {
		return &problem{id: explain.ReadingStopped, what: "cannot read " + filter, err: err}
	}
	if !slices.ContainsFunc(streams, func(st client.Stream) bool { return captures(&st, filter) }) {
		return &problem{id: explain.Wire(20), what: "cannot read " + filter, err: fmt.Errorf("no stream captures %s", filter)}
	}
	return v.read(ctx, filter, present(ctx, cl, streams, filter, start), write)
}

// present yields the records of those streams as they are now, one partition after the other.
func present(ctx context.Context, cl *client.Client, streams []client.Stream, filter string, start client.Start) iter.Seq2[client.Record, error] {
	return func(yield func(client.Record, error) bool) {
		for i := range streams {
			st := &streams[i]
			if !captures(st, filter) {
				continue
			}
			for j := range st.Partitions {
				if !presentOf(ctx, cl, st, &st.Partitions[j], filter, start, yield) {
					return
				}
			}
		}
	}
}

// errNotServed is said of a partition that nobody can look into.
func errNotServed(st *client.Stream, p *client.Partition) error {
	return fmt.Errorf("stream %s, partition %d is not served at present: try again", st.Name, p.Number)
}

// presentOf yields those of one partition, and reports whether there may be more. Errors are yielded as a subscription does, with the
// offset behind what is missing.
func presentOf(ctx context.Context, cl *client.Client, st *client.Stream, p *client.Partition, filter string, at client.Start, yield func(client.Record, error) bool) bool {
	if p.Leader == 0 {
		yield(client.Record{}, errNotServed(st, p))
		return false
	}
	garbled := 0
	for next := p.LogStart; next < p.HighWatermark; {
		got, err := cl.Fetch(ctx, st.Name, p.Number, at)
		if err != nil {
			e, _ := errors.AsType[*client.Error](err)
			gone := errors.Is(err, client.ErrOffsetRange) || errors.Is(err, client.ErrDataLoss)
			switch {
			case errors.Is(err, client.ErrChecksum) && garbled < checksumRetries:
				garbled++
			case gone && (e.Value > next || e.Value == next && at != client.FromOffset(next)): // or it was asked for what lies before next
				next = e.Value
				at = client.FromOffset(next)
			default:
				yield(client.Record{}, fmt.Errorf("%s: %s", st.Name, reason(err)))
				return false
			}
			if !yield(client.Record{}, err) {
				return false
			}
			continue
		}
		garbled = 0
		for i := range got.Records {
			r := &got.Records[i]
			if r.Offset >= p.HighWatermark {
				return true
			}
			if wire.Match(filter, r.Subject) && !yield(*r, nil) {
				return false
			}
		}
		if got.Next <= next && len(got.Records) == 0 {
			return true
		}
		next = got.Next
		at = client.FromOffset(next)
	}
	return true
}
