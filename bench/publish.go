package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	client "github.com/tidewire/tidewire/client/go"
)

// Publisher takes records on one connection to a broker: a client.Client, or in bench/peers what does the same for another
// broker. Its callbacks run one at a time.
type Publisher interface {
	Publish(context.Context, client.Message) (client.Ack, error)
	PublishAsync(context.Context, client.Message, func(client.Ack, error)) error
	Flush(context.Context) error
	Close() error
}

// PublishConfig is a publish workload. A zero field means its default.
type PublishConfig struct {
	Server      string        // of the node; required, unless Dial is given
	Subject     string        // default "bench"; a stream is made if none captures it
	Partitions  int           // of that stream; above 1, records carry keys that spread them. Default: as it is
	Connections int           // default 1; each sends from a goroutine of its own
	InFlight    int           // calls without an answer, a connection. Default 20,000; 1 waits for each ack
	Batch       int           // most records a batch. Default 500; 1: a record a frame
	Size        int           // bytes of a value. Default 128
	Subjects    int           // above 1: records take turns on so many subjects below Subject, <subject>.0 and so on
	Redundant   bool          // values compress to about a quarter; else not at all
	Records     uint64        // to measure, over all connections; 0: as many as Duration allows
	Duration    time.Duration // to measure for; 0 with no Records: 10 s
	Warmup      time.Duration // before that. Default 1 s; negative: none
	Rate        float64       // records a second over all connections; 0: flat out
	Timeout     time.Duration // without an answer: of a connection and its stream, then of every ack; 0: none

	Options  []client.Option // of every connection, after those the fields above make
	Progress *atomic.Uint64  // counts acknowledged records, warm-up included, if there is one

	// Dial connects to another broker, where Subject is ready to be published to.
	Dial func(context.Context) (Publisher, error)
}

func (c PublishConfig) withDefaults() PublishConfig {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Connections, 1)
	def(&c.InFlight, 20_000)
	def(&c.Batch, 500)
	def(&c.Size, 128)
	if c.Subject == "" {
		c.Subject = "bench"
	}
	if c.Records == 0 && c.Duration == 0 {
		c.Duration = 10 * time.Second
	}
	c.Warmup = warmup(c.Warmup)
	if c.Progress == nil {
		c.Progress = new(atomic.Uint64)
	}
	return c
}

// Validate reports every bad field at once.
func (c PublishConfig) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Connections >= 0 && c.Connections <= 10000, "connections %d is not 1 to 10,000", c.Connections)
	check(c.InFlight >= 0 && c.InFlight <= 1<<20, "in flight %d is not 1 to 1,048,576", c.InFlight)
	check(c.Batch >= 0 && c.Batch <= 65535, "batch %d is not 1 to 65,535 records", c.Batch)
	check(c.Size >= 0 && c.Size <= 1<<20, "size %d is not 1 to 1,048,576 bytes", c.Size)
	check(c.Subjects >= 0 && c.Subjects <= 1<<20, "subjects %d is not 1 to 1,048,576", c.Subjects)
	check(c.Partitions >= 0, "partitions %d is below 0", c.Partitions)
	check(c.Rate >= 0, "rate %v is below 0", c.Rate)
	check(c.Duration >= 0, "duration %v is below 0", c.Duration)
	return errors.Join(errs...)
}

