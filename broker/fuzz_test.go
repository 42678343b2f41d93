package broker

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/proto/wire"
)

// FuzzConnection runs programs against a node over real connections. The input is a program: which
// ops to send on which Corr with which fields, raw bytes between them, and where a write ends. What
// the node says is held against what was sent (fuzz_model_test.go), and what it stored against what
// it acknowledged.
func FuzzConnection(f *testing.F) {
	for _, seed := range fuzzSeeds() {
		f.Add(seed)
	}
	b := newFuzzBench(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 4<<10 {
			return
		}
		b.run(t, input)
	})
}

// The steps of a program, by a byte modulo fuzzSteps. Each takes its fields from the bytes behind it.
const (
	stepRaw       = iota // length, bytes
	stepFrame            // op, version and flags, Corr, length, body
	stepHello            // role, version
	stepOpen             // Corr, stream, partition and idempotence, producer and epoch
	stepPublish          // Corr, count, sequence, shape
	stepResend           // which
	stepClose            // Corr
	stepSubscribe        // Corr, filter, from, credit
	stepCredit           // Corr, amount
	stepUnsub            // Corr
	stepFetch            // Corr, stream, from, read
	stepMetadata         // Corr, select, name
	stepCreate           // Corr, name, subject, partitions
	stepDelete           // Corr, name
	stepPing             // Corr
	stepCut              // end this write here
	stepSettle           // wait for answers
	stepOther            // go on with the other connection
	stepLeave            // close this connection, whatever is under way
	fuzzSteps
)

// fuzzSeeds reach every op that answers, and each state.
func fuzzSeeds() [][]byte {
	const fresh, one, two, three = 0, 1, 2, 3
	return [][]byte{
		{1}, // HELLO alone
		{1, stepOpen, one, 0, 1, 0, stepSettle, stepPublish, one, 2, 0, 0, stepPublish, one, 1, 0, 1, stepResend, 0, stepSettle, stepClose, one},
		{1, stepOpen, one, 0, 0, 0, stepPublish, one, 3, 0, 2, stepPublish, one, 3, 0, 3, stepCut, stepPublish, one, 1, 0, 8},
		{1, stepSubscribe, two, 0, 0, 3, stepOpen, one, 0, 0, 0, stepPublish, one, 3, 0, 0, stepSettle, stepCredit, two, 3, stepSettle, stepUnsub, two},
		{1, stepSubscribe, two, 2, 0, 1, stepSubscribe, three, 1, 4, 9, stepOpen, one, 0, 2, 0, stepPublish, one, 9, 0, 1, stepSettle, stepCredit, two, 250},
		{1, stepFetch, fresh, 0, 0, 0, stepFetch, fresh, 0, 3, 1, stepFetch, fresh, 0, 4, 2, stepFetch, fresh, 9, 1, 0, stepSettle},
		{1, stepMetadata, fresh, 0, 0, stepMetadata, fresh, 1, 0, stepMetadata, fresh, 2, 5, stepMetadata, fresh, 3, 2, stepSettle},
		{1, stepSubscribe, two, 3, 0, 9, stepCreate, fresh, 1, 1, 1, stepSettle, stepOpen, one, 1, 1, 0, stepSettle, stepPublish, one, 2, 0, 4, stepSettle, stepDelete, fresh, 1, stepPublish, one, 1, 0, 4, stepSettle},
		{1, stepPublish, one, 1, 0, 0, stepClose, two, stepUnsub, three, stepCredit, one, 1, stepPing, 3, stepFrame, 200, 0, 1, 0, stepFrame, 53, 0, 4, 6, 1, 0, 0, 1, 1, 0},
		{1, stepOpen, one, 0, 1, 0, stepSettle, stepOther, stepOpen, one, 0, 1, 17, stepSettle, stepPublish, one, 1, 0, 0, stepOther, stepPublish, one, 1, 0, 0, stepSettle},
		{1, stepOpen, one, 0, 1, 0, stepSettle, stepPublish, one, 4, 0, 5, stepPublish, one, 4, 3, 6, stepPublish, one, 4, 0, 7, stepLeave},
		{1, stepRaw, 6, 8, 0, 0, 0, 4, 0, stepSettle},
		{0, stepRaw, 4, 0xd7, 'T', 'W', 'P', stepHello, 0, 1, stepPing, 1, stepHello, 0, 1},
		{0, stepRaw, 5, 'G', 'E', 'T', ' ', '/', stepSettle},
		{0, stepRaw, 24, 'P', 'R', 'I', ' ', '*', ' ', 'H', 'T', 'T', 'P', '/', '2', '.', '0', '\r', '\n', '\r', '\n', 'S', 'M', '\r', '\n', '\r', '\n', stepRaw, 9, 0, 0, 0, 4, 0, 0, 0, 0, 0},
		{0, stepRaw, 3, 0, 0, 0},
	}
}

