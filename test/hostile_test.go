package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/test/harness"
)

// TestHostile sends a node all that a client can do wrong, on purpose or not, while a neighbour
// publishes. Each case checks what docs/protocol.md promises the one who does it; what is promised
// to everybody else is checked for all of them: each of the neighbour's records acknowledged once, in
// order, and read back; the node's memory bounded, its descriptors given back, and it comes to rest.
func TestHostile(t *testing.T) {
	s := harness.NewServer(t, harness.Config{})
	n := newNeighbour(t, s.Address())
	n.phase(phaseLength) // everything is warm
	before := s.Usage(t)
	files := openFiles(t, s.Pid())
	for _, tc := range hostileCases {
		t.Run(tc.name, func(t *testing.T) {
			n.besides(t, tc)
			memoryBounded(t, s, before)
		})
	}
	n.again(t)
	peakBounded(t, s, before)
	calm(t, s, files)
	s.Stop()
	s.Start() // what they left on disk opens
	n.check()
}

// hostileMemory is how much more memory than before a node may keep after any of the cases: the
// bounds of its queues (DESIGN.md) and what a garbage collector keeps. For a moment it may hold twice as much.
const hostileMemory = 768 << 20

// peakBounded reports the most that the node ever held, and checks it.
func peakBounded(t *testing.T, s *harness.Server, before harness.Usage) {
	t.Helper()
	now := s.Usage(t)
	harness.Report(t, "memory at most", "%d MiB (%d before)", now.Peak>>20, before.Resident>>20)
	if now.Peak > before.Resident+2*hostileMemory {
		t.Errorf("the node held %d MiB, %d before any attack", now.Peak>>20, before.Resident>>20)
	}
}

// memoryBounded waits until the node has given back what it need not keep.
func memoryBounded(t *testing.T, s *harness.Server, before harness.Usage) {
	t.Helper()
	deadline := time.Now().Add(harness.Patience)
	for s.Usage(t).Resident > before.Resident+hostileMemory {
		if time.Now().After(deadline) {
			t.Errorf("%s after the attack the node holds %d MiB, %d before any", harness.Patience, s.Usage(t).Resident>>20, before.Resident>>20)
			return
		}
		<-time.After(100 * time.Millisecond)
	}
}

// calm waits until the node has given back its descriptors and does nothing.
func calm(t *testing.T, s *harness.Server, files int) {
	t.Helper()
	const slack = 16 // segments of the streams that came to be
	deadline := time.Now().Add(harness.Patience)
	last, at := s.Usage(t).CPU, time.Now()
	for range time.Tick(500 * time.Millisecond) {
		now := s.Usage(t).CPU
		busy := float64(now-last) / float64(time.Since(at))
		last, at = now, time.Now()
		open := openFiles(t, s.Pid())
		if open <= files+slack && busy < 0.2 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s after the attacks the node has %d files open (%d before) and uses %.0f %% of a core", harness.Patience, open, files, 100*busy)
			return
		}
	}
}

// openFiles counts the descriptors of a process.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

type hostileCase struct {
	name    string
	workers int // that attack at a time; 4 if 0
	attack  func(*enemies)
}

// allowed is what those who attack do while the neighbour is watched for comparison, where a part of the attack is work
// that the node has promised to do.
var allowed = map[string]func(*enemies){
	"more bytes in flight than allowed": bulk(16),
}

