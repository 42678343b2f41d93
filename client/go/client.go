package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// DefaultPort is the port of an address that names none.
const DefaultPort = "7420"

// Client is a connection to a cluster. Everything that has to do with it shares one TCP
// connection, and one more for each further node that leads a partition published to. All
// methods are safe for concurrent use.
//
// A lost connection is found again by itself; meanwhile calls wait, until their context ends.
type Client struct {
	cfg       config
	addresses []string

	ctx    context.Context // ends when Close begins to tear down
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the client

	budget    budget
	callbacks callbacks
	topology  topology
	failures  failures
	batches   batches
	limit     atomic.Int64 // of the node for a batch, in bytes
	refusal   atomic.Pointer[refusal]

	mu        sync.Mutex
	closing   bool          // Close was called: nothing new begins
	current   *conn         // the connection to the cluster; nil while there is none
	found     chan struct{} // closed when current is set
	elsewhere string        // where a GOAWAY sent us
	last      Server
	others    map[string]*conn // by address: nodes that lead partitions
	dialing   map[string]*dialing
	producers map[*producer]struct{}
	subs      map[*Subscription]struct{}
	producer  identity // shared by the producers of all partitions
	closed    chan struct{}
	closeErr  error
}

type dialing struct {
	done chan struct{}
	cn   *conn
	err  error
}

// identity is an idempotent producer's id, as a node gave it; zero: none yet.
type identity struct {
	id    uint64
	epoch uint16
}

// Server is the node the client is connected to, or was last.
type Server struct {
	Address    string
	Cluster    [16]byte
	Node       uint64
	Software   string
	BatchLimit int // bytes of the largest batch it takes: a record is a little smaller
}

