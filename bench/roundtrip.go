package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	client "github.com/tidewire/tidewire/client/go"
)

// RoundTripConfig is a workload that publishes at a fixed rate on one connection and receives on
// another. A zero field means its default.
type RoundTripConfig struct {
	Server   string
	Subject  string        // default "bench-rtt"; a stream is made if none captures it
	Size     int           // bytes of a value. Default 128, at least 16
	Rate     float64       // records a second. Default 1000
	Duration time.Duration // to measure for. Default 10 s
	Warmup   time.Duration // before that. Default 1 s; negative: none
	Timeout  time.Duration // without an answer: of the node when it is dialled, then of every record; 0: none

	Options  []client.Option
	Progress *atomic.Uint64

	// Open finds the way through another broker, where Subject is ready; ctx bounds all that is done on it.
	Open func(ctx context.Context) (*Route, error)
}

// Route is a way through a broker.
type Route struct {
	Out    Publisher
	Values iter.Seq2[[]byte, error] // of the records published from now on, each good until the next
	Close  func()                   // ends both

	stream     string
	partitions int
}

const roundTripBytes = 16 // of a value: which run, and which record of it

func (c RoundTripConfig) withDefaults() RoundTripConfig {
	if c.Subject == "" {
		c.Subject = "bench-rtt"
	}
	if c.Size == 0 {
		c.Size = 128
	}
	if c.Rate == 0 {
		c.Rate = 1000
	}
	if c.Duration == 0 {
		c.Duration = 10 * time.Second
	}
	c.Warmup = warmup(c.Warmup)
	if c.Progress == nil {
		c.Progress = new(atomic.Uint64)
	}
	return c
}

