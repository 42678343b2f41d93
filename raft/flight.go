package raft

import (
	"errors"
	"fmt"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

// outgoing is one entry on its way: gathered, sealed, with raft, and answered. Guarded by Partition.mu.
//
// buf is handed to raft and never used again for another entry, as raft, appends to followers and
// the hot tail alias it. The rest is used again once raft's futures of the entry are resolved.
type outgoing struct {
	partition *Partition
	buf       []byte // the header's place and the batches; the whole entry once sealed
	pendings  []*Pending
	waiters   []duplicate // batches sent again meanwhile
	records   uint64
	charged   int64 // bytes taken from the budget

	term     storage.Term
	number   uint64
	opened   time.Time // zero if nobody measures
	sealed   time.Time
	refused  bool // certainly not part of the log: to be proposed again
	finished bool // answered
	futures  int  // attempts whose future is not yet resolved
}

// duplicate is a batch that waits for the entry which holds its first copy.
type duplicate struct {
	pending *Pending
	at      uint64 // records before it in the entry
}

// flight is what one producer has queued and in flight.
type flight struct {
	epoch  uint16
	next   uint64
	ranges []flightRange // ascending
}

// flightRange is a run of a producer's records that stand one behind the other in one entry.
type flightRange struct {
	sequence uint64
	count    uint64
	entry    *outgoing
	at       uint64 // records before it in the entry
}

func (r flightRange) end() uint64 { return r.sequence + r.count }

// pumpLocked seals and submits as long as an entry may be added and none waits for company. While one was refused none is: it
// would be void.
func (p *Partition) pumpLocked() {
	for p.term != 0 && len(p.inFlight) < p.cfg.InFlight && !p.anyRefusedLocked() && !p.waitsLocked() {
		o := p.nextLocked()
		if o == nil {
			break
		}
		p.sealLocked(o)
		p.inFlight = append(p.inFlight, o)
		if !p.submitLocked(o) {
			break
		}
	}
	if p.open == nil && len(p.full) == 0 && len(p.inFlight) == 0 {
		p.idle.Broadcast()
	}
}

// nextLocked takes the oldest entry off the queue.
func (p *Partition) nextLocked() *outgoing {
	o := p.open
	if len(p.full) > 0 {
		o = p.full[0]
		p.full[0] = nil
		if p.full = p.full[1:]; len(p.full) == 0 {
			p.full = nil
		}
	} else {
		p.open = nil
	}
	if o != nil {
		p.queued -= int64(len(o.buf) - entryHeaderBytes)
	}
	return o
}

// sealLocked makes the gathered batches an entry.
func (p *Partition) sealLocked(o *outgoing) {
	p.number++
	p.stamp = max(p.stamp, p.cfg.Clock().UnixMilli())
	o.term, o.number, o.sealed = p.term, p.number, time.Now()
	h := entryHeader{
		kind: kindData, term: p.term, number: p.number, follows: p.number - 1,
		batches: uint32(len(o.pendings)), records: uint32(o.records),
		time: p.stamp, region: uint32(len(o.buf) - entryHeaderBytes),
	}
	for _, pend := range o.pendings {
		o.buf = appendDescriptor(o.buf, Descriptor{Producer: pend.Producer, Epoch: pend.Epoch, Sequence: pend.Sequence, Count: pend.Count})
	}
	h.put(o.buf)
	o.buf = p.size.fit(o.buf)
}

// submitLocked hands a sealed entry to raft. Group.submit does not block.
func (p *Partition) submitLocked(o *outgoing) bool {
	o.refused = false
	o.futures++
	if err := p.to.submit(o.buf, o); err != nil {
		o.futures--
		o.refused = true
		p.stepDownLocked(err)
		return false
	}
	return true
}

func (p *Partition) anyRefusedLocked() bool {
	for _, o := range p.inFlight {
		if o.refused {
			return true
		}
	}
	return false
}

// takeLocked removes the entry with this term and number from those in flight; nil if it is not one of them.
func (p *Partition) takeLocked(term storage.Term, number uint64) *outgoing {
	for i, o := range p.inFlight {
		if o.term == term && o.number == number {
			p.removeLocked(i)
			return o
		}
	}
	return nil
}

func (p *Partition) removeLocked(i int) {
	last := len(p.inFlight) - 1
	copy(p.inFlight[i:], p.inFlight[i+1:])
	p.inFlight[last] = nil
	p.inFlight = p.inFlight[:last]
}

// void marks an entry that was committed without records (FSM goroutine).
func (p *Partition) void(h entryHeader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.inFlight {
		if o.term == h.term && o.number == h.number {
			o.refused = true
			p.settleLocked()
			return
		}
	}
}

// settleLocked goes on once every entry in flight is known not to be in the log: they are proposed again in
// their order, with the same bytes, as each still names the one it follows; or, when this node no
// longer leads in their term, answered.
//
// Until then nothing is submitted. Of entries N, N+1 in flight with N refused, N+1 either is refused too or
// becomes void, so the wait ends with its future.
func (p *Partition) settleLocked() {
	for _, o := range p.inFlight {
		if !o.refused {
			return
		}
	}
	if p.term == 0 {
		err := p.to.notLeader()
		for len(p.inFlight) > 0 {
			o := p.inFlight[0]
			p.removeLocked(0)
			p.abandonLocked(o, err)
		}
		p.pumpLocked()
		return
	}
	if p.retry != nil {
		return // the timer goes on
	}
	for _, o := range p.inFlight {
		if !p.submitLocked(o) {
			return
		}
	}
	p.pumpLocked()
}

// resolved is told how raft took the entry (resolver goroutine). Success needs no answer here: the entry
// was applied before, and was finished or found void.
func (o *outgoing) resolved(_ hraft.Future, err error) {
	p := o.partition
	p.mu.Lock()
	defer p.mu.Unlock()
	o.futures--
	failed := p.to.Failed()
	switch {
	case o.finished:
	case err == nil && failed == nil:
	case err == nil || !notAppended(err):
		// Committed but not applied because the group failed, or lost in a change of leader: the entry may
		// yet stand in the log.
		p.stepDownLocked(p.to.notLeader())
		p.dropLocked(o)
		if err == nil {
			err = failed
		} else if errors.Is(err, hraft.ErrLeadershipLost) {
			err = ErrUnknownOutcome
		}
		if !errors.Is(err, ErrUnknownOutcome) {
			err = fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
		}
		p.abandonLocked(o, err)
		p.settleLocked()
	case errors.Is(err, hraft.ErrLeadershipTransferInProgress):
		o.refused = true
		p.transferLocked()
		p.settleLocked()
	default:
		o.refused = true
		p.stepDownLocked(p.to.notLeader())
		p.settleLocked()
	}
	p.recycleLocked(o)
}

// dropLocked removes o from those in flight.
func (p *Partition) dropLocked(o *outgoing) {
	for i, other := range p.inFlight {
		if other == o {
			p.removeLocked(i)
			return
		}
	}
}

// transferRetry is how long entries wait that raft refused because leadership is being handed over: until
// it is lost, or kept after all.
const transferRetry = 10 * time.Millisecond

// transferLocked delays the next attempt. A transfer that was interrupted can leave raft refusing for ever
// (hashicorp/raft #696); nothing but a new instance cures that.
func (p *Partition) transferLocked() {
	now := time.Now()
	if p.transferSince.IsZero() {
		p.transferSince = now
	}
	if p.group != nil && now.Sub(p.transferSince) > 3*p.group.cfg.ElectionTimeout {
		p.transferSince = now
		if r := p.group.current(); r != nil {
			p.logger.Warn("a leadership transfer does not end, raft is restarted")
			p.background.Go(func() { p.group.restart(r) })
		}
	}
	if p.retry == nil {
		p.retry = time.AfterFunc(transferRetry, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.retry = nil
			p.settleLocked()
		})
	}
}

