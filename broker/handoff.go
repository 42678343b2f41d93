package broker

import (
	"bytes"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/proto/wire"
)

// protocol is what speaks on a connection.
type protocol uint8

const (
	protoUndecided protocol = iota // more bytes will tell
	protoForeign                   // none that this port speaks
	protoWire                      // ours
	protoHTTP1                     // metrics, health
	protoHTTP2                     // with prior knowledge: gRPC
)

// http2Preface opens every HTTP/2 connection that was not negotiated (RFC 9113, 3.4).
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

var http1Methods = []string{"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "TRACE ", "CONNECT "}

// sniff decides by the first bytes what speaks. Feeding it more bytes never changes a decision.
func sniff(b []byte) protocol {
	begins := func(opening string) (whole, possible bool) {
		n := min(len(b), len(opening))
		possible = string(b[:n]) == opening[:n]
		return possible && n == len(opening), possible
	}
	undecided := false
	for _, known := range []struct {
		opening string
		protocol
	}{{wire.Magic, protoWire}, {http2Preface, protoHTTP2}} {
		whole, possible := begins(known.opening)
		if whole {
			return known.protocol
		}
		undecided = undecided || possible
	}
	for _, method := range http1Methods {
		whole, possible := begins(method)
		if whole {
			return protoHTTP1
		}
		undecided = undecided || possible
	}
	if undecided {
		return protoUndecided
	}
	return protoForeign
}

// handoff is a net.Listener whose connections come from the client port: what speaks HTTP there is
// detached from its loop and served by a server of net/http or gRPC.
type handoff struct {
	addr   func() net.Addr
	conns  chan net.Conn
	done   chan struct{}
	mu     sync.Mutex   // guards closed and sends to conns; held for nothing that takes long
	closed bool         // nothing is offered any more
	open   atomic.Int64 // connections that were handed over and are not closed
}

// handoffQueue is how many detached connections may wait to be accepted.
const handoffQueue = 128

func newHandoff(addr func() net.Addr) *handoff {
	return &handoff{addr: addr, conns: make(chan net.Conn, handoffQueue), done: make(chan struct{})}
}

// offer gives a connection to whoever accepts; false if nobody keeps up, or listens any more, and c stays the
// caller's to close. What it takes is accepted or closed. It never blocks.
func (h *handoff) offer(c net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	select {
	case h.conns <- c:
		return true
	default:
		return false
	}
}

// Accept implements net.Listener.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handoff) Close() error {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.done)
	}
	h.mu.Unlock()
	for { // nothing comes behind that
		select {
		case c := <-h.conns:
			_ = c.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (h *handoff) Addr() net.Addr { return h.addr() }

// detached is a connection that left its loop, with what had been read of it there.
type detached struct {
	net.Conn
	first  []byte
	remote net.Addr      // from the start: the socket of a client that has gone does not tell, and servers do not expect that
	count  *atomic.Int64 // of the node's connections
	speaks *atomic.Int64 // of those that speak its protocol
	closed atomic.Bool
}

func (d *detached) Read(b []byte) (int, error) {
	if len(d.first) > 0 {
		n := copy(b, d.first)
		d.first = d.first[n:]
		return n, nil
	}
	return d.Conn.Read(b)
}

// RemoteAddr is never nil.
func (d *detached) RemoteAddr() net.Addr { return d.remote }

func (d *detached) Close() error {
	if d.closed.CompareAndSwap(false, true) {
		d.count.Add(-1)
		d.speaks.Add(-1)
	}
	return d.Conn.Close()
}

// detach gives c a life of its own, beside gnet's, which is to be closed next. It runs on c's loop.
func (n *Node) detach(c gnet.Conn, first []byte, speaks *atomic.Int64) (net.Conn, error) {
	if c.OutboundBuffered() != 0 {
		return nil, errors.New("something was written to it already")
	}
	fd, err := c.Dup()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "detached")
	defer f.Close()
	nc, err := net.FileConn(f) // of another duplicate, which joins Go's poller
	if err != nil {
		return nil, err
	}
	n.connections.Add(1) // gnet's own is counted down when it closes
	speaks.Add(1)
	remote := net.Addr(&net.TCPAddr{})
	if a := c.RemoteAddr(); a != nil {
		remote = a
	}
	return &detached{Conn: nc, first: bytes.Clone(first), remote: remote, count: &n.connections, speaks: speaks}, nil
}

// handOver detaches the session's connection and gives it to the server behind h. The session ends.
func (s *session) handOver(h *handoff) {
	first, _ := s.conn.Peek(-1)
	c, err := s.node.detach(s.conn, first, &h.open)
	switch {
	case err != nil:
		s.log.Warn("a connection could not be detached", zap.Error(err))
	case !h.offer(c):
		s.log.Info("a connection came faster than they are accepted; closed")
		_ = c.Close()
	}
	s.hangUp() // gnet's descriptor alone, if it was detached
}

// printable is the first line of what a foreign client said, for the log.
func printable(b []byte) string {
	line, _, _ := strings.Cut(string(b[:min(len(b), 32)]), "\n")
	return string(slices.DeleteFunc([]rune(line), func(r rune) bool { return r < ' ' || r > '~' }))
}
