package client

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// producer publishes to one partition. Records are encoded straight into the batch being built.
// A batch goes out at once if nothing of the partition is in flight, otherwise when the last one
// in flight is answered, or when it is full and the node's bounds allow one more: so batches grow
// with the load, and no timer is needed.
//
// Order of locks: producer, then topology, then client, then connection, then outbox.
type producer struct {
	c         *Client
	stream    *stream
	partition uint32

	mu      sync.Mutex
	closed  error // why nothing is taken any more
	open    *batch
	builder wire.Builder
	headers []wire.Header // scratch
	names   []byte        // scratch: what headers' names alias
	queue   ring          // sealed batches in order of sequence, those that are sent first
	sent    int           // how many of queue are sent
	tickets uint64        // the last one given
	flushTo uint64        // a batch with a ticket up to here does not wait for company
	flushes []flushWait
	noted   []told // finished batches whose callbacks are not called yet; empty when mu is not held

	lastBytes int   // size of the last batch: what the next one may need
	clock     int64 // the last reading, Unix ms
	clockSkip int   // records that may take it, in this batch

	session  *session // nil: being opened, or not needed yet
	opening  bool     // establish runs
	inFlight int      // batches sent and not answered
	bytes    int      // their size
	held     bool     // waits in conn.waiting
	identity identity
	next     uint64 // sequence of the next record
	expected uint64 // sequence the partition expects after what it acknowledged

	trouble // while inFlight runs down to zero before batches are sent again
}

// trouble is what answers in flight have said that asks for sending batches again.
type trouble struct {
	holding bool // send nothing
	expired bool // the identity is of no use any more
	reopen  bool // on a fresh session
	hint    string
	delay   time.Duration
	rounds  int // without an ack between
}

type flushWait struct {
	ticket uint64
	done   chan struct{}
}

func (p *producer) append(m *Message, cost int64, w *waiter, done func(Ack, error)) error {
	p.mu.Lock()
	if p.closed != nil {
		p.mu.Unlock()
		return p.closed
	}
	if p.session == nil && !p.opening && !p.startLocked() {
		p.mu.Unlock()
		return ErrClosed
	}
	ms := p.timeOf(m)
	headers := p.headersOf(m)
	err := wire.ErrFull
	for err == wire.ErrFull {
		if p.open == nil || p.builder.Count() == 0 {
			p.beginLocked(int(cost))
		}
		err = p.builder.Append(m.Subject, m.Key, m.Value, headers, ms)
		if _, large := errors.AsType[*wire.TooLargeError](err); large && p.builder.Count() > 0 {
			err = wire.ErrFull // for this batch; one of its own takes it up to the node's limit
		}
		if err == wire.ErrFull {
			p.sealLocked()
		}
	}
	if err != nil {
		p.mu.Unlock()
		return refused(err)
	}
	b := p.open
	index := uint32(p.builder.Count() - 1)
	b.cost += cost
	if w != nil {
		b.waits = append(b.waits, completion{index: index, wait: w})
	} else if done != nil {
		if b.calls == nil {
			b.calls = p.c.callbacks.slice()
		}
		b.calls = append(b.calls, completion{index: index, call: done})
	}
	if p.builder.Count() >= p.c.cfg.maxBatchRecords || p.builder.Size() >= p.c.cfg.maxBatchBytes {
		p.sealLocked()
	}
	var out *outbox
	alone := false
	if s := p.session; s != nil {
		before := s.cn.unacked.Load()
		if p.pumpLocked() {
			out, alone = &s.cn.out, before == 0
		}
	}
	p.mu.Unlock()
	switch {
	case out == nil:
	case alone || w != nil:
		out.push() // somebody may be waiting for this very frame
	default:
		out.kick() // gathers with what is published meanwhile
	}
	return nil
}

