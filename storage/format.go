// Package storage keeps one partition's log: a sequence of Raft entries, some of which hold records, in segment files
// on a local disk. It knows nothing of streams, Raft or the network.
//
// # Files
//
// A log is a directory. Files are named by a number that the log never uses twice:
//
//	manifest                    what the log consists of; replaced as a whole: the only commit point
//	00000000000000000001.seg    a segment: entries in order; the last one listed may be the active one
//	00000000000000000001.idx    a sealed segment's sparse index: derived, rebuilt when missing or bad
//	00000000000000000002.snap   a snapshot: bytes that are not ours, listed in the manifest
//	*.tmp                       a file not yet committed; removed when the log is opened
//
// A file the manifest does not list is no part of the log. Integers are little-endian, checksums are CRC-32C.
// Every file begins with the same envelope, which later versions will keep:
//
//	0        8         12    16
//	+--------+---------+-----+--- ... ---+
//	| Magic  | Version | CRC | Contents  |
//	+--------+---------+-----+--- ... ---+
//
//	Magic    8 bytes  "TWSEGMNT", "TWINDEX\0", "TWMANFST", "TWSNAPSH"
//	Version  u32      1; a higher one whose CRC is right is *VersionError, not damage
//	CRC      u32      of Magic, Version and Contents: of the whole file for manifest and snapshot, of the
//	                  header alone for segment (64 bytes) and index (48 bytes)
//
// # Segment
//
//	0          16        32          40   48     56         64
//	+----------+---------+-----------+----+------+----------+-------+-------+-- ... --+-------+
//	| Envelope | Cluster | Partition | ID | Salt | Reserved | Frame | Frame |         | Zeros |
//	+----------+---------+-----------+----+------+----------+-------+-------+-- ... --+-------+
//
//	Cluster    16 bytes
//	Partition  u64
//	ID         u64      the file's number
//	Salt       u64      random, so that nobody outside can make bytes that pass for a frame
//	Reserved   u64      zero
//
// The CRC-32C of [Cluster, Reserved) is the segment's seed: every frame's CRC starts from it, so a frame of any other
// segment (a recycled file, a misdirected write) is not a frame here. The manifest repeats what the header says, so a
// damaged header costs nothing.
//
// Everything after the last frame is zero, but in a recycled file (the manifest says which those are): there at least
// the rest of the frame's 4 KiB block and the next block are zero, cleared by the write that brought the frame, and then
// come bytes of whoever had the file before. So the beginning of a torn write shows in every file. What does not show in
// a recycled one is the loss of nothing but the first block of its last write, which only a disk that lies can do.
//
// # Frame
//
// An entry is one frame. Frames begin on 8-byte boundaries, which are where recovery looks for the next good one.
//
//	0     4        8          12        16      24     32     40     48       56       60     61    62    63   64
//	+-----+--------+----------+---------+-------+------+------+------+--------+--------+------+-----+-----+----+--- ... ---+-----+
//	| CRC | Length | Previous | Records | Index | Term | Base | Time | Commit | Synced | Type | 0   | Tag      | Payload   | Pad |
//	+-----+--------+----------+---------+-------+------+------+------+--------+--------+------+-----+-----+----+--- ... ---+-----+
//
//	CRC       u32  of everything after it, padding included, started from the segment's seed
//	Length    u32  bytes of Payload, at most MaxPayloadBytes
//	Previous  u32  CRC of the frame before; the seed for a segment's first: a frame that was cut away never follows
//	Records   u32  records in Payload
//	Index     u64  Raft index, from 1, so zeroed bytes never decode; Index(i) = Index(i-1) + 1
//	Term      u64  Raft term
//	Base      u64  offset of the first record; Base(i) = Base(i-1) + Records(i-1)
//	Time      i64  Unix milliseconds, 0 for none
//	Commit    u64  highest index known to be committed when this was written
//	Synced    u32  position up to which this file had been synced before the write that holds this frame
//	Type      u8   the caller's
//	Tag       u16  low half of the seed: spares the search for good frames most CRCs
//	Pad       zeros up to the next multiple of 8
//
// Synced is what tells a torn tail from damage. A frame is acknowledged only after a sync, and the next write carries
// that sync's end. So a bad frame before the highest Synced found in (or the manifest's mark of) its segment was once
// whole and is damage: its range is quarantined, reported and never returned. A bad frame at or after it is what a
// crash in the middle of a write leaves, and was never acknowledged unless it was the very last write: it is cut, the
// cut is made durable by zeroing, and reported.
//
// # Index file
//
//	0          16          24    28      32         48     48+32     48+64
//	+----------+-----------+-----+-------+----------+------+------+------+-- ... --+
//	| Envelope | ID        | Count       | Reserved        | Item | Item |         |
//	+----------+-----------+-----+-------+----------+------+------+------+-- ... --+
//
//	ID     u64  of the segment
//	Count  u64  items
//
//	0       8        16         24         28    32
//	+-------+--------+----------+----------+-----+
//	| Index | Offset | Earlier  | Position | CRC |
//	+-------+--------+----------+----------+-----+
//
//	Index, Offset  u64  of the frame at Position: the first to begin in its 4 KiB block
//	Earlier        i64  the greatest Time of an entry with records before it in the segment; MinInt64 if none
//	Position       u32  where the frame begins
//	CRC            u32  of the item, started from the segment's seed
//
// # Manifest and snapshot
//
// See encodeManifest and encodeSnapshot.
package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const (
	formatVersion = 1

	envelopeBytes = 16
	headerBytes   = 64 // segment header
	frameBytes    = 64 // frame header
	frameAlign    = 8

	// MaxPayloadBytes is the largest payload of an entry.
	MaxPayloadBytes = 1 << 30

	// maxSegmentBytes bounds a segment: positions are u32.
	maxSegmentBytes = 1<<32 - 1<<12
)

