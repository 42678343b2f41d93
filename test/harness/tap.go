package harness

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// Tap stands in a client's connections and counts the batches that went out on the socket and were
// not acknowledged: what is truly in flight when a fault strikes. It is given to client.WithDialer.
type Tap struct {
	mu       sync.Mutex
	conns    map[*tapConn]struct{}
	inFlight int           // over the connections that live
	lost     []int         // batches in flight on each connection when it ended
	down     chan struct{} // closed when conns is empty
}

// NewTap makes a tap without connections.
func NewTap() *Tap {
	down := make(chan struct{})
	close(down)
	return &Tap{conns: make(map[*tapConn]struct{}), down: down}
}

// Dial is a client.DialFunc.
func (t *Tap) Dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &tapConn{Conn: nc, tap: t, sent: make(map[uint32][]uint64)}
	c.out = frameScanner{skip: len(wire.Magic), frame: c.wrote}
	c.in = frameScanner{frame: c.read}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.conns) == 0 {
		t.down = make(chan struct{})
	}
	t.conns[c] = struct{}{}
	return c, nil
}

// InFlight is how many batches are on their way now.
func (t *Tap) InFlight() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inFlight
}

// AwaitDown waits until the client has given up all its connections, and returns how many batches
// were in flight on those that ended since the last call: written to the socket and never answered.
func (t *Tap) AwaitDown(bound time.Duration) (int, error) {
	t.mu.Lock()
	down := t.down
	t.mu.Unlock()
	select {
	case <-down:
	case <-time.After(bound):
		return 0, fmt.Errorf("the client holds its connection %v after the node is gone", bound)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, l := range t.lost {
		n += l
	}
	t.lost = t.lost[:0]
	return n, nil
}

// tapConn passes everything on and looks at the frames. It has none of *net.TCPConn's further
// methods, so that nothing goes past it.
type tapConn struct {
	net.Conn
	tap     *Tap
	out, in frameScanner
	closing sync.Once

	// Guarded by tap.mu.
	sent   map[uint32][]uint64 // by producer (Corr): the sequence after each batch in flight, in order
	flying int
}

func (c *tapConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.out.scan(b[:n])
	return n, err
}

func (c *tapConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in.scan(b[:n])
	return n, err
}

func (c *tapConn) Close() error {
	c.closing.Do(func() {
		c.tap.mu.Lock()
		defer c.tap.mu.Unlock()
		delete(c.tap.conns, c)
		c.tap.lost = append(c.tap.lost, c.flying)
		c.tap.inFlight -= c.flying
		c.flying = 0
		if len(c.tap.conns) == 0 {
			close(c.tap.down)
		}
	})
	return c.Conn.Close()
}

func (c *tapConn) add(n int) {
	c.flying += n
	c.tap.inFlight += n
}

// wrote sees the beginning of a frame that went out whole.
func (c *tapConn) wrote(op wire.Op, corr uint32, body []byte) {
	const head = 4 + 4 + 1 + 1 + 2 + 8 // of a batch, Sequence included
	if op != wire.OpPublish || len(body) < head {
		return
	}
	end := binary.LittleEndian.Uint64(body[12:]) + uint64(binary.LittleEndian.Uint16(body[10:]))
	c.tap.mu.Lock()
	defer c.tap.mu.Unlock()
	if _, open := c.tap.conns[c]; open {
		c.sent[corr] = append(c.sent[corr], end)
		c.add(1)
	}
}

// read sees the beginning of a frame that came in whole; an ACK is never longer than that.
func (c *tapConn) read(op wire.Op, corr uint32, body []byte) {
	if op != wire.OpAck && op != wire.OpError {
		return
	}
	c.tap.mu.Lock()
	defer c.tap.mu.Unlock()
	if _, open := c.tap.conns[c]; !open {
		return
	}
	flying := c.sent[corr]
	n := 0
	if op == wire.OpError {
		// A batch refused, with whatever the client sends again counted when it does.
		n = min(1, len(flying))
	} else {
		var a wire.Ack
		if a.Decode(body) != nil {
			return // the client will complain
		}
		for n < len(flying) && flying[n] <= a.Sequence+a.Count {
			n++
		}
	}
	c.sent[corr] = flying[n:]
	c.add(-n)
}

// frameScanner cuts a byte stream into frames without keeping them: frame is called at the end of
// each with the first bytes of its body.
type frameScanner struct {
	skip  int // bytes that come before the first frame, then the rest of the frame at hand
	frame func(op wire.Op, corr uint32, body []byte)
	head  []byte // the beginning of the frame at hand
	want  int    // how much of its beginning is kept; 0: its length is not known yet
}

const scanBytes = 64 // of each frame are looked at: an ACK is at most 10 + 42

func (s *frameScanner) scan(b []byte) {
	for len(b) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(b))
			s.skip -= n
			b = b[n:]
			if s.skip == 0 {
				s.done()
			}
			continue
		}
		want := s.want
		if want == 0 {
			want = 4
		}
		n := min(want-len(s.head), len(b))
		s.head = append(s.head, b[:n]...)
		b = b[n:]
		if len(s.head) < want {
			return
		}
		if s.want == 0 {
			whole := 4 + int(binary.LittleEndian.Uint32(s.head))
			s.want = min(whole, scanBytes)
			s.skip = 0
			if len(s.head) < s.want {
				continue
			}
		}
		s.skip = 4 + int(binary.LittleEndian.Uint32(s.head)) - len(s.head)
		if s.skip == 0 {
			s.done()
		}
	}
}

// done ends the frame at hand; the bytes before the first frame are none.
func (s *frameScanner) done() {
	if len(s.head) >= wire.HeaderBytes {
		s.frame(wire.Op(s.head[4]), binary.LittleEndian.Uint32(s.head[6:]), s.head[wire.HeaderBytes:])
	}
	s.head, s.want = s.head[:0], 0
}
