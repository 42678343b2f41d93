package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/tidewire/tidewire/proto/wire"
)

// stage is how far the bytes of one connection have come, by what was sent alone.
type stage uint8

const (
	stageOpening stage = iota // first bytes
	stageHello                // the magic was sent
	stageReady                // a first frame was sent; the node may have refused it
	stageForeign              // another protocol, or none
	stageDead                 // something was sent after which the node must close
)

// exchange holds what a node says on one connection against what was sent to it. It reads the bytes
// of both directions with the client's decoders and knows of the protocol what docs/protocol.md
// promises a client, not how the node keeps it:
//
//   - every frame decodes, has an op of a node's, and answers something that was sent on its Corr;
//   - an ERROR has a code that is defined and is not INTERNAL, and says something;
//   - each batch is answered at most once, by an ACK that covers it whole or an ERROR that names it,
//     and once exactly if its producer is closed in order;
//   - RECORDS keep within the credit given, and continue where the ones before ended;
//   - an ERROR comes before the node closes, and nothing comes behind one that ends the connection;
//   - on a Corr that was said to be over nothing comes until something is sent on it again.
type exchange struct {
	t       *testing.T
	p       *program
	stage   stage
	rest    []byte // sent, and not yet a whole frame
	corrs   map[uint32]*talk
	opens   map[uint32]wire.Open // the last OPEN sent on a Corr
	next    map[uint32]uint64    // for the program: sequence of the next batch
	frames  []string             // what was said, for a failure
	pong    uint64
	welcome bool
	over    bool // an ERROR that ends the connection came
}

// talk is what was said on one Corr.
type talk struct {
	sent      int // frames
	begun     int // requests of any kind
	requests  int // of them, those with one answer
	opening   int // OPENs sent
	opened    int // OPENEDs that came
	closed    int // CLOSEs and UNSUBSCRIBEs
	foreign   int // frames that are none of the above
	answers   int // final ones
	terminal  bool
	credit    uint64
	fetches   int
	subs      int
	pushed    uint64
	positions map[partKey]uint64
	batches   []*sentBatch
	refused   map[uint64]int // ERRORs of one batch, by its sequence
}

// sentBatch is one PUBLISH.
type sentBatch struct {
	wire.Batch
	part     partKey
	producer uint64
	values   [][]byte
	valid    bool
	answered bool
	excused  bool // an error that ended the Corr may have been its answer
	acked    bool
	offset   uint64
}

func newExchange(p *program) *exchange {
	return &exchange{t: p.t, p: p, corrs: make(map[uint32]*talk), opens: make(map[uint32]wire.Open), next: make(map[uint32]uint64)}
}

func (x *exchange) String() string {
	var b bytes.Buffer
	for _, f := range x.frames {
		fmt.Fprintln(&b, f)
	}
	fmt.Fprintf(&b, "stage %d, %d bytes of an unfinished frame", x.stage, len(x.rest))
	return b.String()
}

func (x *exchange) fail(format string, args ...any) {
	x.t.Helper()
	x.t.Fatalf("%s; said\n%s", fmt.Sprintf(format, args...), x)
}

func (x *exchange) talk(corr uint32) *talk {
	c := x.corrs[corr]
	if c == nil {
		c = &talk{positions: make(map[partKey]uint64), refused: make(map[uint64]int)}
		x.corrs[corr] = c
	}
	return c
}

// limit is the frame limit of the node in this stage.
func (x *exchange) limit() int {
	if x.stage == stageHello {
		return wire.MaxHelloFrame
	}
	return wire.DefaultFrameLimit
}

// missing is how many bytes the frame lacks that was sent in part.
func (x *exchange) missing() int {
	if (x.stage != stageReady && x.stage != stageHello) || len(x.rest) == 0 {
		return 0
	}
	if len(x.rest) < 4 {
		return 4 - len(x.rest) // of zeros: then its length is known
	}
	return max(0, 4+int(binary.LittleEndian.Uint32(x.rest))-len(x.rest))
}

