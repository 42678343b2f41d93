package broker

import (
	"flag"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zapcore"

	"github.com/tidewire/tidewire/proto/wire"
)

var logLevel = zapcore.WarnLevel

func TestMain(m *testing.M) {
	verbose := flag.Bool("node.debug", false, "log all a node says")
	flag.Parse()
	if *verbose {
		logLevel = zapcore.DebugLevel
	}
	goleak.VerifyTestMain(m, // gnet's worker pool lives as long as the process
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start")) // so does OpenCensus's
}

func TestHandshakeRefused(t *testing.T) {
	n := startNode(t, t.TempDir())
	for name, tc := range map[string]struct {
		send []byte
		code wire.Code
	}{
		"version":      {(&wire.Hello{MinVersion: 9, MaxVersion: 9, Role: wire.RoleClient, FrameLimit: wire.DefaultFrameLimit}).AppendTo([]byte(wire.Magic), 0), wire.CodeUnsupported},
		"not hello":    {wire.Ping{}.AppendTo([]byte(wire.Magic), wire.OpPing, 0), wire.CodeState},
		"corr":         {hello().AppendTo([]byte(wire.Magic), 7), wire.CodeState},
		"peer":         {func() []byte { h := hello(); h.Role = wire.RolePeer; return h.AppendTo([]byte(wire.Magic), 0) }(), wire.CodeDenied},
		"cluster":      {func() []byte { h := hello(); h.Cluster[0] = 1; return h.AppendTo([]byte(wire.Magic), 0) }(), wire.CodeWrongCluster},
		"mechanism":    {func() []byte { h := hello(); h.Mechanism = "plain"; return h.AppendTo([]byte(wire.Magic), 0) }(), wire.CodeAuth},
		"small frames": {func() []byte { h := hello(); h.FrameLimit = 100; return h.AppendTo([]byte(wire.Magic), 0) }(), wire.CodeMalformed},
		"large frame":  {append([]byte(wire.Magic), 0xff, 0xff, 0xff, 0x7f), wire.CodeTooLarge},
		"zeros":        {append([]byte(wire.Magic), make([]byte, 64)...), wire.CodeMalformed},
		"trailing bytes": {func() []byte {
			return wire.Frame{Op: wire.OpHello, Body: append(hello().AppendTo(nil, 0)[wire.HeaderBytes:], 0)}.AppendTo([]byte(wire.Magic))
		}(), wire.CodeMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			p := dial(t, n)
			p.send(tc.send)
			if e := p.recvError(tc.code); e.Bits&wire.ErrorEndsConnection == 0 {
				t.Errorf("bits %d do not end the connection", e.Bits)
			}
			p.recvEnd()
		})
	}
}

func TestMagicByteByByte(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := dial(t, n)
	b := hello().AppendTo([]byte(wire.Magic), 0)
	for i := range b {
		p.send(b[i : i+1])
	}
	p.recv(wire.OpWelcome)
}

func TestOtherProtocols(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := dial(t, n)
	p.send([]byte{0x16, 3, 1, 0, 200, 1, 0})
	p.recvEnd()
}

func TestRefusedFramesLeaveTheConnection(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	p.send(wire.Frame{Op: 200, Corr: 5}.AppendTo(nil))
	p.recvError(wire.CodeUnsupported)
	p.send(wire.Frame{Op: wire.OpPing, Version: 3, Corr: 5, Body: make([]byte, 8)}.AppendTo(nil))
	p.recvError(wire.CodeUnsupported)
	p.send((&wire.Consumed{Outcome: wire.OutcomeDone}).AppendTo(nil, 5))
	p.recvError(wire.CodeUnsupported)
	p.send(wire.AppendPublish(nil, 99, batch(t, 0, message{"a", "", "v"})))
	p.recvError(wire.CodeState)
	p.send(wire.AppendEmpty(nil, wire.OpClose, 99))
	p.recvError(wire.CodeState)
	p.send(wire.Ping{Data: 42}.AppendTo(nil, wire.OpPing, 3))
	var pong wire.Ping
	if f := p.recv(wire.OpPong); f.Corr != 3 || pong.Decode(f.Body) != nil || pong.Data != 42 {
		t.Errorf("pong %+v", f)
	}
}

func TestFatalFrames(t *testing.T) {
	n := startNode(t, t.TempDir())
	for name, tc := range map[string]struct {
		send []byte
		code wire.Code
	}{
		"second hello":   {hello().AppendTo(nil, 0), wire.CodeState},
		"server's frame": {wire.AppendEmpty(nil, wire.OpOK, 1), wire.CodeState},
		"raft":           {(&wire.Raft{Group: 1}).AppendTo(nil, 1), wire.CodeState},
		"flags":          {wire.Frame{Op: wire.OpPing, Flags: wire.FlagMore, Body: make([]byte, 8)}.AppendTo(nil), wire.CodeMalformed},
		"corr 0":         {(&wire.Metadata{}).AppendTo(nil, 0), wire.CodeState},
		"body":           {wire.Frame{Op: wire.OpFetch, Corr: 1, Body: []byte{1}}.AppendTo(nil), wire.CodeMalformed},
		"oversized":      {[]byte{0xff, 0xff, 0xff, 0xff}, wire.CodeTooLarge},
		"op 0":           {wire.Frame{Op: 0}.AppendTo(nil), wire.CodeMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, n)
			p.send(tc.send)
			p.recvError(tc.code)
			p.recvEnd()
		})
	}
}

func TestConnectionLimit(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.MaxConnections = 2 })
	first, second := connect(t, n), connect(t, n)
	third := dial(t, n)
	if e := third.recvError(wire.CodeOverloaded); !e.Retriable() || e.Value != 2 {
		t.Errorf("%+v", e)
	}
	third.recvEnd()
	for _, p := range []*peer{first, second} {
		p.send(wire.Ping{}.AppendTo(nil, wire.OpPing, 1))
		p.recv(wire.OpPong)
	}
}

