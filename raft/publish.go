package raft

import (
	"fmt"
	"time"
)

const (
	// batchOverhead is what a waiting batch costs beside its bytes: Pending, descriptor, bookkeeping.
	batchOverhead = 96
	// maxBatches bounds the batches of one entry, so that answering it never takes long.
	maxBatches = 1 << 14
)

// Publish is Enqueue and Flush.
func (p *Partition) Publish(pend *Pending, b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.enqueueLocked(pend, b); err != nil {
		return err
	}
	p.flushLocked()
	return nil
}

// Flush hands what is queued to raft if fewer than InFlight entries are there; otherwise it goes when one of
// those is done, with all that came meanwhile, or a little later (company).
func (p *Partition) Flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flushLocked()
}

func (p *Partition) flushLocked() {
	if len(p.inFlight) < p.cfg.InFlight {
		p.pumpLocked()
	}
}

// Enqueue takes one batch of records: it copies b, the one copy, into the entry being gathered, and
// returns at once. The caller calls Flush when it has no more at hand: an event loop enqueues every
// batch of one read and then flushes, or the first would travel alone and all others wait for it.
// (64 producers of 128 B, one batch in flight each: 75,000 batches/s flushed one by one, 120,000 at
// once, with half the fdatasyncs.)
//
// b is the batch as it will be stored and delivered, at most MaxEntryBytes; nobody here looks into
// it. pend describes it and is answered through Committed, unless Enqueue returns an error; then
// nothing was taken and pend is the caller's. A batch that was committed before is answered with its first
// offset, and one that is still in flight together with its entry.
//
// Sequences of a producer count records. A producer that is new to the partition, or comes with a
// higher epoch, begins at 0.
//
// Errors: ErrNotLeader; ErrOverloaded with a delay; ErrSequenceGap and ErrBadSequence with the sequence
// expected; ErrProducerFenced; ErrProducerExpired; ErrTooLarge; ErrClosed; ErrFailed.
//
// None of these blocks on disk or Raft; they may be called on event loops, from any number at a time.
func (p *Partition) Enqueue(pend *Pending, b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enqueueLocked(pend, b)
}

func (p *Partition) enqueueLocked(pend *Pending, b []byte) error {
	if len(b) == 0 || len(b) > MaxEntryBytes {
		return fmt.Errorf("%w: a batch of %d bytes, limit %d", ErrTooLarge, len(b), MaxEntryBytes)
	}
	if pend.Count == 0 {
		return malformed("batch", "no records")
	}
	if err := p.to.Failed(); err != nil {
		return err
	}
	switch {
	case p.closed:
		return ErrClosed
	case p.term == 0:
		return p.to.notLeader()
	}
	var f *flight
	if pend.Producer != 0 {
		found, err := p.lookupLocked(pend)
		if err != nil || found {
			return err
		}
		f = p.flightLocked(pend)
	}
	if err := p.reserveLocked(int64(len(b)) + batchOverhead); err != nil {
		if f != nil && len(f.ranges) == 0 {
			p.landLocked(pend.Producer, f)
		}
		return err
	}
	o := p.gatherLocked(pend, b)
	if f != nil {
		f.add(flightRange{sequence: pend.Sequence, count: uint64(pend.Count), entry: o, at: o.records}, pend.Epoch)
	}
	o.records += uint64(pend.Count)
	return nil
}

// lookupLocked decides whether a batch is the next of its producer (false, nil), one sent again (true,
// nil: it is or will be answered), or wrong. What is queued and in flight counts as published.
func (p *Partition) lookupLocked(pend *Pending) (found bool, err error) {
	table := p.state.table
	known := table.producers[pend.Producer]
	f := p.flights[pend.Producer]
	var epoch uint16
	var next uint64
	switch {
	case f != nil:
		epoch, next = f.epoch, f.next
	case known != nil:
		epoch, next = known.epoch, known.next
	case pend.Producer <= table.expired:
		return false, &ProducerError{Producer: pend.Producer, Epoch: pend.Epoch, reason: ErrProducerExpired}
	default:
		epoch = pend.Epoch
	}
	if pend.Epoch < epoch {
		return false, &ProducerError{Producer: pend.Producer, Epoch: pend.Epoch, Current: epoch, reason: ErrProducerFenced}
	}
	if pend.Epoch > epoch {
		epoch, next = pend.Epoch, 0
	}
	count := uint64(pend.Count)
	wrong := func(reason error) error {
		return &SequenceError{Producer: pend.Producer, Sequence: pend.Sequence, Expected: next, reason: reason}
	}
	switch {
	case pend.Sequence > next:
		return false, wrong(ErrSequenceGap)
	case pend.Sequence+count < pend.Sequence:
		return false, wrong(ErrBadSequence)
	case pend.Sequence == next:
		return false, nil
	case pend.Sequence+count > next:
		return false, wrong(ErrBadSequence)
	}
	if f != nil && f.epoch == epoch {
		for _, r := range f.ranges {
			if pend.Sequence >= r.sequence && pend.Sequence+count <= r.end() {
				if !p.cfg.Budget.take(batchOverhead) {
					return false, p.overloadedLocked()
				}
				r.entry.charged += batchOverhead
				r.entry.waiters = append(r.entry.waiters, duplicate{pend, r.at + pend.Sequence - r.sequence})
				return true, nil
			}
		}
	}
	if known != nil && known.epoch == epoch {
		if r, ok := known.find(pend.Sequence, count); ok {
			pend.Offset = r.offset + storageOffset(pend.Sequence-r.sequence)
			pend.Term, pend.Duplicate = r.term, true
			pend.Quorum, pend.Voters = p.to.Quorum()
			p.answers = append(p.answers, pend)
			p.answerLocked()
			return true, nil
		}
	}
	return false, wrong(ErrBadSequence)
}

