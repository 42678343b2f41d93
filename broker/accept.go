package broker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/tidewire/tidewire/proto/wire"
)

// acceptor takes connections and gives them to the loops. It is not gnet's: that one ends its whole
// engine, and with it every session, at the first accept that finds no free file descriptor. This one
// decides about a connection before it costs anything but its descriptor, and when there is none left
// it refuses with the one it keeps for that.
type acceptor struct {
	node     *Node
	listener *net.TCPListener
	spare    *os.File // given up for a moment when descriptors have run out; nil if it was lost meanwhile
	done     sync.WaitGroup
	pace     *rate.Limiter // of the nanoseconds it takes
	told     time.Time     // when the log was told last that connections are refused
	untold   int           // refused since

	leaving  [maxLeaving]*net.TCPConn // refused, and about to hear so: a ring; run alone uses it
	leaveAt  int                      // where the next one goes
	released sync.WaitGroup           // those who wait for leaving
}

// Connections that vanished, without a word of their kernel, are known by keepalive within keepAliveIdle +
// keepAliveCount*keepAliveInterval. It speaks only while nothing is unacknowledged; see session.vanished.
const (
	keepAliveIdle     = 6 * time.Second
	keepAliveInterval = 3 * time.Second
	keepAliveCount    = 3
)

// listenTCP binds the address.
func listenTCP(address string) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: keepLittle, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount}}
	lc.SetMultipathTCP(false) // it knows nothing of keepLittle
	l, err := lc.Listen(context.Background(), "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &inUseError{address, err}
	}
	if err != nil {
		return nil, &addressError{address, err}
	}
	return l.(*net.TCPListener), nil
}

type inUseError struct {
	address string
	err     error
}

func (e *inUseError) Error() string {
	return "address " + e.address + " is in use: stop what listens there, or give another: " + e.err.Error()
}
func (e *inUseError) Unwrap() error { return e.err }

type addressError struct {
	address string
	err     error
}

func (e *addressError) Error() string { return "address " + e.address + ": " + e.err.Error() }
func (e *addressError) Unwrap() error { return e.err }

// run accepts until the listener is closed.
func (a *acceptor) run() {
	yieldToOthers()
	a.keepSpare()
	defer func() {
		a.dismiss()
		if a.spare != nil {
			_ = a.spare.Close()
		}
	}()
	for {
		c, err := a.listener.AcceptTCP()
		switch {
		case err == nil:
			a.admit(c)
			a.rest()
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			a.shed(err)
		default: // the kernel is short of memory, say: the connection waits in its queue
			a.tell("a connection cannot be accepted", err)
			a.pause()
		}
	}
}

// Accepting connections gets acceptShare of the machine's time, beyond acceptBurst of it: thousands that come at once, from an
// attacker or after a failure, are not to keep those waiting that are served. They wait in the kernel's queue. It is about
// 500 connections a second for each core.
const (
	acceptShare = 0.125
	acceptBurst = time.Millisecond
	acceptCost  = 250 * time.Microsecond // of one, about: a storm's cost 350 each, with its loop's and the kernel's work until the end
)

// cores is how many this process may use, by its cgroup too. A node has as many loops.
var cores = runtime.GOMAXPROCS(0) // before anybody sets it

func newAcceptor(n *Node, l *net.TCPListener) *acceptor {
	share := acceptShare * float64(cores)
	return &acceptor{node: n, listener: l, pace: rate.NewLimiter(rate.Limit(share*float64(time.Second)), int(acceptBurst))}
}

// rest waits as long as accepting has to, after one.
func (a *acceptor) rest() {
	_ = a.pace.WaitN(a.node.ctx, int(acceptCost)) // fails at the end of the node alone
}

// admit gives the connection to a loop, or refuses it.
func (a *acceptor) admit(c *net.TCPConn) {
	n := a.node
	limit := int64(n.config().MaxConnections)
	if n.connections.Add(1) > limit {
		n.connections.Add(-1)
		a.refuse(c, uint64(limit), "too many connections: close some, or raise the limit")
		return
	}
	if !filesFor(c) {
		n.connections.Add(-1)
		a.refuse(c, uint64(openFileLimit()), "this node has almost as many files open as its process may: raise its limit of open files")
		return
	}
	e := &entry{}
	withoutZone(c.LocalAddr())
	withoutZone(c.RemoteAddr())
	if _, err := n.engine.EnrollContext(c, e); err != nil {
		a.tell("a connection cannot be served", err)
	}
	if !e.opened {
		n.connections.Add(-1)
	}
}

// entry tells whether OnOpen came for a connection, and with it OnClose. EnrollContext returns after that. It closes c in
// any case, whose duplicate the loop has; of its errors (gnet v2.9.8) these can come: the duplicate cannot be made, and there
// is none; the loop's epoll refuses it, and the loop has closed it, which is no error there but OnOpen has not come. Behind
// others it would leave the duplicate open, so they are made impossible: TCP_NODELAY is set when Go accepts, and left alone
// by gnet (listen); an address that was a socket's parses; loops are woken until the engine stops, after this.
type entry struct{ opened bool }

// withoutZone takes the zone off a link-local address: gnet gives the bytes of that string to its pool of buffers when
// the connection ends, although the net package goes on using them.
func withoutZone(addr net.Addr) {
	if tcp, ok := addr.(*net.TCPAddr); ok { // the connection's own
		tcp.Zone = ""
	}
}

// fileReserve is how many of so many descriptors no connection gets: segments, and what stands between
// accepting and serving, need some at any time, and a segment that cannot be begun ends the node.
func fileReserve(limit int) int { return max(limit/16, min(limit/4, 32)) }

