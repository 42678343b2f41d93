package wire

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strings"
	"time"
	"unicode/utf8"
)

// The field encodings that bodies are made of:
//
//	u8 u16 u32 u64  fixed, little-endian
//	uvarint         7 bits a byte, low first, high bit set on all but the last; minimal; at most 10 bytes
//	varint          uvarint of the zigzag (x<<1 ^ x>>63)
//	bool            u8, 0 or 1
//	ms              uvarint of at most 32 bits, milliseconds
//	string          uvarint length in bytes, then UTF-8
//	bytes           uvarint length, then bytes

// decoder takes fields off a body. The first error sticks; fields read after it are zero.
type decoder struct {
	what string
	b    []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed(d.what, format, args...)
	}
	d.b = nil
}

// done returns the first error, or one for bytes that follow the last field.
func (d *decoder) done() error {
	if d.err == nil && len(d.b) != 0 {
		d.fail("%d bytes follow the last field", len(d.b))
	}
	return d.err
}

func (d *decoder) take(n int, field string) []byte {
	if d.err != nil {
		return nil
	}
	if len(d.b) < n {
		d.fail("%s is cut short", field)
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u8(field string) uint8 {
	if p := d.take(1, field); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) u16(field string) uint16 {
	if p := d.take(2, field); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (d *decoder) u32(field string) uint32 {
	if p := d.take(4, field); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) u64(field string) uint64 {
	if p := d.take(8, field); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (d *decoder) bool(field string) bool {
	v := d.u8(field)
	if v > 1 {
		d.fail("%s is %d, neither 0 nor 1", field, v)
	}
	return v == 1
}

func (d *decoder) uvarint(field string) uint64 {
	if d.err != nil {
		return 0
	}
	v, n := uvarint(d.b)
	switch {
	case n == 0:
		d.fail("%s is cut short", field)
		return 0
	case n < 0:
		d.fail("%s is no minimal varint", field)
		return 0
	}
	d.b = d.b[n:]
	return v
}

// uvarint32 reads a uvarint that must fit 32 bits.
func (d *decoder) uvarint32(field string) uint32 {
	v := d.uvarint(field)
	if v > 1<<32-1 {
		d.fail("%s %d exceeds 32 bits", field, v)
		return 0
	}
	return uint32(v)
}

// count reads a number of items of at least size bytes each, so that no count can ask for more
// memory than a multiple of the bytes that arrived.
func (d *decoder) count(field string, size int) int {
	v := d.uvarint(field)
	if v > uint64(len(d.b)/size) {
		d.fail("%s %d exceeds what %d bytes can hold", field, v, len(d.b))
		return 0
	}
	return int(v)
}

func (d *decoder) bytes(field string) []byte {
	n := d.uvarint(field)
	if n > uint64(len(d.b)) {
		d.fail("%s is cut short", field)
		return nil
	}
	return d.take(int(n), field)
}

func (d *decoder) string(field string) string {
	p := d.bytes(field)
	if !utf8.Valid(p) {
		d.fail("%s is not UTF-8", field)
		return ""
	}
	return string(p)
}

// text reads a string of at most limit bytes.
func (d *decoder) text(field string, limit int) string {
	s := d.string(field)
	if len(s) > limit {
		d.fail("%s of %d bytes, limit %d", field, len(s), limit)
		return ""
	}
	return s
}

func (d *decoder) ms(field string) time.Duration {
	return time.Duration(d.uvarint32(field)) * time.Millisecond
}

func (d *decoder) rest() []byte {
	p := d.b
	d.b = nil
	return p
}

// uvarint decodes a minimal uvarint. n is its size; 0 when b is too short, -1 when it is not
// minimal or exceeds 64 bits.
func uvarint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	v, n = binary.Uvarint(b)
	if n < 0 || (n > 1 && b[n-1] == 0) {
		return 0, -1
	}
	return v, n
}

func varint(b []byte) (v int64, n int) {
	u, n := uvarint(b)
	return int64(u>>1) ^ -int64(u&1), n
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// appendMs appends a duration in whole milliseconds: rounded up, so that a short one does not
// become "none", and at most what the field holds.
func appendMs(dst []byte, v time.Duration) []byte {
	return binary.AppendUvarint(dst, min(wholeMs(v), math.MaxUint32))
}

func wholeMs(v time.Duration) uint64 {
	if v <= 0 {
		return 0
	}
	return uint64((v-1)/time.Millisecond) + 1
}

// appendText appends s, written for people or logs, cut to limit bytes of valid UTF-8: what the
// other side refuses to decode must not depend on what an error happens to quote.
func appendText(dst []byte, s string, limit int) []byte {
	return appendString(dst, strings.ToValidUTF8(s[:min(len(s), limit)], "?"))
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendBytes(dst, p []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(p)))
	return append(dst, p...)
}
