package wire

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A record batch is encoded once, by the producer; the same bytes travel, are replicated,
// stored and delivered. What the broker adds (offset, epoch, its time) stands beside it.
//
//	0        4     8        9            10      12         20         28              29
//	+--------+-----+--------+------------+-------+----------+----------+---------------+---------+-- ... --+
//	| Length | CRC | Format | Attributes | Count | Sequence | BaseTime | SubjectLength | Subject | Records |
//	+--------+-----+--------+------------+-------+----------+----------+---------------+---------+-- ... --+
//
//	Length         u32  bytes that follow this field; the whole batch is at most MaxBatch, or
//	                    MaxFilteredBatch with AttrFiltered
//	CRC            u32  CRC-32C (Castagnoli) of every byte that follows this field
//	Format         u8   1
//	Attributes     u8   see Attributes; undefined bits are zero
//	Count          u16  records in the batch, at least 1
//	Sequence       u64  the producer's number of the first record; the others follow without gaps
//	BaseTime       i64  Unix milliseconds of the first record, by the producer's clock
//	SubjectLength  u8   0 if and only if AttrMixed
//	Subject             of every record in the batch
//
// In a batch with AttrFiltered a Span u16 follows here: the offsets the batch covers, at least
// Count. Records, where compressed, are RawLength u32 and one zstd frame that decompresses to
// RawLength bytes, at most MaxBatch. Raw, they are Count times:
//
//	[OffsetDelta uvarint]  with AttrFiltered only: offset of the record minus the batch's first
//	Length uvarint         bytes of the record that follow
//	TimeDelta varint       milliseconds after BaseTime, modulo 2^64
//	[Subject string]       with AttrMixed only
//	Key bytes              empty: none
//	headers                uvarint count, then for each: name string (1..255 bytes), value bytes
//	Value                  the rest

const (
	batchFixed  = 29 // the fields up to SubjectLength
	batchFormat = 1
	batchCRC    = 8 // where the bytes the CRC covers begin

	// MinBatch is the size of the smallest batch: one empty record of a one-byte subject.
	MinBatch = batchFixed + 1 + 4
)

var _ = [1]struct{}{}[batchFixed-(4+4+1+1+2+8+8+1)] // compile-time: the picture above is 29 bytes

// Attributes describe a batch.
type Attributes uint8

// The attributes of version 1. The low three bits are the compression: 0 none, 1 zstd.
const (
	AttrZstd     Attributes = 1
	AttrMixed    Attributes = 1 << 3 // each record has its own subject
	AttrFiltered Attributes = 1 << 4 // cut by the broker for a reader, CRC by the broker; never in PUBLISH

	attrCompression Attributes = 7
)

// ErrChecksum is what a failed CRC-32C unwraps to.
var ErrChecksum = errors.New("wire: batch fails its CRC-32C")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch is a parsed batch header. It aliases the bytes it was parsed from.
type Batch struct {
	Attributes Attributes
	Count      uint32 // records
	Span       uint32 // offsets it covers: Count, or more if filtered
	Sequence   uint64
	BaseTime   int64  // Unix ms
	Subject    []byte // empty if mixed
	Bytes      []byte // the whole batch
	records    []byte // what follows the header
}

