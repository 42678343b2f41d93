package raft

import (
	"sort"
	"time"

	"github.com/tidewire/tidewire/storage"
)

// Limits of a partition's producer table. They are part of the state machine: replicas that differ in
// them would differ in what they have forgotten.
const (
	// maxRanges is how many ranges of sequences are remembered of one producer.
	maxRanges = 256
	// maxProducers is how many producers one partition remembers.
	maxProducers = 100_000
	// maxTotalRanges bounds what a hostile mix of producers can make a partition remember, to some 40 MiB.
	// At least 4096 producers have all their ranges; ordinary ones need one or two.
	maxTotalRanges = 1 << 20
	// producerRetention is how long an idle producer is remembered, in elapsed time (state.go).
	producerRetention = 7 * 24 * time.Hour
)

// tableLimits are the constants above, or smaller ones in tests.
type tableLimits struct {
	producers, ranges int
	retention         time.Duration
}

var defaultLimits = tableLimits{maxProducers, maxTotalRanges, producerRetention}

// seqRange is records of one producer that follow each other in sequence, in offset and within one term.
type seqRange struct {
	sequence uint64
	count    uint64
	offset   storage.Offset
	term     storage.Term
}

func (r seqRange) end() uint64 { return r.sequence + r.count }

// contains reports whether [sequence, sequence+count) lies in the range.
func (r seqRange) contains(sequence uint64, count uint64) bool {
	return sequence >= r.sequence && sequence+count <= r.end()
}

// producer is what a partition remembers of one producer.
type producer struct {
	id    uint64
	epoch uint16
	next  uint64 // the sequence expected
	last  int64  // elapsed time of the state at its last entry, ms

	// ranges[dropped:] are its last ranges, ascending; those before were dropped and wait to be moved over.
	ranges  []seqRange
	dropped int

	older, newer *producer // by last entry
}

func (p *producer) kept() []seqRange { return p.ranges[p.dropped:] }

// find returns the range that holds all of [sequence, sequence+count).
func (p *producer) find(sequence, count uint64) (seqRange, bool) {
	kept := p.kept()
	i := sort.Search(len(kept), func(i int) bool { return kept[i].end() > sequence })
	if i < len(kept) && kept[i].contains(sequence, count) {
		return kept[i], true
	}
	return seqRange{}, false
}

// producerTable is the part of a partition's state that makes publishing idempotent: for each
// producer the sequences of its last batches and where they are. It changes only as entries are
// applied, alike on every replica.
type producerTable struct {
	limits    tableLimits
	producers map[uint64]*producer
	oldest    *producer
	newest    *producer
	ranges    int    // of all producers
	expired   uint64 // the highest id ever forgotten: an unknown one up to it may be one of those
}

func newProducerTable(limits tableLimits) *producerTable {
	return &producerTable{limits: limits, producers: make(map[uint64]*producer)}
}

// record remembers a committed range.
func (t *producerTable) record(id uint64, epoch uint16, r seqRange, ms int64) {
	p := t.producers[id]
	switch {
	case p != nil && (epoch < p.epoch || epoch == p.epoch && r.sequence < p.next):
		return // no leader proposes this; what is remembered stays in order
	case p == nil:
		p = &producer{id: id, epoch: epoch}
		t.producers[id] = p
	case epoch > p.epoch:
		t.ranges -= len(p.kept())
		p.epoch, p.ranges, p.dropped = epoch, nil, 0
		t.unlink(p)
	default:
		t.unlink(p)
	}
	t.append(p, r)
	p.next, p.last = r.end(), ms
	t.link(p)
}

// append adds r to p's ranges, merged with the last one if it continues it.
func (t *producerTable) append(p *producer, r seqRange) {
	if n := len(p.ranges); n > p.dropped {
		last := &p.ranges[n-1]
		if last.term == r.term && last.end() == r.sequence && last.offset+storage.Offset(last.count) == r.offset {
			last.count += r.count
			return
		}
	}
	p.ranges = append(p.ranges, r)
	t.ranges++
	if len(p.kept()) <= maxRanges {
		return
	}
	p.dropped++
	t.ranges--
	if p.dropped == maxRanges {
		p.ranges = p.ranges[:copy(p.ranges, p.kept())]
		p.dropped = 0
	}
}

// expire forgets producers that have been idle for too long when ms have elapsed, and beyond the limits those idle
// longest. It runs after each entry's producers were recorded.
func (t *producerTable) expire(ms int64) {
	cutoff := ms - t.limits.retention.Milliseconds()
	for p := t.oldest; p != nil; p = t.oldest {
		if p.last >= cutoff && len(t.producers) <= t.limits.producers && (t.ranges <= t.limits.ranges || p == t.newest) {
			return
		}
		t.unlink(p)
		delete(t.producers, p.id)
		t.ranges -= len(p.kept())
		t.expired = max(t.expired, p.id)
	}
}

func (t *producerTable) link(p *producer) {
	p.older, p.newer = t.newest, nil
	if t.newest != nil {
		t.newest.newer = p
	} else {
		t.oldest = p
	}
	t.newest = p
}

func (t *producerTable) unlink(p *producer) {
	if p.older != nil {
		p.older.newer = p.newer
	} else {
		t.oldest = p.newer
	}
	if p.newer != nil {
		p.newer.older = p.older
	} else {
		t.newest = p.older
	}
	p.older, p.newer = nil, nil
}