var hostileCases = []hostileCase{
	{"zeros", 0, opening(make([]byte, 4096), 0)},
	{"random bytes", 0, func(e *enemies) {
		b := make([]byte, 512)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		b[0] &= 0x1f // neither the magic nor a method of HTTP
		opening(b, 0)(e)
	}},
	{"frame of 2 GiB before HELLO", 0, opening(append([]byte(wire.Magic), 0xff, 0xff, 0xff, 0x7f, 1, 0), wire.CodeTooLarge)},
	{"frame of 4 GiB", 0, fatal([]byte{0xff, 0xff, 0xff, 0xff, 34, 0, 1, 0, 0, 0}, wire.CodeTooLarge)},
	{"frame above the limit", 0, fatal(append(binary.LittleEndian.AppendUint32(nil, wire.DefaultFrameLimit+1), 34, 0), wire.CodeTooLarge)},
	{"frame too short", 0, fatal([]byte{5, 0, 0, 0, 4, 0, 0, 0, 0}, wire.CodeMalformed)},
	{"frame of zeros", 0, fatal(make([]byte, 64), wire.CodeMalformed)},
	{"truncated frames", 0, func(e *enemies) {
		frame := wire.AppendPublish(nil, 1, batchOf(0, false, "enemy", make([]byte, 1000)))
		if c := e.greet(); c != nil {
			c.send(frame[:1+rand.IntN(len(frame)-1)])
			c.close()
		}
	}},
	{"unknown op", 0, refusal(wire.Frame{Op: 200, Corr: 9}.AppendTo(nil), wire.CodeUnsupported)},
	{"unknown version of an op", 0, refusal(wire.Frame{Op: wire.OpFetch, Version: 7, Corr: 9}.AppendTo(nil), wire.CodeUnsupported)},
	{"undefined flags", 0, fatal(wire.Frame{Op: wire.OpPing, Flags: 8, Body: make([]byte, 8)}.AppendTo(nil), wire.CodeMalformed)},
	{"ops in a wrong state", 0, wrongStates},
	{"unknown stream", 0, refusal((&wire.Open{Stream: 1 << 40}).AppendTo(nil, 9), wire.CodeUnknownStream)},
	{"offset out of range", 0, withStream(func(c *enemy, st wire.StreamInfo) {
		c.send((&wire.Fetch{Stream: st.ID, Start: wire.Start{From: wire.FromOffset, Value: 1 << 50}, MaxBytes: 1}).AppendTo(nil, c.next()))
		c.refused(wire.CodeOffsetRange, false)
		c.send((&wire.Subscribe{Filter: "enemy", Start: wire.Start{From: wire.FromOffset, Value: math.MaxUint64}, Credit: 1}).AppendTo(nil, c.next()))
		c.refused(wire.CodeOffsetRange, false)
	})},
	{"overlapping streams", 0, withStream(func(c *enemy, _ wire.StreamInfo) {
		for _, f := range []string{"enemy", "*", ">", "enemy.>", "neighbour.>"} {
			c.send((&wire.CreateStream{Name: "other", Subjects: []string{f}}).AppendTo(nil, c.next()))
			c.refused(wire.CodeSubjectOverlap, false)
		}
	})},
	{"illegal names", 0, illegalNames},
	{"CRC that fails", 0, badBatch(wire.CodeBadChecksum, false, func(b []byte) []byte { b[5] ^= 1; return b })},
	{"batch of an unknown format", 0, badBatch(wire.CodeUnsupported, true, func(b []byte) []byte { b[8] = 9; return b })},
	{"batch of an unknown compression", 0, badBatch(wire.CodeUnsupported, true, func(b []byte) []byte { b[9] = 5; return b })},
	{"batch that lies about its count", 0, badBatch(wire.CodeBadBatch, false, func(b []byte) []byte { b[10] = 200; return sealed(b) })},
	{"batch above the limit", 0, badBatch(wire.CodeTooLarge, true, func(b []byte) []byte {
		binary.LittleEndian.PutUint32(b, wire.MaxBatch)
		return append(b, make([]byte, wire.MaxBatch+4-len(b))...)
	})},
	{"publish to a wildcard", 0, badBatch(wire.CodeBadName, false, func(b []byte) []byte { copy(b[29:], "ene.>"); return sealed(b) })},
	{"record outside its stream", 0, badBatch(wire.CodeSubjectMismatch, false, func(b []byte) []byte { copy(b[29:], "enemi"); return sealed(b) })},
	{"subject that is not UTF-8", 0, badBatch(wire.CodeBadName, false, func(b []byte) []byte { b[30] = 0xff; return sealed(b) })},
	{"zstd bomb", 0, bomb("enemy", 64<<20, 1<<20)},
	{"zstd bomb that says its size", 0, bomb("enemy", 64<<20, 64<<20)},
	{"zstd bomb, mixed", 0, bomb("", 64<<20, 1<<20)},
	{"zstd at its limit, filtered", 2, withProducer(filteredZstd)},
	{"more batches in flight than allowed", 0, withProducer(tooManyBatches)},
	{"more bytes in flight than allowed", 2, bulk(24)},
	{"credit overflow", 0, credit},
	{"producer id guessing", 0, withStream(func(c *enemy, st wire.StreamInfo) {
		for range 64 {
			c.send((&wire.Open{Stream: st.ID, MapVersion: st.MapVersion, Idempotent: true, Producer: 1<<32 + rand.Uint64()>>33, Epoch: 3}).AppendTo(nil, c.next()))
			c.refused(wire.CodeProducerExpired, false)
		}
	})},
	{"flood of PING", 0, pingFlood},
	{"METADATA whose answers nobody reads", 2, unreadMetadata(64)},
	{"subscriber that never reads", 2, unreadRecords},
	{"65,536 conversations", 1, conversations},
}