// ParseBatch reads the header of the batch at the start of b; bytes may follow it. It checks
// the form of the header, not the CRC (Verify) and not the records (Check).
//
// Errors: ErrShort if b holds less than the batch; *TooLargeError; *UnsupportedError for a format
// or compression of a later version; *MalformedError.
func ParseBatch(b []byte) (Batch, error) {
	if len(b) < 4 {
		return Batch{}, ErrShort
	}
	size := uint64(binary.LittleEndian.Uint32(b)) + 4
	if size > MaxFilteredBatch {
		return Batch{}, &TooLargeError{"batch", size, MaxBatch}
	}
	if size < MinBatch {
		return Batch{}, malformed("batch", "size %d is below %d", size, MinBatch)
	}
	if uint64(len(b)) < size {
		return Batch{}, ErrShort
	}
	if b[8] != batchFormat {
		return Batch{}, &UnsupportedError{"batch format", uint64(b[8])}
	}
	if c := b[9] & byte(attrCompression); c > byte(AttrZstd) {
		return Batch{}, &UnsupportedError{"batch compression", uint64(c)}
	}
	b = b[:size:size]
	h := Batch{
		Attributes: Attributes(b[9]),
		Count:      uint32(binary.LittleEndian.Uint16(b[10:])),
		Sequence:   binary.LittleEndian.Uint64(b[12:]),
		BaseTime:   int64(binary.LittleEndian.Uint64(b[20:])),
		Bytes:      b,
	}
	rest := b[batchFixed:]
	if n := int(b[28]); n > len(rest) {
		return Batch{}, malformed("batch", "subject is cut short")
	} else if n > 0 {
		h.Subject, rest = rest[:n:n], rest[n:]
	}
	h.Span = h.Count
	switch {
	case size > MaxBatch && !h.Filtered():
		return Batch{}, &TooLargeError{"batch", size, MaxBatch}
	case h.Attributes&^(AttrZstd|AttrMixed|AttrFiltered) != 0:
		return Batch{}, malformed("batch", "undefined attributes %#x", uint8(h.Attributes))
	case h.Count == 0:
		return Batch{}, malformed("batch", "no records")
	case h.Mixed() != (len(h.Subject) == 0):
		return Batch{}, malformed("batch", "mixed %t with a subject of %d bytes", h.Mixed(), len(h.Subject))
	case h.Filtered():
		if h.Compressed() {
			return Batch{}, malformed("batch", "filtered and compressed")
		}
		if len(rest) < 2 {
			return Batch{}, malformed("batch", "span is cut short")
		}
		h.Span = uint32(binary.LittleEndian.Uint16(rest))
		rest = rest[2:]
		if h.Span < h.Count {
			return Batch{}, malformed("batch", "span %d below count %d", h.Span, h.Count)
		}
	case h.Compressed() && (len(rest) < 4 || binary.LittleEndian.Uint32(rest) > MaxBatch):
		return Batch{}, malformed("batch", "raw length is cut short or above %d", MaxBatch)
	}
	if h.Sequence+uint64(h.Span) < h.Sequence {
		return Batch{}, malformed("batch", "sequence %d + %d exceeds 64 bits", h.Sequence, h.Span)
	}
	h.records = rest
	return h, nil
}

// Mixed reports whether each record has its own subject.
func (h *Batch) Mixed() bool { return h.Attributes&AttrMixed != 0 }

// Filtered reports whether the broker cut the batch for this reader.
func (h *Batch) Filtered() bool { return h.Attributes&AttrFiltered != 0 }

// Compressed reports whether the records must be decompressed to be read.
func (h *Batch) Compressed() bool { return h.Attributes&attrCompression != 0 }

// Verify checks the CRC-32C. Its error unwraps to ErrChecksum.
func (h *Batch) Verify() error {
	if crc32.Checksum(h.Bytes[batchCRC:], castagnoli) != binary.LittleEndian.Uint32(h.Bytes[4:]) {
		return ErrChecksum
	}
	return nil
}

// Raw returns the raw records: part of the batch itself, or decompressed into scratch, which is
// replaced if it is too small. Pass the same scratch again to reuse it: when the batch was
// compressed, raw[:0] is it.
func (h *Batch) Raw(scratch []byte) (raw []byte, err error) {
	if !h.Compressed() {
		return h.records, nil
	}
	return decompress(scratch, h.records[4:], int(binary.LittleEndian.Uint32(h.records)))
}

// Check walks raw (what Raw gave) and reports whether it is exactly Count well-formed records of
// valid subjects. It does not allocate.
//
// Errors: *MalformedError; *NameError for a subject.
func (h *Batch) Check(raw []byte) error {
	if !h.Mixed() {
		if err := checkTokens("subject", h.Subject, false); err != nil {
			return err
		}
	}
	it := h.Iterate(raw)
	var rec Record
	for it.Next(&rec) {
		if h.Mixed() {
			if err := checkTokens("subject", rec.Subject, false); err != nil {
				return err
			}
		}
		if rec.headerCount > 0 {
			if err := rec.checkHeaders(); err != nil {
				return err
			}
		}
	}
	return it.Err()
}

// seal fills in the length and the CRC of the batch b.
func seal(b []byte) {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[batchCRC:], castagnoli))
}