// fuzzBench is a node, the stream all programs share, and a connection that reads what was stored.
type fuzzBench struct {
	node    *Node
	base    wire.StreamInfo
	auditor *peer
	logged  *observer.ObservedLogs
	runs    uint64 // number of the program
	dialled uint64 // connections, the auditor's among them
}

// fuzzBase is the stream that is always there, of two partitions.
const fuzzBase = "zqbase"

// fuzzRules lets everybody do everything but take that stream away.
type fuzzRules struct{ auth.AllowClients }

func (r fuzzRules) Authorize(id *auth.Identity, action auth.Action, resource []byte) error {
	if action == auth.DeleteStream && string(resource) == fuzzBase {
		return &auth.DeniedError{Identity: id.String(), Action: action, Resource: string(resource)}
	}
	return r.AllowClients.Authorize(id, action, resource)
}

func newFuzzBench(f *testing.F) *fuzzBench {
	dir := f.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "tidewire-fuzz-"); err == nil { // a sync costs nothing there
		dir = shm
		f.Cleanup(func() { _ = os.RemoveAll(shm) })
	}
	core, logged := observer.New(zapcore.WarnLevel)
	b := &fuzzBench{logged: logged}
	b.node = startNode(f, dir, func(c *Config) {
		c.Logger = zap.New(core)
		c.Authorizer = fuzzRules{}
		c.SegmentBytes = 1 << 20
		c.PoolBytes = 8 << 20
		c.KeepInterval = time.Second
		c.MaxRequests, c.MaxConversations = 16, 32 // within reach of a program
		c.Credit = 1 << 20
		c.InFlightBytes = wire.MaxBatch
	})
	b.auditor = connect(f, b.node)
	b.dialled = 1
	b.base = b.auditor.create(wire.CreateStream{Name: fuzzBase, Partitions: 2, Subjects: []string{"a", "b.>"}, Retention: wire.Retention{MaxBytes: 4 << 20}})
	return b
}

// program is one run: up to two connections, and what it knows to make its frames of.
type program struct {
	t      *testing.T
	bench  *fuzzBench
	tape   []byte
	lines  [2]*line
	all    []*line // also those that are gone
	at     int
	seen   []wire.StreamInfo // that TOPOLOGY told of
	minted []uint64          // producer ids that OPENED gave
	last   [][]byte          // PUBLISH frames sent
	number int               // of batches made
	fresh  uint32
}

func (b *fuzzBench) run(t *testing.T, input []byte) {
	b.runs++
	b.auditor.t = t
	p := &program{t: t, bench: b, tape: input, seen: []wire.StreamInfo{b.base}, fresh: 100}
	var from [2]uint64
	for i := range from {
		part, err := b.node.find(b.base.ID, uint32(i))
		if err != nil {
			t.Fatal(err)
		}
		from[i] = uint64(part.raft.HighWatermark())
	}
	greeted := p.u8()%16 != 0
	p.line(greeted)
	for steps := 0; len(p.tape) > 0 && steps < 200; steps++ {
		p.step()
	}
	for _, l := range p.all {
		l.finish()
	}
	b.quiet(t, 1)
	b.audit(t, p, from)
	for _, e := range b.logged.TakeAll() {
		if e.Level > zapcore.WarnLevel {
			t.Errorf("the node logged an error: %s %v", e.Message, e.ContextMap())
		}
	}
}

// quiet waits until the node has taken every connection that was made, as one that was closed meanwhile may have left
// something to serve, and holds nothing of any client any more, but for so many connections.
func (b *fuzzBench) quiet(t *testing.T, connections int64) {
	n := b.node
	for deadline := time.Now().Add(patience); ; n.everyLoop(func(*loop) {}) { // connections end on their loops
		taken := uint64(0)
		for _, l := range n.loops {
			taken += l.count.Accepted.Load()
		}
		open, out, in, used := n.connections.Load(), n.outbound.Load(), n.inbound.Load(), n.budget.Used()
		if taken >= b.dialled && open == connections && out == 0 && in == 0 && used == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s after the clients have gone: %d of %d were taken, %d connections (want %d), %d bytes outbound, %d inbound, %d of publishes",
				patience, taken, b.dialled, open, connections, out, in, used)
		}
	}
}

