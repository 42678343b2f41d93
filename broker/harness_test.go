package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/tidewire/tidewire/proto/wire"
)

// startNode runs a node on a directory and a free port, and stops it when the test ends.
func startNode(t testing.TB, dir string, change ...func(*Config)) *Node {
	t.Helper()
	cfg := Config{Address: "127.0.0.1:0", DataDir: dir, Dev: true, Logger: zaptest.NewLogger(t, zaptest.Level(logLevel))}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, n) })
	return n
}

func stopNode(t testing.TB, n *Node) {
	t.Helper()
	if err := n.Stop(context.Background()); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// peer is the other side of a connection, one frame at a time.
type peer struct {
	t    testing.TB
	conn net.Conn
	buf  []byte
	corr uint32
}

// patience bounds every wait: a test that reaches it has failed.
const patience = 20 * time.Second

func dial(t testing.TB, n *Node) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, ok := t.(*testing.T); ok {
		_ = conn.SetDeadline(time.Now().Add(patience))
	}
	return &peer{t: t, conn: conn, corr: 0}
}

func hello() *wire.Hello {
	return &wire.Hello{MinVersion: 1, MaxVersion: 1, Role: wire.RoleClient, FrameLimit: wire.DefaultFrameLimit, Client: "test"}
}

// connect dials and shakes hands.
func connect(t testing.TB, n *Node) *peer {
	t.Helper()
	p := dial(t, n)
	p.send(hello().AppendTo([]byte(wire.Magic), 0))
	f := p.recv(wire.OpWelcome)
	var w wire.Welcome
	if err := w.Decode(f.Body); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *peer) next() uint32 { p.corr++; return p.corr }