// Connect connects to the first of the addresses that answers: "host:port", several separated by
// commas; the port may be left out and is then 7420. It tries each once and fails if none
// answers; from then on the client reconnects by itself. ctx bounds Connect alone.
func Connect(ctx context.Context, addresses string, opts ...Option) (*Client, error) {
	c := &Client{cfg: defaults()}
	for _, o := range opts {
		o(&c.cfg)
	}
	if err := c.cfg.validate(); err != nil {
		return nil, err
	}
	for a := range strings.SplitSeq(addresses, ",") {
		a, err := address(strings.TrimSpace(a))
		if err != nil {
			return nil, err
		}
		c.addresses = append(c.addresses, a)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.found = make(chan struct{})
	c.closed = make(chan struct{})
	c.others = make(map[string]*conn)
	c.dialing = make(map[string]*dialing)
	c.producers = make(map[*producer]struct{})
	c.subs = make(map[*Subscription]struct{})
	c.budget.limit = int64(c.cfg.maxInFlight)
	c.callbacks.wake = make(chan struct{}, 1)
	c.topology.init(c)

	var errs []error
	var cn *conn
	for _, a := range c.addresses {
		var err error
		if cn, err = c.dial(ctx, a); err == nil {
			break
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if cn == nil {
		c.cancel()
		return nil, errors.Join(errs...)
	}
	c.mu.Lock()
	c.setCurrentLocked(cn)
	c.mu.Unlock()
	c.wg.Go(c.callbacks.run)
	c.wg.Go(func() { c.supervise(cn) })
	return c, nil
}

// address completes one address.
func address(a string) (string, error) {
	if a == "" {
		return "", errors.New("tidewire: an empty address; give host:port, 127.0.0.1:7420 say")
	}
	if _, _, err := net.SplitHostPort(a); err == nil {
		return a, nil
	}
	host := strings.TrimSuffix(strings.TrimPrefix(a, "["), "]")
	if strings.Contains(host, ":") && net.ParseIP(host) == nil {
		return "", fmt.Errorf("tidewire: address %q is neither host nor host:port", a)
	}
	return net.JoinHostPort(host, DefaultPort), nil
}

// supervise keeps a connection to the cluster, beginning with cn.
func (c *Client) supervise(cn *conn) {
	state := Connected
	soon := 0 // connections in a row that ended soon after they began
	for {
		c.tell(state, nil)
		began := time.Now()
		err := c.serve(cn)
		if c.ctx.Err() != nil {
			return
		}
		c.cfg.logger.Warn("connection lost", "address", cn.address, "error", err)
		c.tell(Disconnected, err)
		left := ""
		if errors.Is(err, errGoaway) {
			left = cn.address // it still answers, to say that it goes away
		}
		if time.Since(began) > c.cfg.backoffMax {
			soon = 0
		}
		if cn = c.redial(left, soon); cn == nil {
			return
		}
		soon++
		c.cfg.logger.Info("connected again", "address", cn.address)
		state = Reconnected
	}
}

// serve runs a connection; afterwards it is nobody's any more.
func (c *Client) serve(cn *conn) error {
	stop := context.AfterFunc(c.ctx, func() { cn.fail(ErrClosed) })
	defer stop()
	return cn.run(func() {
		c.mu.Lock()
		c.forgetLocked(cn)
		c.mu.Unlock()
	})
}

func (c *Client) forgetLocked(cn *conn) {
	if c.current == cn {
		c.current = nil
		c.found = make(chan struct{})
	}
	if c.others[cn.address] == cn {
		delete(c.others, cn.address)
	}
}

func (c *Client) setCurrentLocked(cn *conn) {
	c.current = cn
	c.elsewhere = ""
	w := &cn.welcome
	c.last = Server{Address: cn.address, Cluster: w.Cluster, Node: w.Node, Software: w.Server, BatchLimit: batchLimit(w)}
	c.limit.Store(int64(c.last.BatchLimit))
	close(c.found)
}

func batchLimit(w *wire.Welcome) int { return int(min(w.BatchLimit, wire.MaxBatch)) }

// redial tries the addresses in turn until one answers, left last: a node that goes away answers too, as long as it drains.
// soon connections in a row before this one ended soon after they began; after one to each address it waits, longer each time.
// nil: the client was closed.
func (c *Client) redial(left string, soon int) *conn {
	first := rand.IntN(len(c.addresses))
	if i := slices.Index(c.addresses, left); i >= 0 {
		first = i + 1
	}
	if round := (soon + 1) / len(c.addresses); (soon+1)%len(c.addresses) == 0 && (left != "" || soon > 0) {
		if left != "" && round == 1 {
			c.cfg.logger.Info("there is no other node: waiting until this one is back", "address", left)
		}
		if c.sleep(c.ctx, round-1, 0) != nil {
			return nil
		}
	}
	warned := false
	for attempt := 0; ; attempt++ {
		c.mu.Lock()
		targets := []string{c.addresses[(first+attempt)%len(c.addresses)]}
		if c.elsewhere != "" {
			targets = append([]string{c.elsewhere}, targets...)
		}
		c.mu.Unlock()
		for _, a := range targets {
			cn, err := c.dial(c.ctx, a)
			if err == nil {
				c.mu.Lock()
				c.setCurrentLocked(cn)
				c.mu.Unlock()
				return cn
			}
			level := slog.LevelDebug
			if refusal := (*Error)(nil); errors.As(err, &refusal) && !refusal.Retriable && !warned {
				level, warned = slog.LevelWarn, true // it will not get better by itself
			}
			c.cfg.logger.Log(c.ctx, level, "no connection", "address", a, "error", err)
		}
		// The first round goes through all addresses without waiting.
		if attempt+1 >= len(c.addresses) || len(c.addresses) == 1 {
			if c.sleep(c.ctx, attempt/len(c.addresses), 0) != nil {
				return nil
			}
		}
		if c.ctx.Err() != nil {
			return nil
		}
	}
}

// wentAway takes a draining connection out of use, so that what begins now waits for the next one.
func (c *Client) wentAway(cn *conn, elsewhere string) {
	c.mu.Lock()
	if c.current == cn && elsewhere != "" {
		c.elsewhere = elsewhere
	}
	c.forgetLocked(cn)
	c.mu.Unlock()
}

func (c *Client) tell(s State, err error) {
	if c.cfg.state != nil {
		c.cfg.state(s, err)
	}
}

// main gives the connection to the cluster, and waits for one if there is none.
func (c *Client) main(ctx context.Context) (*conn, error) {
	for {
		c.mu.Lock()
		cn, found := c.current, c.found
		c.mu.Unlock()
		if c.ctx.Err() != nil {
			return nil, ErrClosed
		}
		if cn != nil {
			return cn, nil
		}
		select {
		case <-found:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-c.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// connTo gives the connection to a node other than the current one, and dials if there is none.
func (c *Client) connTo(ctx context.Context, addr string) (*conn, error) {
	c.mu.Lock()
	if c.current != nil && c.current.address == addr {
		defer c.mu.Unlock()
		return c.current, nil
	}
	if cn := c.others[addr]; cn != nil {
		defer c.mu.Unlock()
		return cn, nil
	}
	if c.producers == nil {
		defer c.mu.Unlock()
		return nil, ErrClosed
	}
	d := c.dialing[addr]
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		c.dialing[addr] = d
		c.wg.Go(func() {
			d.cn, d.err = c.dial(c.ctx, addr)
			c.mu.Lock()
			delete(c.dialing, addr)
			if d.err == nil {
				c.others[addr] = d.cn
			}
			c.mu.Unlock()
			close(d.done)
			if d.err == nil {
				c.serve(d.cn)
			}
		})
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.cn, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Server tells which node the client is connected to, or was last.
func (c *Client) Server() Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Close flushes, for at most the close timeout, ends all subscriptions and disconnects. Records that
// are still unacknowledged then fail with ErrClosed, and those on their way with ErrUnknownOutcome
// as well. Close returns what Flush would. It waits for every goroutine of the client, callbacks of
// PublishAsync included: do not call it from one.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		<-c.closed
		return c.closeErr
	}
	c.closing = true
	c.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.closeTimeout)
	err := c.flushAll(ctx)
	if ctx.Err() != nil {
		err = nil // what is left fails below, and says more
	}
	cancel()

	c.cancel()
	c.mu.Lock()
	producers, subs := c.producers, c.subs
	c.producers, c.subs = nil, nil
	c.mu.Unlock()
	for s := range subs {
		s.end(ErrClosed)
	}
	for p := range producers {
		p.close()
	}
	c.budget.close()
	c.callbacks.close()
	c.wg.Wait()
	c.tell(Closed, nil)
	if err == nil {
		err = c.failures.take()
	}
	c.closeErr = err
	close(c.closed)
	return err
}

// spawn runs f in a goroutine of the client, which Close waits for. false: it is torn down already.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.producers == nil {
		return false
	}
	c.wg.Go(f)
	return true
}

// backoff draws the wait before an attempt: between half and all of min*2^attempt, at most max.
func (c *config) backoff(attempt int) time.Duration {
	d := c.backoffMax
	if attempt < 30 && c.backoffMin<<attempt < c.backoffMax && c.backoffMin<<attempt > 0 {
		d = c.backoffMin << attempt
	}
	return d/2 + rand.N(d/2+1)
}