// timeOf gives the record's time. Reading the clock would be a fifth of the cost of a small record, so
// once two readings of a batch lie in the same millisecond the next few records take the last one.
func (p *producer) timeOf(m *Message) int64 {
	if !m.Time.IsZero() {
		return m.Time.UnixMilli()
	}
	building := p.building()
	if building && p.clockSkip > 0 && p.session != nil && !p.holding { // otherwise the batch may stay open for long
		p.clockSkip--
		return p.clock
	}
	now := time.Now().UnixMilli()
	p.clockSkip = 0
	if building && now == p.clock {
		p.clockSkip = 7
	}
	p.clock = now
	return now
}

func (p *producer) headersOf(m *Message) []wire.Header {
	if len(m.Headers) == 0 {
		return nil
	}
	n := 0
	for i := range m.Headers {
		n += len(m.Headers[i].Name)
	}
	if cap(p.names) < n {
		p.names = make([]byte, 0, n)
	}
	p.names, p.headers = p.names[:0], p.headers[:0]
	for i := range m.Headers {
		at := len(p.names)
		p.names = append(p.names, m.Headers[i].Name...)
		p.headers = append(p.headers, wire.Header{Name: p.names[at:], Value: m.Headers[i].Value})
	}
	return p.headers
}

// beginLocked begins a batch for a record of about cost bytes.
func (p *producer) beginLocked(cost int) {
	if p.open == nil {
		p.open = p.c.batches.get()
		p.tickets++
		p.open.ticket = p.tickets
	}
	limit := p.c.cfg.maxBatchBytes
	most := int(p.c.limit.Load())
	if cost+64 > limit { // a large record is a batch of its own
		limit = most
	}
	if cap(p.open.buf) < wire.HeaderBytes {
		p.open.buf = make([]byte, wire.HeaderBytes, max(512, p.lastBytes+p.lastBytes/8))
	}
	p.builder.Reset(p.open.buf[:wire.HeaderBytes], min(limit, most))
}

// sealLocked finishes the open batch and queues it.
func (p *producer) sealLocked() {
	b := p.open
	p.open = nil
	b.count = uint32(p.builder.Count())
	b.first = p.next
	b.buf = p.builder.Finish(b.first, p.c.cfg.compress)
	p.next += uint64(b.count)
	p.lastBytes = len(b.buf)
	p.queue.push(b)
}

func (p *producer) building() bool { return p.open != nil && p.builder.Count() > 0 }

// pumpLocked sends what may be sent, and reports whether it queued anything at the outbox, which
// the caller then pushes or kicks.
func (p *producer) pumpLocked() (queued bool) {
	s := p.session
	if s == nil || p.holding || p.held || s.cn.retired.Load() {
		return false
	}
	most := min(p.c.cfg.inFlightBatches, max(1, int(s.cn.welcome.InFlightBatches)))
	for {
		if p.sent == p.queue.len() {
			if !p.building() || p.inFlight > 0 && p.open.ticket > p.flushTo || p.inFlight >= most {
				return queued
			}
			p.sealLocked()
		}
		b := p.queue.at(p.sent)
		if b.finished {
			p.sent++
			continue
		}
		if p.inFlight >= most {
			return queued
		}
		if !s.cn.admit(p, b.size()) {
			p.held = true
			return queued
		}
		b.again = false
		wire.PutPublishHeader(b.buf, s.corr, b.size())
		s.cn.out.add(b.buf)
		p.sent++
		p.inFlight++
		p.bytes += b.size()
		queued = true
	}
}

// admit counts n bytes against the node's bound; over it, the producer is pumped again when there is room.
func (cn *conn) admit(p *producer, n int) bool {
	limit := int64(min(cn.welcome.InFlightBytes, 1<<62))
	if unacked := cn.unacked.Add(int64(n)); unacked <= limit || unacked == int64(n) {
		return true
	}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	// Once more under the lock: a release before it made room, one after it finds p waiting.
	if unacked := cn.unacked.Load(); unacked <= limit || unacked == int64(n) {
		return true
	}
	cn.unacked.Add(-int64(n))
	cn.waiting = append(cn.waiting, p)
	return false
}

