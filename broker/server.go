package broker

import (
	"time"

	"github.com/panjf2000/gnet/v2"
)

// server is what gnet calls. OnOpen, OnTraffic and OnClose run on the connection's loop.
type server struct {
	gnet.BuiltinEventEngine
	node *Node
}

// readBuffer is how much a loop reads at a time: many frames, one write of answers.
const readBuffer = 512 << 10

// OnOpen implements gnet.EventHandler. The acceptor has decided that the connection is taken.
func (s *server) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	if e, ok := c.Context().(*entry); ok {
		e.opened = true
	}
	l := s.node.loopOf(c.EventLoop())
	l.serve(func() {
		l.count.Accepted.Add(1)
		c.SetContext(newSession(l, c))
	})
	return nil, gnet.None
}

// OnTraffic implements gnet.EventHandler.
func (s *server) OnTraffic(c gnet.Conn) gnet.Action {
	sess := c.Context().(*session)
	l := sess.loop
	l.serve(func() {
		l.began = time.Now()
		sess.contained((*session).traffic)
		l.flush()
	})
	return gnet.None
}

// OnClose implements gnet.EventHandler.
func (s *server) OnClose(c gnet.Conn, err error) gnet.Action {
	s.node.connections.Add(-1)
	if sess, ok := c.Context().(*session); ok {
		sess.loop.serve(func() {
			sess.loop.began = time.Now()
			sess.contained(func(s *session) { s.closed(err) })
		})
	}
	return gnet.None
}
