package raft

import (
	"encoding/binary"
	"time"

	"github.com/tidewire/tidewire/storage"
)

// The state of a partition in a snapshot. Fixed fields are little-endian, the rest are varints:
//
//	Version u8 = 2 | LogStart u64 | End u64 | Time i64 | Elapsed i64 | Expired u64 | producers u32
//	each producer, from the one idle longest:
//	  Id | Epoch | Next | Elapsed at its last entry (zig-zag) | ranges
//	  each range, ascending:
//	    Sequence, less the end of the range before | Count | Offset (zig-zag, less the end of the range before)
//	    | Term (zig-zag, less that of the range before)
const (
	stateVersion    = 2
	stateFixedBytes = 1 + 8 + 8 + 8 + 8 + 8 + 4
	minProducer     = 5 // bytes of a producer without ranges
	minRange        = 4
)

// partitionState is the state machine of a partition: everything that follows from its entries, and
// nothing else.
type partitionState struct {
	logStart storage.Offset // offsets below are given up
	end      storage.Offset // after the last record applied
	time     int64          // of the last entry with records: the next is never below
	elapsed  int64          // ms that went by between entries, as far as a clock that may jump can tell
	table    *producerTable
}

// maxGap is how much time between two entries counts as elapsed: a clock that jumps by years makes no
// producer expire, and a partition that is used less than hourly only remembers its producers longer.
const maxGap = int64(time.Hour / time.Millisecond)

// advance takes the broker time of an entry with records.
func (s *partitionState) advance(ms int64) {
	if s.time != 0 {
		s.elapsed += min(max(ms-s.time, 0), maxGap)
	}
	s.time = max(s.time, ms)
}

func (s *partitionState) encode() []byte {
	b := make([]byte, 0, stateFixedBytes+len(s.table.producers)*32+s.table.ranges*8)
	b = append(b, stateVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.logStart))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.end))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.time))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.elapsed))
	b = binary.LittleEndian.AppendUint64(b, s.table.expired)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.table.producers)))
	for p := s.table.oldest; p != nil; p = p.newer {
		b = binary.AppendUvarint(b, p.id)
		b = binary.AppendUvarint(b, uint64(p.epoch))
		b = binary.AppendUvarint(b, p.next)
		b = binary.AppendVarint(b, p.last)
		b = binary.AppendUvarint(b, uint64(len(p.kept())))
		var before seqRange
		for _, r := range p.kept() {
			b = binary.AppendUvarint(b, r.sequence-before.end())
			b = binary.AppendUvarint(b, r.count)
			b = binary.AppendVarint(b, int64(r.offset-before.offset-storage.Offset(before.count)))
			b = binary.AppendVarint(b, int64(r.term-before.term))
			before = r
		}
	}
	return b
}

// decodeState reads what encode wrote; it keeps nothing of b. nil is the state before the first entry.
func decodeState(b []byte, limits tableLimits) (*partitionState, error) {
	s := &partitionState{table: newProducerTable(limits)}
	if b == nil {
		return s, nil
	}
	if len(b) < stateFixedBytes {
		return nil, malformed("partition state", "%d bytes", len(b))
	}
	if b[0] != stateVersion {
		return nil, &VersionError{What: "partition state", Version: b[0], Reads: stateVersion}
	}
	s.logStart = storage.Offset(binary.LittleEndian.Uint64(b[1:]))
	s.end = storage.Offset(binary.LittleEndian.Uint64(b[9:]))
	s.time = int64(binary.LittleEndian.Uint64(b[17:]))
	s.elapsed = int64(binary.LittleEndian.Uint64(b[25:]))
	s.table.expired = binary.LittleEndian.Uint64(b[33:])
	n := binary.LittleEndian.Uint32(b[41:])
	d := varints{b: b[stateFixedBytes:]}
	if uint64(n) > uint64(len(d.b)/minProducer) {
		return nil, malformed("partition state", "%d producers in %d bytes", n, len(d.b))
	}
	for range n {
		p, err := decodeProducer(&d)
		if err != nil {
			return nil, err
		}
		if s.table.producers[p.id] != nil {
			return nil, malformed("partition state", "producer %d twice", p.id)
		}
		s.table.producers[p.id] = p
		s.table.ranges += len(p.ranges)
		s.table.link(p)
	}
	if d.bad || len(d.b) != 0 {
		return nil, malformed("partition state", "it does not end where its producers do")
	}
	return s, nil
}

func decodeProducer(d *varints) (*producer, error) {
	p := &producer{id: d.unsigned()}
	epoch := d.unsigned()
	p.epoch, p.next, p.last = uint16(epoch), d.unsigned(), d.signed()
	n := d.unsigned()
	if d.bad || p.id == 0 || epoch > 0xffff || n > maxRanges || n > uint64(len(d.b)/minRange) {
		return nil, malformed("partition state", "impossible producer %d", p.id)
	}
	p.ranges = make([]seqRange, 0, n)
	var before seqRange
	for range n {
		r := seqRange{
			sequence: before.end() + d.unsigned(),
			count:    d.unsigned(),
			offset:   before.offset + storage.Offset(before.count) + storage.Offset(d.signed()),
			term:     before.term + storage.Term(d.signed()),
		}
		if d.bad || r.count == 0 || r.sequence < before.end() || r.end() < r.sequence {
			return nil, malformed("partition state", "impossible range of producer %d", p.id)
		}
		p.ranges = append(p.ranges, r)
		before = r
	}
	if n == 0 || before.end() != p.next {
		return nil, malformed("partition state", "producer %d ends at %d, its ranges at %d", p.id, p.next, before.end())
	}
	return p, nil
}

// varints reads varints off the front of b, minimal ones only, so that a state has one encoding.
type varints struct {
	b   []byte
	bad bool
}

func (d *varints) unsigned() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || (n > 1 && d.b[n-1] == 0) {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *varints) signed() int64 {
	u := d.unsigned()
	return int64(u>>1) ^ -int64(u&1)
}
