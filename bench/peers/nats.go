package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/tidewire/tidewire/bench"
	client "github.com/tidewire/tidewire/client/go"
)

// jetStream is a nats-server with one stream in its file store.
type jetStream struct {
	name string
	sync string // sync_interval of its configuration; "" leaves the default, two minutes
}

func (j *jetStream) Name() string { return j.name }

func (j *jetStream) Fsync() string {
	if j.sync == "always" {
		return "every message"
	}
	return "every 2 minutes"
}

func (j *jetStream) Command(dir, address string) (*exec.Cmd, error) {
	server, err := tool("nats-server")
	if err != nil {
		return nil, err
	}
	host, port, err := splitAddress(address)
	if err != nil {
		return nil, err
	}
	sync := ""
	if j.sync != "" {
		sync = "sync_interval: " + j.sync
	}
	config := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("host: %q\nport: %d\njetstream { store_dir: %q, max_file: 200GB, max_mem: 1GB, %s }\n", host, port, filepath.Join(dir, "js"), sync)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(server, "-c", config)
	cmd.Env = append(os.Environ(), "GOGC=400") // as a Tidewire node sets it itself
	return cmd, nil
}

func (j *jetStream) dial(address string) (*nats.Conn, error) {
	return nats.Connect("nats://"+address, nats.Timeout(5*time.Second), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
}

func (j *jetStream) Ready(ctx context.Context, address string) error {
	nc, err := j.dial(address)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	_, err = js.AccountInfo(ctx)
	return err
}

func (j *jetStream) Prepare(ctx context.Context, address string, spec Spec) error {
	nc, err := j.dial(address)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	config := jetstream.StreamConfig{Storage: jetstream.FileStorage, AllowBatchPublish: true, AllowAtomicPublish: true, MaxBytes: -1}
	for i := range spec.Streams - 1 {
		config.Name, config.Subjects = idleStream(i), []string{idleStream(i)}
		if _, err := js.CreateStream(ctx, config); err != nil {
			return err
		}
	}
	config.Name, config.Subjects = subject, []string{spec.captured()}
	if spec.MaxBytes > 0 {
		config.MaxBytes = int64(spec.MaxBytes)
	}
	_, err = js.CreateStream(ctx, config)
	return err
}

// Publisher picks the client: "raw" has its own reply inbox on the core protocol and counts the answers, which costs least;
// "async" is the library's own window of futures; "fast" is its batch of acknowledgements by flow; "atomic" its batches that are stored
// whole or not at all, and synced at once.
func (j *jetStream) Publisher(_ context.Context, address string, spec Spec) (bench.Publisher, error) {
	nc, err := j.dial(address)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(spec.InFlight))
	if err != nil {
		return nil, err
	}
	switch spec.Client {
	case "raw":
		return newNATSRaw(nc, spec.InFlight)
	case "async":
		return newNATSAsync(nc, js, spec.InFlight), nil
	case "fast":
		flow, acks := fastFlow(spec.Batch, spec.InFlight, spec.Connections)
		return &natsFast{nc: nc, js: js, flow: flow, acks: acks}, nil
	case "atomic":
		return &natsAtomic{nc: nc, js: js, size: min(spec.Batch, spec.InFlight)}, nil
	}
	return nil, fmt.Errorf("JetStream has no client %q", spec.Client)
}

// serverFlow is after how many messages the server acknowledges at most, of all the batches of a stream that are open.
const serverFlow = 500

// fastFlow says after how many messages there is an acknowledgement, and how many of these may be outstanding: as much as the sender may
// have in flight, but less than all of that, as it is told of acknowledgements only when it calls. The library has two outstanding at least.
func fastFlow(batch, inFlight, connections int) (flow, acks int) {
	flow = max(1, min(batch, (inFlight-1)/2, serverFlow/max(1, connections)))
	return flow, (inFlight - 1) / flow
}

