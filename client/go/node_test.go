package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/proto/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv(nullServerEnv) != "" {
		serveNull()
	}
	goleak.VerifyTestMain(m)
}

// network is what a client under test can dial: nodes by address, over net.Pipe.
type network struct {
	t     *testing.T
	mu    sync.Mutex
	nodes map[string]*node
	dials []string
}

// node is one address. Each connection to it that shook hands comes out of conns.
type node struct {
	welcome wire.Welcome
	hello   func(h *wire.Hello) []byte // answers instead of WELCOME, if it has an answer
	down    bool
	conns   chan *peer
}

func newNetwork(t *testing.T, addresses ...string) *network {
	n := &network{t: t, nodes: make(map[string]*node)}
	for i, a := range addresses {
		n.nodes[a] = &node{
			welcome: wire.Welcome{
				Version:         wire.Version,
				Node:            uint64(i + 1),
				FrameLimit:      wire.DefaultFrameLimit,
				BatchLimit:      wire.MaxBatch,
				InFlightBatches: wire.MaxInFlightBatches,
				InFlightBytes:   32 << 20,
				CreditLimit:     64 << 20,
				Server:          "scripted",
			},
			conns: make(chan *peer, 16),
		}
	}
	return n
}

func (n *network) dial(ctx context.Context, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials = append(n.dials, address)
	node := n.nodes[address]
	if node == nil || node.down {
		return nil, fmt.Errorf("dial %s: refused", address)
	}
	ours, theirs := net.Pipe()
	p := &peer{t: n.t, nc: theirs, in: make(chan wire.Frame, 4096), gone: make(chan struct{}), ping: make(chan struct{}, 1)}
	go p.run(node)
	return ours, nil
}

func (n *network) setDown(address string, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[address].down = down
}

// connect makes a client of the network's nodes, closed with the test.
func (n *network) connect(addresses string, opts ...Option) *Client {
	n.t.Helper()
	opts = append([]Option{WithDialer(n.dial), WithBackoff(time.Millisecond, 10*time.Millisecond), WithCloseTimeout(0)}, opts...)
	c, err := Connect(n.t.Context(), addresses, opts...)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	return c
}

// accept waits for the next connection to a node.
func (n *network) accept(address string) *peer {
	n.t.Helper()
	select {
	case p := <-n.nodes[address].conns:
		return p
	case <-time.After(10 * time.Second):
		n.t.Fatalf("nobody connects to %s", address)
		return nil
	}
}

// peer is a node's end of one connection, played by the test. It answers PING by itself.
type peer struct {
	t    *testing.T
	nc   net.Conn
	in   chan wire.Frame
	gone chan struct{} // closed when the client hung up
	deaf atomic.Bool   // reads and says nothing by itself
	ping chan struct{} // one for each PING that was answered, if anybody takes it

	mu sync.Mutex // guards writes
}

func (p *peer) run(node *node) {
	defer close(p.gone)
	defer p.nc.Close()
	magic := make([]byte, len(wire.Magic))
	if _, err := io.ReadFull(p.nc, magic); err != nil || string(magic) != wire.Magic {
		return
	}
	var buf []byte
	chunk := make([]byte, 64<<10)
	greeted := false
	for {
		f, n, err := wire.Decode(buf, wire.DefaultFrameLimit)
		if errors.Is(err, wire.ErrShort) {
			m, err := p.nc.Read(chunk)
			if err != nil {
				return
			}
			buf = append(buf, chunk[:m]...)
			continue
		}
		if err != nil {
			p.t.Errorf("the client sent what does not decode: %v", err)
			return
		}
		f.Body = append([]byte(nil), f.Body...)
		buf = buf[n:]
		switch {
		case !greeted:
			var h wire.Hello
			if err := h.Decode(f.Body); err != nil || f.Op != wire.OpHello {
				p.t.Errorf("%s where HELLO belongs: %v", f.Op, err)
				return
			}
			greeted = true
			if node.hello != nil {
				if answer := node.hello(&h); answer != nil {
					p.nc.Write(answer)
					return
				}
			}
			p.nc.Write(node.welcome.AppendTo(nil, f.Corr))
			node.conns <- p
		case f.Op == wire.OpPing && !p.deaf.Load():
			select {
			case p.ping <- struct{}{}:
			default:
			}
			var ping wire.Ping
			ping.Decode(f.Body)
			p.send(ping.AppendTo(nil, wire.OpPong, f.Corr))
		default:
			p.in <- f
		}
	}
}

func (p *peer) send(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nc.Write(frame) // an error shows where the answer is missed
}

func (p *peer) hangUp() { p.nc.Close(); <-p.gone }

// next waits for a frame of that op; another is an error.
func (p *peer) next(op wire.Op) wire.Frame {
	p.t.Helper()
	select {
	case f := <-p.in:
		if f.Op != op {
			p.t.Fatalf("got %s, want %s", f.Op, op)
		}
		return f
	case <-time.After(10 * time.Second):
		p.t.Fatalf("no %s comes", op)
	case <-p.gone:
		select {
		case f := <-p.in:
			if f.Op == op {
				return f
			}
		default:
		}
		p.t.Fatalf("no %s comes: the client hung up", op)
	}
	return wire.Frame{}
}