// answeredLocked takes one batch out of flight.
func (p *producer) answeredLocked(s *session, b *batch) {
	p.inFlight--
	p.bytes -= b.size()
	s.cn.unacked.Add(-int64(b.size()))
}

// finishLocked tells everybody what became of a batch. ack is of its first record.
func (p *producer) finishLocked(b *batch, ack Ack, err error) {
	p.noteLocked(b, ack, err)
	p.tellLocked()
}

// noteLocked finishes a batch, but for its callbacks, which tellLocked has called together with those of others: who is called
// publishes again, perhaps, and would wait for the lock that is held here.
func (p *producer) noteLocked(b *batch, ack Ack, err error) {
	b.finished = true
	p.c.budget.release(b.cost)
	if err != nil {
		if n := int(b.count) - len(b.waits); n > 0 {
			p.c.failures.add(err, uint64(n))
		}
	}
	for _, done := range b.waits {
		w := done.wait
		w.ack, w.err = ack, err
		if err == nil {
			w.ack.Offset += uint64(done.index)
		} else {
			w.ack = Ack{}
		}
		w.done <- struct{}{}
	}
	if b.calls != nil {
		if err != nil {
			ack = Ack{}
		}
		p.noted = append(p.noted, told{ack: ack, err: err, calls: b.calls})
		b.calls = nil
	}
}

// tellLocked has the callbacks of all that was noted called.
func (p *producer) tellLocked() {
	if len(p.noted) > 0 {
		p.c.callbacks.add(p.noted...)
		clear(p.noted)
		p.noted = p.noted[:0]
	}
}

// popLocked lets finished batches leave, and Flush go on.
func (p *producer) popLocked() {
	for p.queue.len() > 0 && p.queue.at(0).finished {
		if p.sent > 0 {
			p.sent--
		}
		p.c.batches.put(p.queue.pop())
	}
	p.flushedLocked()
}

func (p *producer) flushedLocked() {
	if len(p.flushes) == 0 {
		return
	}
	oldest := p.tickets + 1
	if p.queue.len() > 0 {
		oldest = p.queue.at(0).ticket
	} else if p.building() {
		oldest = p.open.ticket
	}
	kept := p.flushes[:0]
	for _, f := range p.flushes {
		if f.ticket < oldest {
			close(f.done)
		} else {
			kept = append(kept, f)
		}
	}
	clear(p.flushes[len(kept):])
	p.flushes = kept
}

// flush sends what is being built and returns a channel that closes when everything taken so far
// is answered; nil if it is already.
func (p *producer) flush() <-chan struct{} {
	p.mu.Lock()
	if p.queue.len() == 0 && !p.building() {
		p.mu.Unlock()
		return nil
	}
	p.flushTo = p.tickets
	f := flushWait{p.tickets, make(chan struct{})}
	p.flushes = append(p.flushes, f)
	var out *outbox
	if s := p.session; p.pumpLocked() {
		out = &s.cn.out
	}
	p.mu.Unlock()
	if out != nil {
		out.push()
	}
	return f.done
}

// acked handles an ACK: sequences from a.Sequence on, batch by batch.
func (p *producer) acked(s *session, a *wire.Ack) error {
	p.mu.Lock()
	if p.session != s {
		p.mu.Unlock()
		return nil
	}
	i := p.findLocked(a.Sequence)
	if !p.coversLocked(i, a) {
		p.mu.Unlock()
		return protocolError("ACK of %d records from sequence %d, which are not whole batches in flight", a.Count, a.Sequence)
	}
	ack := Ack{
		Stream:    p.stream.name,
		Partition: p.partition,
		Epoch:     a.Epoch,
		Quorum:    int(a.Quorum),
		Voters:    int(a.Voters),
	}
	for done := uint64(0); done < a.Count; i++ {
		b := p.queue.at(i)
		ack.Offset = a.Offset + done
		done += uint64(b.count)
		p.expected = max(p.expected, b.first+uint64(b.count))
		p.answeredLocked(s, b)
		p.noteLocked(b, ack, nil)
	}
	p.tellLocked() // before Flush goes on, which promises that all were called
	p.rounds = 0
	p.popLocked()
	p.settleLocked(s)
	p.pumpLocked()
	if p.stream.gone.Load() {
		p.retireLocked()
	}
	p.mu.Unlock()
	s.cn.roomMade()
	return nil
}

