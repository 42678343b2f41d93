package client

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// outcomes notes what callbacks are told.
type outcomes struct {
	mu   sync.Mutex
	said []string
}

func (o *outcomes) of(name string) func(Ack, error) {
	return func(a Ack, err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		var e *Error
		switch {
		case err == nil:
			o.said = append(o.said, fmt.Sprintf("%s@%d", name, a.Offset))
		case errors.As(err, &e):
			s := name + ":" + e.Code.String()
			if e.Code != wire.CodeUnknownOutcome && errors.Is(err, ErrUnknownOutcome) {
				s += "?"
			}
			o.said = append(o.said, s)
		default:
			o.said = append(o.said, name+":"+err.Error())
		}
	}
}

func (o *outcomes) want(t *testing.T, says ...string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if fmt.Sprint(o.said) != fmt.Sprint(says) {
		t.Fatalf("callbacks were told %v, want %v", o.said, says)
	}
}

// three publishes "1", "2", "3", each in a batch of its own, in flight, at sequences 1 to 3.
func three(t *testing.T, opts ...Option) (n *network, c *Client, p *peer, corr uint32, o *outcomes, batches [3]sent) {
	t.Helper()
	n, c, p, corr = publishing(t, append(opts, WithMaxBatchRecords(1))...)
	o = new(outcomes)
	for i := range 3 {
		v := fmt.Sprint(i + 1)
		if err := c.PublishAsync(t.Context(), message(v), o.of(v)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range batches {
		batches[i] = p.publish().want(t, uint64(i+1), fmt.Sprint(i+1))
	}
	return n, c, p, corr, o, batches
}

func flush(t *testing.T, c *Client) <-chan result[int] {
	return async(func() (int, error) { return 0, c.Flush(t.Context()) })
}

func flushed(t *testing.T, ch <-chan result[int]) {
	t.Helper()
	if r := wait(t, ch); r.err != nil {
		t.Fatal(r.err)
	}
}

// A connection lost with batches in flight: they are sent again with the same id and the same
// bytes, and an answer that covers what was stored the first time is as good as any.
func TestReconnectSendsAgain(t *testing.T) {
	n, c, p, corr, o, batches := three(t)
	p.ack(corr, 1, 1, 41)
	done := flush(t, c)
	p.hangUp()

	p = n.accept("a:1")
	corr, opened := p.open(3) // "2" was stored, its ACK lost
	if opened.Producer != 99 || opened.Epoch != 1 || !opened.Idempotent {
		t.Fatalf("OPEN %+v", opened)
	}
	for _, b := range batches[1:] {
		if again := p.publish(); again.bytes != b.bytes {
			t.Fatalf("sent again with other bytes: sequence %d, %v", again.first, again.values)
		}
	}
	p.ack(corr, 2, 1, 42)
	p.ack(corr, 3, 1, 43)
	flushed(t, done)
	o.want(t, "1@41", "2@42", "3@43")
}

// A connection lost in each state before a batch is in flight costs nothing but time.
func TestReconnectInEachState(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	r := async(func() (Ack, error) { return c.Publish(t.Context(), message("x")) })
	p.next(wire.OpMetadata)
	p.hangUp()
	p = n.accept("a:1")
	p.metadata(orders(1))
	p.next(wire.OpOpen)
	p.hangUp()
	p = n.accept("a:1")
	p.metadata(orders(1)) // where the partition is by now
	corr, _ := p.open(0)
	p.publish().want(t, 0, "x")
	p.ack(corr, 0, 1, 5)
	if got := wait(t, r); got.err != nil || got.value.Offset != 5 {
		t.Fatal(got)
	}
}

// Records published while there is no connection are sent when there is one.
func TestPublishWhileDisconnected(t *testing.T) {
	n := newNetwork(t, "a:1")
	states := make(chan State, 10)
	c := n.connect("a:1", WithStateFunc(func(s State, err error) {
		if (s == Disconnected) != (err != nil) {
			t.Errorf("%s with error %v", s, err)
		}
		states <- s
	}))
	if s := wait(t, states); s != Connected {
		t.Fatal(s)
	}
	p := n.accept("a:1")
	r := async(func() (Ack, error) { return c.Publish(t.Context(), message("x")) })
	p.metadata(orders(1))
	corr, _ := p.open(0)
	p.publish()
	p.ack(corr, 0, 1, 0)
	wait(t, r)
	n.setDown("a:1", true)
	p.hangUp()
	if s := wait(t, states); s != Disconnected {
		t.Fatal(s)
	}
	r = async(func() (Ack, error) { return c.Publish(t.Context(), message("y")) })
	n.setDown("a:1", false)
	p = n.accept("a:1")
	if s := wait(t, states); s != Reconnected {
		t.Fatal(s)
	}
	var f wire.Frame
	for f = wait(t, p.in); f.Op == wire.OpMetadata; f = wait(t, p.in) {
		p.send(topologyOf(orders(1)).AppendTo(nil, f.Corr, 0))
	}
	if f.Op != wire.OpOpen {
		t.Fatal(f.Op)
	}
	p.send((&wire.Opened{Producer: 99, Epoch: 1, NextSequence: 1}).AppendTo(nil, f.Corr))
	p.publish().want(t, 1, "y")
	p.ack(f.Corr, 1, 1, 1)
	if got := wait(t, r); got.err != nil {
		t.Fatal(got.err)
	}
	c.Close()
	if s := wait(t, states); s != Closed {
		t.Fatal(s)
	}
}

func TestRefusedBatch(t *testing.T) {
	_, c, p, corr, o, _ := three(t)
	done := flush(t, c)
	// The second is refused for good, the third because of it; the ACK of the first comes last.
	p.fail(corr, wire.Error{Code: wire.CodeSubjectMismatch, Bits: wire.ErrorOneBatch, Sequence: 2, Message: "no"})
	p.fail(corr, wire.Error{Code: wire.CodeSequenceGap, Bits: wire.ErrorOneBatch | wire.ErrorRetriable, Sequence: 3, Value: 2})
	p.ack(corr, 1, 1, 41)
	p.publish().want(t, 2, "3") // numbered anew
	p.ack(corr, 2, 1, 42)
	r := wait(t, done)
	var e *Error
	if !errors.As(r.err, &e) || e.Code != wire.CodeSubjectMismatch || !strings.Contains(r.err.Error(), "1 records") {
		t.Fatal(r.err)
	}
	o.want(t, "2:SUBJECT_MISMATCH", "1@41", "3@42")
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal("told twice:", err)
	}
	again := async(func() (Ack, error) { return c.Publish(t.Context(), message("4")) })
	p.publish().want(t, 3, "4")
	p.ack(corr, 3, 1, 43)
	if r := wait(t, again); r.err != nil {
		t.Fatal(r.err)
	}
}

func TestOverloaded(t *testing.T) {
	_, c, p, corr, o, batches := three(t)
	done := flush(t, c)
	p.fail(corr, wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorOneBatch | wire.ErrorRetriable, Sequence: 1, RetryAfter: 5 * time.Millisecond})
	start := time.Now()
	p.fail(corr, wire.Error{Code: wire.CodeSequenceGap, Bits: wire.ErrorOneBatch | wire.ErrorRetriable, Sequence: 2, Value: 1})
	p.fail(corr, wire.Error{Code: wire.CodeSequenceGap, Bits: wire.ErrorOneBatch | wire.ErrorRetriable, Sequence: 3, Value: 1})
	for _, b := range batches {
		if again := p.publish(); again.bytes != b.bytes {
			t.Fatal("other bytes")
		}
	}
	if waited := time.Since(start); waited < 5*time.Millisecond {
		t.Errorf("sent again after %v, asked for 5 ms", waited)
	}
	p.ack(corr, 1, 3, 41)
	flushed(t, done)
	o.want(t, "1@41", "2@42", "3@43")
}

