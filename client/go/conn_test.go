package client

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// Each of these from the node costs the connection, and nothing else.
func TestBrokenNode(t *testing.T) {
	for name, frame := range map[string]func(corr uint32) []byte{
		"garbage":         func(uint32) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") },
		"op 0":            func(uint32) []byte { return make([]byte, 64) },
		"frame too large": func(uint32) []byte { return []byte{0xff, 0xff, 0xff, 0xff} },
		"ACK not in flight": func(corr uint32) []byte {
			return (&wire.Ack{Quorum: 1, Voters: 1, Sequence: 77, Count: 1}).AppendTo(nil, corr)
		},
		"ACK of half a batch": func(corr uint32) []byte {
			return (&wire.Ack{Quorum: 1, Voters: 1, Sequence: 1, Count: 2}).AppendTo(nil, corr)
		},
		"ACK too long": func(corr uint32) []byte {
			return (&wire.Ack{Quorum: 1, Voters: 1, Sequence: 1, Count: 9}).AppendTo(nil, corr)
		},
		"ERROR not in flight": func(corr uint32) []byte {
			return (&wire.Error{Code: wire.CodeBadBatch, Bits: wire.ErrorOneBatch, Sequence: 9}).AppendTo(nil, corr)
		},
		"malformed ACK": func(corr uint32) []byte {
			return wire.Frame{Op: wire.OpAck, Corr: corr, Body: []byte{1}}.AppendTo(nil)
		},
		"RECORDS to a producer": func(corr uint32) []byte { return recordsFrame(corr, 0, 0, 0) },
		"WELCOME again": func(uint32) []byte {
			return (&wire.Welcome{Version: 1}).AppendTo(nil, 0)
		},
		"error that ends the connection": func(corr uint32) []byte {
			return (&wire.Error{Code: wire.CodeInternal, Bits: wire.ErrorEndsConnection, Message: "oops"}).AppendTo(nil, 0)
		},
		"error that ends the connection, on a producer": func(corr uint32) []byte {
			return (&wire.Error{Code: wire.CodeInternal, Bits: wire.ErrorEndsConnection, Message: "oops"}).AppendTo(nil, corr)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, c, p, corr := publishing(t)
			c.PublishAsync(t.Context(), message("a"), nil)
			first := p.publish().want(t, 1, "a")
			done := flush(t, c)
			p.send(frame(corr))
			<-p.gone
			p = n.accept("a:1")
			corr, _ = p.open(1)
			if again := p.publish(); again.bytes != first.bytes {
				t.Fatal("other bytes")
			}
			p.ack(corr, 1, 1, 41)
			flushed(t, done)
		})
	}
}

// PING three times in the idle time; a node that says nothing is given up.
func TestSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, "a:1")
		n.nodes["a:1"].welcome.Idle = 30 * time.Second
		lost := make(chan error, 1)
		c := n.connect("a:1", WithStateFunc(func(s State, err error) {
			if s == Disconnected {
				lost <- err
			}
		}))
		defer c.Close()
		p := n.accept("a:1")
		start := time.Now()
		for range 30 {
			<-p.ping
		}
		if took := time.Since(start); took < 5*time.Minute-10*time.Second || took > 5*time.Minute+10*time.Second {
			t.Errorf("30 PINGs took %v with an idle time of 30 s", took)
		}
		p.deaf.Store(true)
		start = time.Now()
		err := <-lost
		if after := time.Since(start); after > time.Minute || !strings.Contains(err.Error(), "nothing came from the node for 30s") {
			t.Errorf("given up after %v: %v", after, err)
		}
		n.accept("a:1")
	})
}