// coversLocked reports whether an ACK is of whole batches in flight, the first at i.
func (p *producer) coversLocked(i int, a *wire.Ack) bool {
	if i < 0 || a.Count == 0 {
		return false
	}
	done := uint64(0)
	for ; done < a.Count && i < p.sent; i++ {
		b := p.queue.at(i)
		if b.finished || b.again || b.first != a.Sequence+done {
			return false
		}
		done += uint64(b.count)
	}
	return done == a.Count
}

// findLocked gives the place of the batch in flight that begins with a sequence, or -1.
func (p *producer) findLocked(sequence uint64) int {
	for i := range p.sent {
		if b := p.queue.at(i); b.first == sequence && !b.finished && !b.again {
			return i
		}
	}
	return -1
}

// refused handles an ERROR about one batch.
//
// Later batches of an idempotent producer are then refused too (SEQUENCE_GAP), perhaps after
// earlier ones are acknowledged. So nothing is sent until everything in flight has its answer; then
// what is left goes out again in order, and no answer can be mistaken for one to an earlier attempt.
func (p *producer) refused(s *session, e *wire.Error) error {
	p.mu.Lock()
	defer s.cn.roomMade()
	defer p.mu.Unlock()
	if p.session != s {
		return nil
	}
	i := p.findLocked(e.Sequence)
	if i < 0 {
		return protocolError("%s about sequence %d, which is not in flight", e.Code, e.Sequence)
	}
	b := p.queue.at(i)
	p.answeredLocked(s, b)
	p.holding = true
	p.delay = max(p.delay, e.RetryAfter)
	b.again = true
	switch e.Code {
	case wire.CodeSequenceGap:
		if e.Value < p.expected {
			p.expired = true // it has forgotten what it acknowledged
		}
	case wire.CodeUnknownOutcome:
		b.unsure = true
		if !p.c.cfg.idempotent {
			p.finishLocked(b, Ack{}, fromWire(e))
			p.popLocked()
		}
	case wire.CodeProducerExpired, wire.CodeProducerFenced:
		p.expired = true
	case wire.CodeNotLeader, wire.CodeStaleMap, wire.CodeShutdown, wire.CodeUnknownStream: // it may be back by now
		p.reopen, p.hint = true, e.Leader
	case wire.CodeOverloaded:
		p.c.refusal.Store(&refusal{e.Message, time.Now()})
	case wire.CodeInFlight:
	default:
		if e.Retriable() || e.Code == wire.CodeBadChecksum && p.rounds < 3 {
			break // damaged on the way: our bytes are good
		}
		b.again = false
		if e.Code == wire.CodeBadSequence { // our numbers are of no use
			p.expired = p.c.cfg.idempotent
		}
		err := fromWire(e)
		switch {
		case !p.c.cfg.idempotent:
		case b.unsure: // an earlier attempt may have stored it, and what follows must not take its sequence
			err.Err = ErrUnknownOutcome
			p.expired = true
		default:
			p.dropLocked(i)
		}
		p.finishLocked(b, Ack{}, err)
		p.popLocked()
	}
	p.settleLocked(s)
	return nil
}

