package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// defaultIdle stands in where the node never closes a silent connection: a dead one must still be noticed.
const defaultIdle = 30 * time.Second

// handler is one conversation on a connection.
type handler interface {
	// frame takes a frame of the conversation, on the reader goroutine: it must not block. f is
	// borrowed until it returns, unless own is there and it sets cn.kept, which makes own its. An
	// error is a breach of the protocol and closes the connection.
	frame(cn *conn, f wire.Frame, own *buffer) error
	// lost says that the connection is gone; neither frame nor a write happens any more.
	lost(cn *conn, err error)
}

// conn is one connection to a node, from WELCOME on. Conversations outlive it: their handlers
// are told with lost, and begin again on the next one.
type conn struct {
	c       *Client
	nc      net.Conn
	address string
	welcome wire.Welcome
	out     outbox
	rd      frameReader
	kept    bool // whoever was handed the last frame took its buffer over; only the reader goroutine looks

	dead    chan struct{} // closed by the first fail
	reads   atomic.Uint64 // counts reads that brought something
	unacked atomic.Int64  // bytes of batches sent and not answered
	retired atomic.Bool   // dead or draining: publish nothing more here

	mu       sync.Mutex // taken last: no other lock but the outbox's is taken under it
	table    map[uint32]handler
	corr     uint32 // the last one given
	calls    int    // requests without an answer
	credit   int64  // granted to subscriptions
	err      error  // why it is dead
	draining bool   // GOAWAY arrived: nothing new begins here
	drain    *time.Timer
	waiting  []*producer // held back by welcome.InFlightBytes
}

// dial connects to address and shakes hands.
func (c *Client) dial(ctx context.Context, address string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.dialTimeout)
	defer cancel()
	nc, err := c.cfg.dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("tidewire: %s: %w", address, err)
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	cn := &conn{
		c:       c,
		nc:      nc,
		address: address,
		dead:    make(chan struct{}),
		table:   make(map[uint32]handler),
	}
	cn.out.init(nc)
	cn.rd = frameReader{nc: nc, limit: wire.DefaultFrameLimit, buf: make([]byte, readBytes), idle: func() {}, got: func() {}}
	err = cn.handshake()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		nc.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer to the handshake: %w", context.Cause(ctx))
		}
		return nil, fmt.Errorf("tidewire: %s: %w", address, err)
	}
	cn.rd.idle = cn.out.push
	cn.rd.got = func() { cn.reads.Add(1) }
	return cn, nil
}

func (cn *conn) handshake() error {
	hello := wire.Hello{
		MinVersion: wire.Version,
		MaxVersion: wire.Version,
		Role:       wire.RoleClient,
		FrameLimit: wire.DefaultFrameLimit,
		Cluster:    cn.c.Server().Cluster, // none the first time
		Client:     cn.c.cfg.hello(),
	}
	if _, err := cn.nc.Write(hello.AppendTo([]byte(wire.Magic), 0)); err != nil {
		return err
	}
	f, own, err := cn.rd.next()
	if err != nil {
		if errors.Is(err, wire.ErrMalformed) {
			return fmt.Errorf("this is no Tidewire node: %w", refused(err))
		}
		if errors.Is(err, io.EOF) {
			return errors.New("closed before the handshake was done: is this a Tidewire node?")
		}
		return err
	}
	defer own.free()
	switch f.Op {
	case wire.OpWelcome:
		if err := cn.welcome.Decode(f.Body); err != nil {
			return refused(err)
		}
		if cn.welcome.Version != wire.Version {
			return &Error{Code: wire.CodeUnsupported, Message: fmt.Sprintf("the node chose protocol version %d, this client speaks %d", cn.welcome.Version, wire.Version)}
		}
		return nil
	case wire.OpError:
		var e wire.Error
		if err := e.Decode(f.Body); err != nil {
			return refused(err)
		}
		return fromWire(&e)
	case wire.OpAuth:
		return &Error{Code: wire.CodeAuth, Message: "the node asks for authentication this client has no means for"}
	}
	return fmt.Errorf("%s where WELCOME belongs", f.Op)
}

// run reads until the connection ends, calls ended, tells every conversation, and returns why.
func (cn *conn) run(ended func()) error {
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := cn.out.run(cn.dead); err != nil {
			cn.fail(err)
		}
	})
	wg.Go(cn.keepAlive)
	for {
		f, own, err := cn.rd.next()
		if err == nil {
			cn.kept = false
			err = cn.dispatch(f, own)
			if !cn.kept {
				own.free()
			}
		}
		if err != nil {
			cn.fail(refused(err))
			break
		}
	}
	wg.Wait()
	cn.out.stop()
	ended()

	cn.mu.Lock()
	table := cn.table
	cn.table = nil
	cn.waiting = nil
	err := cn.err
	if cn.drain != nil {
		cn.drain.Stop()
	}
	cn.mu.Unlock()
	for _, h := range table {
		h.lost(cn, err)
	}
	return err
}