const (
	magicSegment  = "TWSEGMNT"
	magicIndex    = "TWINDEX\x00"
	magicManifest = "TWMANFST"
	magicSnapshot = "TWSNAPSH"
)

// The pictures above, checked when compiling: end of the last field = size of the header.
var (
	_ = [1]struct{}{}[headerBytes-(envelopeBytes+16+8+8+8+8)]
	_ = [1]struct{}{}[frameBytes-(4+4+4+4+8+8+8+8+8+4+1+1+2)]
	_ = [1]struct{}{}[frameBytes%frameAlign]
	_ = [1]struct{}{}[headerBytes%frameAlign]
	_ [maxSegmentBytes - headerBytes - frameBytes - frameAlign - MaxPayloadBytes]struct{} // the largest entry fits
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealEnvelope fills in the first envelopeBytes of b, whose CRC covers all of b.
func sealEnvelope(b []byte, magic string) {
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint32(b[12:], envelopeCRC(b))
}

func envelopeCRC(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[envelopeBytes:])
}

// openEnvelope checks the first envelopeBytes of b. The error is a *VersionError, or says in words what is damaged.
// The CRC goes first: a flipped bit in Version must not pass for a newer program's file.
func openEnvelope(b []byte, magic, path string) error {
	if len(b) < envelopeBytes {
		return fmt.Errorf("%d bytes are too few", len(b))
	}
	if string(b[:8]) != magic {
		return fmt.Errorf("magic is %q, not %q", b[:8], magic)
	}
	if got, want := envelopeCRC(b), binary.LittleEndian.Uint32(b[12:]); got != want {
		return fmt.Errorf("checksum is %08x, not %08x", got, want)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v > formatVersion {
		return &VersionError{Path: path, Version: v}
	} else if v == 0 {
		return fmt.Errorf("version is 0")
	}
	return nil
}

// identity is what binds bytes to one segment of one log.
type identity struct {
	cluster   [16]byte
	partition uint64
	id        uint64
	salt      uint64
}

// encodeHeader writes the segment header into b, which has headerBytes.
func (id identity) encodeHeader(b []byte) {
	clear(b[:headerBytes])
	id.put(b[envelopeBytes:])
	sealEnvelope(b[:headerBytes], magicSegment)
}

// put writes [Cluster, Reserved), 40 bytes.
func (id identity) put(b []byte) {
	copy(b, id.cluster[:])
	binary.LittleEndian.PutUint64(b[16:], id.partition)
	binary.LittleEndian.PutUint64(b[24:], id.id)
	binary.LittleEndian.PutUint64(b[32:], id.salt)
}

// seed is what the CRC of every frame of the segment starts from.
func (id identity) seed() uint32 {
	var b [40]byte
	id.put(b[:])
	return crc32.Checksum(b[:], castagnoli)
}

// decodeHeader reads a segment header.
func decodeHeader(b []byte, path string) (identity, error) {
	if len(b) < headerBytes {
		return identity{}, fmt.Errorf("%d bytes are too few", len(b))
	}
	b = b[:headerBytes]
	if err := openEnvelope(b, magicSegment, path); err != nil {
		return identity{}, err
	}
	if binary.LittleEndian.Uint64(b[56:]) != 0 {
		return identity{}, fmt.Errorf("reserved bytes are not zero")
	}
	id := identity{
		partition: binary.LittleEndian.Uint64(b[32:]),
		id:        binary.LittleEndian.Uint64(b[40:]),
		salt:      binary.LittleEndian.Uint64(b[48:]),
	}
	copy(id.cluster[:], b[16:])
	return id, nil
}

// frame is a decoded frame header.
type frame struct {
	crc      uint32
	length   uint32
	previous uint32
	records  uint32
	index    Index
	term     Term
	base     Offset
	time     int64
	commit   Index
	synced   uint32
	kind     uint8
	tag      uint16
}

// size is the whole frame's, padding included.
func (f *frame) size() int64 { return frameSize(int(f.length)) }

// end is the offset after the frame's last record.
func (f *frame) end() Offset { return f.base + Offset(f.records) }

// entry is the frame's entry, with payload.
func (f *frame) entry(payload []byte) Entry {
	return Entry{Index: f.index, Term: f.term, Type: f.kind, Records: f.records, Base: f.base, Time: f.time, Payload: payload}
}

// frameSize is the size of a frame with n bytes of payload.
func frameSize(n int) int64 { return frameBytes + int64(n) + int64(padding(n)) }

// padding is the number of zeros after n bytes of payload.
func padding(n int) int { return -n & (frameAlign - 1) }

var zeroPad [frameAlign]byte

// encode writes the frame header into b, which has frameBytes, and sets f.crc, which covers payload too.
func (f *frame) encode(b []byte, seed uint32, payload []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[4:], f.length)
	le.PutUint32(b[8:], f.previous)
	le.PutUint32(b[12:], f.records)
	le.PutUint64(b[16:], uint64(f.index))
	le.PutUint64(b[24:], uint64(f.term))
	le.PutUint64(b[32:], uint64(f.base))
	le.PutUint64(b[40:], uint64(f.time))
	le.PutUint64(b[48:], uint64(f.commit))
	le.PutUint32(b[56:], f.synced)
	b[60], b[61] = f.kind, 0
	le.PutUint16(b[62:], uint16(seed))
	crc := crc32.Update(seed, castagnoli, b[4:frameBytes])
	crc = crc32.Update(crc, castagnoli, payload)
	f.crc = crc32.Update(crc, castagnoli, zeroPad[:padding(len(payload))])
	le.PutUint32(b[0:], f.crc)
}