// flightLocked returns the producer's flight, a new one if nothing of it is under way.
func (p *Partition) flightLocked(pend *Pending) *flight {
	f := p.flights[pend.Producer]
	if f == nil {
		if n := len(p.spareFlight); n > 0 {
			f, p.spareFlight = p.spareFlight[n-1], p.spareFlight[:n-1]
		} else {
			f = new(flight)
		}
		p.flights[pend.Producer] = f
	}
	return f
}

// landLocked forgets a flight of which nothing is under way any more.
func (p *Partition) landLocked(id uint64, f *flight) {
	delete(p.flights, id)
	if len(p.spareFlight) < 64 {
		*f = flight{ranges: f.ranges[:0]}
		p.spareFlight = append(p.spareFlight, f)
	}
}

// add appends a range that was just queued, merged with the one before if it continues it.
func (f *flight) add(r flightRange, epoch uint16) {
	if epoch != f.epoch {
		// What the older epoch has in flight is still committed, but can no longer be asked for.
		f.epoch, f.ranges = epoch, f.ranges[:0]
	}
	f.next = r.end()
	if n := len(f.ranges); n > 0 {
		if last := &f.ranges[n-1]; last.entry == r.entry && last.end() == r.sequence && last.at+last.count == r.at {
			last.count += r.count
			return
		}
	}
	f.ranges = append(f.ranges, r)
}

// land removes the ranges of an entry that was applied.
func (f *flight) land(o *outgoing) {
	keep := f.ranges[:0]
	for _, r := range f.ranges {
		if r.entry != o {
			keep = append(keep, r)
		}
	}
	clear(f.ranges[len(keep):])
	f.ranges = keep
}

// reserveLocked finds room for n bytes.
func (p *Partition) reserveLocked(n int64) error {
	if p.queued+n > p.cfg.QueueBytes {
		return &OverloadedError{Limit: "partition queue", RetryAfter: p.retryAfterLocked()}
	}
	if !p.cfg.Budget.take(n) {
		return p.overloadedLocked()
	}
	return nil
}

// overloadedLocked refuses what the node has no memory for.
func (p *Partition) overloadedLocked() error {
	return &OverloadedError{Limit: "node memory", RetryAfter: p.retryAfterLocked()}
}

// retryAfterLocked is how long what is queued here will take, at the speed of the last entries.
func (p *Partition) retryAfterLocked() time.Duration {
	entries := len(p.full) + len(p.inFlight) + 1
	return min(max(p.latency*time.Duration(entries), time.Millisecond), time.Second)
}

// gatherLocked copies the batch into the entry being gathered, a new one if it does not fit. The caller adds
// its records.
func (p *Partition) gatherLocked(pend *Pending, b []byte) *outgoing {
	o := p.open
	if o != nil && (len(o.buf)-entryHeaderBytes+len(b) > MaxEntryBytes || len(o.pendings) == maxBatches ||
		o.records+uint64(pend.Count) > maxRecords) {
		p.full = append(p.full, o)
		o = nil
	}
	if o == nil {
		if n := len(p.spare); n > 0 {
			o, p.spare = p.spare[n-1], p.spare[:n-1]
		} else {
			o = &outgoing{partition: p}
		}
		if p.cfg.Observer != nil {
			o.opened = time.Now()
		}
		o.buf = p.size.buffer(len(b))
		p.open = o
	}
	o.buf = grow(o.buf, len(b), descriptorBytes*(len(o.pendings)+1))
	o.buf = append(o.buf, b...)
	o.pendings = append(o.pendings, pend)
	o.charged += int64(len(b)) + batchOverhead
	p.queued += int64(len(b))
	return o
}

// maxRecords keeps an entry's count within its 32 bits.
const maxRecords = 1<<32 - 1

// sizeHint guesses how large the next entry will be, so that its buffer seldom grows, which is a copy.
type sizeHint struct {
	bytes int
	spare []byte // a large buffer that was not handed out after all
}

// minBuffer is the smallest buffer of an entry.
const minBuffer = 512

// buffer makes room for a header, a first batch of n bytes, and as much again as recent entries had.
func (s *sizeHint) buffer(n int) []byte {
	need := entryHeaderBytes + n + descriptorBytes
	if b := s.spare; cap(b) >= need {
		s.spare = nil
		return b[:entryHeaderBytes]
	}
	c := min(s.bytes+s.bytes/8, entryHeaderBytes+MaxEntryBytes+MaxEntryBytes/8)
	return make([]byte, entryHeaderBytes, max(minBuffer, need, c))
}

// grow makes sure that n bytes and then tail bytes can be appended, at least doubling what it has to move.
func grow(b []byte, n, tail int) []byte {
	if len(b)+n+tail <= cap(b) {
		return b
	}
	c := max(2*cap(b), len(b)+n+tail)
	return append(make([]byte, 0, c), b...)
}

// fit learns from a sealed entry and returns it in a buffer that wastes little memory: the hot tail keeps it
// until newer ones push it out. A buffer that proved much too large is used for the next entry instead, while
// entries of that size are still likely.
func (s *sizeHint) fit(b []byte) []byte {
	if len(b) > s.bytes {
		s.bytes = len(b)
	} else {
		s.bytes -= (s.bytes - len(b)) / 4
	}
	if cap(b) <= 2*len(b) || cap(b)-len(b) <= minBuffer {
		return b
	}
	if cap(b) <= 4*s.bytes {
		s.spare = b
	}
	return append(make([]byte, 0, len(b)), b...)
}
