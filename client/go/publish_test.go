package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

func message(value string) Message { return Message{Subject: "orders.new", Value: []byte(value)} }

// publishing gives a client with a session to orders/0, and everything async it published noted.
func publishing(t *testing.T, opts ...Option) (*network, *Client, *peer, uint32) {
	t.Helper()
	n := newNetwork(t, "a:1", "b:1")
	c := n.connect("a:1", opts...)
	p := n.accept("a:1")
	first := async(func() (Ack, error) { return c.Publish(t.Context(), message("0")) })
	m := p.metadata(orders(1))
	if m.Select != wire.SelectSubject || m.Name != "orders.new" || !m.Create {
		t.Fatalf("METADATA %+v", m)
	}
	corr, _ := p.open(0)
	p.publish().want(t, 0, "0")
	p.ack(corr, 0, 1, 40)
	r := wait(t, first)
	if r.err != nil || r.value != (Ack{Stream: "orders", Offset: 40, Epoch: 1, Quorum: 1, Voters: 1}) {
		t.Fatalf("%+v, %v", r.value, r.err)
	}
	return n, c, p, corr
}

func TestPublish(t *testing.T) {
	_, c, p, corr := publishing(t)
	r := async(func() (Ack, error) { return c.Publish(t.Context(), message("one")) })
	p.publish().want(t, 1, "one")
	p.ack(corr, 1, 1, 41)
	got := wait(t, r)
	if got.err != nil {
		t.Fatal(got.err)
	}
	if s := got.value.String(); s != "orders/0 offset 41, epoch 1, durable on 1 of 1" {
		t.Error(s)
	}
}