// sent takes in bytes that are about to be written.
func (x *exchange) sent(b []byte) {
	x.rest = append(x.rest, b...)
	if x.stage == stageOpening {
		switch sniff(x.rest) {
		case protoUndecided:
			return
		case protoWire:
			x.stage = stageHello
			x.rest = x.rest[len(wire.Magic):]
		default:
			x.stage = stageForeign
		}
	}
	for x.stage == stageHello || x.stage == stageReady {
		f, n, err := wire.Decode(x.rest, x.limit())
		if errors.Is(err, wire.ErrShort) {
			return
		}
		if err != nil {
			x.frames = append(x.frames, err.Error())
			x.stage = stageDead
			return
		}
		x.frames = append(x.frames, fmt.Sprintf("%s v%d corr %d, %d bytes %.40x", f.Op, f.Version, f.Corr, len(f.Body), f.Body))
		f.Body = bytes.Clone(f.Body)
		x.rest = x.rest[n:]
		if x.stage == stageHello {
			x.stage = stageReady
			if f.Op != wire.OpHello {
				x.stage = stageDead
			}
			continue
		}
		x.frame(f)
	}
}

// frame takes in one frame that was sent behind HELLO.
func (x *exchange) frame(f wire.Frame) {
	c := x.talk(f.Corr)
	c.sent++
	c.terminal = false
	if f.Version != 0 || !f.Op.Known() {
		c.foreign++
		return
	}
	var err error
	switch f.Op {
	case wire.OpMetadata, wire.OpCreate, wire.OpDelete:
		c.begun, c.requests = c.begun+1, c.requests+1
	case wire.OpFetch:
		c.begun, c.requests, c.fetches = c.begun+1, c.requests+1, c.fetches+1
	case wire.OpOpen:
		c.begun, c.opening = c.begun+1, c.opening+1
		var o wire.Open
		if err = o.Decode(f.Body); err == nil {
			x.opens[f.Corr] = o
			x.next[f.Corr] = 0
		}
	case wire.OpSub:
		c.begun, c.subs = c.begun+1, c.subs+1
		var s wire.Subscribe
		if err = s.Decode(f.Body); err == nil {
			c.credit += min(s.Credit, 1<<40)
		}
	case wire.OpCredit:
		var cr wire.Credit
		if err = cr.Decode(f.Body); err == nil {
			c.credit += min(cr.Bytes, 1<<40)
		}
	case wire.OpClose, wire.OpUnsub:
		c.closed++
	case wire.OpPublish:
		var b wire.Batch
		if b, err = wire.ParsePublish(f.Body); err == nil {
			c.batches = append(c.batches, x.batch(f.Corr, b))
		}
	case wire.OpPing, wire.OpPong:
		err = new(wire.Ping).Decode(f.Body)
	case wire.OpConsumed:
		c.foreign++
	default:
		x.stage = stageDead // an op a client never sends
	}
	if err != nil && f.Op != wire.OpPublish { // whether a PUBLISH is looked at depends on its producer
		x.stage = stageDead
	}
}

func (x *exchange) batch(corr uint32, b wire.Batch) *sentBatch {
	o := x.opens[corr]
	s := &sentBatch{Batch: b, part: partKey{o.Stream, o.Partition}, producer: o.Producer}
	if b.Verify() != nil {
		return s
	}
	raw, err := b.Raw(nil)
	if err != nil || b.Check(raw) != nil {
		return s
	}
	s.valid = true
	it := b.Iterate(raw)
	for rec := (wire.Record{}); it.Next(&rec); {
		s.values = append(s.values, bytes.Clone(rec.Value))
	}
	return s
}