// orders is the stream most tests publish to: subjects orders and orders.>, led by node 1.
func orders(partitions int) wire.StreamInfo {
	s := wire.StreamInfo{ID: 7, Name: "orders", MapVersion: 1, Replicas: 1, Subjects: []string{"orders", "orders.>"}}
	for range partitions {
		s.Partitions = append(s.Partitions, wire.PartitionInfo{Leader: 1, Epoch: 1})
	}
	return s
}

func topologyOf(streams ...wire.StreamInfo) *wire.Topology {
	return &wire.Topology{
		MapVersion: 1,
		Nodes: []wire.NodeInfo{
			{ID: 1, Address: "a:1", Bits: wire.NodeSelf},
			{ID: 2, Address: "b:1"},
		},
		Streams: streams,
	}
}

// metadata answers a METADATA.
func (p *peer) metadata(streams ...wire.StreamInfo) wire.Metadata {
	p.t.Helper()
	f := p.next(wire.OpMetadata)
	var m wire.Metadata
	if err := m.Decode(f.Body); err != nil {
		p.t.Fatal(err)
	}
	p.send(topologyOf(streams...).AppendTo(nil, f.Corr, 0))
	return m
}

// open waits for an OPEN and answers it, with an id of 99 unless it brings one.
func (p *peer) open(nextSequence uint64) (corr uint32, o wire.Open) {
	p.t.Helper()
	f := p.next(wire.OpOpen)
	if err := o.Decode(f.Body); err != nil {
		p.t.Fatal(err)
	}
	answer := wire.Opened{Producer: o.Producer, Epoch: o.Epoch, NextSequence: nextSequence, LeaderEpoch: 1}
	if o.Idempotent && o.Producer == 0 {
		answer.Producer, answer.Epoch = 99, 1
	}
	p.send(answer.AppendTo(nil, f.Corr))
	return f.Corr, o
}

// sent is a batch a client published.
type sent struct {
	corr    uint32
	first   uint64
	count   int
	bytes   string
	values  []string
	subject []string
}

// publish waits for one PUBLISH and checks its batch.
func (p *peer) publish() sent {
	p.t.Helper()
	f := p.next(wire.OpPublish)
	return decodeBatch(p.t, f)
}

func decodeBatch(t *testing.T, f wire.Frame) sent {
	t.Helper()
	b, err := wire.ParseBatch(f.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(); err != nil {
		t.Fatal(err)
	}
	raw, err := b.Raw(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Bytes) != len(f.Body) {
		t.Fatalf("%d bytes behind the batch", len(f.Body)-len(b.Bytes))
	}
	s := sent{corr: f.Corr, first: b.Sequence, count: int(b.Count), bytes: string(f.Body)}
	it := b.Iterate(raw)
	var rec wire.Record
	for it.Next(&rec) {
		s.values = append(s.values, string(rec.Value))
		s.subject = append(s.subject, string(rec.Subject))
	}
	if it.Err() != nil {
		t.Fatal(it.Err())
	}
	return s
}

// want checks what a batch says.
func (s sent) want(t *testing.T, first uint64, values ...string) sent {
	t.Helper()
	if s.first != first || fmt.Sprint(s.values) != fmt.Sprint(values) {
		t.Fatalf("PUBLISH of %v at sequence %d, want %v at %d", s.values, s.first, values, first)
	}
	return s
}

func (p *peer) ack(corr uint32, sequence, count, offset uint64) {
	a := wire.Ack{Quorum: 1, Voters: 1, Sequence: sequence, Count: count, Offset: offset, Epoch: 1}
	p.send(a.AppendTo(nil, corr))
}

func (p *peer) fail(corr uint32, e wire.Error) { p.send(e.AppendTo(nil, corr)) }

// subscribe waits for a SUBSCRIBE and answers it.
func (p *peer) subscribe() (corr uint32, s wire.Subscribe) {
	p.t.Helper()
	f := p.next(wire.OpSub)
	if err := s.Decode(f.Body); err != nil {
		p.t.Fatal(err)
	}
	p.send(wire.AppendEmpty(nil, wire.OpOK, f.Corr))
	return f.Corr, s
}

// aBatch encodes records of orders.new with the given values.
func aBatch(values ...string) []byte {
	var b wire.Builder
	b.Reset(nil, wire.MaxBatch)
	for _, v := range values {
		if err := b.Append("orders.new", nil, []byte(v), nil, 1000); err != nil {
			panic(err)
		}
	}
	return b.Finish(0, false)
}

// records encodes one RECORDS frame of stream 7 with one run.
func recordsFrame(corr uint32, partition uint32, base, next uint64, batches ...[]byte) []byte {
	h := wire.RecordsHeader{Stream: 7, Partition: partition, HighWatermark: next, Next: next}
	dst, at := wire.BeginRecords(nil, corr, &h)
	if len(batches) > 0 {
		run := wire.Run{Base: base, Epoch: 3, Time: 5000}
		for _, b := range batches {
			run.Batches = append(run.Batches, b...)
		}
		dst = run.AppendTo(dst)
	}
	return wire.EndRecords(dst, at)
}

// result is what a call in the background came to.
type result[T any] struct {
	value T
	err   error
}

func async[T any](f func() (T, error)) <-chan result[T] {
	ch := make(chan result[T], 1)
	go func() {
		v, err := f()
		ch <- result[T]{v, err}
	}()
	return ch
}

func wait[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing comes")
	}
	panic("unreachable")
}

// eventually polls a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-again.C {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}
