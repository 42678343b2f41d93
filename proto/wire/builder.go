package wire

import (
	"encoding/binary"
	"errors"
	"math"
)

// Builder encodes one batch at a time, in place, without allocating once its buffer has grown.
//
// A batch begins with one subject; the first record of another subject turns it into a mixed one.
// Not safe for concurrent use.
type Builder struct {
	buf      []byte // buf[start:] is the batch so far
	start    int
	base     int    // where the records begin in buf
	subject  []byte // the batch's, while it is not mixed
	mixed    bool
	count    int
	baseTime int64
	limit    int
	spare    []byte // scratch for mixing and compressing
}

// ErrFull says that a record does not fit the batch any more: Finish it and begin another.
var ErrFull = errors.New("wire: the batch is full")

// Reset begins a batch of at most limit bytes (at most MaxBatch) behind what buf holds: pass
// buf[:HeaderBytes] and the frame header of a PUBLISH fits before it (PutPublishHeader). The
// builder owns buf until Finish.
func (b *Builder) Reset(buf []byte, limit int) {
	*b = Builder{buf: buf, start: len(buf), limit: min(limit, MaxBatch), subject: b.subject[:0], spare: b.spare[:0]}
}

// Count is the number of records so far.
func (b *Builder) Count() int { return b.count }

// Size is the bytes of the batch that Finish without compression would make; 0 before the first record.
func (b *Builder) Size() int { return len(b.buf) - b.start }

// Append adds a record; time is Unix milliseconds. The builder keeps none of the slices.
//
// Errors: ErrFull; *TooLargeError if the record fits no batch of this limit; *NameError for a
// subject that is none; *MalformedError for a header name that is none. After any of them the
// batch is as it was.
func (b *Builder) Append(subject string, key, value []byte, headers []Header, time int64) error {
	first := b.count == 0
	same := !first && !b.mixed && string(b.subject) == subject
	if !same {
		if err := ValidSubject(subject); err != nil {
			return err
		}
	}
	baseTime := b.baseTime
	if first {
		baseTime = time
	}
	size := uvarintLen(uint64(len(key))) + len(key) + uvarintLen(uint64(len(headers))) + len(value)
	for _, h := range headers {
		if !validHeaderName(h.Name) {
			return malformed("record", "a header name of %d bytes: 1 to %d of UTF-8", len(h.Name), MaxHeaderName)
		}
		size += uvarintLen(uint64(len(h.Name))) + len(h.Name) + uvarintLen(uint64(len(h.Value))) + len(h.Value)
	}
	// Alone in a batch its subject stands in the header and its time delta, 0, takes one byte.
	if alone := batchFixed + len(subject) + uvarintLen(uint64(size+1)) + size + 1; alone > b.limit {
		return &TooLargeError{"record", uint64(alone), uint64(b.limit)}
	}
	size += uvarintLen(zigzag(time - baseTime))
	mix := b.mixed || !first && !same // what the batch is with this record
	if mix {
		size += uvarintLen(uint64(len(subject))) + len(subject)
	}
	grow := uvarintLen(uint64(size)) + size
	if first {
		grow += batchFixed + len(subject)
	}
	if mix && !b.mixed { // at most: a subject, and a length one byte longer, in each record so far
		grow += b.count * (uvarintLen(uint64(len(b.subject))) + len(b.subject) + 1)
	}
	if b.Size()+grow > b.limit || b.count == math.MaxUint16 {
		return ErrFull
	}
	if first {
		b.begin(subject, time)
	}
	if mix && !b.mixed {
		b.mix()
	}
	dst := binary.AppendUvarint(b.buf, uint64(size))
	dst = binary.AppendVarint(dst, time-b.baseTime)
	if mix {
		dst = appendString(dst, subject)
	}
	dst = appendBytes(dst, key)
	dst = binary.AppendUvarint(dst, uint64(len(headers)))
	for _, h := range headers {
		dst = appendBytes(dst, h.Name)
		dst = appendBytes(dst, h.Value)
	}
	b.buf = append(dst, value...)
	b.count++
	return nil
}

func (b *Builder) begin(subject string, time int64) {
	b.baseTime = time
	b.subject = append(b.subject[:0], subject...)
	b.buf = append(b.buf, make([]byte, batchFixed)...)
	b.buf[b.start+28] = byte(len(subject))
	b.buf = append(b.buf, subject...)
	b.base = len(b.buf)
}

// mix rewrites the records so far with their subject in each.
func (b *Builder) mix() {
	b.spare = append(b.spare[:0], b.buf[b.base:]...)
	b.buf = b.buf[:b.start+batchFixed]
	b.buf[b.start+28] = 0
	b.base = len(b.buf)
	b.mixed = true
	for rest := b.spare; len(rest) > 0; {
		length, n := uvarint(rest)
		rec := rest[n : n+int(length)]
		rest = rest[n+int(length):]
		_, n = varint(rec)
		b.buf = binary.AppendUvarint(b.buf, length+uint64(uvarintLen(uint64(len(b.subject)))+len(b.subject)))
		b.buf = append(b.buf, rec[:n]...)
		b.buf = appendBytes(b.buf, b.subject)
		b.buf = append(b.buf, rec[n:]...)
	}
}

// Finish completes the batch and returns the buffer it was begun in, the batch behind what that
// held; the builder must be Reset before it is used again. It must hold a record.
//
// With zstd the records are compressed, unless that would not make them shorter.
func (b *Builder) Finish(sequence uint64, zstd bool) []byte {
	if b.count == 0 {
		panic("wire: Finish of a batch without records")
	}
	h := b.buf[b.start:]
	h[8] = batchFormat
	h[9] = 0
	if b.mixed {
		h[9] |= byte(AttrMixed)
	}
	binary.LittleEndian.PutUint16(h[10:], uint16(b.count))
	binary.LittleEndian.PutUint64(h[12:], sequence)
	binary.LittleEndian.PutUint64(h[20:], uint64(b.baseTime))
	if raw := b.buf[b.base:]; zstd {
		b.spare = compress(b.spare[:0], raw)
		if len(b.spare)+4 < len(raw) {
			h[9] |= byte(AttrZstd)
			rawLength := uint32(len(raw))
			b.buf = binary.LittleEndian.AppendUint32(b.buf[:b.base], rawLength)
			b.buf = append(b.buf, b.spare...)
		}
	}
	seal(b.buf[b.start:])
	out := b.buf
	b.buf, b.count = nil, 0
	return out
}