// received takes in a frame of the node.
func (x *exchange) received(f wire.Frame) {
	x.frames = append(x.frames, fmt.Sprintf("    < %s corr %d %.40x", f.Op, f.Corr, f.Body))
	if x.over {
		x.fail("%s behind an ERROR that ends the connection", f.Op)
	}
	if f.Version != 0 {
		x.fail("%s of version %d", f.Op, f.Version)
	}
	var err error
	c := x.corrs[f.Corr]
	if c == nil && f.Corr != 0 {
		x.fail("%s on Corr %d, on which nothing was sent", f.Op, f.Corr)
	}
	if f.Corr != 0 && c.terminal && c.answers >= c.sent && c.subs == 0 { // an OK may be to SUBSCRIBE
		x.fail("%s on Corr %d, which was over", f.Op, f.Corr)
	}
	switch f.Op {
	case wire.OpWelcome:
		var w wire.Welcome
		if err = w.Decode(f.Body); x.welcome {
			x.fail("a second WELCOME")
		}
		x.welcome = true
	case wire.OpPong:
		var p wire.Ping
		err = p.Decode(f.Body)
		x.pong = p.Data
	case wire.OpError:
		x.errored(f)
	case wire.OpOK:
		err = wire.DecodeEmpty(f)
		clear(c.positions)
		if c.closed > 0 || c.requests > 0 { // else it is that of SUBSCRIBE
			c.terminal = true
			c.answers++
		}
	case wire.OpTopology:
		var t wire.Topology
		err = t.Decode(f.Body)
		if f.Corr != 0 && c.requests == 0 {
			x.fail("TOPOLOGY on Corr %d, which did not ask", f.Corr)
		}
		for _, st := range t.Streams {
			if st.Name != fuzzBase {
				x.p.seen = append(x.p.seen, st)
			}
		}
		if f.Flags&wire.FlagMore == 0 && f.Corr != 0 {
			c.terminal = true
			c.answers++
		}
	case wire.OpOpened:
		var o wire.Opened
		err = o.Decode(f.Body)
		if c.opened++; c.opened > c.opening {
			x.fail("OPENED on Corr %d, which did not ask", f.Corr)
		}
		if o.Producer != 0 {
			x.p.minted = append(x.p.minted, o.Producer)
		}
	case wire.OpAck:
		var a wire.Ack
		if err = a.Decode(f.Body); err == nil {
			x.acked(c, f.Corr, a)
		}
	case wire.OpRecords:
		err = x.records(c, f)
	default:
		x.fail("%s from the node", f.Op)
	}
	if err != nil {
		x.fail("%s does not decode: %v", f.Op, err)
	}
}

func (x *exchange) errored(f wire.Frame) {
	var e wire.Error
	if err := e.Decode(f.Body); err != nil {
		x.fail("ERROR does not decode: %v", err)
	}
	switch {
	case e.Code == wire.CodeInternal:
		x.fail("%v", &e)
	case e.Code.String() == fmt.Sprintf("CODE(%d)", e.Code):
		x.fail("an ERROR of undefined code %d", e.Code)
	case e.Message == "":
		x.fail("%s says nothing", e.Code)
	}
	c := x.talk(f.Corr)
	switch {
	case e.Bits&wire.ErrorEndsConnection != 0:
		if f.Corr != 0 {
			x.fail("%v ends the connection on Corr %d", &e, f.Corr)
		}
		x.over = true
	case e.Bits&wire.ErrorOneBatch != 0:
		// Which of several batches that begin there it is cannot be told; only that there is one.
		if c.refused[e.Sequence]++; c.waiting(e.Sequence) < 0 {
			x.fail("%v about a batch at sequence %d of Corr %d that has been answered or was never sent", &e, e.Sequence, f.Corr)
		}
	case e.Bits&wire.ErrorEndsCorr != 0:
		c.terminal = true
		c.answers++
		for _, b := range c.batches {
			b.excused = true
		}
	}
}

func (x *exchange) acked(c *talk, corr uint32, a wire.Ack) {
	if a.Quorum != 1 || a.Voters != 1 {
		x.fail("ACK %+v of a node alone", a)
	}
	if !c.cover(a.Sequence, a.Sequence+a.Count, a.Offset) {
		x.fail("ACK %+v on Corr %d covers what no batches that wait for an answer make up", a, corr)
	}
}