// natsRaw gives each call in flight a reply subject of its own.
type natsRaw struct {
	nc    *nats.Conn
	slots []natsSlot
	free  chan int
	reply int // length of the inbox's name before the number
}

type natsSlot struct {
	reply string
	done  func(client.Ack, error)
}

func newNATSRaw(nc *nats.Conn, n int) (*natsRaw, error) {
	inbox := nats.NewInbox() + "."
	p := &natsRaw{nc: nc, slots: make([]natsSlot, n), free: make(chan int, n), reply: len(inbox)}
	for i := range p.slots {
		p.slots[i].reply = inbox + strconv.Itoa(i)
		p.free <- i
	}
	sub, err := nc.Subscribe(inbox+"*", p.acked)
	if err != nil {
		return nil, err
	}
	return p, sub.SetPendingLimits(-1, -1)
}

// ackError is what an answer to a publish says went wrong.
func ackError(m *nats.Msg) error {
	if status := m.Header.Get("Status"); status != "" {
		return errors.New("JetStream answers " + status)
	}
	if !bytes.HasPrefix(m.Data, []byte(`{"stream":`)) {
		return fmt.Errorf("JetStream answers %q", m.Data)
	}
	return nil
}

func (p *natsRaw) acked(m *nats.Msg) {
	i, err := strconv.Atoi(m.Subject[p.reply:])
	if err != nil {
		return // not ours
	}
	done := p.slots[i].done
	p.free <- i
	done(client.Ack{}, ackError(m))
}