// opening sends first bytes on a new connection. code 0: it is closed without an answer.
func opening(b []byte, code wire.Code) func(*enemies) {
	return func(e *enemies) {
		c := e.dial()
		if c == nil {
			return
		}
		defer c.close()
		c.send(b)
		if code != 0 {
			c.refused(code, true)
			return
		}
		c.ended()
	}
}

// fatal sends, after the handshake, what ends the connection.
func fatal(b []byte, code wire.Code) func(*enemies) {
	return func(e *enemies) {
		if c := e.greet(); c != nil {
			defer c.close()
			c.send(b)
			c.refused(code, true)
		}
	}
}

// refusal sends what is refused, again and again; the connection goes on.
func refusal(b []byte, code wire.Code) func(*enemies) {
	return func(e *enemies) {
		if c := e.greet(); c != nil {
			defer c.close()
			for range 32 {
				c.send(b)
				c.refused(code, false)
			}
			c.alive()
		}
	}
}

// withProducer has one opened in the stream "enemy".
func withProducer(f func(c *enemy, corr uint32)) func(*enemies) {
	return func(e *enemies) {
		if c := e.greet(); c != nil {
			defer c.close()
			if corr, ok := c.producer(); ok {
				f(c, corr)
			}
		}
	}
}

func withStream(f func(*enemy, wire.StreamInfo)) func(*enemies) {
	return func(e *enemies) {
		if c := e.greet(); c != nil {
			defer c.close()
			if st, ok := c.stream("enemy"); ok {
				f(c, st)
				c.alive()
			}
		}
	}
}

// wrongStates sends every op there is before HELLO, and after WELCOME those that have no place there.
func wrongStates(e *enemies) {
	for op := wire.Op(2); op < 72; op++ {
		if op.Known() {
			opening(wire.Frame{Op: op, Corr: 1}.AppendTo([]byte(wire.Magic)), wire.CodeState)(e)
		}
	}
	for _, op := range []wire.Op{wire.OpHello, wire.OpWelcome, wire.OpAuth, wire.OpGoaway, wire.OpError, wire.OpOK, wire.OpTopology,
		wire.OpOpened, wire.OpAck, wire.OpRecords, wire.OpRaft} {
		fatal(wire.Frame{Op: op, Corr: 1, Body: []byte{1}}.AppendTo(nil), wire.CodeState)(e)
	}
	for _, op := range []wire.Op{wire.OpClose, wire.OpUnsub, wire.OpPublish} {
		refusal(wire.Frame{Op: op, Corr: 1}.AppendTo(nil), wire.CodeState)(e)
	}
	if c := e.greet(); c != nil {
		c.send(wire.Credit{Bytes: 5}.AppendTo(nil, 3)) // ignored
		c.alive()
		c.close()
	}
	fatal((&wire.Metadata{}).AppendTo(nil, 0), wire.CodeState)(e)
	used := (&wire.Subscribe{Filter: "enemy", Credit: 1}).AppendTo(nil, 5)
	fatal(append(used, used...), wire.CodeState)(e)
}

var badNames = []string{"", ".", "..", "a..b", ".a", "a.", "a/b", "../../etc/passwd", `a\b`, "a b", "a\x00b", "a\nb", "a\x7f", "\u2028", "a\u00a0b", strings.Repeat("n", 300)}