func TestUnknownOutcomeIsSentAgain(t *testing.T) {
	_, c, p, corr, o, batches := three(t)
	done := flush(t, c)
	p.ack(corr, 1, 1, 41)
	for _, b := range batches[1:] {
		p.fail(corr, wire.Error{Code: wire.CodeUnknownOutcome, Bits: wire.ErrorOneBatch | wire.ErrorRetriable, Sequence: b.first})
	}
	for _, b := range batches[1:] {
		if again := p.publish(); again.bytes != b.bytes {
			t.Fatal("other bytes")
		}
	}
	p.ack(corr, 2, 2, 42)
	flushed(t, done)
	o.want(t, "1@41", "2@42", "3@43")
}

// Later batches may be acknowledged while the outcome of an earlier one is unknown: it keeps its
// sequence all the same, or it would be stored twice.
func TestUnknownOutcomeBeforeAcks(t *testing.T) {
	_, c, p, corr, o, batches := three(t)
	done := flush(t, c)
	p.fail(corr, wire.Error{Code: wire.CodeUnknownOutcome, Bits: wire.ErrorOneBatch | wire.ErrorRetriable, Sequence: 1})
	p.ack(corr, 2, 2, 42)
	if again := p.publish(); again.bytes != batches[0].bytes {
		t.Fatalf("other bytes: sequence %d", again.first)
	}
	p.ack(corr, 1, 1, 41)
	flushed(t, done)
	o.want(t, "2@42", "3@43", "1@41")
}

