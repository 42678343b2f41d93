package broker

import (
	"net"
	"os"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"

	"github.com/tidewire/tidewire/proto/wire"
)

// server is what gnet calls. OnOpen, OnTraffic and OnClose run on the connection's loop.
type server struct {
	gnet.BuiltinEventEngine
	node   *Node
	booted chan gnet.Engine
	failed error // to find the address; written before booted
}

// readBuffer is how much a loop reads at a time: many frames, one write of answers.
const readBuffer = 512 << 10

func (s *server) run(address string, loops int, log logging.Logger) error {
	return gnet.Run(s, "tcp://"+address,
		gnet.WithNumEventLoop(loops),
		gnet.WithReadBufferCap(readBuffer),
		gnet.WithLoadBalancing(gnet.LeastConnections),
		gnet.WithReuseAddr(true), // or a restart waits until the last connections leave TIME_WAIT
		gnet.WithTCPNoDelay(gnet.TCPNoDelay),
		gnet.WithTCPKeepAlive(30*time.Second),
		gnet.WithLogger(log))
}

// OnBoot implements gnet.EventHandler. No loop runs before it returns.
func (s *server) OnBoot(e gnet.Engine) gnet.Action {
	s.node.addr, s.failed = listening(e)
	s.booted <- e
	return gnet.None
}

// listening is the address the engine is bound to, also where port 0 was asked for.
func listening(e gnet.Engine) (net.Addr, error) {
	fd, err := e.Dup()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return l.Addr(), l.Close()
}

// OnOpen implements gnet.EventHandler.
func (s *server) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	n := s.node
	if open := n.connections.Add(1); open > int64(n.config().MaxConnections) {
		we := wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable | wire.ErrorEndsConnection,
			RetryAfter: time.Second, Value: uint64(n.config().MaxConnections), Message: "too many connections: close some, or raise the limit"}
		return we.AppendTo(nil, 0), gnet.Close
	}
	sess := newSession(n.loopOf(c.EventLoop()), c)
	c.SetContext(sess)
	return nil, gnet.None
}

// OnTraffic implements gnet.EventHandler.
func (s *server) OnTraffic(c gnet.Conn) gnet.Action {
	sess := c.Context().(*session)
	func() {
		defer sess.contain()
		sess.traffic()
	}()
	sess.loop.flush()
	return gnet.None
}

// OnClose implements gnet.EventHandler.
func (s *server) OnClose(c gnet.Conn, err error) gnet.Action {
	s.node.connections.Add(-1)
	if sess, ok := c.Context().(*session); ok {
		sess.closed(err)
	}
	return gnet.None
}
