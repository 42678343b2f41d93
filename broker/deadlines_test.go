package broker

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/proto/wire"
)

// until polls a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// alive has the peer publish and read something.
func alive(t *testing.T, p *peer) {
	t.Helper()
	p.send(wire.Ping{Data: 7}.AppendTo(nil, wire.OpPing, 0))
	p.recv(wire.OpPong)
}

func TestFrameTimeout(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.FrameTimeout = time.Second })
	neighbour := connect(t, n)
	whole := wire.AppendPublish(nil, 1, make([]byte, 100<<10))

	t.Run("half a frame and silence", func(t *testing.T) {
		p := connect(t, n)
		p.send(whole[:50<<10])
		if e := p.recvError(wire.CodeIdle); e.Bits&wire.ErrorEndsConnection == 0 || !strings.Contains(e.Message, "whole") {
			t.Errorf("%v", &e)
		}
		p.recvEnd()
	})
	t.Run("a byte now and then", func(t *testing.T) {
		p := connect(t, n)
		done := make(chan struct{})
		go func() {
			defer close(done)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for i := range whole {
				if _, err := p.conn.Write(whole[i : i+1]); err != nil {
					return
				}
				<-tick.C
			}
		}()
		p.recvError(wire.CodeIdle)
		p.conn.Close()
		<-done
	})
	alive(t, neighbour)
	if got := n.closures[closedFrame].Load(); got != 2 {
		t.Errorf("%d counted", got)
	}
}

// A client that does not read what waits for it is closed; one that gives no credit is not slow.
func TestSlowConsumer(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.SlowConsumerTimeout = time.Second })
	producer := connect(t, n)
	st := producer.streamOf("slow")
	frugal := connect(t, n)
	frugal.subscribe(wire.Subscribe{Filter: "slow", Start: wire.Start{From: wire.FromFirst}, Credit: 1})
	slow := connect(t, n)
	_ = slow.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	slow.subscribe(wire.Subscribe{Filter: "slow", Start: wire.Start{From: wire.FromFirst}, Credit: 64 << 20})
	corr, _ := producer.open(st, wire.Open{})
	for i := range uint64(32) {
		producer.send(wire.AppendPublish(nil, corr, batch(t, i, message{"slow", "", strings.Repeat("x", 400<<10)})))
		producer.acks(corr, i, i+1)
	}
	until(t, "the slow one closed", func() bool { return n.closures[closedConsumer].Load() == 1 })
	until(t, "its bytes given back", func() bool { return n.outbound.Load() < 1<<20 })
	alive(t, producer)
	frugal.recv(wire.OpRecords) // the first one overdraws its credit
	alive(t, frugal)
}

// A client that reads slowly, but as fast as is asked of it, is not closed, however much its kernel and ours keep.
func TestSlowReaderStays(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.SlowConsumerTimeout = time.Second })
	producer := connect(t, n)
	st := producer.streamOf("slow")
	corr, _ := producer.open(st, wire.Open{})
	const batches = 32
	for i := range uint64(batches) {
		producer.send(wire.AppendPublish(nil, corr, batch(t, i, message{"slow", "", strings.Repeat("x", 400<<10)})))
		producer.acks(corr, i, i+1)
	}
	slow := connect(t, n)
	_ = slow.conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	slow.subscribe(wire.Subscribe{Filter: "slow", Start: wire.Start{From: wire.FromFirst}, Credit: 64 << 20})
	read := func(bytes int) {
		if _, err := io.ReadFull(slow.conn, make([]byte, bytes)); err != nil {
			t.Fatal(err)
		}
	}
	read(6 << 20) // it has shown that it reads: the kernel keeps much for it
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 40 {
		<-tick.C
		read(24 << 10)
	}
	if got := n.closures[closedConsumer].Load(); got != 0 {
		t.Errorf("%d closed", got)
	}
}

type panicking struct{ auth.AllowClients }

func (a panicking) Authorize(id *auth.Identity, action auth.Action, resource []byte) error {
	if string(resource) == "boom" {
		panic("an authorizer that panics")
	}
	return a.AllowClients.Authorize(id, action, resource)
}

// A panic in serving one connection costs that one.
func TestPanicIsContained(t *testing.T) {
	var armed atomic.Bool
	once := zap.Hooks(func(e zapcore.Entry) error {
		if e.Message == "connection refused" && armed.CompareAndSwap(true, false) {
			panic("a logger that panics")
		}
		return nil
	})
	n := startNode(t, t.TempDir(), func(c *Config) {
		c.Authorizer = panicking{}
		c.Logger = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(discard{}), zap.DebugLevel), once)
		c.HandshakeTimeout = time.Second
	})
	neighbour := connect(t, n)
	st := neighbour.streamOf("fine")

	boom := connect(t, n)
	boom.send((&wire.Subscribe{Filter: "boom", Credit: 1}).AppendTo(nil, boom.next()))
	boom.recvError(wire.CodeInternal)
	boom.recvEnd()

	armed.Store(true)
	late := dial(t, n) // the sweep refuses it, and logs
	late.recvError(wire.CodeInternal)
	late.recvEnd()
	if armed.Load() {
		t.Error("nothing panicked")
	}
	neighbour.fill(st, 0, values("fine", 3, "%d"))
	until(t, "everything counted down", func() bool { return n.connections.Load() == 1 })
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// A turn that ends just behind the last frame is gone on with and finds nothing: no frame has begun then.
func TestNoFrameBeginsInNothing(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.FrameTimeout = time.Second })
	p := connect(t, n)
	alive(t, p)
	type seen struct{ sessions, began int }
	look := make(chan seen, len(n.loops))
	n.everyLoop(func(l *loop) {
		var here seen
		for s := range l.sessions {
			s.resume()
			here.sessions++
			if !s.progress.frameBegan.IsZero() {
				here.began++
			}
		}
		look <- here
	})
	close(look)
	var all seen
	for here := range look {
		all.sessions, all.began = all.sessions+here.sessions, all.began+here.began
	}
	if all.sessions != 1 || all.began != 0 {
		t.Errorf("%d sessions, %d frames have begun to arrive, want 1 and 0", all.sessions, all.began)
	}
	alive(t, p)
}

// A connection that ends for two reasons is counted for the first, and what had arrived of it is given back at once, not
// when its client closes.
func TestOneClosureOneReason(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	p.send(wire.AppendPublish(nil, 1, make([]byte, 100<<10))[:50<<10])
	until(t, "half a frame waits", func() bool { return n.inbound.Load() == 50<<10 })
	n.everyLoop(func(l *loop) {
		for s := range l.sessions {
			s.late(closedFrame, "too slow")
		}
	})
	p.recvError(wire.CodeIdle)
	held := make(chan int64, len(n.loops))
	n.everyLoop(func(l *loop) { // behind the round that wrote the error
		for s := range l.sessions {
			held <- n.inbound.Load() + int64(s.conn.InboundBuffered())
			s.drop(closedConsumer, "does not read either")
		}
	})
	if got := <-held; got != 0 {
		t.Errorf("%d bytes of a session that is ending are held", got)
	}
	for why := range closeReasons {
		want := int64(0)
		if why == closedFrame {
			want = 1
		}
		if got := n.closures[why].Load(); got != want {
			t.Errorf("%d closures for %s, want %d", got, why, want)
		}
	}
}