// decodeFrame reads a frame header without its checksum. It returns why the bytes cannot be one, or "".
func decodeFrame(b []byte, seed uint32) (f frame, reason string) {
	if len(b) < frameBytes {
		return frame{}, "the frame header is cut short"
	}
	le := binary.LittleEndian
	f = frame{
		crc:      le.Uint32(b[0:]),
		length:   le.Uint32(b[4:]),
		previous: le.Uint32(b[8:]),
		records:  le.Uint32(b[12:]),
		index:    Index(le.Uint64(b[16:])),
		term:     Term(le.Uint64(b[24:])),
		base:     Offset(le.Uint64(b[32:])),
		time:     int64(le.Uint64(b[40:])),
		commit:   Index(le.Uint64(b[48:])),
		synced:   le.Uint32(b[56:]),
		kind:     b[60],
		tag:      le.Uint16(b[62:]),
	}
	switch {
	case f.index == 0:
		return f, "there is no frame"
	case f.tag != uint16(seed), b[61] != 0:
		return f, "the frame is not of this segment"
	case f.length > MaxPayloadBytes:
		return f, "the frame's length is impossible"
	case f.synced < headerBytes, f.synced%frameAlign != 0:
		return f, "the frame's synced mark is impossible"
	}
	return f, ""
}

// verify reports whether b, a whole frame, has the checksum in its header.
func (f *frame) verify(b []byte, seed uint32) bool {
	return crc32.Update(seed, castagnoli, b[4:f.size()]) == f.crc
}