func (p *natsRaw) PublishAsync(ctx context.Context, m client.Message, done func(client.Ack, error)) error {
	select {
	case i := <-p.free:
		p.slots[i].done = done
		return p.nc.PublishRequest(m.Subject, p.slots[i].reply, m.Value)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *natsRaw) Publish(ctx context.Context, m client.Message) (client.Ack, error) {
	answered := make(chan error, 1)
	if err := p.PublishAsync(ctx, m, func(_ client.Ack, err error) { answered <- err }); err != nil {
		return client.Ack{}, err
	}
	select {
	case err := <-answered:
		return client.Ack{}, err
	case <-ctx.Done():
		return client.Ack{}, ctx.Err()
	}
}

// Flush waits until every slot is back.
func (p *natsRaw) Flush(ctx context.Context) error {
	for range p.slots {
		select {
		case <-p.free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for i := range p.slots {
		p.free <- i
	}
	return nil
}

func (p *natsRaw) Close() error { p.nc.Close(); return nil }

// natsAsync waits for the library's futures in the order they were made.
type natsAsync struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	pending chan natsFuture
	waiting sync.WaitGroup
}

type natsFuture struct {
	jetstream.PubAckFuture
	done func(client.Ack, error)
}

func newNATSAsync(nc *nats.Conn, js jetstream.JetStream, n int) *natsAsync {
	p := &natsAsync{nc: nc, js: js, pending: make(chan natsFuture, n)}
	go func() {
		for f := range p.pending {
			select {
			case <-f.Ok():
				f.done(client.Ack{}, nil)
			case err := <-f.Err():
				f.done(client.Ack{}, err)
			}
			p.waiting.Done()
		}
	}()
	return p
}

func (p *natsAsync) PublishAsync(_ context.Context, m client.Message, done func(client.Ack, error)) error {
	f, err := p.js.PublishAsync(m.Subject, m.Value)
	if err != nil {
		return err
	}
	p.waiting.Add(1)
	p.pending <- natsFuture{f, done}
	return nil
}

func (p *natsAsync) Publish(ctx context.Context, m client.Message) (client.Ack, error) {
	ack, err := p.js.Publish(ctx, m.Subject, m.Value)
	if err != nil {
		return client.Ack{}, err
	}
	return client.Ack{Offset: ack.Sequence - 1}, nil
}

func (p *natsAsync) Flush(context.Context) error { p.waiting.Wait(); return nil }

func (p *natsAsync) Close() error {
	close(p.pending)
	p.nc.Close()
	return nil
}

// natsFast publishes in batches that are acknowledged by their flow. Only the sender's goroutine calls it, and is told of
// acknowledgements when it calls.
type natsFast struct {
	nc         *nats.Conn
	js         jetstream.JetStream
	flow, acks int // fastFlow

	batch   jetstreamext.FastPublisher // nil between batches
	waiting []func(client.Ack, error)
	first   uint64 // sequence in the batch of the first that waits
}

func (p *natsFast) PublishAsync(_ context.Context, m client.Message, done func(client.Ack, error)) (err error) {
	if p.batch == nil {
		p.first = 1
		if p.batch, err = jetstreamext.NewFastPublisher(p.js, jetstreamext.FastPublishFlowControl{
			Flow: uint16(p.flow), MaxOutstandingAcks: uint16(p.acks), AckTimeout: 30 * time.Second}); err != nil {
			return err
		}
	}
	p.waiting = append(p.waiting, done)
	ack, err := p.batch.Add(m.Subject, m.Value)
	if err != nil {
		return err
	}
	p.tell(ack.AckSequence)
	return nil
}

// tell answers what is acknowledged up to a sequence of the batch.
func (p *natsFast) tell(upTo uint64) {
	n := 0
	for ; p.first <= upTo && n < len(p.waiting); p.first++ {
		p.waiting[n](client.Ack{}, nil)
		n++
	}
	p.waiting = p.waiting[:copy(p.waiting, p.waiting[n:])]
}

func (p *natsFast) Publish(context.Context, client.Message) (client.Ack, error) {
	return client.Ack{}, errors.New("the fast publisher has no call that waits")
}

func (p *natsFast) Flush(ctx context.Context) error {
	if p.batch == nil {
		return nil
	}
	ack, err := p.batch.Close(ctx)
	if err != nil {
		return err
	}
	p.batch = nil
	p.tell(ack.BatchSize)
	if len(p.waiting) > 0 {
		return fmt.Errorf("the batch was closed with %d messages, and %d of ours are missing", ack.BatchSize, len(p.waiting))
	}
	return nil
}

func (p *natsFast) Close() error { p.nc.Close(); return nil }

// natsAtomic publishes in batches that are committed, several at a time. Only the sender's goroutine calls it.
type natsAtomic struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	size int

	batch   jetstreamext.BatchPublisher // nil between batches
	last    client.Message              // of the batch, which is committed with it
	waiting []func(client.Ack, error)   // for the batch
	flying  sync.WaitGroup
	telling sync.Mutex // one batch after the other is told
}

func (p *natsAtomic) PublishAsync(_ context.Context, m client.Message, done func(client.Ack, error)) (err error) {
	if p.batch == nil {
		if p.batch, err = jetstreamext.NewBatchPublisher(p.js, jetstreamext.BatchFlowControl{}); err != nil {
			return err
		}
	} else if err := p.batch.Add(p.last.Subject, p.last.Value); err != nil {
		return err
	}
	p.last.Subject, p.last.Value = m.Subject, append(p.last.Value[:0], m.Value...)
	if p.waiting = append(p.waiting, done); len(p.waiting) == p.size {
		p.commit()
	}
	return nil
}

// commit ends the batch, and tells when it is stored.
func (p *natsAtomic) commit() {
	if p.batch == nil {
		return
	}
	batch, last, waiting := p.batch, p.last, p.waiting
	p.batch, p.last, p.waiting = nil, client.Message{}, nil
	p.flying.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err := batch.Commit(ctx, last.Subject, last.Value)
		p.telling.Lock()
		defer p.telling.Unlock()
		for _, done := range waiting {
			done(client.Ack{}, err)
		}
	})
}

func (p *natsAtomic) Publish(context.Context, client.Message) (client.Ack, error) {
	return client.Ack{}, errors.New("the atomic publisher has no call that waits")
}

func (p *natsAtomic) Flush(context.Context) error {
	p.commit()
	p.flying.Wait()
	return nil
}