// What is published while a batch is in flight goes in the next one, together.
func TestBatchesGrowWithoutTimer(t *testing.T) {
	_, c, p, corr := publishing(t)
	var acks []Ack
	for i := range 5 {
		err := c.PublishAsync(t.Context(), message(fmt.Sprint(i)), func(a Ack, err error) {
			if err != nil {
				t.Error(err)
			}
			acks = append(acks, a)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	p.publish().want(t, 1, "0")
	p.ack(corr, 1, 1, 41)
	p.publish().want(t, 2, "1", "2", "3", "4")
	flushed := async(func() (int, error) { return 0, c.Flush(t.Context()) })
	p.ack(corr, 2, 4, 50)
	if r := wait(t, flushed); r.err != nil {
		t.Fatal(r.err)
	}
	var offsets []uint64
	for _, a := range acks {
		offsets = append(offsets, a.Offset)
	}
	if fmt.Sprint(offsets) != "[41 50 51 52 53]" {
		t.Error(offsets)
	}
}

// A callback may publish.
func TestPublishFromCallback(t *testing.T) {
	_, c, p, corr := publishing(t, WithMaxInFlight(1))
	told := make(chan Ack)
	err := c.PublishAsync(t.Context(), message("1"), func(Ack, error) {
		c.PublishAsync(t.Context(), message("2"), func(a Ack, _ error) { told <- a })
	})
	if err != nil {
		t.Fatal(err)
	}
	p.publish().want(t, 1, "1")
	p.ack(corr, 1, 1, 41)
	p.publish().want(t, 2, "2")
	p.ack(corr, 2, 1, 42)
	if a := wait(t, told); a.Offset != 42 {
		t.Error(a)
	}
}

func TestFullBatchesPipelineAndRangedAcks(t *testing.T) {
	_, c, p, corr := publishing(t, WithMaxBatchRecords(2))
	for i := range 7 {
		if err := c.PublishAsync(t.Context(), message(fmt.Sprint(i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	p.publish().want(t, 1, "0")
	p.publish().want(t, 2, "1", "2")
	p.publish().want(t, 4, "3", "4")
	p.publish().want(t, 6, "5", "6")
	p.ack(corr, 1, 5, 41) // three batches in one range
	p.ack(corr, 6, 2, 90) // split where offsets jump
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Flush sends what is being gathered without waiting for the ack of what is in flight.
func TestFlushDoesNotWaitForCompany(t *testing.T) {
	_, c, p, corr := publishing(t)
	c.PublishAsync(t.Context(), message("1"), nil)
	c.PublishAsync(t.Context(), message("2"), nil)
	p.publish().want(t, 1, "1")
	flushed := async(func() (int, error) { return 0, c.Flush(t.Context()) })
	p.publish().want(t, 2, "2")
	p.ack(corr, 1, 2, 41)
	if r := wait(t, flushed); r.err != nil {
		t.Fatal(r.err)
	}
}

func TestNodeBoundsInFlight(t *testing.T) {
	n := newNetwork(t, "a:1")
	n.nodes["a:1"].welcome.InFlightBatches = 2
	c := n.connect("a:1", WithMaxBatchRecords(1))
	p := n.accept("a:1")
	go func() {
		for i := range 4 {
			c.PublishAsync(t.Context(), message(fmt.Sprint(i)), nil)
		}
	}()
	p.metadata(orders(1))
	corr, _ := p.open(0)
	p.publish().want(t, 0, "0")
	p.publish().want(t, 1, "1")
	p.ack(corr, 0, 1, 0)
	p.publish().want(t, 2, "2")
	p.ack(corr, 1, 2, 1)
	p.publish().want(t, 3, "3")
	p.ack(corr, 3, 1, 3)
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Two partitions share the node's bound of bytes: the one held back goes on when the other is answered.
func TestNodeBoundsBytes(t *testing.T) {
	n := newNetwork(t, "a:1")
	n.nodes["a:1"].welcome.InFlightBytes = wire.MaxBatch
	c := n.connect("a:1")
	p := n.accept("a:1")
	keys := [2][]byte{}
	for i := 0; keys[0] == nil || keys[1] == nil; i++ {
		k := []byte(fmt.Sprint(i))
		keys[wire.PartitionOf("orders.new", k, 2)] = k
	}
	done := async(func() (int, error) {
		for _, k := range keys {
			if err := c.PublishAsync(t.Context(), Message{Subject: "orders.new", Key: k, Value: make([]byte, 700<<10)}, nil); err != nil {
				return 0, err
			}
		}
		return 0, c.Flush(t.Context())
	})
	p.metadata(orders(2))
	p.open(0)
	opened := 1
	for range 2 { // one batch at a time, although both partitions have one
		for {
			f := <-p.in
			if f.Op == wire.OpOpen {
				opened++
				p.send((&wire.Opened{Producer: 99, Epoch: 1}).AppendTo(nil, f.Corr))
				continue
			}
			s := decodeBatch(t, f)
			p.ack(s.corr, 0, 1, 0)
			break
		}
	}
	if r := wait(t, done); r.err != nil || opened != 2 {
		t.Fatal(r.err, opened)
	}
}

func TestRefusedHere(t *testing.T) {
	_, c, _, _ := publishing(t)
	for _, tc := range []struct {
		name string
		m    Message
		want error
		says string
	}{
		{"empty subject", Message{}, ErrBadName, "is empty"},
		{"wildcard", Message{Subject: "orders.*"}, ErrBadName, "only filters may"},
		{"long subject", Message{Subject: strings.Repeat("x", 256)}, ErrBadName, "limit 255"},
		{"large value", Message{Subject: "orders.new", Value: make([]byte, 1<<20)}, ErrTooLarge, "split it"},
		{"header without name", Message{Subject: "orders.new", Headers: []Header{{}}}, ErrMalformed, "1 to 255"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := c.Publish(t.Context(), tc.m)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Fatal(err)
			}
			var e *Error
			if tc.want == ErrTooLarge && (!errors.As(err, &e) || e.Value != wire.MaxBatch) {
				t.Fatal(err)
			}
		})
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal("what PublishAsync refused itself came out of Flush:", err)
	}
}

// A large record makes a batch of its own, whatever WithMaxBatchBytes says.
func TestLargeRecord(t *testing.T) {
	_, c, p, corr := publishing(t, WithMaxBatchBytes(1000))
	large := strings.Repeat("x", 5000)
	c.PublishAsync(t.Context(), message("small"), nil)
	c.PublishAsync(t.Context(), message(large), nil)
	c.PublishAsync(t.Context(), message("after"), nil)
	p.publish().want(t, 1, "small")
	p.publish().want(t, 2, large)
	p.ack(corr, 1, 2, 41)
	p.publish().want(t, 3, "after")
	p.ack(corr, 3, 1, 43)
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestUnknownStream(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	r := async(func() (Ack, error) { return c.Publish(t.Context(), message("x")) })
	f := p.next(wire.OpMetadata)
	p.fail(f.Corr, wire.Error{Code: wire.CodeUnknownStream, Bits: wire.ErrorEndsCorr, Message: "no stream"})
	got := wait(t, r)
	if !errors.Is(got.err, ErrUnknownStream) || errors.Is(got.err, ErrStreamExists) {
		t.Fatal(got.err)
	}
}

// Who is told of an error is told of no offset.
func TestNoAckBesideAnError(t *testing.T) {
	_, c, p, corr := publishing(t)
	var acks []Ack
	var errs []error
	for range 3 {
		err := c.PublishAsync(t.Context(), message("x"), func(a Ack, err error) { acks, errs = append(acks, a), append(errs, err) })
		if err != nil {
			t.Fatal(err)
		}
	}
	p.publish()
	p.ack(corr, 1, 1, 41)
	p.publish().want(t, 2, "x", "x")
	p.fail(corr, wire.Error{Code: wire.CodeBadBatch, Bits: wire.ErrorOneBatch, Sequence: 2, Message: "no"})
	if err := c.Flush(t.Context()); err == nil {
		t.Error("Flush does not say that two records were refused")
	}
	if len(errs) != 3 || errs[0] != nil || errs[1] == nil || errs[2] == nil || acks[1] != (Ack{}) || acks[2] != (Ack{}) {
		t.Errorf("%+v, %v", acks, errs)
	}
}

// sealing is a connection with a Write of its own, in which a socket is embedded.
type sealing struct {
	*net.TCPConn
	sealed atomic.Int64
}

func (s *sealing) Write(b []byte) (int, error) {
	s.sealed.Add(int64(len(b)))
	return s.TCPConn.Write(b)
}

// Nothing is written past the Write of what a dialer returns, though a socket may be inside.
func TestWrappedSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	_ = theirs.SetReadDeadline(time.Now().Add(10 * time.Second))
	s := &sealing{TCPConn: nc.(*net.TCPConn)}
	var o outbox
	o.init(s)
	done := make(chan struct{})
	ran := async(func() (int, error) { return 0, o.run(done) })
	frames := [][]byte{make([]byte, 10), make([]byte, 2*smallFrame), make([]byte, 20), make([]byte, 3*smallFrame)}
	want := int64(0)
	for _, f := range frames {
		o.add(f)
		want += int64(len(f))
	}
	o.push()
	if _, err := io.CopyN(io.Discard, theirs, want); err != nil {
		t.Fatal(err)
	}
	o.add(frames[0]) // alone: what push could write by itself
	o.push()
	if _, err := io.CopyN(io.Discard, theirs, int64(len(frames[0]))); err != nil {
		t.Fatal(err)
	}
	if want += int64(len(frames[0])); s.sealed.Load() != want {
		t.Errorf("%d of %d bytes went through Write", s.sealed.Load(), want)
	}
	close(done)
	wait(t, ran)
	s.Close()
	o.stop()
}

// A full budget holds PublishAsync until its context ends, or until there is an ack.
func TestPublishAsyncWaitsForRoom(t *testing.T) {
	_, c, p, corr := publishing(t, WithMaxInFlight(100))
	if err := c.PublishAsync(t.Context(), message(strings.Repeat("x", 60)), nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	blocked := async(func() (int, error) { return 0, c.PublishAsync(ctx, message("y"), nil) })
	for c.budget.queue.Load() == 0 {
		runtime.Gosched()
	}
	cancel(reason)
	if r := wait(t, blocked); !errors.Is(r.err, reason) {
		t.Fatal(r.err)
	}
	blocked = async(func() (int, error) { return 0, c.PublishAsync(t.Context(), message("z"), nil) })
	for c.budget.queue.Load() == 0 {
		runtime.Gosched()
	}
	p.publish()
	p.ack(corr, 1, 1, 41)
	if r := wait(t, blocked); r.err != nil {
		t.Fatal(r.err)
	}
	p.publish().want(t, 2, "z")
	p.ack(corr, 2, 1, 42)
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if used := c.budget.used.Load(); used != 0 {
		t.Errorf("%d bytes held with nothing in flight", used)
	}
}

func TestCompressionAndMixedSubjects(t *testing.T) {
	_, c, p, corr := publishing(t, WithCompression())
	long := strings.Repeat("to be or not to be ", 100)
	c.PublishAsync(t.Context(), message("0"), nil)
	c.PublishAsync(t.Context(), Message{Subject: "orders.a", Value: []byte(long)}, nil)
	c.PublishAsync(t.Context(), Message{Subject: "orders.b", Value: []byte(long)}, nil)
	p.publish().want(t, 1, "0")
	p.ack(corr, 1, 1, 41)
	s := p.publish().want(t, 2, long, long)
	if len(s.bytes) > len(long) {
		t.Errorf("%d bytes: not compressed", len(s.bytes))
	}
	if fmt.Sprint(s.subject) != "[orders.a orders.b]" {
		t.Error(s.subject)
	}
	p.ack(corr, 2, 2, 42)
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A deadline ends the wait, not the record: the error says both.
func TestPublishContext(t *testing.T) {
	_, c, p, corr := publishing(t)
	ctx, cancel := context.WithCancel(t.Context())
	r := async(func() (Ack, error) { return c.Publish(ctx, message("x")) })
	p.publish().want(t, 1, "x")
	cancel()
	got := wait(t, r)
	if !errors.Is(got.err, context.Canceled) || !errors.Is(got.err, ErrUnknownOutcome) {
		t.Fatal(got.err)
	}
	p.ack(corr, 1, 1, 41)
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(ctx, message("y")); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