// GOAWAY: what is in flight is finished there, what comes after waits for the next connection.
func TestGoaway(t *testing.T) {
	n, c, p, corr := publishing(t)
	c.PublishAsync(t.Context(), message("1"), nil)
	p.publish().want(t, 1, "1")
	p.send((&wire.Goaway{Code: wire.CodeShutdown, Drain: time.Minute, Address: "b:1"}).AppendTo(nil, 0))
	eventually(t, "GOAWAY has been taken notice of", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.current == nil
	})
	pinged := async(func() (time.Duration, error) { return c.Ping(t.Context()) })
	// The PING is not sent here any more, and neither is this.
	c.PublishAsync(t.Context(), message("2"), nil)
	done := flush(t, c)
	n.setDown("a:1", true)
	p.ack(corr, 1, 1, 41)
	<-p.gone
	b := n.accept("b:1")
	moved := orders(1)
	moved.Partitions[0].Leader = 2
	b.metadata(moved)
	corr, _ = b.open(2)
	b.publish().want(t, 2, "2")
	b.ack(corr, 2, 1, 42)
	flushed(t, done)
	if r := wait(t, pinged); r.err != nil {
		t.Fatal(r.err)
	}
}

// A node that drains answers, and says GOAWAY to whoever comes back. Where there is no other, or all of them go away, the
// client tries again at growing intervals, and is there when one stays. It does so where connections break as soon as they
// stand, too: what breaks them, a frame that one side will not have, say, may be there as soon as they are.
func TestConnectionsEndAgainAndAgain(t *testing.T) {
	for _, test := range []struct {
		addresses []string
		goaway    bool
	}{
		{[]string{"a:1"}, true}, {[]string{"a:1", "b:1", "c:1"}, true},
		{[]string{"a:1"}, false}, {[]string{"a:1", "b:1", "c:1"}, false},
	} {
		addresses := test.addresses
		synctest.Test(t, func(t *testing.T) {
			const least, most, rounds = 20 * time.Millisecond, 2 * time.Second, 12
			n := newNetwork(t, addresses...)
			conns := make(chan *peer, 16) // to whichever node
			for _, node := range n.nodes {
				node.conns = conns
			}
			c := n.connect(strings.Join(addresses, ","), WithBackoff(least, most))
			p := <-conns
			var began time.Time
			for round := range rounds {
				began = time.Now()
				for range addresses { // each of them once, without a wait but before the first of a round
					if test.goaway {
						p.send((&wire.Goaway{Code: wire.CodeShutdown, Drain: 10 * time.Second}).AppendTo(nil, 0))
						<-p.gone
					} else {
						p.hangUp()
					}
					p = <-conns
				}
				want := min(least<<round, most) / 2
				if !test.goaway && len(addresses) == 1 && round == 0 {
					want = 0 // a connection that broke once is made again at once
				}
				if took := time.Since(began); took < want || took > 2*want+time.Second/10 {
					t.Errorf("round %d of %d addresses took %s, want %s to %s", round, len(addresses), took, want, 2*want)
				}
			}
			pinged := async(func() (time.Duration, error) { return c.Ping(t.Context()) })
			if r := wait(t, pinged); r.err != nil {
				t.Error(r.err)
			}
			c.Close()
		})
	}
}