func illegalNames(e *enemies) {
	c := e.greet()
	if c == nil {
		return
	}
	defer c.close()
	for _, name := range badNames {
		c.send((&wire.CreateStream{Name: name}).AppendTo(nil, c.next()))
		c.refused(wire.CodeBadName, false)
		if name != "" && len(name) <= wire.MaxSubject { // those are MALFORMED: below
			c.send((&wire.CreateStream{Name: "fine", Subjects: []string{name}}).AppendTo(nil, c.next()))
			c.refused(wire.CodeBadName, false)
		}
		c.send((&wire.Subscribe{Filter: name, Credit: 1}).AppendTo(nil, c.next()))
		c.refused(wire.CodeBadName, false)
		for _, by := range []wire.Select{wire.SelectSubject, wire.SelectFilter} {
			c.send((&wire.Metadata{Select: by, Name: name, Create: by == wire.SelectSubject}).AppendTo(nil, c.next()))
			c.refused(wire.CodeBadName, false)
		}
	}
	for _, name := range []string{"*", ">", "a.*", "größe", "a:b"} { // fine elsewhere, and no stream's name
		c.send((&wire.CreateStream{Name: name}).AppendTo(nil, c.next()))
		c.refused(wire.CodeBadName, false)
	}
	c.alive()
	for _, name := range []string{"", strings.Repeat("n", 300)} {
		fatal((&wire.CreateStream{Name: "fine", Subjects: []string{name}}).AppendTo(nil, 1), wire.CodeMalformed)(e)
	}
	fatal((&wire.CreateStream{Name: "\xff"}).AppendTo(nil, 1), wire.CodeMalformed)(e)
	fatal((&wire.Subscribe{Filter: "\xff", Credit: 1}).AppendTo(nil, 1), wire.CodeMalformed)(e)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealed makes the checksum of a batch right again.
func sealed(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

// badBatch publishes a batch that was changed; ends says whether that ends the connection.
func badBatch(code wire.Code, ends bool, change func([]byte) []byte) func(*enemies) {
	return withProducer(func(c *enemy, corr uint32) {
		for range 16 {
			c.send(wire.AppendPublish(nil, corr, change(batchOf(0, false, "enemy", []byte("value")))))
			if c.refused(code, ends); ends {
				return
			}
		}
		c.send(wire.AppendPublish(nil, corr, batchOf(1, false, "enemy", []byte("good")))) // the producer is still there
		c.answer(wire.OpAck)
	})
}

// bomb publishes a batch of which a few KB decompress to size bytes, and which claims to hold said.
func bomb(subject string, size, said uint32) func(*enemies) {
	enc, err := zstd.NewWriter(nil, zstd.WithWindowSize(1<<20))
	if err != nil {
		panic(err)
	}
	packed := enc.EncodeAll(make([]byte, size), nil)
	_ = enc.Close()
	b := batchOf(0, false, "enemy", nil)[:34]
	b[9] |= byte(wire.AttrZstd)
	if subject == "" {
		b = b[:29]
		b[28], b[9] = 0, byte(wire.AttrZstd|wire.AttrMixed)
	}
	b = append(binary.LittleEndian.AppendUint32(b, said), packed...)
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	b = sealed(b)
	return withProducer(func(c *enemy, corr uint32) {
		for range 8 {
			c.send(wire.AppendPublish(nil, corr, b))
			if said > wire.MaxBatch { // its header is not to be believed
				c.refused(wire.CodeMalformed, true)
				return
			}
			c.refused(wire.CodeBadBatch, false)
		}
		c.alive()
	})
}

// filteredZstd publishes mixed batches as large and as compressible as can be, and has them cut for
// a reader who wants every other record.
func filteredZstd(c *enemy, corr uint32) {
	b := slices.Clone(zstdAtLimit())
	sub := c.next()
	c.send((&wire.Subscribe{Filter: "enemy.x", Start: wire.Start{From: wire.FromNext}, Credit: 4 << 20}).AppendTo(nil, sub))
	if _, ok := c.answer(wire.OpOK); !ok {
		return
	}
	for range 4 {
		c.send(wire.AppendPublish(nil, corr, b))
		binary.LittleEndian.PutUint64(b[12:], binary.LittleEndian.Uint64(b[12:])+1000)
		b = sealed(b)
	}
	c.answer(wire.OpRecords)
}

// zstdAtLimit is made once: whoever attacks should spend nothing that the neighbour on the same machine could use.
var zstdAtLimit = sync.OnceValue(func() []byte {
	values := make([][]byte, 1000)
	for i := range values {
		values[i] = make([]byte, 1000)
	}
	return batchOf(0, true, "", values...)
})

func tooManyBatches(c *enemy, corr uint32) {
	const sent = 4 * wire.MaxInFlightBatches
	var all []byte
	for i := range uint64(sent) {
		all = wire.AppendPublish(all, corr, batchOf(i, false, "enemy", []byte("v")))
	}
	c.send(all)
	answered, refused := uint64(0), 0
	for answered < sent {
		f, err := c.read()
		if err != nil {
			c.t.Errorf("after %d answers to %d batches: %v", answered, sent, err)
			return
		}
		switch f.Op {
		case wire.OpAck:
			var a wire.Ack
			if err := a.Decode(f.Body); err != nil {
				c.t.Error(err)
				return
			}
			answered += a.Count
		case wire.OpError:
			var e wire.Error
			if err := e.Decode(f.Body); err != nil || e.Code != wire.CodeInFlight && e.Code != wire.CodeOverloaded || !e.Retriable() {
				c.t.Errorf("%v, %v", &e, err)
				return
			}
			answered++
			refused++
		}
	}
	c.alive()
}

// bulk publishes 24 MiB, and keeps up to window of them in flight; 16 are allowed. What is not taken is refused, and nothing else.
func bulk(window int) func(*enemies) {
	const batches = 24
	value := make([]byte, 1<<20-100)
	return withProducer(func(c *enemy, corr uint32) {
		for sent, answered := 0, 0; answered < batches; {
			for ; sent < batches && sent-answered < window; sent++ {
				c.send(wire.AppendPublish(nil, corr, batchOf(uint64(sent), false, "enemy", value)))
			}
			f, err := c.read()
			if err != nil {
				c.t.Errorf("after %d answers to %d batches: %v", answered, sent, err)
				return
			}
			switch f.Op {
			case wire.OpAck:
				var a wire.Ack
				if err := a.Decode(f.Body); err != nil {
					c.t.Error(err)
				}
				answered += int(a.Count)
			case wire.OpError:
				var e wire.Error
				if err := e.Decode(f.Body); err != nil || e.Code != wire.CodeInFlight && e.Code != wire.CodeOverloaded {
					c.t.Errorf("%v, %v", &e, err)
				}
				answered++
			}
		}
		c.send(wire.AppendEmpty(nil, wire.OpClose, corr))
		c.answer(wire.OpOK)
	})
}

// credit asks for more than there may be, in every way a number can be too large, or "negative".
func credit(e *enemies) {
	for _, n := range []uint64{64<<20 + 1, 1 << 62, 1<<63 - 1, 1 << 63, math.MaxUint64} {
		refusal((&wire.Subscribe{Filter: "nothing", Credit: n}).AppendTo(nil, 1), wire.CodeCredit)(e)
		fatal(wire.Credit{Bytes: n}.AppendTo((&wire.Subscribe{Filter: "nothing", Credit: 1}).AppendTo(nil, 1), 1), wire.CodeCredit)(e)
	}
	sub := (&wire.Subscribe{Filter: "nothing", Credit: 40 << 20}).AppendTo(nil, 1)
	if c := e.greet(); c != nil {
		defer c.close()
		c.send(sub)
		c.answer(wire.OpOK)
		c.send((&wire.Subscribe{Filter: "nothing", Credit: 40 << 20}).AppendTo(nil, 2)) // together too much
		c.refused(wire.CodeCredit, false)
		c.alive()
	}
	fatal(wire.Credit{}.AppendTo(nil, 1), wire.CodeMalformed)(e)
	fatal((&wire.Subscribe{Filter: "nothing"}).AppendTo(nil, 1), wire.CodeMalformed)(e)
}

func pingFlood(e *enemies) {
	c := e.greet()
	if c == nil {
		return
	}
	defer c.close()
	const pings = 20_000
	flood := bytes.Repeat(wire.Ping{Data: 3}.AppendTo(nil, wire.OpPing, 1), pings)
	go func() { c.send(flood) }() // its answers are read meanwhile
	for range pings {
		if _, ok := c.answer(wire.OpPong); !ok {
			return
		}
	}
}

// unreadMetadata asks thousands of times, and does not read a word.
func unreadMetadata(thousands int) func(*enemies) {
	return func(e *enemies) { e.unreadMetadata(thousands) }
}

func (e *enemies) unreadMetadata(thousands int) {
	c := e.greet()
	if c == nil {
		return
	}
	e.keep(c.conn)
	_ = c.conn.SetDeadline(time.Now().Add(2 * time.Second)) // it may be read from no more
	for range thousands {
		var asks []byte
		for range 1000 {
			asks = (&wire.Metadata{}).AppendTo(asks, c.next())
		}
		if _, err := c.conn.Write(asks); err != nil {
			return
		}
	}
}

// unreadRecords subscribes to all there is with all the credit there can be, asks for everything
// beside it, and does not read.
func unreadRecords(e *enemies) {
	c := e.greet()
	if c == nil {
		return
	}
	e.keep(c.conn)
	if st, ok := c.stream("enemy"); ok {
		c.send((&wire.Subscribe{Filter: ">", Credit: 64 << 20}).AppendTo(nil, c.next()))
		for range 100 {
			c.send((&wire.Fetch{Stream: st.ID, MaxBytes: 1 << 20}).AppendTo(nil, c.next()))
		}
	}
	<-e.stop
}

// conversations opens as many as a connection may have, and one more.
func conversations(e *enemies) {
	c := e.greet()
	if c == nil {
		return
	}
	defer c.close()
	go func() {
		var b []byte
		for corr := uint32(1); corr <= 1<<16+1; corr++ {
			b = (&wire.Subscribe{Filter: "nothing", Credit: 1}).AppendTo(b, corr)
			if len(b) > 64<<10 {
				c.send(b)
				b = nil
			}
		}
		c.send(b)
	}()
	for range 1 << 16 {
		if _, ok := c.answer(wire.OpOK); !ok {
			return
		}
	}
	c.refused(wire.CodeLimit, false)
	c.alive()
}