func (p *natsAtomic) Close() error { p.nc.Close(); return nil }

// Replay reads the stream from its first message: "ordered" has its messages in a callback, "fetch" asks for batches.
func (j *jetStream) Replay(ctx context.Context, address string, spec Spec) (*bench.Result, error) {
	nc, err := j.dial(address)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	r := &bench.Result{Workload: "sub", Subject: subject, Partitions: 1, Connections: 1}
	began := time.Now()
	filter, other := spec.filter(), ""
	count := func(m jetstream.Msg) {
		if m.Subject() != filter {
			other = m.Subject()
		}
		r.Records++
		r.Bytes += uint64(len(m.Data()))
	}
	switch spec.Client {
	case "ordered":
		err = j.replayOrdered(ctx, js, spec, count)
	case "fetch":
		err = j.replayFetch(ctx, js, spec, count)
	default:
		err = fmt.Errorf("JetStream has no consumer %q", spec.Client)
	}
	r.Took = time.Since(began)
	if err == nil && other != "" {
		err = fmt.Errorf("JetStream gave a message of %s to a consumer of %s", other, filter)
	}
	return r, err
}

func (j *jetStream) replayOrdered(ctx context.Context, js jetstream.JetStream, spec Spec, count func(jetstream.Msg)) error {
	c, err := js.OrderedConsumer(ctx, subject, jetstream.OrderedConsumerConfig{FilterSubjects: []string{spec.filter()}})
	if err != nil {
		return err
	}
	all, seen := make(chan struct{}), uint64(0)
	running, err := c.Consume(func(m jetstream.Msg) {
		count(m)
		if seen++; seen == spec.selected() {
			close(all)
		}
	}, jetstream.PullMaxMessages(10_000))
	if err != nil {
		return err
	}
	defer running.Stop()
	select {
	case <-all:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *jetStream) replayFetch(ctx context.Context, js jetstream.JetStream, spec Spec, count func(jetstream.Msg)) error {
	c, err := js.CreateConsumer(ctx, subject, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		return err
	}
	for seen := uint64(0); seen < spec.Records; {
		batch, err := c.Fetch(5000)
		if err != nil {
			return err
		}
		for m := range batch.Messages() {
			count(m)
			seen++
		}
		if err := batch.Error(); err != nil {
			return err
		}
	}
	return nil
}

func (j *jetStream) Read(ctx context.Context, address string, spec Spec, each func(bytes int)) error {
	nc, err := j.dial(address)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	c, err := js.OrderedConsumer(ctx, subject, jetstream.OrderedConsumerConfig{FilterSubjects: []string{spec.captured()}})
	if err != nil {
		return err
	}
	running, err := c.Consume(func(m jetstream.Msg) { each(len(m.Data())) }, jetstream.PullMaxMessages(10_000))
	if err != nil {
		return err
	}
	defer running.Stop()
	<-ctx.Done()
	return ctx.Err()
}

func (j *jetStream) Route(ctx context.Context, address string, spec Spec) (*bench.Route, error) {
	out, err := j.dial(address)
	if err != nil {
		return nil, err
	}
	raw, err := newNATSRaw(out, 1024)
	if err != nil {
		return nil, err
	}
	in, err := j.dial(address)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(in)
	if err != nil {
		return nil, err
	}
	c, err := js.OrderedConsumer(ctx, subject, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
	if err != nil {
		return nil, err
	}
	messages, err := c.Messages()
	if err != nil {
		return nil, err
	}
	return &bench.Route{Out: raw, Values: values(ctx, messages), Close: func() {
		messages.Stop()
		in.Close()
		out.Close()
	}}, nil
}

// values gives the messages that come until ctx ends.
func values(ctx context.Context, messages jetstream.MessagesContext) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for {
			m, err := messages.Next(jetstream.NextContext(ctx))
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(m.Data(), nil) {
				return
			}
		}
	}
}
