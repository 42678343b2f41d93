package wire

import "encoding/binary"

// Flags are the low four bits of a frame's fifth byte.
type Flags uint8

// FlagMore says that another frame of the same answer follows; only TOPOLOGY has it. The other
// bits are zero in version 1.
const FlagMore Flags = 1

// Frame is one unit on the wire. Body aliases the bytes it was decoded from.
type Frame struct {
	Op      Op
	Version uint8 // of the body; 0 in protocol version 1
	Flags   Flags
	Corr    uint32
	Body    []byte
}

// Decode reads the frame at the start of b. n is its whole size, header included; limit is the
// largest Length accepted. The frame's Body aliases b.
//
// Errors: ErrShort while the frame is incomplete; *TooLargeError as soon as the length has
// arrived; *MalformedError for a length below 6, op 0 or a flag that is not defined for the op.
// An op or a version of its body that this version does not define decodes: answering it is the
// receiver's business (UNSUPPORTED).
func Decode(b []byte, limit int) (f Frame, n int, err error) {
	if len(b) < 4 {
		return Frame{}, 0, ErrShort
	}
	length := binary.LittleEndian.Uint32(b)
	if length < HeaderBytes-4 {
		return Frame{}, 0, malformed("frame", "length %d is below %d", length, HeaderBytes-4)
	}
	if uint64(length) > uint64(limit) {
		return Frame{}, 0, &TooLargeError{"frame", uint64(length), uint64(limit)}
	}
	if len(b) < HeaderBytes {
		return Frame{}, 0, ErrShort
	}
	f = Frame{
		Op:      Op(b[4]),
		Version: b[5] >> 4,
		Flags:   Flags(b[5] & 0x0f),
		Corr:    binary.LittleEndian.Uint32(b[6:]),
	}
	if f.Op == 0 {
		return Frame{}, 0, malformed("frame", "op 0")
	}
	if f.Flags&^FlagMore != 0 || f.Flags != 0 && f.Op != OpTopology && f.Version == 0 && f.Op.Known() {
		return Frame{}, 0, malformed("frame", "undefined flags %#x of %s", uint8(f.Flags), f.Op)
	}
	n = 4 + int(length)
	if len(b) < n {
		return Frame{}, 0, ErrShort
	}
	f.Body = b[HeaderBytes:n:n]
	return f, n, nil
}

// AppendTo appends the frame to dst.
func (f Frame) AppendTo(dst []byte) []byte {
	dst = appendHeader(dst, f.Op, f.Flags, f.Corr, len(f.Body))
	dst[len(dst)-HeaderBytes+5] |= f.Version << 4
	return append(dst, f.Body...)
}

func appendHeader(dst []byte, op Op, flags Flags, corr uint32, body int) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(HeaderBytes-4+body))
	dst = append(dst, byte(op), byte(flags))
	return binary.LittleEndian.AppendUint32(dst, corr)
}

// begin appends a header whose length end fills in once the body stands behind it.
func begin(dst []byte, op Op, flags Flags, corr uint32) (out []byte, at int) {
	return appendHeader(dst, op, flags, corr, 0), len(dst)
}

func end(dst []byte, at int) []byte {
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}