// Unfinished frames are bounded for all connections together, and who is refused is not the one that sends little.
func TestPartialFramesAreBounded(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.InboundMemory = 2 << 20 })
	neighbour := connect(t, n)
	big := wire.AppendPublish(nil, 1, make([]byte, wire.MaxBatch))
	part := big[:len(big)-1]
	var held []*peer
	refused := 0
	for range 4 {
		p := connect(t, n)
		p.send(part)
		held = append(held, p)
	}
	for _, p := range held {
		_ = p.conn.SetReadDeadline(time.Now().Add(time.Second))
		if f, err := p.read(); err == nil {
			var e wire.Error
			if f.Op != wire.OpError || e.Decode(f.Body) != nil || e.Code != wire.CodeOverloaded || !e.Retriable() {
				t.Errorf("%s %+v", f.Op, e)
			}
			refused++
		}
		p.conn.Close()
	}
	if refused < 2 || refused == 4 {
		t.Errorf("%d of 4 were refused, and two fit", refused)
	}
	neighbour.fill(neighbour.streamOf("a"), 0, values("a", 3, "%d"))
}

// What is told to be over is over: after an ERROR that ends a Corr nothing more comes on it, and its
// number may be used again.
func TestEndsCorrEndsIt(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("a")
	sub := p.subscribe(wire.Subscribe{Filter: "a"})
	for name, frame := range map[string][]byte{
		"unknown op":  wire.Frame{Op: 200, Corr: sub}.AppendTo(nil),
		"version":     wire.Frame{Op: wire.OpCredit, Version: 2, Corr: sub}.AppendTo(nil),
		"CONSUMED":    (&wire.Consumed{Outcome: wire.OutcomeDone, Count: 1}).AppendTo(nil, sub),
		"PUBLISH":     wire.AppendPublish(nil, sub, batch(t, 0, message{"a", "", "v"})),
		"CLOSE":       wire.AppendEmpty(nil, wire.OpClose, sub),
		"UNSUBSCRIBE": wire.AppendEmpty(wire.AppendEmpty(nil, wire.OpUnsub, sub), wire.OpUnsub, sub), // OK, and an ERROR
	} {
		p.send(frame)
		f, err := p.read()
		for ; err == nil && f.Op != wire.OpError; f, err = p.read() {
		}
		var e wire.Error
		if err != nil || e.Decode(f.Body) != nil || e.Bits&wire.ErrorEndsCorr == 0 {
			t.Fatalf("%s: %s %v, %v", name, f.Op, &e, err)
		}
		p.fill(st, 0, values("a", 3, "%d")) // nothing of it is pushed: fill would meet it
		p.send((&wire.Subscribe{Filter: "a", Credit: 1 << 20, Start: wire.Start{From: wire.FromNext}}).AppendTo(nil, sub))
		if f := p.recv(wire.OpOK); f.Corr != sub {
			t.Fatalf("%s: OK on %d, want %d", name, f.Corr, sub)
		}
	}
}

// A request on a Corr in use ends the connection, whatever else is wrong with it: an answer to it would
// seem to end the conversation there.
func TestRequestOnACorrInUse(t *testing.T) {
	n := startNode(t, t.TempDir())
	for name, frame := range map[string][]byte{
		"FETCH":    (&wire.Fetch{Stream: 1 << 40}).AppendTo(nil, 1),
		"OPEN":     (&wire.Open{Stream: 1 << 40}).AppendTo(nil, 1),
		"METADATA": (&wire.Metadata{Select: wire.SelectStream, Name: "none"}).AppendTo(nil, 1),
		"SUB":      (&wire.Subscribe{Filter: "a..b", Credit: 1}).AppendTo(nil, 1),
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, n)
			if sub := p.subscribe(wire.Subscribe{Filter: "a"}); sub != 1 {
				t.Fatal(sub)
			}
			p.send(frame)
			p.recvError(wire.CodeState)
			p.recvEnd()
		})
	}
}

// Behind an ERROR that ends the connection nothing comes, and it arrives, whatever was in flight or
// waited to be read before it.
func TestNothingBehindTheLastWord(t *testing.T) {
	n := startNode(t, t.TempDir())
	writer := connect(t, n)
	st := writer.streamOf("a")
	large := message{"a", "", strings.Repeat("v", 1<<19)}
	for range 24 { // more than the sockets of one connection hold
		writer.fill(st, 0, []message{large})
	}
	for range 5 {
		p := connect(t, n)
		corr, _ := p.open(st, wire.Open{})
		await := func(what string, ok func() bool) {
			for deadline := time.Now().Add(patience); !ok(); runtime.Gosched() {
				if time.Now().After(deadline) {
					t.Fatal(what)
				}
			}
		}
		p.send((&wire.Subscribe{Filter: "a", Credit: 64 << 20}).AppendTo(nil, p.next()))
		await("nothing waits to be read", func() bool { return n.outbound.Load() > firstAhead })
		part, err := n.find(st.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		before := part.raft.HighWatermark()
		out := wire.AppendPublish(nil, corr, batch(t, 0, message{"a", "", "in flight"}))
		p.send(append(out, make([]byte, 64)...))
		await("the batch is not committed", func() bool { return part.raft.HighWatermark() > before })
		writer.fill(st, 0, []message{{"a", "", "behind it"}}) // the loop has had its turn since
		f, err := p.read()
		for ; err == nil && f.Op != wire.OpError; f, err = p.read() {
		}
		if err != nil {
			t.Fatalf("waiting for the ERROR: %v", err)
		}
		p.recvEnd()
	}
}