// Elsewhere: the partition's leader moved to node b while batches were in flight.
// A stream that was deleted and is back when the producer opens again has all that was refused meanwhile; one that is gone fails it.
func TestDeletedStreamComesBack(t *testing.T) {
	unknown := wire.Error{Code: wire.CodeUnknownStream, Message: "was deleted"}
	for name, back := range map[string]bool{"back": true, "gone": false} {
		t.Run(name, func(t *testing.T) {
			_, c, p, corr := publishing(t)
			r := async(func() (Ack, error) { return c.Publish(t.Context(), message("1")) })
			p.publish().want(t, 1, "1")
			one := unknown
			one.Bits, one.Sequence = wire.ErrorOneBatch, 1
			p.fail(corr, one)
			p.next(wire.OpClose)
			if !back {
				f := p.next(wire.OpOpen)
				gone := unknown
				gone.Bits = wire.ErrorEndsCorr
				p.fail(f.Corr, gone)
				if got := wait(t, r); !errors.Is(got.err, ErrUnknownStream) || errors.Is(got.err, ErrUnknownOutcome) {
					t.Fatal(got.err)
				}
				return
			}
			corr, _ = p.open(1)
			p.publish().want(t, 1, "1")
			p.ack(corr, 1, 1, 41)
			if got := wait(t, r); got.err != nil || got.value.Offset != 41 {
				t.Fatal(got)
			}
		})
	}
}

func TestNotLeader(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("producer=%t", whole), func(t *testing.T) {
			n, c, p, corr, o, batches := three(t)
			done := flush(t, c)
			notLeader := wire.Error{Code: wire.CodeNotLeader, Bits: wire.ErrorRetriable, Leader: "b:1"}
			if whole {
				notLeader.Bits |= wire.ErrorEndsCorr
				p.fail(corr, notLeader)
			} else {
				for _, b := range batches {
					notLeader.Bits |= wire.ErrorOneBatch
					notLeader.Sequence = b.first
					p.fail(corr, notLeader)
				}
				p.send(wire.AppendEmpty(nil, wire.OpOK, p.next(wire.OpClose).Corr))
			}
			b := n.accept("b:1")
			corr, opened := b.open(1)
			if opened.Producer != 99 {
				t.Fatalf("OPEN %+v", opened)
			}
			for _, sent := range batches {
				if again := b.publish(); again.bytes != sent.bytes {
					t.Fatal("other bytes")
				}
			}
			b.ack(corr, 1, 3, 41)
			flushed(t, done)
			o.want(t, "1@41", "2@42", "3@43")

			// The node that leads dies: node a says who leads now, which is a itself.
			r := async(func() (Ack, error) { return c.Publish(t.Context(), message("4")) })
			b.publish().want(t, 4, "4")
			n.setDown("b:1", true)
			b.hangUp()
			for f := wait(t, p.in); ; f = wait(t, p.in) {
				if f.Op == wire.OpMetadata {
					p.send(topologyOf(orders(1)).AppendTo(nil, f.Corr, 0))
					continue
				}
				p.send((&wire.Opened{Producer: 99, Epoch: 1, NextSequence: 4}).AppendTo(nil, f.Corr))
				p.publish().want(t, 4, "4")
				p.ack(f.Corr, 4, 1, 44)
				break
			}
			if got := wait(t, r); got.err != nil {
				t.Fatal(got.err)
			}
		})
	}
}

// METADATA names another leader from the start.
func TestLeaderElsewhere(t *testing.T) {
	n := newNetwork(t, "a:1", "b:1")
	c := n.connect("a:1")
	a := n.accept("a:1")
	r := async(func() (Ack, error) { return c.Publish(t.Context(), message("x")) })
	s := orders(1)
	s.Partitions[0].Leader = 2
	a.metadata(s)
	b := n.accept("b:1")
	corr, _ := b.open(0)
	b.publish()
	b.ack(corr, 0, 1, 9)
	if got := wait(t, r); got.err != nil || got.value.Offset != 9 {
		t.Fatal(got)
	}
}