// Close while everything waits for something: every call returns, and every goroutine ends.
func TestCloseDuringEverything(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1", WithMaxInFlight(1))
	p := n.accept("a:1")
	var calls []<-chan result[int]
	call := func(f func() error) { calls = append(calls, async(func() (int, error) { return 0, f() })) }
	call(func() error { _, err := c.Publish(t.Context(), message("in flight")); return err })
	p.metadata(orders(1))
	p.open(0)
	p.publish()
	sub, err := subscribed(t, c, p)
	if err != nil {
		t.Fatal(err)
	}
	call(func() error { return c.PublishAsync(t.Context(), message("no room"), nil) })
	call(func() error { return sub.Each(t.Context(), func(Record) error { return nil }) })
	call(func() error { return c.Flush(t.Context()) })
	call(func() error { _, err := c.Streams(t.Context()); return err })
	call(func() error { _, err := c.Fetch(t.Context(), "orders", 0); return err })
	call(func() error { _, err := c.Subscribe(t.Context(), "x.>"); return err })
	call(func() error { _, err := c.Publish(t.Context(), Message{Subject: "elsewhere"}); return err })
	for range 4 { // Streams, Fetch, Subscribe's and Publish's METADATA wait for their answers
		wait(t, p.in)
	}
	for c.budget.queue.Load() == 0 {
	}
	c.Close()
	for i, call := range calls {
		if r := wait(t, call); !errors.Is(r.err, ErrClosed) {
			t.Errorf("call %d: %v", i, r.err)
		}
	}
	for _, err := range []error{
		c.Flush(t.Context()),
		c.PublishAsync(t.Context(), message("x"), nil),
		c.Close(),
	} {
		if err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
}

// Close flushes what it can.
func TestCloseFlushes(t *testing.T) {
	_, c, p, corr := publishing(t, WithCloseTimeout(time.Minute))
	o := new(outcomes)
	c.PublishAsync(t.Context(), message("1"), o.of("1"))
	c.PublishAsync(t.Context(), message("2"), o.of("2"))
	closed := async(func() (int, error) { return 0, c.Close() })
	p.publish().want(t, 1, "1")
	p.ack(corr, 1, 1, 41)
	p.publish().want(t, 2, "2")
	p.ack(corr, 2, 1, 42)
	flushed(t, closed)
	o.want(t, "1@41", "2@42")
}

// What a node says that will not get better by itself stands in the log, once, while the client goes on trying: somebody may put it right.
func TestWrongClusterIsSaid(t *testing.T) {
	n := newNetwork(t, "a:1")
	var hellos atomic.Int32
	n.nodes["a:1"].hello = func(*wire.Hello) []byte {
		if i := hellos.Add(1); i == 1 || i == 4 {
			return nil
		}
		return (&wire.Error{Code: wire.CodeWrongCluster, Bits: wire.ErrorEndsConnection, Message: "this is cluster 2, not 1"}).AppendTo(nil, 0)
	}
	var said strings.Builder // the client's one goroutine that dials writes
	n.connect("a:1", WithLogger(slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))))
	n.accept("a:1").hangUp()
	n.accept("a:1")
	if got := said.String(); strings.Count(got, "WRONG_CLUSTER: this is cluster 2, not 1") != 1 {
		t.Errorf("after %d HELLOs the log says\n%s", hellos.Load(), got)
	}
}

func TestConnect(t *testing.T) {
	n := newNetwork(t, "a:7420", "b:1", "old:1", "denied:1")
	n.setDown("a:7420", true)
	n.nodes["old:1"].hello = func(h *wire.Hello) []byte {
		return (&wire.Error{Code: wire.CodeUnsupported, Bits: wire.ErrorEndsConnection, Value: 9, Message: "too old"}).AppendTo(nil, 0)
	}
	c := n.connect(" a , b:1", WithName("tests"))
	n.accept("b:1")
	if got := fmt.Sprint(n.dials); got != "[a:7420 b:1]" {
		t.Error(got)
	}
	if s := c.Server(); s.Address != "b:1" || s.Node != 2 || s.Software != "scripted" || s.BatchLimit != wire.MaxBatch {
		t.Errorf("%+v", s)
	}
	for _, tc := range []struct{ addresses, says string }{
		{"", "empty address"},
		{"b:1,,", "empty address"},
		{"a", "refused"},
		{"old:1", "UNSUPPORTED"},
		{"x:y:z", "neither host nor host:port"},
	} {
		if _, err := Connect(t.Context(), tc.addresses, WithDialer(n.dial)); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%q: %v", tc.addresses, err)
		}
	}
	_, err := Connect(t.Context(), "b:1", WithMaxInFlight(0), WithMaxBatchBytes(1), WithMaxBatchRecords(0), WithBackoff(2, 1))
	for _, option := range []string{"WithMaxInFlight", "WithMaxBatchBytes", "WithMaxBatchRecords", "WithBackoff"} {
		if err == nil || !strings.Contains(err.Error(), option) {
			t.Errorf("%s is missing: %v", option, err)
		}
	}
}