func (p *peer) send(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// read gives the next frame, or the error that ended the connection.
func (p *peer) read() (wire.Frame, error) {
	for {
		f, n, err := wire.Decode(p.buf, wire.MaxFrameLimit)
		if err == nil {
			f.Body = append([]byte(nil), f.Body...)
			p.buf = p.buf[n:]
			return f, nil
		}
		if !errors.Is(err, wire.ErrShort) {
			return f, err
		}
		b := make([]byte, 64<<10)
		n, err = p.conn.Read(b)
		if err != nil {
			return f, err
		}
		p.buf = append(p.buf, b[:n]...)
	}
}

// recv expects a frame of one op.
func (p *peer) recv(op wire.Op) wire.Frame {
	p.t.Helper()
	f, err := p.read()
	if err != nil {
		p.t.Fatalf("waiting for %s: %v", op, err)
	}
	if f.Op != op {
		extra := ""
		if f.Op == wire.OpError {
			var e wire.Error
			_ = e.Decode(f.Body)
			extra = fmt.Sprintf(" (%v)", &e)
		}
		p.t.Fatalf("got %s%s, want %s", f.Op, extra, op)
	}
	return f
}

// recvError expects an ERROR of one code.
func (p *peer) recvError(code wire.Code) wire.Error {
	p.t.Helper()
	f := p.recv(wire.OpError)
	var e wire.Error
	if err := e.Decode(f.Body); err != nil {
		p.t.Fatal(err)
	}
	if e.Code != code {
		p.t.Fatalf("got error %v, want %s", &e, code)
	}
	if e.Message == "" {
		p.t.Errorf("error %s has no message", code)
	}
	return e
}

// recvEnd expects the connection to end.
func (p *peer) recvEnd() {
	p.t.Helper()
	if f, err := p.read(); !errors.Is(err, io.EOF) {
		p.t.Fatalf("got %s, %v; want the end of the connection", f.Op, err)
	}
}

// streamOf resolves a subject, creating its stream.
func (p *peer) streamOf(subject string) wire.StreamInfo {
	p.t.Helper()
	p.send((&wire.Metadata{Select: wire.SelectSubject, Name: subject, Create: true}).AppendTo(nil, p.next()))
	return p.topology().Streams[0]
}

func (p *peer) topology() wire.Topology {
	p.t.Helper()
	var t wire.Topology
	if err := t.Decode(p.recv(wire.OpTopology).Body); err != nil {
		p.t.Fatal(err)
	}
	return t
}

// create makes a stream.
func (p *peer) create(c wire.CreateStream) wire.StreamInfo {
	p.t.Helper()
	p.send(c.AppendTo(nil, p.next()))
	return p.topology().Streams[0]
}

// open opens a producer in a partition and returns its Corr.
func (p *peer) open(st wire.StreamInfo, o wire.Open) (corr uint32, opened wire.Opened) {
	p.t.Helper()
	o.Stream, o.MapVersion = st.ID, st.MapVersion
	corr = p.next()
	p.send(o.AppendTo(nil, corr))
	if err := opened.Decode(p.recv(wire.OpOpened).Body); err != nil {
		p.t.Fatal(err)
	}
	return corr, opened
}

// message is a record to be put into a batch.
type message struct{ subject, key, value string }

func batch(t testing.TB, sequence uint64, messages ...message) []byte {
	t.Helper()
	return encode(t, sequence, false, messages...)
}

// encode makes a batch, compressed if it is told to.
func encode(t testing.TB, sequence uint64, zstd bool, messages ...message) []byte {
	t.Helper()
	var b wire.Builder
	b.Reset(nil, wire.MaxBatch)
	for _, m := range messages {
		if err := b.Append(m.subject, []byte(m.key), []byte(m.value), nil, 1_700_000_000_000); err != nil {
			t.Fatal(err)
		}
	}
	return b.Finish(sequence, zstd)
}

func values(subject string, n int, format string) (out []message) {
	for i := range n {
		out = append(out, message{subject, "", fmt.Sprintf(format, i)})
	}
	return out
}

// acks waits until the producer's records up to sequence are acknowledged, and checks that
// ranges come in order and without gaps from next. It returns the ACKs.
func (p *peer) acks(corr uint32, next, until uint64) (out []wire.Ack) {
	p.t.Helper()
	for next < until {
		f := p.recv(wire.OpAck)
		var a wire.Ack
		if err := a.Decode(f.Body); err != nil || f.Corr != corr {
			p.t.Fatalf("ack on %d: %v", f.Corr, err)
		}
		if a.Sequence != next || a.Count == 0 || a.Quorum != 1 || a.Voters != 1 {
			p.t.Fatalf("ack %+v, want sequence %d on 1 of 1", a, next)
		}
		next += a.Count
		out = append(out, a)
	}
	return out
}

// delivered is a record as a reader got it.
type delivered struct {
	offset         uint64
	subject, value string
}

// records decodes a RECORDS body, checking every CRC.
func records(t testing.TB, f wire.Frame) (h wire.RecordsHeader, out []delivered) {
	t.Helper()
	runs, err := h.Decode(f.Body)
	if err != nil {
		t.Fatal(err)
	}
	for len(runs) > 0 {
		var run wire.Run
		if run, runs, err = wire.NextRun(runs); err != nil {
			t.Fatal(err)
		}
		base := run.Base
		for rest := run.Batches; len(rest) > 0; {
			b, err := wire.ParseBatch(rest)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Verify(); err != nil {
				t.Fatal(err)
			}
			raw, err := b.Raw(nil)
			if err != nil {
				t.Fatal(err)
			}
			it := b.Iterate(raw)
			for rec := (wire.Record{}); it.Next(&rec); {
				out = append(out, delivered{base + uint64(rec.OffsetDelta), string(rec.Subject), string(rec.Value)})
			}
			if it.Err() != nil {
				t.Fatal(it.Err())
			}
			base += uint64(b.Span)
			rest = rest[len(b.Bytes):]
		}
	}
	return h, out
}

// receive reads pushed RECORDS of a subscription until n records came, giving credit back.
func (p *peer) receive(corr uint32, n int) (out []delivered) {
	p.t.Helper()
	for len(out) < n {
		f := p.recv(wire.OpRecords)
		if f.Corr != corr {
			p.t.Fatalf("RECORDS on %d, want %d", f.Corr, corr)
		}
		_, got := records(p.t, f)
		out = append(out, got...)
		p.send(wire.Credit{Bytes: uint64(len(f.Body) + wire.HeaderBytes)}.AppendTo(nil, corr))
	}
	return out
}

func (p *peer) subscribe(q wire.Subscribe) uint32 {
	p.t.Helper()
	if q.Credit == 0 {
		q.Credit = 1 << 20
	}
	corr := p.next()
	p.send(q.AppendTo(nil, corr))
	if f := p.recv(wire.OpOK); f.Corr != corr {
		p.t.Fatalf("OK on %d, want %d", f.Corr, corr)
	}
	return corr
}