func TestStaleMap(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	r := async(func() (Ack, error) { return c.Publish(t.Context(), message("x")) })
	p.metadata(orders(1))
	f := p.next(wire.OpOpen)
	p.fail(f.Corr, wire.Error{Code: wire.CodeStaleMap, Bits: wire.ErrorRetriable | wire.ErrorEndsCorr, Value: 2})
	grown := orders(2)
	grown.MapVersion = 2
	p.metadata(grown)
	corr, o := p.open(0)
	if o.MapVersion != 2 || o.Partition != 0 {
		t.Fatalf("OPEN %+v", o)
	}
	p.publish().want(t, 0, "x")
	p.ack(corr, 0, 1, 0)
	if got := wait(t, r); got.err != nil {
		t.Fatal(got.err)
	}
}

// The node forgot the producer over a lost connection: nobody knows what became of what was in
// flight, and its callbacks hear so. What was not sent yet goes on with a new id.
func TestProducerExpired(t *testing.T) {
	for _, how := range []string{"error", "sequence", "batch"} {
		t.Run(how, func(t *testing.T) {
			n, c, p, _, o, batches := three(t, WithMaxInFlightBatches(3))
			c.PublishAsync(t.Context(), message("4"), o.of("4"))
			done := flush(t, c)
			p.hangUp()
			p = n.accept("a:1")
			switch how {
			case "error":
				f := p.next(wire.OpOpen)
				p.fail(f.Corr, wire.Error{Code: wire.CodeProducerExpired, Bits: wire.ErrorEndsCorr})
				p.metadata(orders(1))
			case "sequence":
				p.open(0)
				p.next(wire.OpClose)
				p.metadata(orders(1))
			case "batch":
				corr, _ := p.open(1)
				for _, b := range batches {
					p.publish()
					p.fail(corr, wire.Error{Code: wire.CodeProducerExpired, Bits: wire.ErrorOneBatch, Sequence: b.first})
				}
				p.next(wire.OpClose)
			}
			corr, opened := p.open(0)
			if opened.Producer != 0 {
				t.Fatalf("OPEN %+v", opened)
			}
			p.publish().want(t, 0, "4")
			p.ack(corr, 0, 1, 44)
			if r := wait(t, done); !errors.Is(r.err, ErrProducerExpired) || !errors.Is(r.err, ErrUnknownOutcome) {
				t.Fatal(r.err)
			}
			o.want(t, "1:PRODUCER_EXPIRED?", "2:PRODUCER_EXPIRED?", "3:PRODUCER_EXPIRED?", "4@44")
		})
	}
}

// A batch that may be stored is refused for good when it is sent again: the next one must not take
// its sequence, or the node would answer it with the first one's offset.
func TestRefusedWhenSentAgain(t *testing.T) {
	n, c, p, _ := publishing(t, WithMaxBatchRecords(1), WithMaxInFlightBatches(1))
	o := new(outcomes)
	c.PublishAsync(t.Context(), message("1"), o.of("1"))
	c.PublishAsync(t.Context(), message("2"), o.of("2"))
	done := flush(t, c)
	p.publish().want(t, 1, "1")
	p.hangUp()
	p = n.accept("a:1")
	corr, _ := p.open(1)
	p.publish().want(t, 1, "1")
	p.fail(corr, wire.Error{Code: wire.CodeDenied, Bits: wire.ErrorOneBatch, Sequence: 1})
	p.next(wire.OpClose)
	corr, opened := p.open(0)
	if opened.Producer != 0 {
		t.Fatalf("OPEN %+v", opened)
	}
	p.publish().want(t, 0, "2")
	p.ack(corr, 0, 1, 44)
	if r := wait(t, done); !errors.Is(r.err, ErrDenied) || !errors.Is(r.err, ErrUnknownOutcome) {
		t.Fatal(r.err)
	}
	o.want(t, "1:DENIED?", "2@44")
}