// stepDownLocked stops taking publishes and answers what is queued. Entries in flight are answered as raft
// resolves them.
func (p *Partition) stepDownLocked(err error) {
	if p.term == 0 {
		return
	}
	p.term = 0
	p.transferSince = time.Time{}
	clear(p.flights)
	for o := p.nextLocked(); o != nil; o = p.nextLocked() {
		p.abandonLocked(o, err)
	}
	p.settleLocked()
}

// abandonLocked answers every batch of an entry with err.
func (p *Partition) abandonLocked(o *outgoing, err error) {
	for _, pend := range o.pendings {
		pend.Err = err
		p.answers = append(p.answers, pend)
	}
	for _, d := range o.waiters {
		d.pending.Err = err
		p.answers = append(p.answers, d.pending)
	}
	p.finishLocked(o)
	p.answerLocked()
}

// finishLocked gives back what an answered entry held.
func (p *Partition) finishLocked(o *outgoing) {
	o.finished = true
	p.cfg.Budget.give(o.charged)
	o.charged = 0
	p.recycleLocked(o)
}

// recycleLocked keeps a finished entry for another one, when raft has resolved all its futures. Not its buf.
func (p *Partition) recycleLocked(o *outgoing) {
	if !o.finished || o.futures > 0 || len(p.spare) > 2*MaxInFlight {
		return
	}
	clear(o.pendings)
	clear(o.waiters)
	*o = outgoing{partition: p, pendings: o.pendings[:0], waiters: o.waiters[:0]}
	p.spare = append(p.spare, o)
}

// answerLocked hands p.answers to Committed from a goroutine that lives as long as there are any.
func (p *Partition) answerLocked() {
	if p.answering || len(p.answers) == 0 {
		return
	}
	p.answering = true
	p.background.Go(func() {
		for {
			p.mu.Lock()
			done := p.answers
			p.answers = nil
			p.answering = len(done) > 0
			p.mu.Unlock()
			if len(done) == 0 {
				return
			}
			p.answerMu.Lock()
			p.cfg.Committed(done)
			p.answerMu.Unlock()
		}
	})
}