func (p *program) u8() (v byte) {
	if len(p.tape) > 0 {
		v, p.tape = p.tape[0], p.tape[1:]
	}
	return v
}

func (p *program) take(n int) (b []byte) {
	n = min(n, len(p.tape))
	b, p.tape = p.tape[:n], p.tape[n:]
	return b
}

// corr is a new one as a rule, one of a few that are in use, or 0.
func (p *program) corr() uint32 {
	switch c := p.u8() % 8; c {
	case 0:
		p.fresh++
		return p.fresh
	case 7:
		return 0
	default:
		return uint32(c)
	}
}

func pick[T any](p *program, of ...T) T { return of[int(p.u8())%len(of)] }

var (
	fuzzNames    = []string{"f0", "f1", "f2", "", "a/b", "..", "F.0", "x\x00y"}
	fuzzSubjects = []string{"a", "b.c", "b.d.e", ">", "f0", "f1.x", "*.c", "b..c", "", "f1.>", "b.*", "\xff"}
)

func (p *program) stream() (wire.StreamInfo, bool) {
	i := int(p.u8())
	if i > 200 {
		return wire.StreamInfo{ID: 1 << i % 64, MapVersion: 1}, false
	}
	return p.seen[min(i, len(p.seen)-1)], true
}

func (p *program) start() (s wire.Start) {
	s.From = wire.From(p.u8() % 5)
	switch s.From {
	case wire.FromOffset:
		s.Value = pick(p, uint64(0), 1, 1<<20, math.MaxUint64)
	case wire.FromTime:
		s.Value = pick(p, uint64(0), 1_700_000_000_000, math.MaxUint64)
	}
	return s
}