// waiting is how many of the batches that begin at sequence have no answer yet.
func (c *talk) waiting(sequence uint64) int {
	n := -c.refused[sequence]
	for _, b := range c.batches {
		if b.Sequence == sequence && !b.answered {
			n++
		}
	}
	return n
}

// cover answers the batches of which [sequence, end) is made, from offset on; those that an error
// may have answered come last. It reports whether there are such.
func (c *talk) cover(sequence, end, offset uint64) bool {
	if sequence == end {
		return true
	}
	for _, excused := range []bool{false, true} {
		for _, b := range c.batches {
			if b.answered || !b.valid || b.excused != excused || b.Sequence != sequence || sequence+uint64(b.Count) > end {
				continue
			}
			b.answered, b.acked, b.offset = true, true, offset
			if c.cover(sequence+uint64(b.Count), end, offset+uint64(b.Count)) {
				return true
			}
			b.answered, b.acked = false, false
		}
	}
	return false
}

func (x *exchange) records(c *talk, f wire.Frame) error {
	var h wire.RecordsHeader
	runs, err := h.Decode(f.Body)
	if err != nil {
		return err
	}
	if c.fetches == 0 {
		if c.pushed >= c.credit && c.subs == 1 { // what one overdrew is not the debt of the next
			x.fail("RECORDS on Corr %d: %d bytes were pushed with %d of credit", f.Corr, c.pushed, c.credit)
		}
		c.pushed += uint64(wire.HeaderBytes + len(f.Body))
		key := partKey{h.Stream, h.Partition}
		if next, ok := c.positions[key]; ok && h.First < next {
			x.fail("RECORDS on Corr %d: first %d after next %d", f.Corr, h.First, next)
		}
		c.positions[key] = h.Next
	} else {
		c.terminal = true
		c.answers++
	}
	last := uint64(0)
	for len(runs) > 0 {
		var run wire.Run
		if run, runs, err = wire.NextRun(runs); err != nil {
			return err
		}
		base := run.Base
		if base < last {
			x.fail("a run at %d behind %d", base, last)
		}
		for rest := run.Batches; len(rest) > 0; {
			var b wire.Batch
			if b, rest, err = wire.NextBatch(rest); err != nil {
				return err
			}
			if err := b.Verify(); err != nil {
				return err
			}
			raw, err := b.Raw(nil)
			if err != nil {
				return err
			}
			if err := b.Check(raw); err != nil {
				return err
			}
			base += uint64(b.Span)
		}
		if last = base; base > h.HighWatermark {
			x.fail("records up to %d above the high watermark %d", base, h.HighWatermark)
		}
	}
	return nil
}

// due reports whether an answer must still come: of a Corr that one request was sent on and nothing
// else, or an OPEN and nothing but batches.
func (x *exchange) due() bool {
	for corr, c := range x.corrs {
		if corr == 0 || c.begun != 1 || c.closed+c.foreign > 0 {
			continue
		}
		if c.requests == 1 && c.sent == 1 && c.answers == 0 {
			return true
		}
		if c.opening == 1 && c.sent == 1 && c.opened+c.answers == 0 {
			return true
		}
	}
	return false
}

// open reports whether, after a CLOSE on every Corr, something is still to come.
func (x *exchange) open() bool {
	for corr, c := range x.corrs {
		if corr != 0 && !c.terminal {
			return true
		}
	}
	return false
}

// clean checks a connection that was finished in order.
func (x *exchange) clean() {
	if x.stage != stageReady {
		return
	}
	for corr, c := range x.corrs {
		owed := make(map[uint64]int)
		for _, b := range c.batches {
			if !b.answered && !b.excused {
				owed[b.Sequence]++
			}
		}
		for sequence, n := range owed {
			if n > c.refused[sequence] {
				x.fail("Corr %d: a batch at sequence %d was never answered", corr, sequence)
			}
		}
	}
}

