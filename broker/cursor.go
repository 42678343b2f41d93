package broker

import (
	"errors"
	"runtime/debug"
	"sync"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

// cursorState says who owns a cursor. All but cursorReading are the loop's.
type cursorState uint8

const (
	cursorIdle    cursorState = iota // between two steps
	cursorWaiting                    // for the high watermark: stands in its watch
	cursorStarved                    // for credit
	cursorParked                     // for outbound memory: stands in session.parked
	cursorReading                    // a reader goroutine has it
	cursorEnded
)

// sink is whom a cursor reads for: a subscription or a fetch. Its methods run on the loop.
type sink interface {
	// open says whether a frame may be sent now; if not, the cursor is starved.
	open() bool
	// room says how many bytes may be read now for frames to come: what open grants, less what is
	// reserved for reads under way.
	room() int
	// starved has the sink feed the cursor later.
	starved(c *cursor)
	// reserve counts bytes a read was asked for; release takes that back when it has ended, and
	// woken lets others have what is left.
	reserve(bytes int)
	release(bytes int)
	woken()
	// ready takes a RECORDS frame of size bytes, which stands at the end of the session's output.
	// It reports whether the cursor goes on.
	ready(c *cursor, size int) bool
	// caughtUp is called when nothing is left below the high watermark. It reports whether the cursor waits for more.
	caughtUp(c *cursor) bool
	// failed takes an error of reading. passed says that the cursor stands behind what failed and can
	// go on. It reports whether the cursor does.
	failed(c *cursor, err error, passed bool) bool
}

// cursor is a place in one partition that somebody reads from.
//
// On the loop, feed builds frames of what is hot at the end of the session's output. For all else it hands the cursor over: in a
// reader goroutine run builds a frame of its own, and with readDone, on the loop again, that is pending until feed may send it.
// Where nothing can be sent now, rest leaves the cursor to what will end that, which its state tells. If it holds a segment (cold)
// a reader goroutine has to let go of that first (leaving); then feed looks again.
type cursor struct {
	session *session
	part    *partition
	sink    sink
	corr    uint32
	filter  string // of subjects that are seen; empty: everything
	state   cursorState
	start   wire.Start
	located bool   // next is known: start has been resolved
	next    uint64 // first offset not yet sent or filtered out
	told    uint64 // what the last RECORDS said of it
	after   uint64 // next, once the frame that is being built is sent
	pending bool   // frame waits for credit
	gaveWay bool   // feed will be called
	seat    int    // in watch.cursors, while it waits there

	// The reader goroutine's while it has the cursor (state cursorReading).
	reader  *storage.Reader
	stale   bool   // reader does not stand at next: moving it may touch the disk
	cold    bool   // reader holds a segment: closing it may touch the disk
	leaving bool   // asked only to let go of that segment
	batches uint64 // of the frame that is being built, or pending
	records uint64
	ask     int    // bytes asked for, reserved with the sink
	held    int64  // counted in session.reading
	coming  int64  // counted in session.coming
	frame   []byte // a whole RECORDS frame, or empty if everything was filtered out
	err     error
}

// chunkBytes is about how many bytes of batches one RECORDS carries.
const chunkBytes = 256 << 10

// tellEvery is how many offsets may be filtered out before a RECORDS without runs tells the
// client how far it is, so that resuming does not begin far behind.
const tellEvery = 1 << 16

func (c *cursor) readable() bool { return c.next < uint64(c.part.raft.HighWatermark()) }

// place is where another cursor would go on.
func (c *cursor) place() wire.Start {
	if !c.located { // a reader is still looking for the time it is to begin at
		return c.start
	}
	return wire.Start{From: wire.FromOffset, Value: c.next}
}

// locate resolves the starting point, as far as that needs no disk: a time is left to a reader
// goroutine. The answer to the request that made the cursor comes after it, so that whatever is
// acknowledged behind that answer is behind FromNext.
func (c *cursor) locate() error {
	high, first := uint64(c.part.raft.HighWatermark()), uint64(c.part.raft.LogStart())
	switch c.start.From {
	case wire.FromFirst:
		c.next = first
	case wire.FromLast:
		c.next = max(first, high-min(high, 1))
	case wire.FromNext:
		c.next = high
	case wire.FromOffset:
		if c.next = c.start.Value; c.next > high {
			return &offsetRangeError{c.next, high}
		}
	case wire.FromTime:
		return nil
	}
	c.located, c.told = true, c.next
	c.reader = c.part.raft.Reader(storage.Offset(c.next))
	return nil
}

// offsetRangeError is said by the leader of an offset above its high watermark.
type offsetRangeError struct{ offset, high uint64 }

func (e *offsetRangeError) Error() string { return "offset out of range" }

// feed moves the cursor as far as memory, credit and the client allow. It runs on the loop; what
// needs the disk, or a batch cut, goes on in a reader goroutine.
func (c *cursor) feed() {
	s := c.session
	for c.state == cursorIdle && s.state != stateClosed && !s.closing {
		if s.loop.over() {
			c.giveWay()
			return
		}
		switch {
		case !c.sink.open():
			c.rest(cursorStarved)
			return
		case s.full():
			c.rest(cursorParked)
			return
		case c.pending: // and counted: it may go out however little memory there is
			c.pending = false
			size := len(c.frame)
			if out := s.output(); len(out) == 0 {
				s.out, c.frame = c.frame, out // instead of a copy
			} else {
				s.out = append(out, c.frame...)
			}
			c.releaseFrame()
			c.hold(0, 0)
			c.deliver(size, nil)
			continue
		case !s.mayRead(hotExtra):
			c.rest(cursorParked)
			return
		case c.located && !c.readable():
			if c.sink.caughtUp(c) {
				c.rest(cursorWaiting)
			}
			return
		}
		room := c.sink.room()
		if room <= 0 {
			c.rest(cursorStarved)
			return
		}
		if !c.located || c.stale {
			c.readIfMay(room)
			return
		}
		limit := c.part.raft.HighWatermark()
		entries, err := c.reader.NextHot(limit, min(room, chunkBytes))
		if errors.Is(err, storage.ErrCold) {
			c.readIfMay(room)
			return
		}
		if err != nil {
			c.fail(err)
			continue
		}
		if c.cutNeeded(entries) {
			c.stale = true // NextHot has moved the reader
			c.readIfMay(room)
			return
		}
		at := len(s.output())
		c.after = entriesEnd(entries, c.next)
		s.out, err = c.build(s.out, entries, uint64(limit))
		c.deliver(len(s.out)-at, err)
	}
}

// giveWay lets the others of the loop have their turn before the cursor goes on.
func (c *cursor) giveWay() {
	if c.gaveWay {
		return
	}
	c.gaveWay = true
	c.session.loop.yield(func() {
		c.gaveWay = false
		c.contained((*cursor).feed)
	})
}

// contained does a step of the cursor; a panic in it costs its session and no other.
func (c *cursor) contained(step func(*cursor)) {
	defer c.session.contain()
	step(c)
}

// rest leaves the cursor in a state that something else ends. A reader that holds a segment lets
// go of it first, in a reader goroutine: retention would wait for as long as the cursor does.
func (c *cursor) rest(in cursorState) {
	if c.cold {
		c.leaving = true
		c.submit()
		return
	}
	if c.reader != nil {
		c.reader.Leave() // from memory: the loop may
	}
	c.state = in
	switch in {
	case cursorStarved:
		if c.pending {
			c.hold(c.held, 0) // it does not come before there is credit, and others of the client need not wait for that
			c.spare()
		}
		c.sink.starved(c)
	case cursorWaiting:
		c.watch().add(c)
	case cursorParked:
		c.session.park(c)
	}
}

// spare lets go of a frame that waits for credit, to be read again, where the node has not much memory left, or this client has
// many such: credit may never come.
func (c *cursor) spare() {
	s := c.session
	if cfg := s.node.config(); s.reading <= cfg.backlog() && s.node.outbound.Load() <= cfg.OutboundMemory/2 {
		return
	}
	c.pending, c.stale = false, true
	c.releaseFrame()
	c.hold(0, 0)
}

// relieve does that for all frames of the client that were kept when the node had more memory.
func (s *session) relieve() {
	if s.reading == s.coming || s.node.outbound.Load() <= s.node.config().OutboundMemory/2 { // none is kept, or may be
		return
	}
	for sub := range s.subscriptions {
		for _, c := range sub.turn {
			if c.state == cursorStarved && c.pending {
				c.spare()
			}
		}
	}
}

const (
	// readAhead is how many unsent bytes of one client stop its cursors, where memory allows, and twice that what is unsent and
	// being read for it. What is read for a client that does not take it is work for nothing, and others pay for it.
	readAhead = 2 << 20
	// firstAhead is the same for a client that has taken little yet: it may have ahead half of what it took.
	firstAhead = 128 << 10
	// sessionBacklog is how many unsent bytes of one client have what it asks for refused.
	sessionBacklog = 16 << 20
)

// What others do not take is not to stop who has no more than littleComing on its way: for those there is more than OutboundMemory,
// by this part of it. There is less for what is on disk, as that may become a whole batch: who waits for news is to have it when
// others fill the rest.
const (
	littleComing = 64 << 10
	hotExtra     = 2
	coldExtra    = 4
)

// mayRead tells whether more may be read for the client: it has not much on its way, and the node has memory for that.
func (s *session) mayRead(extra int64) bool {
	cfg := s.node.config()
	most, own := cfg.OutboundMemory, int64(s.backlog())
	if own+s.reading <= littleComing {
		most += most / extra
	}
	return own+s.coming <= min(2*s.ahead(), cfg.backlog()) && s.node.outbound.Load() <= most
}

// full reports whether what the client has not taken stops its cursors.
func (s *session) full() bool { return int64(s.backlog()) > s.ahead() }

// ahead is how many unsent bytes stop the client's cursors.
func (s *session) ahead() int64 {
	return min(max((s.progress.written-int64(s.unsent()))/2, firstAhead), readAhead)
}

// backlog is the bytes of answers that the client has not taken.
func (s *session) backlog() int { return len(s.out) + s.unsent() }

func (c *cursor) watch() *watch { return c.part.watches[c.session.loop.index] }

// deliver counts what was appended to the session's output for this cursor.
func (c *cursor) deliver(size int, err error) {
	if err != nil {
		c.fail(err)
		return
	}
	c.next = c.after
	if size == 0 {
		return
	}
	c.told = c.next
	c.count(size)
	c.session.account()
	if !c.sink.ready(c, size) {
		c.end()
	}
}

// count counts a frame that is being sent.
func (c *cursor) count(size int) {
	flow := &c.session.loop.count.Pushed
	if f, fetched := c.sink.(*fetch); fetched {
		flow = &c.session.loop.count.Fetched
		f.span.Fetched(0, size)
		f.span = nil
	}
	flow.Add(c.batches, c.records, uint64(size))
	c.part.count.Delivered.Add(c.batches, c.records, uint64(size))
}

// fail tells the sink of an error, behind what could not be read if that is known.
func (c *cursor) fail(err error) {
	if c.part.gone.Load() {
		c.end() // the stream was deleted: its sessions are told by forget
		return
	}
	before := c.next
	var corrupt *storage.CorruptError
	switch {
	case errors.As(err, &corrupt):
		c.next = max(before, uint64(corrupt.End))
	case errors.Is(err, storage.ErrOutOfRange):
		c.next = max(before, uint64(c.part.raft.LogStart()))
	}
	c.stale = true
	if !c.sink.failed(c, err, c.next > before) {
		c.end()
	}
}

// end lets go of the reader; if a reader goroutine has the cursor, readDone will.
func (c *cursor) end() {
	was := c.state
	c.state = cursorEnded
	switch was {
	case cursorReading, cursorEnded:
		return
	case cursorWaiting:
		c.watch().remove(c)
	case cursorParked:
		c.session.unparked()
	}
	c.closeReader()
}

// hold counts bytes that the cursor has in memory, or may come to have, beside the output, and of these about what the client
// will be sent without more credit.
func (c *cursor) hold(bytes, coming int64) {
	c.session.reading += bytes - c.held
	c.session.coming += coming - c.coming
	c.held, c.coming = bytes, coming
	c.session.account()
}

func (c *cursor) closeReader() {
	c.hold(0, 0)
	if c.reader != nil && c.cold {
		c.session.node.readers.submit(job{close: c.reader})
	} else if c.reader != nil {
		c.reader.Close()
	}
	c.reader, c.pending = nil, false
	c.releaseFrame()
}

// frames are buffers for what reader goroutines build, of up to a batch and a little. Made anew each, they would be garbage
// faster than it is collected.
var frames = sync.Pool{New: func() any { return new([]byte) }}

// releaseFrame gives the frame's buffer away.
func (c *cursor) releaseFrame() {
	if b := c.frame; b != nil {
		frames.Put(&b)
	}
	c.frame = nil
}

// readIfMay hands the cursor to a reader goroutine, to read up to room bytes.
func (c *cursor) readIfMay(room int) {
	if !c.session.mayRead(coldExtra) {
		c.rest(cursorParked)
		return
	}
	c.ask = min(room, chunkBytes)
	c.sink.reserve(c.ask)
	c.hold(wire.MaxBatch, wire.MaxBatch) // one entry comes however little is asked for
	c.submit()
}

func (c *cursor) submit() {
	c.state = cursorReading
	c.session.node.readers.submit(job{cursor: c})
}

// run does what the cursor was handed over for, off the loop. A panic becomes an error of this read.
func (c *cursor) run() {
	defer func() {
		if r := recover(); r != nil {
			c.session.log.Error("panic reading for a connection", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			c.frame, c.err = c.frame[:0], errPanic
		}
	}()
	if c.leaving { // a frame that is pending stays
		c.reader.Leave()
		c.cold = false
		return
	}
	if c.frame == nil {
		c.frame = *frames.Get().(*[]byte)
	}
	c.frame, c.err = c.frame[:0], nil
	switch {
	case !c.located:
		at, err := c.part.raft.Log().FindTime(int64(min(c.start.Value, 1<<62)))
		c.after, c.err = uint64(min(at, c.part.raft.HighWatermark())), err
		c.reader = c.part.raft.Reader(storage.Offset(c.after))
		return
	case c.stale:
		c.reader.Seek(storage.Offset(c.next))
		c.stale = false
	}
	limit := c.part.raft.HighWatermark()
	entries, err := c.reader.Next(limit, c.ask)
	c.cold = c.reader.Holds()
	if c.err = err; err == nil {
		c.after = entriesEnd(entries, c.next)
		c.frame, c.err = c.build(c.frame, entries, uint64(limit))
	}
}

// readDone takes the cursor back from its reader, on the loop.
func (c *cursor) readDone() {
	c.sink.release(c.ask)
	c.ask = 0
	if c.state == cursorEnded || c.session.state == stateClosed {
		c.state = cursorEnded
		c.closeReader()
		if c.session.state != stateClosed {
			c.sink.woken() // others may have waited for what this one was promised
		}
		return
	}
	c.state = cursorIdle
	switch {
	case c.leaving:
		c.leaving = false
	case c.err != nil:
		c.fail(c.err)
	case !c.located:
		c.located, c.next, c.told = true, c.after, c.after
	case len(c.frame) == 0:
		c.deliver(0, nil)
	default:
		c.pending = true
	}
	if c.pending {
		c.hold(int64(len(c.frame)), int64(len(c.frame)))
	} else {
		c.hold(0, 0)
	}
	c.feed()
	if !c.pending && c.state != cursorReading {
		c.releaseFrame() // who rests keeps no buffer
	}
	c.sink.woken()
	c.session.unpark()
}

// entriesEnd is the offset behind the last of entries; next if there are none.
func entriesEnd(entries []storage.Entry, next uint64) uint64 {
	if n := len(entries); n > 0 {
		return uint64(entries[n-1].Base) + uint64(entries[n-1].Records)
	}
	return next
}

// cutNeeded reports whether some batch of entries must be opened to know what the reader may
// see of it: that is work for a reader goroutine.
func (c *cursor) cutNeeded(entries []storage.Entry) bool {
	if c.filter == "" {
		return false
	}
	for _, e := range entries {
		for rest := raft.Batches(e); len(rest) > 0; {
			b, err := wire.ParseBatch(rest)
			if err != nil || b.Mixed() {
				return true
			}
			rest = rest[len(b.Bytes):]
		}
	}
	return false
}

// build appends to dst a RECORDS frame with what of entries the reader wants; nothing if that is
// nothing. Batches it takes whole are copied as they are stored. What would exceed the client's
// frame limit, which it can only if some batches grow by being cut, is left for the next time: c.after
// then says where that begins.
func (c *cursor) build(dst []byte, entries []storage.Entry, high uint64) ([]byte, error) {
	out, end, err := c.assemble(dst, entries, high)
	if err == nil && end < c.after {
		c.after, c.stale = end, true
		out, _, err = c.assemble(dst, entries, high)
	}
	return out, err
}

// assemble is build up to c.after. end is where it had to stop; c.after if it did not.
func (c *cursor) assemble(dst []byte, entries []storage.Entry, high uint64) (out []byte, end uint64, err error) {
	begin := len(dst)
	c.batches, c.records = 0, 0
	dst, at := wire.BeginRecords(dst, c.corr, &wire.RecordsHeader{
		Stream: c.part.stream().ID, Partition: c.part.number, LogStart: uint64(c.part.raft.LogStart()),
		HighWatermark: high, First: c.next, Next: c.after,
	})
	empty := len(dst)
	for _, e := range entries {
		run := wire.Run{Base: uint64(e.Base), Epoch: uint64(e.Term), Time: uint64(e.Time)}
		if batches := raft.Batches(e); c.filter == "" && run.Base >= c.next {
			run.Batches = batches
			dst = run.AppendTo(dst)
			c.batches += uint64(raft.BatchCount(e))
			c.records += uint64(e.Records)
			continue
		}
		p := picker{cursor: c, dst: dst, limit: begin + 4 + c.session.frameLimit, run: run}
		if dst, end, err = p.pick(raft.Batches(e)); err != nil || end < c.after && p.full {
			return dst[:begin], end, err
		}
	}
	if len(dst) == empty && c.after-c.told < tellEvery {
		return dst[:begin], c.after, nil
	}
	return wire.EndRecords(dst, at), c.after, nil
}

// picker takes runs of batches from one entry for a reader that may not have or want all of it.
type picker struct {
	cursor *cursor
	dst    []byte
	limit  int // of len(dst)
	run    wire.Run
	whole  int // bytes of whole batches gathered for the run
	full   bool
}

// pick appends what the reader has not seen and wants, up to the cursor's after. end is the offset
// it came to; full says that there was no room for what follows.
func (p *picker) pick(batches []byte) (dst []byte, end uint64, err error) {
	c := p.cursor
	offset := p.run.Base
	taken := 0
	for taken < len(batches) && offset < c.after {
		b, err := wire.ParseBatch(batches[taken:])
		if err != nil {
			return p.dst, offset, err
		}
		next := offset + uint64(b.Span)
		want := next > c.next && (c.filter == "" || b.Mixed() || wire.Match(c.filter, b.Subject))
		if want && !(c.filter != "" && b.Mixed()) {
			if p.full = len(p.dst)+runHead+p.whole+len(b.Bytes) > p.limit; p.full {
				break
			}
			if p.whole == 0 {
				p.run.Base = offset
			}
			p.whole += len(b.Bytes)
			c.batches++
			c.records += uint64(b.Count)
		} else {
			p.flush(batches[:taken])
			if want {
				if err := p.cut(offset, &b); err != nil || p.full {
					return p.dst, offset, err
				}
			}
		}
		taken += len(b.Bytes)
		offset = next
	}
	p.flush(batches[:taken])
	return p.dst, offset, nil
}

// flush appends the run of whole batches that ends where seen ends.
func (p *picker) flush(seen []byte) {
	if p.whole > 0 {
		p.run.Batches = seen[len(seen)-p.whole:]
		p.dst = p.run.AppendTo(p.dst)
		p.whole = 0
	}
}

// runHead is the most that stands before the batches of a run, in bytes.
const runHead = 4 * 10

// opened is where a batch is opened, and cut. A small one may become MaxBatch.
type opened struct{ raw, cut []byte }

// openings are used again, as frames are.
var openings = sync.Pool{New: func() any { return new(opened) }}

// cut appends what the reader may see of a mixed batch, as a run of its own.
func (p *picker) cut(offset uint64, b *wire.Batch) error {
	o := openings.Get().(*opened)
	defer openings.Put(o)
	raw, err := b.Raw(o.raw)
	if err != nil {
		return err
	}
	if b.Compressed() {
		o.raw = raw[:0]
	}
	filter := p.cursor.filter
	cut, err := wire.AppendFiltered(o.cut[:0], b, raw, func(r *wire.Record) bool { return wire.Match(filter, r.Subject) })
	o.cut = cut[:0]
	if err != nil || len(cut) == 0 {
		return err
	}
	if p.full = len(p.dst)+runHead+len(cut) > p.limit; !p.full {
		if b, err := wire.ParseBatch(cut); err == nil {
			p.cursor.batches++
			p.cursor.records += uint64(b.Count)
		}
		p.run.Base, p.run.Batches = offset, cut
		p.dst = p.run.AppendTo(p.dst)
	}
	return nil
}