// filesFor reports whether files are left beside the connection's.
func filesFor(c *net.TCPConn) bool {
	limit := openFileLimit()
	return descriptor(c) < limit-fileReserve(limit)
}

// descriptor is the number of the connection's file. The kernel gives the lowest that is free, so at least as
// many files are open: nothing has to be counted.
func descriptor(c *net.TCPConn) (number int) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { number = int(fd) })
	}
	return number
}

// shed refuses one connection although there is no descriptor left.
func (a *acceptor) shed(cause error) {
	a.tell("out of file descriptors, connections are refused: raise the process's limit of open files", cause)
	if a.spare == nil {
		a.pause() // somebody else took it, or who was refused last has it; what there is waits in the kernel's queue
		a.dismiss()
		a.keepSpare()
		return
	}
	_ = a.spare.Close()
	a.spare = nil
	_ = a.listener.SetDeadline(time.Now().Add(10 * time.Millisecond)) // it may have given up meanwhile
	c, err := a.listener.AcceptTCP()
	_ = a.listener.SetDeadline(time.Time{})
	if err == nil {
		a.refuse(c, uint64(openFileLimit()), "this node is out of file descriptors: raise its limit of open files")
	}
	a.keepSpare()
}

func (a *acceptor) keepSpare() {
	if f, err := os.Open(os.DevNull); err == nil {
		a.spare = f
	}
}

const (
	// maxLeaving is how many refused connections are held open for a moment; the oldest makes room. Their descriptors
	// are of those that no connection gets.
	maxLeaving = 16
	// leaveTimeout and leaveBytes are for how long, and how much is read of each meanwhile.
	leaveTimeout = time.Second
	leaveBytes   = 1 << 20
)

// refuse answers with OVERLOADED and closes. It never waits: the frame fits an empty socket buffer. What the client sends
// before it has read that, HELLO at least, is read and thrown away: closed with it unread, or arriving behind, the
// kernel resets the connection, and the client learns of a broken one instead of why.
func (a *acceptor) refuse(c *net.TCPConn, value uint64, why string) {
	a.tell(why, nil)
	a.node.loops[0].count.Accepted.Add(1)
	a.node.loops[0].count.Refused.Add(wire.CodeOverloaded, 1) // rare enough to be nobody's own
	we := wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable | wire.ErrorEndsConnection, RetryAfter: time.Second, Value: value, Message: why}
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.Write(we.AppendTo(nil, 0))
	_ = c.CloseWrite()
	i := a.leaveAt % min(maxLeaving, max(fileReserve(openFileLimit())/4, 1))
	a.leaveAt = i + 1
	if oldest := a.leaving[i]; oldest != nil {
		_ = oldest.Close() // most have gone long ago
	}
	a.leaving[i] = c
	_ = c.SetReadDeadline(time.Now().Add(leaveTimeout))
	a.released.Go(func() {
		_, _ = io.CopyN(io.Discard, c, leaveBytes) // until the client closes
		_ = c.Close()
	})
}

// dismiss closes all refused connections.
func (a *acceptor) dismiss() {
	for i, c := range a.leaving {
		if c != nil {
			_ = c.Close()
			a.leaving[i] = nil
		}
	}
	a.released.Wait()
}

// tell logs at most once in ten seconds: there may be thousands a second.
func (a *acceptor) tell(what string, err error) {
	a.untold++
	if time.Since(a.told) < 10*time.Second {
		return
	}
	a.node.log.Warn(what, zap.Int("connections", a.untold), zap.Error(err))
	a.told, a.untold = time.Now(), 0
}

// pause waits a little, or for the end of the node.
func (a *acceptor) pause() {
	t := time.NewTimer(10 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-a.node.ctx.Done():
	}
}

// listen starts gnet's loops, which have no listener of their own, and accepts connections for them.
func (n *Node) listen() (err error) {
	l, err := listenTCP(n.config().Address)
	if err != nil {
		return err
	}
	n.accepting, n.addr, n.address = newAcceptor(n, l), l.Addr(), l.Addr().String()
	n.engine, err = gnet.NewClient(&server{node: n},
		gnet.WithNumEventLoop(len(n.loops)),
		gnet.WithReadBufferCap(readBuffer),
		gnet.WithTCPNoDelay(gnet.TCPDelay), // as Go has set it: not delayed
		gnet.WithLogger(engineLog{n.log.Named("gnet").Sugar()}))
	if err != nil {
		return err
	}
	if err := n.engine.Start(); err != nil {
		return err
	}
	n.booted = true
	n.accepting.done.Go(n.accepting.run)
	return nil
}

// engineLog is gnet's log. What it tells by the way says nothing of the node.
type engineLog struct{ *zap.SugaredLogger }

func (l engineLog) Infof(format string, args ...any) { l.Debugf(format, args...) }

// tryAddress reports whether the address can be had, before anything else is done: a node that cannot listen is
// to leave its data alone, and one that recovers is to refuse connections, not to let them wait.
func (n *Node) tryAddress() error {
	for _, address := range []string{n.config().Address, n.config().AdminAddress} {
		if address == "" {
			continue
		}
		l, err := listenTCP(address)
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// unlisten ends what listen began. No connection is on its way to a loop any more when loops end.
func (n *Node) unlisten() (err error) {
	if n.accepting != nil {
		_ = n.accepting.listener.Close()
		n.accepting.done.Wait()
	}
	if n.booted {
		for _, l := range n.loops {
			l.end()
		}
		err = n.engine.Stop()
	}
	return err
}
