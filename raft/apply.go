package raft

import (
	"time"

	"github.com/tidewire/tidewire/storage"
)

func storageOffset(n uint64) storage.Offset { return storage.Offset(n) }

// partitionMachine is a Partition as its group's StateMachine; calls come from raft's FSM goroutine.
type partitionMachine Partition

// Apply takes one committed entry. It reads header and descriptors, and no byte of the batches.
func (m *partitionMachine) Apply(e storage.Entry) any {
	p := (*Partition)(m)
	if e.Payload == nil {
		// Damaged where no other copy exists. Its offsets stay; its producers will be told of a gap.
		p.mu.Lock()
		p.setEndLocked(e)
		p.mu.Unlock()
		p.raiseHighWatermark(p.state.end)
		p.cfg.Advanced()
		return nil
	}
	h, err := parseHeader(e.Payload)
	if err != nil {
		// StoreLogs would not have stored it.
		p.group.fail(err)
		return nil
	}
	switch {
	case h.kind == kindLogStart:
		p.applyLogStart(logStart(e.Payload))
	case e.Records == 0:
		p.void(h)
	default:
		p.applyData(e, h)
	}
	return nil
}

// sequenceRun is a run of records of one producer that stand one behind the other in an entry.
type sequenceRun struct {
	producer uint64
	epoch    uint16
	seqRange
}

// applyData takes an entry with records: the next one goes to raft first, unless it waits for company, so that the disk is not idle;
// then the table learns, then the batches are answered.
func (p *Partition) applyData(e storage.Entry, h entryHeader) {
	p.mu.Lock()
	o := p.takeLocked(h.term, h.number)
	if o != nil {
		p.tookLocked(time.Since(o.sealed))
		p.transferSince = time.Time{}
		p.expectLocked(o)
		p.pumpLocked()
	}
	p.mu.Unlock()

	var quorum, voters uint8
	var times EntryTimes
	if o != nil {
		quorum, voters = p.to.Quorum()
		if p.cfg.Observer != nil {
			times = p.timesOf(o, e)
		}
	}
	p.sequences = p.sequences[:0]
	offset := e.Base
	for i := range int(h.batches) {
		d := descriptor(e.Payload, h, i)
		if o != nil {
			pend := o.pendings[i]
			pend.Offset, pend.Term, pend.Quorum, pend.Voters = offset, e.Term, quorum, voters
			if pend.Times != nil {
				*pend.Times = times
			}
		}
		if d.Producer != 0 {
			p.addRun(d, offset, e.Term)
		}
		offset += storage.Offset(d.Count)
	}

	p.mu.Lock()
	p.state.advance(h.time)
	for _, r := range p.sequences {
		p.state.table.record(r.producer, r.epoch, r.seqRange, p.state.elapsed)
		if o == nil {
			continue
		}
		if f := p.flights[r.producer]; f != nil {
			if f.land(o); len(f.ranges) == 0 {
				p.landLocked(r.producer, f)
			}
		}
	}
	p.state.table.expire(p.state.elapsed)
	p.setEndLocked(e)
	// After a failure nothing is acknowledged: the entry's future answers it, with an error.
	answer := o != nil && p.to.Failed() == nil
	if answer {
		p.done = append(p.done[:0], o.pendings...)
		for _, d := range o.waiters { // nobody can find the entry any more to wait for it
			d.pending.Offset, d.pending.Term, d.pending.Duplicate = e.Base+storage.Offset(d.at), e.Term, true
			d.pending.Quorum, d.pending.Voters = quorum, voters
			p.done = append(p.done, d.pending)
		}
		p.finishLocked(o)
	}
	p.mu.Unlock()

	// Whoever sees an acknowledgement can read the records. Readers are told first: a record is theirs a write sooner, and ends its
	// way there.
	p.raiseHighWatermark(p.state.end)
	p.cfg.Advanced()
	if answer {
		p.answerMu.Lock()
		p.cfg.Committed(p.done)
		p.answerMu.Unlock()
		clear(p.done)
		if p.cfg.Observer != nil { // last: nobody waits for it
			p.cfg.Observer.Entry(times)
		}
	}
}

// setEndLocked moves the end of what is applied behind e.
func (p *Partition) setEndLocked(e storage.Entry) {
	p.state.end = e.Base + storage.Offset(e.Records)
	p.stamp = max(p.stamp, p.state.time)
}

// raiseHighWatermark never lowers it: after a restart it may lie above what is applied as yet.
func (p *Partition) raiseHighWatermark(to storage.Offset) {
	for {
		now := p.highWatermark.Load()
		if uint64(to) <= now || p.highWatermark.CompareAndSwap(now, uint64(to)) {
			return
		}
	}
}

// addRun notes a batch for the table, merged with the one before if it continues it.
func (p *Partition) addRun(d Descriptor, offset storage.Offset, term storage.Term) {
	r := sequenceRun{d.Producer, d.Epoch, seqRange{d.Sequence, uint64(d.Count), offset, term}}
	if n := len(p.sequences); n > 0 {
		last := &p.sequences[n-1]
		if last.producer == r.producer && last.epoch == r.epoch && last.end() == r.sequence &&
			last.offset+storage.Offset(last.count) == offset {
			last.count += r.count
			return
		}
	}
	p.sequences = append(p.sequences, r)
}

// Snapshot encodes the state. The FSM goroutine is the only one that changes it, so no lock is held.
func (m *partitionMachine) Snapshot() ([]byte, error) { return m.state.encode(), nil }

// Restore replaces the state.
func (m *partitionMachine) Restore(data []byte) error {
	p := (*Partition)(m)
	state, err := decodeState(data, defaultLimits)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.state = state
	p.stamp = max(p.stamp, state.time)
	p.mu.Unlock()
	p.raiseHighWatermark(state.end)
	p.startAt(state.logStart)
	return nil
}