// step does one step of the program.
func (p *program) step() {
	l := p.line(true)
	switch p.u8() % fuzzSteps {
	case stepRaw:
		l.add(p.take(int(p.u8())))
	case stepFrame:
		op, bits, corr := p.u8(), p.u8(), p.corr()
		f := wire.Frame{Op: wire.Op(op), Version: bits >> 4, Flags: wire.Flags(bits & 15), Corr: corr, Body: p.take(int(p.u8()))}
		l.add(f.AppendTo(nil))
	case stepHello:
		h := hello()
		h.Role, h.MinVersion = wire.Role(p.u8()%3+1), p.u8()
		h.MaxVersion = max(h.MinVersion, 1)
		l.add(h.AppendTo(nil, 0))
	case stepOpen:
		corr := p.corr()
		st, _ := p.stream()
		bits, who := p.u8(), p.u8()
		o := wire.Open{Stream: st.ID, MapVersion: st.MapVersion, Partition: uint32(bits >> 1 & 3), Idempotent: bits&1 != 0}
		if bits>>3 == 31 {
			o.MapVersion++
		}
		if o.Idempotent && who != 0 {
			o.Epoch = uint16(who & 3)
			switch {
			case who > 250:
				o.Producer = uint64(who) << 20
			case len(p.minted) > 0:
				o.Producer = p.minted[int(who>>4)%len(p.minted)]
			}
			if o.Producer == 0 {
				o.Epoch = 0
			}
		}
		l.add(o.AppendTo(nil, corr))
	case stepPublish:
		l.add(p.publish(l))
	case stepResend:
		if i := int(p.u8()); len(p.last) > 0 {
			l.add(p.last[i%len(p.last)])
		}
	case stepClose:
		l.add(wire.AppendEmpty(nil, wire.OpClose, p.corr()))
	case stepUnsub:
		l.add(wire.AppendEmpty(nil, wire.OpUnsub, p.corr()))
	case stepSubscribe:
		corr := p.corr()
		s := wire.Subscribe{Filter: pick(p, ">", "a", "b.c", "f1.>", "b.*", "f0", "*", "b.d.e", "", "a..b"), Start: p.start(), Credit: p.credit()}
		if len(p.tape) > 0 && p.tape[0] == 0xfe {
			s.Positions = []wire.Position{{Stream: p.bench.base.ID, Partition: uint32(p.u8() % 3), Offset: uint64(p.u8())}}
		}
		l.add(s.AppendTo(nil, corr))
	case stepCredit:
		corr := p.corr()
		l.add(wire.Credit{Bytes: p.credit()}.AppendTo(nil, corr))
	case stepFetch:
		corr := p.corr()
		st, _ := p.stream()
		f := wire.Fetch{Stream: st.ID, Partition: uint32(len(p.tape) % 3), Start: p.start(), Read: wire.Read(p.u8() % 3)}
		f.MaxBytes = pick(p, uint32(0), 1, 300, 1<<20, math.MaxUint32)
		f.MaxWait = pick(p, time.Duration(0), 0, time.Millisecond)
		if f.Read == wire.ReadMinOffset {
			f.MinOffset = pick(p, uint64(0), 1, 1<<40)
		}
		l.add(f.AppendTo(nil, corr))
	case stepMetadata:
		corr := p.corr()
		m := wire.Metadata{Select: wire.Select(p.u8() % 4)}
		switch m.Select {
		case wire.SelectStream:
			m.Name = pick(p, append([]string{fuzzBase}, fuzzNames...)...)
		case wire.SelectSubject, wire.SelectFilter:
			m.Name = pick(p, fuzzSubjects...)
			m.Create = m.Select == wire.SelectSubject && len(p.tape)%2 == 0
		}
		l.add(m.AppendTo(nil, corr))
	case stepCreate:
		corr := p.corr()
		c := wire.CreateStream{Name: pick(p, fuzzNames...)}
		if s := pick(p, append([]string{""}, fuzzSubjects...)...); s != "" {
			c.Subjects = []string{s}
		}
		c.Partitions = pick(p, uint32(0), 1, 2, 1<<20)
		c.Retention.MaxRecords = uint64(p.u8() % 2)
		l.add(c.AppendTo(nil, corr))
	case stepDelete:
		corr := p.corr()
		l.add((&wire.DeleteStream{Name: pick(p, append([]string{fuzzBase}, fuzzNames...)...), Purge: len(p.tape)%2 == 0}).AppendTo(nil, corr))
	case stepPing:
		l.add(wire.Ping{Data: 7}.AppendTo(nil, wire.OpPing, p.corr()))
	case stepCut:
		l.send()
	case stepSettle:
		l.settle()
	case stepOther:
		p.at = 1 - p.at
	case stepLeave:
		l.send()
		l.close()
	}
}

// credit is now and then more than there may be.
func (p *program) credit() uint64 {
	switch c := uint64(p.u8()); {
	case c < 100:
		return max(c*c*c, 1)
	case c < 250:
		return c << 10
	default:
		return math.MaxUint64 >> (255 - c) / max(1, 256-c)
	}
}

// publish makes a PUBLISH of a few records whose values no other batch has.
func (p *program) publish(l *line) []byte {
	corr, count, sequence, shape := p.corr(), 1+int(p.u8()%8), p.u8(), p.u8()
	subject := "a"
	open, ok := l.opens[corr]
	if ok && open.Stream != p.bench.base.ID {
		subject = "f1.x"
	}
	if shape&15 == 9 {
		subject = "elsewhere"
	}
	p.number++
	var b wire.Builder
	b.Reset(nil, wire.MaxBatch)
	for i := range count {
		s := subject
		if shape&1 != 0 && i%2 == 1 && subject == "a" {
			s = "b.c"
		}
		value := binary.LittleEndian.AppendUint64(nil, p.bench.runs)
		value = binary.LittleEndian.AppendUint32(value, uint32(p.number))
		value = append(value, byte(i))
		if shape&2 != 0 {
			value = append(value, make([]byte, 300<<(shape>>6))...)
		}
		if err := b.Append(s, nil, value, nil, 1_700_000_000_000); err != nil {
			p.t.Fatal(err)
		}
	}
	next := l.next[corr]
	switch {
	case sequence < 200: // the next one
	case sequence < 220:
		next -= min(next, uint64(sequence-200))
	case sequence < 250:
		next += uint64(sequence - 219)
	default:
		next = math.MaxUint64 - uint64(sequence)
	}
	batch := b.Finish(next, shape&2 != 0)
	switch shape & 31 {
	case 10:
		batch[4] ^= 1 // CRC
	case 11:
		batch[8] = 2 // format
	case 12:
		batch[9] |= 2 // compression
	case 13:
		batch[10]++ // count
	case 14:
		batch = batch[:len(batch)-1]
	}
	if next == l.next[corr] && shape&31 < 9 {
		l.next[corr] += uint64(count)
	}
	frame := wire.AppendPublish(nil, corr, batch)
	p.last = append(p.last, frame)
	return frame
}

