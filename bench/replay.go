package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/proto/wire"
)

// ReplayConfig is a workload that reads what is stored, from the first record to the end as it stood
// when the run began. A zero field means its default.
type ReplayConfig struct {
	Server  string
	Filter  string        // default "bench"
	Records uint64        // at most; 0: all there are
	Window  int           // bytes the node may send ahead; 0: the client's default
	Timeout time.Duration // without a record, once it reads; 0: none
	Warmup  time.Duration // what arrives so early is checked but not measured. Default none

	Options  []client.Option
	Progress *atomic.Uint64
}

type partition struct {
	stream uint64
	number uint32
}

// Replay runs the workload with one consumer. Every record is decoded, every batch's CRC-32C checked (by
// the client), and every offset must follow the one before it in its partition, unless the filter
// does not select everything that the stream captures: then offsets passed over are counted as gaps.
func Replay(ctx context.Context, cfg ReplayConfig) (*Result, error) {
	if cfg.Filter == "" {
		cfg.Filter = "bench"
	}
	if cfg.Progress == nil {
		cfg.Progress = new(atomic.Uint64)
	}
	c, err := client.Connect(ctx, cfg.Server, append([]client.Option{client.WithName("tidewire bench sub")}, cfg.Options...)...)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	plan, err := plan(ctx, c, cfg.Filter)
	if err != nil {
		return nil, err
	}
	options := []client.SubscribeOption{client.FromFirst()}
	if cfg.Window > 0 {
		options = append(options, client.Window(cfg.Window))
	}
	opened := time.Now()
	sub, err := c.Subscribe(ctx, cfg.Filter, options...)
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before := cfg.Progress.Load()
	stopWatching := Watch(cfg.Timeout, func() (handed, answered uint64) { return math.MaxUint64, cfg.Progress.Load() - before }, noAnswer(cancel, cfg.Timeout))
	defer stopWatching()
	r := &Result{Workload: "sub", Subject: cfg.Filter, Partitions: len(plan.next), Connections: 1}
	if err := plan.read(ctx, sub, &cfg, r, opened); err != nil {
		if r.Records > 0 && ctx.Err() != nil {
			return r, err
		}
		return nil, err
	}
	if r.Records == 0 {
		return nil, errors.New("nothing was measured: the replay was over within its warm-up")
	}
	return r, nil
}

// replay is what a replay expects.
type replay struct {
	next map[partition]uint64 // offset of the next record
	end  map[partition]uint64 // behind the last record that the filter selects
	all  bool                 // the filter selects all of the streams: offsets have no gaps
	left int                  // partitions that have not reached their end
}

func plan(ctx context.Context, c *client.Client, filter string) (*replay, error) {
	if err := wire.ValidFilter(filter); err != nil {
		return nil, err
	}
	streams, err := c.Streams(ctx)
	if err != nil {
		return nil, err
	}
	p := &replay{next: map[partition]uint64{}, end: map[partition]uint64{}, all: true}
	for _, st := range streams {
		if st.Deleted || !slices.ContainsFunc(st.Subjects, func(s string) bool { return wire.Overlap(s, filter) }) {
			continue
		}
		whole := filter == ">" || slices.Equal(st.Subjects, []string{filter})
		p.all = p.all && whole
		for _, part := range st.Partitions {
			if part.Leader == 0 {
				return nil, fmt.Errorf("stream %s, partition %d is not served at present: try again", st.Name, part.Number)
			}
			end := part.HighWatermark
			if !whole {
				if end, err = selectedEnd(ctx, c, st.Name, part, filter); err != nil {
					return nil, err
				}
			}
			if key := (partition{st.ID, part.Number}); end > part.LogStart {
				p.next[key], p.end[key] = part.LogStart, end
				p.left++
			}
		}
	}
	if p.left == 0 {
		return nil, fmt.Errorf("no records are stored under %s: publish some first, with tidewire bench pub", filter)
	}
	return p, nil
}

// selectedEnd gives the offset behind the last record of a partition that the filter selects, or the log start if it selects none.
// It looks from the end backwards, further each time.
func selectedEnd(ctx context.Context, c *client.Client, stream string, part client.Partition, filter string) (uint64, error) {
	stretch := uint64(1) // mostly the last record is one
	for end := part.HighWatermark; end > part.LogStart; stretch *= 16 {
		begin := max(part.LogStart, end-min(stretch, end))
		last := uint64(0)
		for next := begin; next < end; {
			got, err := c.Fetch(ctx, stream, part.Number, client.FromOffset(next))
			if err != nil {
				return 0, err
			}
			for i := range got.Records {
				if r := &got.Records[i]; r.Offset < end && wire.Match(filter, r.Subject) {
					last = r.Offset + 1
				}
			}
			if got.Next <= next {
				break
			}
			next = got.Next
		}
		if last > 0 {
			return last, nil
		}
		end = begin
	}
	return part.LogStart, nil
}

// read counts records until every partition has reached its end.
func (p *replay) read(ctx context.Context, sub *client.Subscription, cfg *ReplayConfig, r *Result, opened time.Time) error {
	var (
		began   time.Time // when measuring began
		seen    uint64
		at      partition
		expect  uint64
		end     uint64
		pending uint64 // records not yet counted in Progress
	)
	if cfg.Warmup == 0 {
		began = opened
	}
	for rec, err := range sub.All(ctx) {
		if err != nil {
			if !began.IsZero() {
				r.Took = time.Since(began)
			}
			return err
		}
		if key := (partition{rec.StreamID(), rec.Partition}); key != at || seen == 0 {
			if seen > 0 {
				p.next[at] = expect
			}
			at, expect, end = key, p.next[key], p.end[key]
		}
		if rec.Offset != expect {
			if rec.Offset < expect || p.all {
				return fmt.Errorf("stream %s partition %d: offset %d came where %d belongs", rec.Stream, rec.Partition, rec.Offset, expect)
			}
			r.Gaps += rec.Offset - expect
		}
		if !p.all && !wire.Match(cfg.Filter, rec.Subject) {
			return fmt.Errorf("stream %s partition %d: offset %d has the subject %s, which %s does not select", rec.Stream, rec.Partition, rec.Offset, rec.Subject, cfg.Filter)
		}
		expect = rec.Offset + 1
		seen++
		if pending++; pending == 1024 {
			cfg.Progress.Add(pending)
			pending = 0
		}
		if !began.IsZero() {
			r.Records++
			r.Bytes += uint64(len(rec.Value))
		} else if time.Since(opened) >= cfg.Warmup {
			began = time.Now() // the clock starts with this record, so it is not counted
		}
		if expect == end {
			p.left--
		}
		if p.left == 0 || seen == cfg.Records {
			break
		}
	}
	cfg.Progress.Add(pending)
	r.Took = time.Since(began)
	return context.Cause(ctx)
}