func TestWithoutIdempotence(t *testing.T) {
	n, c, p, _, o, _ := three(t, WithoutIdempotence())
	done := flush(t, c)
	p.hangUp()
	if r := wait(t, done); !errors.Is(r.err, ErrUnknownOutcome) {
		t.Fatal(r.err)
	}
	o.want(t, "1:UNKNOWN_OUTCOME", "2:UNKNOWN_OUTCOME", "3:UNKNOWN_OUTCOME")
	r := async(func() (Ack, error) { return c.Publish(t.Context(), message("4")) })
	p = n.accept("a:1")
	corr, opened := p.open(0)
	if opened.Idempotent || opened.Producer != 0 {
		t.Fatalf("OPEN %+v", opened)
	}
	s := p.publish()
	p.ack(corr, s.first, 1, 44)
	if got := wait(t, r); got.err != nil {
		t.Fatal(got.err)
	}
}

// Of a stream that is forgotten meanwhile no route is left that would be followed for ever.
func TestForgottenWhileAsked(t *testing.T) {
	c := newNetwork(t, "a:1").connect("a:1")
	c.topology.learn(topologyOf(orders(1)))
	c.topology.forget(7)
	if r := c.topology.add("orders.new", 7); r != nil {
		t.Errorf("a route to a stream that is gone: %+v", r)
	}
	if r := c.topology.known("orders.new"); r != nil {
		t.Errorf("known: %+v", r)
	}
}

// The stream is deleted and another one captures the subject.
func TestStreamReplaced(t *testing.T) {
	_, c, p, corr := publishing(t)
	r := async(func() (Ack, error) { return c.Publish(t.Context(), message("x")) })
	p.publish()
	p.fail(corr, wire.Error{Code: wire.CodeUnknownStream, Bits: wire.ErrorEndsCorr, Message: "deleted"})
	if got := wait(t, r); !errors.Is(got.err, ErrUnknownStream) {
		t.Fatal(got.err)
	}
	r = async(func() (Ack, error) { return c.Publish(t.Context(), message("y")) })
	s := orders(1)
	s.ID = 8
	p.metadata(s)
	corr, o := p.open(0)
	if o.Stream != 8 {
		t.Fatalf("OPEN %+v", o)
	}
	p.publish().want(t, 0, "y")
	p.ack(corr, 0, 1, 0)
	if got := wait(t, r); got.err != nil {
		t.Fatal(got.err)
	}
}

// A deleted stream leaves nothing behind here, nor in the node.
func TestDeletedStreamIsLetGo(t *testing.T) {
	_, c, p, corr := publishing(t)
	deleted := async(func() (int, error) { return 0, c.DeleteStream(t.Context(), "orders", true) })
	p.send(wire.AppendEmpty(nil, wire.OpOK, p.next(wire.OpDelete).Corr))
	if got := wait(t, deleted); got.err != nil {
		t.Fatal(got.err)
	}
	if f := p.next(wire.OpClose); f.Corr != corr {
		t.Errorf("CLOSE on %d, want %d", f.Corr, corr)
	}
	eventually(t, "the client knows of no producer", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.producers) == 0
	})
}

// Flush must find a producer whose stream is gone for as long as its records have not failed.
func TestFlushWhileStreamGoes(t *testing.T) {
	_, c, p, corr := publishing(t)
	c.PublishAsync(t.Context(), message("x"), nil)
	p.publish()
	c.mu.Lock()
	var known *producer
	for known = range c.producers {
	}
	c.mu.Unlock()
	c.failures.mu.Lock() // they fail no further than here
	goOn := sync.OnceFunc(c.failures.mu.Unlock)
	defer goOn()
	p.fail(corr, wire.Error{Code: wire.CodeUnknownStream, Bits: wire.ErrorEndsCorr, Message: "deleted"})
	eventually(t, "its records fail", func() bool { return known.stream.gone.Load() && !known.mu.TryLock() })
	c.mu.Lock()
	_, found := c.producers[known]
	c.mu.Unlock()
	goOn()
	if !found {
		t.Error("Flush would not wait for what is about to fail")
	}
	if err := c.Flush(t.Context()); !errors.Is(err, ErrUnknownStream) {
		t.Errorf("Flush: %v", err)
	}
}

// OPEN is refused for good: what is queued fails, and the next record tries again.
func TestOpenDenied(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	for i := range 2 {
		r := async(func() (Ack, error) { return c.Publish(t.Context(), message("x")) })
		if i == 0 {
			p.metadata(orders(1))
		}
		f := p.next(wire.OpOpen)
		p.fail(f.Corr, wire.Error{Code: wire.CodeDenied, Bits: wire.ErrorEndsCorr, Message: "no"})
		if got := wait(t, r); !errors.Is(got.err, ErrDenied) || errors.Is(got.err, ErrUnknownOutcome) {
			t.Fatal(got.err)
		}
	}
}
