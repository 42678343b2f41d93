package test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/test/harness"
)

// told is who is told of what should not have happened: a test, or the process of the attackers.
type told interface {
	Error(...any)
	Errorf(string, ...any)
	Failed() bool
}

// enemies attack one node. Those kept with keep stay connected until the phase is over.
type enemies struct {
	t       told
	address string
	stop    chan struct{} // closed when the phase is over

	mu   sync.Mutex
	kept []net.Conn
}

// enemy is one connection that means no good, or was programmed badly.
type enemy struct {
	t    told
	conn net.Conn
	in   []byte
	corr uint32
}

// dial connects and says nothing. That the node has no room is no failure of the test.
func (e *enemies) dial() *enemy {
	conn, err := net.DialTimeout("tcp", e.address, harness.Patience)
	if err != nil {
		e.t.Errorf("dial: %v", err)
		return nil
	}
	_ = conn.SetDeadline(time.Now().Add(harness.Patience))
	_ = conn.(*net.TCPConn).SetLinger(0) // or the ports are used up by TIME_WAIT
	return &enemy{t: e.t, conn: conn}
}

// keep leaves the connection open until the phase is over.
func (e *enemies) keep(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept = append(e.kept, c)
}

func (e *enemies) closeAll() {
	for _, c := range e.kept {
		_ = c.Close()
	}
}

var helloFrame = (&wire.Hello{MinVersion: 1, MaxVersion: 1, Role: wire.RoleClient, FrameLimit: wire.DefaultFrameLimit, Client: "enemy"}).AppendTo([]byte(wire.Magic), 0)

// greet connects and shakes hands.
func (e *enemies) greet() *enemy {
	c := e.dial()
	if c == nil {
		return nil
	}
	c.send(helloFrame)
	if f, err := c.read(); err != nil || f.Op != wire.OpWelcome {
		c.t.Errorf("HELLO is answered by %s, %v", f.Op, err)
		c.close()
		return nil
	}
	return c
}

func (c *enemy) close() { _ = c.conn.Close() }

// send writes; that the node has closed already shows when its answer is read.
func (c *enemy) send(b []byte) { _, _ = c.conn.Write(b) }

func (c *enemy) read() (wire.Frame, error) {
	for {
		f, n, err := wire.Decode(c.in, wire.DefaultFrameLimit)
		if err == nil {
			f.Body = bytes.Clone(f.Body)
			c.in = c.in[n:]
			return f, nil
		}
		if !errors.Is(err, wire.ErrShort) {
			return f, err
		}
		buf := make([]byte, 64<<10)
		n, err = c.conn.Read(buf)
		if c.in = append(c.in, buf[:n]...); n == 0 && err != nil {
			return f, err
		}
	}
}

// answer reads until a frame of op comes.
func (c *enemy) answer(op wire.Op) (f wire.Frame, ok bool) {
	for {
		f, err := c.read()
		if err != nil {
			c.t.Errorf("waiting for %s: %v", op, err)
			return f, false
		}
		if f.Op == op {
			return f, true
		}
		if f.Op == wire.OpError {
			var e wire.Error
			_ = e.Decode(f.Body)
			c.t.Errorf("waiting for %s: %v", op, &e)
			return f, false
		}
	}
}

// refused reads until an ERROR comes, which must have the code and say something. ends says whether
// it is to end the connection.
func (c *enemy) refused(code wire.Code, ends bool) {
	for {
		f, err := c.read()
		if err != nil {
			c.t.Errorf("waiting for %s: %v", code, err)
			return
		}
		if f.Op != wire.OpError {
			continue
		}
		var e wire.Error
		if err := e.Decode(f.Body); err != nil {
			c.t.Error(err)
		}
		if e.Code != code || e.Message == "" || ends != (e.Bits&wire.ErrorEndsConnection != 0) {
			c.t.Errorf("got %v (bits %d), want %s, ending the connection: %t", &e, e.Bits, code, ends)
		}
		if ends {
			c.ended()
		}
		return
	}
}

// ended expects the node to end the connection.
func (c *enemy) ended() {
	for {
		f, err := c.read()
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return
		}
		if err != nil {
			c.t.Errorf("waiting for the end of the connection: %v", err)
			return
		}
		if f.Op == wire.OpPong {
			c.t.Error("the connection goes on")
			return
		}
	}
}

// alive expects the connection to go on.
func (c *enemy) alive() {
	c.send(wire.Ping{Data: 1}.AppendTo(nil, wire.OpPing, 0))
	c.answer(wire.OpPong)
}

func (c *enemy) next() uint32 { c.corr++; return c.corr }

// stream finds the stream of a subject, making it if there is none.
func (c *enemy) stream(subject string) (st wire.StreamInfo, ok bool) {
	c.send((&wire.Metadata{Select: wire.SelectSubject, Name: subject, Create: true}).AppendTo(nil, c.next()))
	f, ok := c.answer(wire.OpTopology)
	if !ok {
		return st, false
	}
	var top wire.Topology
	if err := top.Decode(f.Body); err != nil || len(top.Streams) != 1 {
		c.t.Errorf("TOPOLOGY: %v, %d streams", err, len(top.Streams))
		return st, false
	}
	return top.Streams[0], true
}

// producer opens one, not idempotent, in the stream "enemy".
func (c *enemy) producer() (corr uint32, ok bool) {
	st, ok := c.stream("enemy")
	if !ok {
		return 0, false
	}
	corr = c.next()
	c.send((&wire.Open{Stream: st.ID, MapVersion: st.MapVersion}).AppendTo(nil, corr))
	_, ok = c.answer(wire.OpOpened)
	return corr, ok
}

// batchOf makes a batch of one record a value.
func batchOf(sequence uint64, zstd bool, subject string, values ...[]byte) []byte {
	var b wire.Builder
	b.Reset(nil, wire.MaxBatch)
	for i, v := range values {
		s := subject
		if s == "" { // mixed
			s = []string{"enemy", "enemy.x"}[i%2]
		}
		if err := b.Append(s, nil, v, nil, 1_700_000_000_000); err != nil {
			panic(err)
		}
	}
	return b.Finish(sequence, zstd)
}