// ended is called when the node has closed the connection.
func (x *exchange) ended(err error) {
	if !x.over && x.stage != stageForeign && x.stage != stageOpening {
		x.fail("the node closed the connection without a word (%v); it logged %v", err, x.p.bench.logged.All())
	}
}

// audit holds what the program's partitions hold now against what it sent and what was acknowledged.
func (b *fuzzBench) audit(t *testing.T, p *program, from [2]uint64) {
	byPart := make(map[partKey][]*sentBatch)
	for _, l := range p.all {
		for _, c := range l.corrs {
			for _, s := range c.batches {
				byPart[s.part] = append(byPart[s.part], s)
			}
		}
	}
	for key, batches := range byPart {
		start := uint64(0)
		if key.stream == b.base.ID && int(key.number) < len(from) {
			start = from[key.number]
		}
		part, err := b.node.find(key.stream, key.number)
		if err != nil {
			for _, s := range batches {
				if s.acked && key.stream == b.base.ID {
					t.Errorf("acknowledged in partition %v: %v", key, err)
				}
			}
			continue
		}
		b.auditPart(t, key, start, uint64(part.raft.HighWatermark()), uint64(part.raft.LogStart()), batches)
	}
	for again := true; again; {
		again = false
		b.auditor.send((&wire.Metadata{}).AppendTo(nil, b.auditor.next()))
		for _, st := range b.auditor.topology().Streams {
			if st.Name != fuzzBase {
				b.auditor.send((&wire.DeleteStream{Name: st.Name, Purge: true}).AppendTo(nil, b.auditor.next()))
				if f, err := b.auditor.read(); err != nil || f.Op != wire.OpOK && f.Op != wire.OpError {
					t.Fatalf("delete %q: %s, %v", st.Name, f.Op, err)
				}
			}
		}
	}
}

func (b *fuzzBench) auditPart(t *testing.T, key partKey, start, high, logStart uint64, batches []*sentBatch) {
	sends := make(map[string]int) // values of this program, and how often they were sent
	for _, s := range batches {
		for _, v := range s.values {
			sends[string(v)]++
		}
	}
	stored := make(map[uint64]string)
	next := max(start, logStart)
	for next < high {
		p := b.auditor
		p.send((&wire.Fetch{Stream: key.stream, Partition: key.number, Start: wire.Start{From: wire.FromOffset, Value: next}, MaxBytes: 1 << 20}).AppendTo(nil, p.next()))
		h, got := records(t, p.recv(wire.OpRecords))
		for _, r := range got {
			if r.offset < next {
				continue
			}
			if r.offset != next {
				t.Fatalf("partition %v: offset %d follows %d", key, r.offset, next)
			}
			next++
			if r.offset < start {
				continue
			}
			if n := sends[r.value]; n > 0 {
				sends[r.value]--
				stored[r.offset] = r.value
			} else if key.stream == b.base.ID {
				t.Fatalf("partition %v, offset %d: a record nobody published, or once too often: %q", key, r.offset, r.value)
			}
		}
		if h.Next < next {
			t.Fatalf("partition %v: next %d, %d were read", key, h.Next, next)
		}
	}
	for _, s := range batches {
		if !s.acked || s.offset < max(start, logStart) {
			continue
		}
		for i, v := range s.values {
			if got, ok := stored[s.offset+uint64(i)]; !ok || got != string(v) && s.producer == 0 && !ambiguous(batches, s) {
				t.Errorf("partition %v: sequence %d was acknowledged at offset %d, where there is %q instead of %q", key, s.Sequence, s.offset, got, v)
			}
		}
	}
}

// ambiguous reports whether other batches claimed a sequence of s: then the first to come was stored.
func ambiguous(batches []*sentBatch, s *sentBatch) bool {
	for _, o := range batches {
		if o != s && o.Sequence < s.Sequence+uint64(s.Count) && s.Sequence < o.Sequence+uint64(o.Count) {
			return true
		}
	}
	return false
}