// Publish runs the workload. An error of a single record ends it: there are none in a healthy run.
func Publish(ctx context.Context, cfg PublishConfig) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	parent := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	senders := make([]*sender, cfg.Connections)
	defer func() { closeAll(senders) }()
	name, partitions := "", max(1, cfg.Partitions)
	dial := cfg.Dial
	if dial == nil {
		options := append([]client.Option{client.WithName("tidewire bench pub"), client.WithMaxBatchRecords(cfg.Batch)}, cfg.Options...)
		dial = func(ctx context.Context) (Publisher, error) {
			c, err := client.Connect(ctx, cfg.Server, options...)
			if err != nil {
				return nil, err
			}
			if name == "" {
				var st client.Stream
				st, err = stream(ctx, c, cfg.Subject, cfg.Partitions)
				name, partitions = st.Name, len(st.Partitions)
			}
			return c, err
		}
	}
	for i := range senders {
		dialing, stop := within(ctx, cfg.Timeout)
		c, err := dial(dialing)
		stop()
		if c != nil {
			senders[i] = newSender(c, &cfg, i)
		}
		if err != nil {
			return nil, err
		}
	}
	began, before := clock{time.Now()}, cfg.Progress.Load()
	stopWatching := Watch(cfg.Timeout, func() (handed, answered uint64) {
		for _, s := range senders {
			handed += s.handed.Load()
		}
		return handed, cfg.Progress.Load() - before
	}, noAnswer(cancel, cfg.Timeout))
	defer stopWatching()
	var running sync.WaitGroup
	for _, s := range senders {
		s.clock, s.keys = began, keys(partitions)
		running.Go(func() {
			if err := s.run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	running.Wait()
	interrupted := parent.Err()
	if err := context.Cause(ctx); err != nil && interrupted == nil {
		return nil, err
	}
	if interrupted != nil {
		closeAll(senders) // no more acks come behind this
	}
	r := &Result{Workload: "pub", Subject: cfg.Subject, Stream: name, Partitions: partitions, Connections: cfg.Connections,
		InFlight: cfg.InFlight, Batch: cfg.Batch, Size: cfg.Size, Rate: cfg.Rate, From: "the call to its ack"}
	if cfg.Rate > 0 {
		r.From = "the time a record was meant to be sent to its ack"
	}
	collect(r, senders)
	if r.Records == 0 && interrupted != nil {
		return nil, interrupted
	}
	if r.Records == 0 {
		return nil, errors.New("nothing was measured: the run was over within its warm-up")
	}
	return r, interrupted
}

// closeAll closes those that there are, at once: each may wait for acks.
func closeAll(senders []*sender) {
	var closing sync.WaitGroup
	for _, s := range senders {
		if s != nil {
			closing.Go(func() { _ = s.c.Close() })
		}
	}
	closing.Wait()
}

func collect(r *Result, senders []*sender) {
	h := NewHistogram()
	first, last, acks := int64(-1), int64(0), uint64(0)
	for _, s := range senders {
		h.Add(s.histogram)
		last = max(last, s.last)
		acks += s.acks
		if s.measured == 0 {
			continue
		}
		r.Records += s.measured
		if first < 0 || s.first < first {
			first = s.first
		}
		if r.Voters == 0 || s.quorum < r.Quorum {
			r.Quorum, r.Voters = s.quorum, s.voters
		}
	}
	r.Took = time.Duration(last - first)
	if acks > 0 { // flat out, that is what the broker did meanwhile, whenever it was asked to
		cfg := senders[0].cfg
		r.Records, r.Took = acks, min(time.Duration(last)-cfg.Warmup, cfg.Duration)
	}
	r.Bytes = r.Records * uint64(r.Size)
	r.Latency = h.Latency()
}

// sender is one connection's part of the load.
type sender struct {
	c     Publisher
	cfg   *PublishConfig
	clock clock
	pacer pacer
	keys  [][]byte
	names []string // of the subjects
	quota uint64   // records to measure; 0: until the time is over
	share int      // which connection this is

	first  int64         // when the first measured record was handed over
	handed atomic.Uint64 // records, warm-up included

	// Written by who is told of acks: the client's callback goroutine, or the sender itself when it waits for each.
	histogram      *Histogram
	measured       uint64 // records
	last           int64  // when the last ack came, of the warm-up too
	acks           uint64 // while it was measured, flat out for a time
	quorum, voters int
	failed         chan error // buffered; the first failure
}

func newSender(c Publisher, cfg *PublishConfig, share int) *sender {
	s := &sender{c: c, cfg: cfg, share: share, pacer: newPacer(cfg.Rate, share, cfg.Connections),
		names: subjects(cfg.Subject, cfg.Subjects), histogram: NewHistogram(), failed: make(chan error, 1)}
	if n := uint64(cfg.Connections); cfg.Records > 0 {
		s.quota = cfg.Records / n
		if uint64(share) < cfg.Records%n {
			s.quota++
		}
	}
	return s
}

func (s *sender) run(ctx context.Context) (err error) {
	if s.cfg.Records > 0 && s.quota == 0 {
		return nil // fewer records than connections
	}
	send := s.async
	if s.cfg.InFlight == 1 {
		send = s.sync
	}
	if s.pacer.interval > 0 {
		pinned(func() { err = send(ctx) })
		return err
	}
	return send(ctx)
}

// next says when record i begins to count, whether it is measured, and whether the run is over before it.
func (s *sender) next(ctx context.Context, i, measured uint64) (began int64, measure, over bool) {
	if s.pacer.interval > 0 {
		began = s.pacer.due(i)
		s.clock.until(ctx, began)
	} else {
		began = s.clock.now()
	}
	measure = began >= int64(s.cfg.Warmup)
	over = s.quota > 0 && measured == s.quota || s.cfg.Duration > 0 && began >= int64(s.cfg.Warmup+s.cfg.Duration)
	return began, measure, over || ctx.Err() != nil
}

// sync waits for each ack before the next record.
func (s *sender) sync(ctx context.Context) error {
	v := newValues(s.cfg.Size, uint64(s.share), s.cfg.Redundant)
	for i := uint64(0); ; i++ {
		began, measure, over := s.next(ctx, i, s.measured)
		if over {
			return nil
		}
		s.handed.Store(i + 1)
		ack, err := s.c.Publish(ctx, client.Message{Subject: s.names[i%uint64(len(s.names))], Key: s.keys[i%uint64(len(s.keys))], Value: v.next()})
		if err != nil {
			return err
		}
		if measure && s.measured == 0 {
			s.first = began
		}
		s.acked(ack, began, measure)
	}
}

// async keeps InFlight calls without an answer.
func (s *sender) async(ctx context.Context) error {
	w := newWindow(s.cfg.InFlight)
	w.each(func(p *place) {
		p.done = func(ack client.Ack, err error) {
			if err != nil {
				select {
				case s.failed <- err:
				default:
				}
			} else {
				s.acked(ack, p.began, p.measured)
			}
			w.give(p)
		}
	})
	v := newValues(s.cfg.Size, uint64(s.share), s.cfg.Redundant)
	var m client.Message
	sent := uint64(0) // measured ones
	for i := uint64(0); len(s.failed) == 0; i++ {
		began, measure, over := s.next(ctx, i, sent)
		if over {
			break
		}
		if measure && sent == 0 && i > 0 && s.quota > 0 && s.pacer.interval == 0 { // what there is of the warm-up is not to hold it up
			if err := s.settle(ctx, w); err != nil {
				return err
			}
		}
		p := w.take(ctx)
		if p == nil {
			return nil
		}
		if s.pacer.interval == 0 {
			began = s.clock.now() // flat out, waiting for a place is not latency
		}
		if p.began, p.measured = began, measure; measure {
			if sent == 0 {
				s.first = began
			}
			sent++
		}
		m.Subject = s.names[i%uint64(len(s.names))]
		m.Key, m.Value = s.keys[i%uint64(len(s.keys))], v.next()
		s.handed.Store(i + 1)
		if err := s.c.PublishAsync(ctx, m, p.done); err != nil {
			return err
		}
	}
	if len(s.failed) == 0 {
		if err := s.settle(ctx, w); err != nil {
			return err
		}
	}
	select {
	case err := <-s.failed:
		return err
	default:
		return nil
	}
}

// settle waits until all that was handed over is answered, or ctx ends.
func (s *sender) settle(ctx context.Context, w *window) error {
	if err := s.c.Flush(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	w.drain(ctx)
	return nil
}

// acked is told of an ack, and whether its record is one of those that are measured.
func (s *sender) acked(ack client.Ack, began int64, measure bool) {
	s.cfg.Progress.Add(1)
	s.last = s.clock.now()
	if since := time.Duration(s.last) - s.cfg.Warmup; s.cfg.Records == 0 && s.cfg.Rate == 0 && since >= 0 && since < s.cfg.Duration {
		s.acks++
	}
	if !measure {
		return
	}
	s.histogram.Record(time.Duration(s.last - began))
	s.measured++
	if s.voters == 0 || ack.Quorum < s.quorum {
		s.quorum, s.voters = ack.Quorum, ack.Voters
	}
}