// settleLocked sends everything again once nothing is in flight any more.
func (p *producer) settleLocked(s *session) {
	if !p.holding || p.inFlight > 0 {
		return
	}
	t := p.trouble
	p.trouble = trouble{rounds: t.rounds + 1}
	p.compactLocked()
	if t.delay == 0 && t.rounds > 0 {
		t.delay = p.c.cfg.backoff(t.rounds - 1)
	}
	switch {
	case t.expired:
		p.expireLocked(nil)
		p.restartLocked(s, t.hint, t.delay)
	case t.reopen:
		p.restartLocked(s, t.hint, t.delay)
	case t.delay > 0:
		p.holding = true
		p.c.spawn(func() {
			if p.c.sleep(p.c.ctx, 0, t.delay) == nil {
				p.resume(s)
			}
		})
	default:
		p.resumeLocked()
	}
}

func (p *producer) resume(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session != s {
		return
	}
	p.holding = false
	p.resumeLocked()
	s.cn.out.push()
}

func (p *producer) resumeLocked() {
	p.renumberLocked()
	p.pumpLocked()
}

// compactLocked takes finished batches out and counts none of the others as sent.
func (p *producer) compactLocked() {
	p.queue.compact(p.c.batches.put)
	p.sent, p.inFlight, p.bytes = 0, 0, 0
	p.flushedLocked()
}

// dropLocked is told that the batch at i was refused for good and never stored. What comes behind it
// cannot be stored under its old sequence, as the partition still expects that of the refused one.
func (p *producer) dropLocked(i int) {
	count := uint64(p.queue.at(i).count)
	for i++; i < p.queue.len(); i++ {
		p.queue.at(i).shift += count
	}
	p.next -= count
}

// renumberLocked gives the batches behind dropped ones their new sequences. All others keep theirs, and
// their bytes: they may be stored.
func (p *producer) renumberLocked() {
	for i := range p.queue.len() {
		b := p.queue.at(i)
		b.renumber(b.first - b.shift)
		b.shift = 0
	}
}

// restartSequenceLocked numbers everything queued from first on, for a partition that knows none of it.
func (p *producer) restartSequenceLocked(first uint64) {
	p.expected, p.next = first, first
	for i := range p.queue.len() {
		b := p.queue.at(i)
		b.renumber(p.next)
		b.shift = 0
		p.next += uint64(b.count)
	}
}

// expireLocked gives up the identity. Batches that may be stored under it fail: sent under
// another they could be stored twice. The others will be.
func (p *producer) expireLocked(cause *Error) {
	p.c.forgetIdentity(p.identity)
	p.identity = identity{}
	if cause == nil {
		cause = &Error{Code: wire.CodeProducerExpired, Message: "the node forgot this producer before it answered"}
	}
	err := *cause
	err.Err = ErrUnknownOutcome
	for i := range p.queue.len() {
		if b := p.queue.at(i); b.unsure && !b.finished {
			p.finishLocked(b, Ack{}, &err)
		}
	}
	p.compactLocked()
	p.restartSequenceLocked(0)
}

// failLocked fails everything that is not answered.
func (p *producer) failLocked(err error) {
	unsure := fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	any := false
	for i := range p.queue.len() {
		b := p.queue.at(i)
		switch {
		case b.finished:
		case b.unsure || i < p.sent && !b.again:
			any = true
			b.buf = nil // an outbox may still know it
			p.finishLocked(b, Ack{}, unsure)
		default:
			p.finishLocked(b, Ack{}, err)
		}
	}
	p.compactLocked()
	if p.building() {
		b := p.open
		p.open = nil
		b.count = uint32(p.builder.Count())
		b.buf = nil
		p.finishLocked(b, Ack{}, err)
	}
	if any {
		p.c.forgetIdentity(p.identity)
		p.identity = identity{}
		p.expected = 0
	}
	p.next = p.expected
	p.flushedLocked()
}

func (p *producer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = ErrClosed
	p.session = nil
	p.failLocked(ErrClosed)
}