// RoundTrip runs the workload: latency is from the time a record was meant to be sent until the
// consumer has it, decoded; the record is durable by then.
func RoundTrip(ctx context.Context, cfg RoundTripConfig) (*Result, error) {
	cfg = cfg.withDefaults()
	switch {
	case cfg.Size < roundTripBytes || cfg.Size > 1<<20:
		return nil, fmt.Errorf("size %d is not %d to 1,048,576 bytes", cfg.Size, roundTripBytes)
	case cfg.Rate < 0 || cfg.Rate > 1e6:
		return nil, fmt.Errorf("rate %v is not 1 to 1,000,000 a second", cfg.Rate)
	case cfg.Duration < 0:
		return nil, fmt.Errorf("duration %v is below 0", cfg.Duration)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	open := cfg.Open
	if open == nil {
		open = cfg.Tidewire
	}
	way, err := open(ctx)
	if err != nil {
		return nil, err
	}
	defer way.Close()
	began := clock{time.Now()}
	t := &trip{cfg: &cfg, clock: began, run: uint64(began.began.UnixNano()), pacer: newPacer(cfg.Rate, 0, 1)}
	t.total = uint64((cfg.Warmup + cfg.Duration).Seconds() * cfg.Rate)
	t.warm = uint64(cfg.Warmup.Seconds() * cfg.Rate)
	if t.total <= t.warm {
		return nil, errors.New("nothing to measure: the duration is too short for this rate")
	}
	before := cfg.Progress.Load()
	stopWatching := Watch(cfg.Timeout, func() (handed, answered uint64) { return t.handed.Load(), cfg.Progress.Load() - before }, noAnswer(cancel, cfg.Timeout))
	defer stopWatching()
	sent := make(chan error, 1)
	go func() {
		var err error
		pinned(func() { err = t.send(ctx, way.Out, cancel) })
		sent <- err
	}()
	r, err := t.receive(ctx, way.Values)
	if err != nil {
		cancel(err)
	}
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	if err != nil && (r == nil || r.Records == 0) {
		return nil, err
	}
	r.Stream, r.Partitions = way.stream, way.partitions
	return r, err
}

// Tidewire publishes on one connection to a Tidewire node and subscribes on another.
func (c *RoundTripConfig) Tidewire(ctx context.Context) (_ *Route, err error) {
	options := append([]client.Option{client.WithName("tidewire bench rtt")}, c.Options...)
	var closers []func() error
	closeAll := func() {
		for _, f := range slices.Backward(closers) {
			_ = f()
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	dialing, stop := within(ctx, c.Timeout)
	defer stop()
	var ends [2]*client.Client
	for i := range ends {
		if ends[i], err = client.Connect(dialing, c.Server, options...); err != nil {
			return nil, err
		}
		closers = append(closers, ends[i].Close)
	}
	st, err := stream(dialing, ends[0], c.Subject, 0)
	if err != nil {
		return nil, err
	}
	sub, err := ends[1].Subscribe(dialing, c.Subject, client.FromNext())
	if err != nil {
		return nil, err
	}
	closers = append(closers, sub.Close)
	values := func(yield func([]byte, error) bool) {
		for rec, err := range sub.All(ctx) {
			if !yield(rec.Value, err) {
				return
			}
		}
	}
	return &Route{Out: ends[0], Values: values, Close: closeAll, stream: st.Name, partitions: len(st.Partitions)}, nil
}

// trip is a run of RoundTrip.
type trip struct {
	cfg         *RoundTripConfig
	clock       clock
	pacer       pacer
	run         uint64 // tells our records from those of another run
	total, warm uint64 // records to send, and how many of them are warm-up
	handed      atomic.Uint64

	// Written by the callback goroutine of the publishing client.
	quorum, voters atomic.Int64
}

func (t *trip) send(ctx context.Context, c Publisher, cancel context.CancelCauseFunc) error {
	v := newValues(t.cfg.Size, t.run, false)
	acked := func(ack client.Ack, err error) {
		if err != nil {
			cancel(err)
			return
		}
		if q := t.quorum.Load(); q == 0 || int64(ack.Quorum) < q {
			t.quorum.Store(int64(ack.Quorum))
			t.voters.Store(int64(ack.Voters))
		}
	}
	for i := range t.total {
		t.clock.until(ctx, t.pacer.due(i))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := v.next()
		binary.LittleEndian.PutUint64(b, t.run)
		binary.LittleEndian.PutUint64(b[8:], i)
		t.handed.Store(i + 1)
		if err := c.PublishAsync(ctx, client.Message{Subject: t.cfg.Subject, Value: b}, acked); err != nil {
			cancel(err)
			return err
		}
	}
	return c.Flush(ctx)
}

func (t *trip) receive(ctx context.Context, values iter.Seq2[[]byte, error]) (*Result, error) {
	h := NewHistogram()
	expect := uint64(0)
	for b, err := range values {
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			if !errors.Is(err, context.Canceled) || expect <= t.warm {
				return nil, err
			}
			return t.result(h, expect-t.warm), err // interrupted
		}
		now := t.clock.now()
		if len(b) < roundTripBytes || binary.LittleEndian.Uint64(b) != t.run {
			continue // somebody else publishes here too
		}
		i := binary.LittleEndian.Uint64(b[8:])
		if i != expect {
			return nil, fmt.Errorf("record %d of the run came where %d belongs", i, expect)
		}
		expect++
		t.cfg.Progress.Add(1)
		if i >= t.warm {
			h.Record(time.Duration(now - t.pacer.due(i)))
		}
		if expect == t.total {
			break
		}
	}
	return t.result(h, t.total-t.warm), nil
}

// result is what n measured records came to.
func (t *trip) result(h *Histogram, n uint64) *Result {
	return &Result{Workload: "rtt", Subject: t.cfg.Subject, Connections: 2, Batch: 65535, Size: t.cfg.Size, Rate: t.cfg.Rate,
		Records: n, Bytes: n * uint64(t.cfg.Size), Took: time.Duration(t.clock.now() - t.pacer.due(t.warm)), Latency: h.Latency(),
		From:   "the time a record was meant to be sent to its delivery",
		Quorum: int(t.quorum.Load()), Voters: int(t.voters.Load())}
}
