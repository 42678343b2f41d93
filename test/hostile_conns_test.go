package test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/test/harness"
)

// TestHostileConnections is TestHostile with connections in place of frames: many of them, slow ones,
// ones that say nothing, ones that speak HTTP.
func TestHostileConnections(t *testing.T) {
	s := harness.NewServer(t, harness.Config{})
	n := newNeighbour(t, s.Address())
	n.phase(phaseLength)
	before := s.Usage(t)
	files := openFiles(t, s.Pid())
	for _, tc := range connectionCases {
		t.Run(tc.name, func(t *testing.T) {
			n.besides(t, tc)
			memoryBounded(t, s, before)
		})
	}
	n.again(t)
	peakBounded(t, s, before)
	calm(t, s, files)
	n.check()
}

var connectionCases = []hostileCase{
	{"1,000 stormy connections", 10, storm},
	{"1,000 that never say HELLO", 1, silent(1000, nil)},
	{"5,000 idle", 1, silent(5000, helloFrame)},
	{"half a frame and silence", 1, silent(200, append(bytes.Clone(helloFrame), 0, 0, 16, 0, 34, 0))},
	{"a byte at a time", 50, drip(helloFrame)},
	{"HTTP, a byte at a time", 50, drip([]byte("GET /version HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 100)))},
	{"HTTP with huge headers", 0, hugeHeaders},
	{"HTTP/2 rapid reset", 0, rapidReset},
	{"HTTP/2 flood of CONTINUATION", 0, continuations},
	{"HTTP/2 garbage", 0, http2Garbage},
}

// storm connects, says something or nothing, and goes, a hundred times.
func storm(e *enemies) {
	for i := range 100 {
		c := e.dial()
		if c == nil {
			return
		}
		switch i % 4 {
		case 0:
			c.send(helloFrame)
			if f, err := c.read(); err != nil || f.Op != wire.OpWelcome {
				c.t.Errorf("HELLO is answered by %s, %v", f.Op, err)
			}
		case 1:
			c.send([]byte("\x00garbage"))
		case 2:
			c.send(helloFrame) // and gone before the answer
		}
		c.close()
	}
}

// silent opens connections that send this and nothing more, and keeps them.
func silent(connections int, say []byte) func(*enemies) {
	return func(e *enemies) {
		for range connections {
			c := e.dial()
			if c == nil {
				return
			}
			e.keep(c.conn)
			c.send(say)
		}
		<-e.stop
	}
}

// drip sends bytes one by one until the phase is over.
func drip(b []byte) func(*enemies) {
	return func(e *enemies) {
		c := e.dial()
		if c == nil {
			return
		}
		defer c.close()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := range b {
			c.send(b[i : i+1])
			select {
			case <-tick.C:
			case <-e.stop:
				return
			}
		}
	}
}

// hugeHeaders sends a request whose headers are far above what is taken: it is refused before it is whole.
func hugeHeaders(e *enemies) {
	c := e.dial()
	if c == nil {
		return
	}
	defer c.close()
	go func() {
		c.send([]byte("GET /version HTTP/1.1\r\nHost: a\r\n"))
		for i := range 256 {
			if _, err := fmt.Fprintf(c.conn, "X-%d: %s\r\n", i, strings.Repeat("x", 4096)); err != nil {
				return
			}
		}
	}()
	answer, err := io.ReadAll(c.conn)
	if len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.1 431")) {
		c.t.Errorf("headers of 1 MiB: %.60q, %v", answer, err)
	}
}

// http2Conn opens a connection of HTTP/2 and reads what comes on it away.
func (e *enemies) http2Conn() (c *enemy, f *http2.Framer, ended chan struct{}) {
	if c = e.dial(); c == nil {
		return nil, nil, nil
	}
	c.send([]byte(http2.ClientPreface))
	f = http2.NewFramer(c.conn, nil)
	_ = f.WriteSettings()
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, c.conn)
	}()
	return c, f, ended
}

func http2Headers(path string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "a"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	return b.Bytes()
}

// rapidReset opens calls and takes them back at once (CVE-2023-44487).
func rapidReset(e *enemies) {
	c, f, ended := e.http2Conn()
	if c == nil {
		return
	}
	headers := http2Headers("/grpc.health.v1.Health/Watch")
	for id := uint32(1); id < 400; id += 2 {
		if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers, EndHeaders: true}) != nil ||
			f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
	}
	c.close()
	<-ended
}

// continuations sends headers that never end (CVE-2023-45288): the node must close.
func continuations(e *enemies) {
	c, f, ended := e.http2Conn()
	if c == nil {
		return
	}
	defer c.close()
	headers := http2Headers("/grpc.health.v1.Health/Check")
	err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers})
	var more bytes.Buffer
	enc := hpack.NewEncoder(&more)
	for i := range 100 {
		_ = enc.WriteField(hpack.HeaderField{Name: fmt.Sprintf("x-%d", i), Value: strings.Repeat("v", 100), Sensitive: true})
	}
	for sent := 0; err == nil && sent < 64<<20; sent += more.Len() {
		err = f.WriteContinuation(1, false, more.Bytes())
	}
	if err == nil {
		c.t.Error("the node took 64 MiB of headers")
		c.close()
	}
	<-ended
}

// http2Garbage sends the preface and then what is no HTTP/2: the node must close.
func http2Garbage(e *enemies) {
	c := e.dial()
	if c == nil {
		return
	}
	defer c.close()
	c.send(append([]byte(http2.ClientPreface), bytes.Repeat([]byte{0xff}, 4096)...))
	_, _ = io.Copy(io.Discard, c.conn) // ends, or its deadline fails
	if _, err := c.conn.Write([]byte{0}); err != nil && os.IsTimeout(err) {
		c.t.Error("the node does not close a connection of garbage")
	}
}

// wide is how many partitions the streams of these two have.
const wide = 256

var manyCursors = hostileCase{"16,384 cursors", 1, func(e *enemies) {
	c := e.greet()
	if c == nil {
		return
	}
	defer c.close()
	sub := func() {
		c.send((&wire.Subscribe{Filter: "enemy", Credit: 1, Start: wire.Start{From: wire.FromNext}}).AppendTo(nil, c.next()))
	}
	for range 16_384 / wide {
		sub()
		if _, ok := c.answer(wire.OpOK); !ok {
			return
		}
	}
	sub()
	c.refused(wire.CodeLimit, false)
	c.alive()
}}

// TestManyCursors subscribes to all partitions until a connection may read no more of them.
func TestManyCursors(t *testing.T) {
	s := harness.NewServer(t, harness.Config{})
	n := newNeighbour(t, s.Address())
	c := harness.Connect(t, s.Address())
	if _, err := c.CreateStream(harness.Context(t), client.StreamConfig{Name: "enemy", Partitions: wide}); err != nil {
		t.Fatal(err)
	}
	n.besides(t, manyCursors)
	n.again(t)
}

var topologyUnread = hostileCase{"TOPOLOGY of 256 partitions that nobody reads", 4, unreadMetadata(1)}

// TestTopologyUnread asks for a description of a wide stream, of thousands of bytes each time, and does not read it.
func TestTopologyUnread(t *testing.T) {
	s := harness.NewServer(t, harness.Config{})
	n := newNeighbour(t, s.Address())
	c := harness.Connect(t, s.Address())
	if _, err := c.CreateStream(harness.Context(t), client.StreamConfig{Name: "enemy", Partitions: wide}); err != nil {
		t.Fatal(err)
	}
	before := s.Usage(t)
	n.besides(t, topologyUnread)
	n.again(t)
	peakBounded(t, s, before)
}