// line is the connection the program is at, dialled if there is none. greet says hello on it.
func (p *program) line(greet bool) *line {
	if l := p.lines[p.at]; l != nil && !l.gone {
		return l
	}
	conn, err := net.Dial("tcp", p.bench.node.Addr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.bench.dialled++
	_ = conn.(*net.TCPConn).SetLinger(0) // thousands a second would use up the ports
	_ = conn.SetDeadline(time.Now().Add(patience))
	l := &line{p: p, conn: conn, exchange: newExchange(p)}
	p.lines[p.at] = l
	p.all = append(p.all, l)
	if greet {
		l.add(hello().AppendTo([]byte(wire.Magic), 0))
	}
	return l
}

// line is one connection of a program.
type line struct {
	*exchange
	p     *program
	conn  net.Conn
	out   []byte
	in    []byte
	pings uint64
	gone  bool // closed by either side
	done  bool
}

func (l *line) add(b []byte) {
	l.out = append(l.out, b...)
	if len(l.out) > 64<<10 {
		l.send()
	}
}

// send writes what was added. That the node has closed meanwhile shows when it is read.
func (l *line) send() {
	if len(l.out) > 0 && !l.gone {
		l.sent(l.out)
		_, _ = l.conn.Write(l.out)
	}
	l.out = l.out[:0]
}

// read takes one frame of the node. false: the connection has ended.
func (l *line) read() bool {
	for {
		f, n, err := wire.Decode(l.in, wire.DefaultFrameLimit)
		if err == nil {
			l.received(f)
			l.in = l.in[n:]
			return true
		}
		if !errors.Is(err, wire.ErrShort) {
			l.p.t.Fatalf("the node sent what is no frame: %v: % x", err, l.in[:min(len(l.in), 64)])
		}
		buf := make([]byte, 16<<10)
		n, err = l.conn.Read(buf)
		l.in = append(l.in, buf[:n]...)
		if n == 0 && err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				l.p.t.Fatalf("no answer within %s; sent\n%s", patience, l.exchange)
			}
			if errors.Is(err, io.EOF) && len(l.in) > 0 {
				l.p.t.Errorf("the connection ended within a frame: % x", l.in[:min(len(l.in), 64)])
			}
			l.ended(err)
			l.close()
			return false
		}
	}
}

// barrier sends a PING and reads until its PONG: everything before it has been looked at.
func (l *line) barrier() bool {
	l.pings++
	data := 1<<63 | l.pings
	l.add(wire.Ping{Data: data}.AppendTo(nil, wire.OpPing, 0))
	l.send()
	for l.pong != data {
		if !l.read() {
			return false
		}
	}
	return true
}

// settle waits for the answers that must come. It reports whether the connection still stands.
func (l *line) settle() bool {
	l.send()
	if l.gone || l.stage == stageForeign {
		return false
	}
	for pad := l.missing(); pad > 0; pad = l.missing() { // the end of a frame begun by raw bytes
		if pad > 64<<10 {
			l.close()
			return false
		}
		l.add(make([]byte, pad))
		l.send()
	}
	if l.stage != stageReady && l.stage != stageDead {
		l.close() // no answer is due
		return false
	}
	if !l.barrier() {
		return false
	}
	for l.due() {
		if !l.read() {
			return false
		}
	}
	return true
}

// finish ends the connection in order, if it stands: everything open on it is closed and all
// answers have come.
func (l *line) finish() {
	if l.done {
		return
	}
	l.done = true
	if l.settle() {
		for corr := range l.corrs {
			if corr != 0 {
				l.add(wire.AppendEmpty(nil, wire.OpClose, corr))
			}
		}
		l.send()
		if l.barrier() {
			for l.open() {
				if !l.read() {
					break
				}
			}
		}
	}
	if !l.gone {
		l.clean()
	}
	l.close()
}

func (l *line) close() {
	l.gone = true
	l.conn.Close()
}
