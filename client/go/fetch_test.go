package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

func fetching(t *testing.T, c *Client, opts ...FetchOption) <-chan result[*Fetched] {
	return async(func() (*Fetched, error) { return c.Fetch(t.Context(), "orders", 0, opts...) })
}

func (p *peer) fetch() (corr uint32, m wire.Fetch) {
	p.t.Helper()
	f := p.next(wire.OpFetch)
	if err := m.Decode(f.Body); err != nil {
		p.t.Fatal(err)
	}
	return f.Corr, m
}

func TestFetch(t *testing.T) {
	n := newNetwork(t, "a:1", "b:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	r := fetching(t, c, FromOffset(41), MaxBytes(1000), MaxWait(1500*time.Millisecond), ReadYourWrites(Ack{Offset: 42}))
	p.metadata(orders(1))
	corr, m := p.fetch()
	want := wire.Fetch{
		Stream: 7, Start: wire.Start{From: wire.FromOffset, Value: 41}, MaxBytes: 1000, MaxWait: 1500 * time.Millisecond,
		Read: wire.ReadMinOffset, MinOffset: 42,
	}
	if m != want {
		t.Fatalf("FETCH %+v", m)
	}
	p.send(recordsFrame(corr, 0, 40, 44, aBatch("40", "41"), aBatch("42", "43")))
	got := wait(t, r)
	if got.err != nil {
		t.Fatal(got.err)
	}
	f := got.value
	var values []string
	for _, rec := range f.Records {
		values = append(values, fmt.Sprintf("%d=%s", rec.Offset, rec.Value))
	}
	if fmt.Sprint(values) != "[41=41 42=42 43=43]" || f.Next != 44 || f.HighWatermark != 44 || f.Records[0].Subject != "orders.new" {
		t.Fatalf("%v %+v", values, f)
	}

	// The last record: its offset is asked for first, as its batch may hold others.
	r = fetching(t, c, FromLast())
	s := orders(1)
	s.Partitions[0].HighWatermark = 44
	p.metadata(s)
	corr, m = p.fetch()
	if m.Start != (wire.Start{From: wire.FromOffset, Value: 43}) {
		t.Fatalf("FETCH %+v", m)
	}
	p.send(recordsFrame(corr, 0, 42, 44, aBatch("42", "43")))
	if got := wait(t, r); got.err != nil || len(got.value.Records) != 1 {
		t.Fatal(got)
	}

	// Another node has to be asked.
	r = fetching(t, c, Linearizable())
	corr, m = p.fetch()
	if m.Read != wire.ReadLinearizable || m.MinOffset != 0 || m.Start.From != wire.FromFirst {
		t.Fatalf("FETCH %+v", m)
	}
	p.fail(corr, wire.Error{Code: wire.CodeNotLeader, Bits: wire.ErrorRetriable | wire.ErrorEndsCorr, Leader: "b:1"})
	b := n.accept("b:1")
	corr, _ = b.fetch()
	b.send(recordsFrame(corr, 0, 0, 0))
	if got := wait(t, r); got.err != nil || len(got.value.Records) != 0 {
		t.Fatal(got)
	}
}

func TestFetchErrors(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	c.topology.learn(topologyOf(orders(1)))

	r := fetching(t, c)
	corr, _ := p.fetch()
	p.fail(corr, wire.Error{Code: wire.CodeOffsetRange, Value: 9, Bits: wire.ErrorEndsCorr})
	got := wait(t, r)
	var e *Error
	if !errors.Is(got.err, ErrOffsetRange) || !errors.As(got.err, &e) || e.Value != 9 || e.Retriable {
		t.Fatal(got.err)
	}

	r = fetching(t, c)
	corr, _ = p.fetch()
	bad := aBatch("x")
	bad[len(bad)-1] ^= 1
	p.send(recordsFrame(corr, 0, 0, 1, bad))
	if got := wait(t, r); !errors.Is(got.err, ErrChecksum) {
		t.Fatal(got.err)
	}

	// Overloaded, then the connection is lost, then it comes.
	r = fetching(t, c)
	corr, _ = p.fetch()
	p.fail(corr, wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable | wire.ErrorEndsCorr, RetryAfter: time.Millisecond})
	p.fetch()
	p.hangUp()
	p = n.accept("a:1")
	corr, _ = p.fetch()
	p.send(recordsFrame(corr, 0, 0, 1, aBatch("x")))
	if got := wait(t, r); got.err != nil || len(got.value.Records) != 1 {
		t.Fatal(got)
	}

	// The stream was replaced.
	r = fetching(t, c)
	corr, _ = p.fetch()
	p.fail(corr, wire.Error{Code: wire.CodeUnknownStream, Bits: wire.ErrorEndsCorr})
	s := orders(1)
	s.ID = 8
	p.metadata(s)
	corr, m := p.fetch()
	if m.Stream != 8 {
		t.Fatalf("FETCH %+v", m)
	}
	p.fail(corr, wire.Error{Code: wire.CodeDenied, Bits: wire.ErrorEndsCorr})
	if got := wait(t, r); !errors.Is(got.err, ErrDenied) {
		t.Fatal(got.err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	r = async(func() (*Fetched, error) { return c.Fetch(ctx, "orders", 0) })
	p.fetch()
	cancel()
	if got := wait(t, r); !errors.Is(got.err, context.Canceled) {
		t.Fatal(got.err)
	}
}

func TestStreams(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")

	created := async(func() (Stream, error) {
		return c.CreateStream(t.Context(), StreamConfig{Name: "orders", Partitions: 2, Replicas: 1, MaxAge: time.Hour, MaxBytes: 1, MaxRecords: 2})
	})
	f := p.next(wire.OpCreate)
	var m wire.CreateStream
	if err := m.Decode(f.Body); err != nil || m.Name != "orders" || m.Partitions != 2 || m.Replicas != 1 ||
		m.Retention != (wire.Retention{MaxAge: time.Hour, MaxBytes: 1, MaxRecords: 2}) {
		t.Fatalf("%+v, %v", m, err)
	}
	s := orders(2)
	s.Partitions[1] = wire.PartitionInfo{Leader: 2, Epoch: 3, Start: 4, HighWatermark: 10, Bytes: 500}
	p.send(topologyOf(s).AppendTo(nil, f.Corr, 0))
	got := wait(t, created)
	if got.err != nil || got.value.Records() != 6 || got.value.Bytes() != 500 || got.value.Partitions[1].LeaderAddress != "b:1" {
		t.Fatalf("%+v, %v", got.value, got.err)
	}

	// An answer in two frames.
	listed := async(func() ([]Stream, error) { return c.Streams(t.Context()) })
	f = p.next(wire.OpMetadata)
	other := orders(1)
	other.ID, other.Name, other.Subjects = 9, "other", []string{"other"}
	p.send(topologyOf(s).AppendTo(nil, f.Corr, wire.FlagMore))
	p.send(topologyOf(other).AppendTo(nil, f.Corr, 0))
	if got := wait(t, listed); got.err != nil || len(got.value) != 2 || got.value[1].Name != "other" {
		t.Fatalf("%+v, %v", got.value, got.err)
	}

	of := async(func() (Stream, error) { return c.StreamOf(t.Context(), "orders.x") })
	if m := p.metadata(s); m.Select != wire.SelectSubject || m.Create {
		t.Errorf("METADATA %+v", m)
	}
	if got := wait(t, of); got.err != nil || got.value.Name != "orders" {
		t.Fatal(got)
	}
	none := async(func() (Stream, error) { return c.Stream(t.Context(), "none") })
	p.metadata()
	if got := wait(t, none); !errors.Is(got.err, ErrUnknownStream) {
		t.Fatal(got.err)
	}

	// A lost connection leaves open whether it was deleted.
	deleted := async(func() (int, error) { return 0, c.DeleteStream(t.Context(), "orders", true) })
	p.next(wire.OpDelete)
	p.hangUp()
	if got := wait(t, deleted); !errors.Is(got.err, ErrUnknownOutcome) || !errors.Is(got.err, ErrDisconnected) {
		t.Fatal(got.err)
	}
	p = n.accept("a:1")
	deleted = async(func() (int, error) { return 0, c.DeleteStream(t.Context(), "orders", true) })
	p.send(wire.AppendEmpty(nil, wire.OpOK, p.next(wire.OpDelete).Corr))
	if got := wait(t, deleted); got.err != nil {
		t.Fatal(got.err)
	}
	if c.topology.byName("orders") != nil {
		t.Error("the deleted stream is remembered")
	}
	for _, name := range []string{"", "a/b", ".a"} {
		if _, err := c.Stream(t.Context(), name); !errors.Is(err, ErrBadName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