// fail ends the connection; the first error stays.
func (cn *conn) fail(err error) {
	cn.mu.Lock()
	first := cn.err == nil
	if first {
		if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrDisconnected) {
			err = fmt.Errorf("%w: %s: %w", ErrDisconnected, cn.address, err)
		}
		cn.err = err
	}
	cn.retired.Store(true)
	cn.mu.Unlock()
	if first {
		close(cn.dead)
		cn.nc.Close()
	}
}

func (cn *conn) dispatch(f wire.Frame, own *buffer) error {
	if f.Corr != 0 {
		cn.mu.Lock()
		h := cn.table[f.Corr]
		cn.mu.Unlock()
		if h != nil {
			return h.frame(cn, f, own)
		}
		if f.Op == wire.OpPing {
			return cn.pong(f)
		}
		// A conversation that ended here may have had an answer on its way.
		cn.c.cfg.logger.Debug("frame of no conversation", "address", cn.address, "op", f.Op, "corr", f.Corr)
		return nil
	}
	switch f.Op {
	case wire.OpPing:
		return cn.pong(f)
	case wire.OpPong:
		var p wire.Ping
		return p.Decode(f.Body)
	case wire.OpTopology:
		var t wire.Topology
		if err := t.Decode(f.Body); err != nil {
			return err
		}
		cn.c.topology.learn(&t)
		return nil
	case wire.OpGoaway:
		var g wire.Goaway
		if err := g.Decode(f.Body); err != nil {
			return err
		}
		cn.goaway(&g)
		return nil
	case wire.OpError:
		var e wire.Error
		if err := e.Decode(f.Body); err != nil {
			return err
		}
		return fromWire(&e)
	}
	return protocolError("%s from a node outside any conversation", f.Op)
}

func protocolError(format string, args ...any) error {
	return &Error{Code: wire.CodeMalformed, Message: "the node broke the protocol: " + fmt.Sprintf(format, args...)}
}

func (cn *conn) pong(f wire.Frame) error {
	var p wire.Ping
	if err := p.Decode(f.Body); err != nil {
		return err
	}
	cn.out.add(p.AppendTo(nil, wire.OpPong, f.Corr)) // the reader pushes before it waits again
	return nil
}

// keepAlive pings three times in the idle time, and gives up a node from which nothing comes.
func (cn *conn) keepAlive() {
	idle := cn.welcome.Idle
	if idle <= 0 {
		idle = defaultIdle
	}
	ticker := time.NewTicker(max(idle/3, time.Millisecond))
	defer ticker.Stop()
	var seen uint64
	for silent := 0; ; {
		select {
		case <-cn.dead:
			return
		case <-ticker.C:
		}
		if reads := cn.reads.Load(); reads != seen {
			seen, silent = reads, 0
		} else if silent++; silent > 3 {
			cn.fail(fmt.Errorf("nothing came from the node for %v", idle))
			return
		}
		cn.out.add(wire.Ping{}.AppendTo(nil, wire.OpPing, 0))
		cn.out.kick()
	}
}

// openLocked begins a conversation. It fails if the connection is dead or draining.
func (cn *conn) openLocked(h handler) (uint32, error) {
	if cn.table == nil || cn.err != nil {
		if cn.err == nil {
			return 0, ErrDisconnected
		}
		return 0, cn.err
	}
	if cn.draining {
		return 0, fmt.Errorf("%w: %s is going away", ErrDisconnected, cn.address)
	}
	for {
		if cn.corr == math.MaxUint32 {
			cn.corr = 0
		}
		cn.corr++
		if _, taken := cn.table[cn.corr]; !taken {
			cn.table[cn.corr] = h
			return cn.corr, nil
		}
	}
}

// end forgets a conversation.
func (cn *conn) end(corr uint32) {
	cn.mu.Lock()
	delete(cn.table, corr)
	cn.mu.Unlock()
	cn.finishDrain()
}

func (cn *conn) goaway(g *wire.Goaway) {
	cn.c.cfg.logger.Info("node is going away", "address", cn.address, "code", g.Code, "message", g.Message, "drain", g.Drain)
	cn.mu.Lock()
	if !cn.draining {
		cn.draining = true
		cn.retired.Store(true)
		if g.Drain > 0 {
			cn.drain = time.AfterFunc(g.Drain, func() { cn.fail(errGoaway) })
		}
	}
	cn.mu.Unlock()
	cn.c.wentAway(cn, g.Address)
	cn.finishDrain()
}

var errGoaway = errors.New("the node went away")

// finishDrain closes a draining connection once nothing is in flight on it.
func (cn *conn) finishDrain() {
	cn.mu.Lock()
	done := cn.draining && cn.err == nil && cn.calls == 0 && cn.unacked.Load() == 0
	cn.mu.Unlock()
	if done {
		cn.fail(errGoaway)
	}
}

// roomMade lets producers go on that waited for the node's bound, after unacked fell.
func (cn *conn) roomMade() {
	cn.mu.Lock()
	waiting := cn.waiting
	cn.waiting = nil
	draining := cn.draining
	cn.mu.Unlock()
	for _, p := range waiting {
		p.mu.Lock()
		if p.session != nil && p.session.cn == cn {
			p.held = false
			p.pumpLocked()
		}
		p.mu.Unlock()
	}
	if draining {
		cn.finishDrain()
	}
}
