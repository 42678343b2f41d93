package broker

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

// adminPort is an address of its own for HTTP and gRPC. Its connections come to the same servers as
// those of the client port do without one.
type adminPort struct {
	node     *Node
	listener *net.TCPListener
	mu       sync.Mutex // guards sniffing and closed
	sniffing map[net.Conn]struct{}
	closed   bool // what is accepted yet is closed
	done     sync.WaitGroup
}

// adminConnections is how many connections there may be here beside as many as the node takes of clients: it can be looked after, and
// probes are answered, when those are all there.
const adminConnections = 64

// listenAdmin binds Config.AdminAddress, if there is one, before any session looks whether there is.
func (n *Node) listenAdmin() error {
	address := n.config().AdminAddress
	if address == "" {
		return nil
	}
	l, err := listenTCP(address)
	if err != nil {
		return fmt.Errorf("for the admin API: %w", err)
	}
	n.adminPort = &adminPort{node: n, listener: l, sniffing: make(map[net.Conn]struct{})}
	return nil
}

// AdminAddr is where HTTP and gRPC are served: Addr, unless they have an address of their own.
func (n *Node) AdminAddr() net.Addr {
	if n.adminPort != nil {
		return n.adminPort.listener.Addr()
	}
	return n.addr
}

func (a *adminPort) run() {
	n := a.node
	for {
		c, err := a.listener.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of files, say: who waits in the kernel's queue waits on
			n.log.Warn("a connection to the admin address cannot be accepted", zap.Error(err))
			n.accepting.pause()
			continue
		case n.connections.Add(1) > int64(n.config().MaxConnections+adminConnections) || !filesFor(c):
			n.connections.Add(-1)
			n.loops[0].count.Accepted.Add(1)
			_ = c.Close()
			continue
		}
		n.loops[0].count.Accepted.Add(1)
		a.take(c)
	}
}

// take has the connection sniffed, unless close was called: nobody would end it.
func (a *adminPort) take(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		a.node.connections.Add(-1)
		_ = c.Close()
		return
	}
	a.sniffing[c] = struct{}{}
	a.done.Go(func() { a.sniff(c) })
}

// sniff waits for the first bytes, and hands over what speaks HTTP.
func (a *adminPort) sniff(c net.Conn) {
	n := a.node
	var h *handoff
	var b [len(http2Preface)]byte // enough for any decision
	have := 0
	_ = c.SetReadDeadline(time.Now().Add(n.config().HandshakeTimeout))
	for said := protoUndecided; said == protoUndecided; {
		m, err := c.Read(b[have:])
		have += m
		said = sniff(b[:have])
		switch {
		case said == protoHTTP1:
			h = n.http1
		case said == protoHTTP2:
			h = n.http2
		case err != nil:
			said = protoForeign
		}
	}
	a.mu.Lock()
	delete(a.sniffing, c)
	a.mu.Unlock()
	_ = c.SetReadDeadline(time.Time{})
	if h != nil {
		h.open.Add(1)
		d := &detached{Conn: c, first: b[:have], remote: c.RemoteAddr(), count: &n.connections, speaks: &h.open}
		if !h.offer(d) {
			_ = d.Close()
		}
		return
	}
	n.connections.Add(-1)
	_ = c.Close()
}

// close ends what listenAdmin began, before the servers end.
func (a *adminPort) close() {
	_ = a.listener.Close()
	a.mu.Lock()
	a.closed = true
	for c := range a.sniffing {
		_ = c.Close()
	}
	a.mu.Unlock()
	a.done.Wait()
}

// adminHeader tells, in a 421, where HTTP and gRPC are served.
const adminHeader = "Tidewire-Admin"

// elsewhere answers who looks for HTTP on the client port of a node that has an admin address.
func (s *session) elsewhere(p protocol) {
	s.log.Info("HTTP on the client port of a node that has an admin address for it")
	if p == protoHTTP1 {
		body := fmt.Sprintf("HTTP is served at %s, not here.\n", s.node.AdminAddr())
		s.write(fmt.Appendf(nil, "HTTP/1.1 421 Misdirected Request\r\nContent-Type: text/plain; charset=utf-8\r\n%s: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
			adminHeader, s.node.AdminAddr(), len(body), body))
	}
	s.closing = true
	s.touch()
}
