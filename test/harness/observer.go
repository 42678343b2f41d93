package harness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/proto/wire"
)

// Observer is a subscription to all of a journal's stream, from its first record, that lives
// through every fault. What it is given must be, offset by offset, what the node holds in the end:
// nothing twice, nothing left out, and nothing that was not yet durable and is gone.
type Observer struct {
	journal *Journal
	client  *client.Client
	sub     *client.Subscription
	cancel  context.CancelFunc
	done    chan struct{}
	moved   chan struct{} // something new was seen, or it ended

	mu   sync.Mutex
	seen [][]identity // by partition and offset
	err  error        // what was wrong, or why it ended too early
}

// identity says which record of the journal stands at an offset.
type identity struct {
	producer uint32
	sequence uint64
}

// StartObserver subscribes. The stream must exist. It ends with the test.
func StartObserver(t testing.TB, j *Journal, address string, opts ...client.SubscribeOption) *Observer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	c, err := client.Connect(ctx, address, client.WithName("observer"), client.WithBackoff(5*time.Millisecond, 100*time.Millisecond))
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	o := &Observer{journal: j, client: c, done: make(chan struct{}), moved: make(chan struct{}, 1), seen: make([][]identity, j.Partitions)}
	t.Cleanup(o.Stop)
	if o.sub, err = c.Subscribe(ctx, j.Stream+".>", append([]client.SubscribeOption{client.FromFirst()}, opts...)...); err != nil {
		close(o.done)
		t.Fatalf("subscribe: %v", err)
	}
	run, stop := context.WithCancel(context.Background())
	o.cancel = stop
	go o.run(run)
	return o
}

func (o *Observer) run(ctx context.Context) {
	defer close(o.done)
	var buf []byte
	for rec, err := range o.sub.All(ctx) {
		if err == nil {
			err = o.record(&rec, &buf)
		}
		if err != nil {
			if ctx.Err() == nil {
				o.mu.Lock()
				o.err = err
				o.mu.Unlock()
			}
			break
		}
		o.signal()
	}
	o.signal()
}

func (o *Observer) signal() {
	select {
	case o.moved <- struct{}{}:
	default:
	}
}

func (o *Observer) record(rec *client.Record, buf *[]byte) error {
	where := fmt.Sprintf("partition %d, offset %d", rec.Partition, rec.Offset)
	if rec.Partition >= o.journal.Partitions {
		return fmt.Errorf("%s: no such partition", where)
	}
	o.mu.Lock()
	next := uint64(len(o.seen[rec.Partition]))
	o.mu.Unlock()
	if rec.Offset != next {
		return fmt.Errorf("%s: delivered where offset %d is next", where, next)
	}
	raw := wire.Record{Time: rec.Time().UnixMilli(), Subject: []byte(rec.Subject), Key: rec.Key, Value: rec.Value}
	w, sequence, err := o.journal.identify(&raw)
	if err != nil {
		return fmt.Errorf("%s: never published: %w", where, err)
	}
	want := w.message(sequence, buf)
	headers := want.Headers
	want.Headers = nil // compared below: raw has none
	if err := same(&raw, &want); err != nil {
		return fmt.Errorf("%s, record %d of producer %d: %w", where, sequence, w.number, err)
	}
	if rec.HeaderCount() != len(headers) {
		return fmt.Errorf("%s: %d headers, published with %d", where, rec.HeaderCount(), len(headers))
	}
	for _, h := range headers {
		if v, ok := rec.Header(h.Name); !ok || string(v) != string(h.Value) {
			return fmt.Errorf("%s: header %s is %q, published as %q", where, h.Name, v, h.Value)
		}
	}
	o.mu.Lock()
	o.seen[rec.Partition] = append(o.seen[rec.Partition], identity{w.number, sequence})
	o.mu.Unlock()
	return nil
}

// Seen is how many records were delivered, and what was wrong, if anything.
func (o *Observer) Seen() (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, p := range o.seen {
		n += len(p)
	}
	return n, o.err
}

// AwaitAll waits until the observer was given everything the node at address holds now, then
// compares the two, offset by offset.
func (o *Observer) AwaitAll(address string) (int, error) {
	r, err := DialReader(address)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	info, err := r.Stream(o.journal.Stream)
	if err != nil {
		return 0, err
	}
	want := 0
	for _, p := range info.Partitions {
		want += int(p.HighWatermark)
	}
	timeout := time.NewTimer(2 * readyTimeout)
	defer timeout.Stop()
	for {
		n, err := o.Seen()
		if err != nil {
			return n, fmt.Errorf("subscription: %w", err)
		}
		if n >= want {
			break
		}
		select {
		case <-o.moved:
		case <-o.done:
			_, err := o.Seen()
			return n, errors.Join(errors.New("the subscription ended"), err)
		case <-timeout.C:
			return n, fmt.Errorf("the subscription was given %d of %d records within %v", n, want, 2*readyTimeout)
		}
	}
	for number, p := range info.Partitions {
		o.mu.Lock()
		seen := o.seen[number]
		o.mu.Unlock()
		if uint64(len(seen)) < p.HighWatermark {
			return want, fmt.Errorf("partition %d: given %d records of %d, and more than there are of another", number, len(seen), p.HighWatermark)
		}
		err := r.Each(info.ID, uint32(number), 0, p.HighWatermark, func(offset uint64, rec *wire.Record) error {
			w, sequence, err := o.journal.identify(rec)
			if err == nil && (identity{w.number, sequence}) != seen[offset] {
				err = fmt.Errorf("partition %d, offset %d: the subscriber was given record %d of producer %d, the node holds %d of %d",
					number, offset, seen[offset].sequence, seen[offset].producer, sequence, w.number)
			}
			return err
		})
		if err != nil {
			return want, err
		}
	}
	return want, nil
}

// Stop ends the subscription and its client.
func (o *Observer) Stop() {
	if o.cancel != nil {
		o.cancel()
	}
	<-o.done
	_ = o.client.Close()
}
