package wire

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Code is the number of an error on the wire. Numbers are never reused; a client treats one it
// does not know as Internal, and takes "retriable" from the frame, never from its own table.
type Code uint16

// The codes of version 1. What each means to a client, and what to do, stands in docs/protocol.md.
const (
	CodeInternal        Code = 1  // the node failed; its log says more
	CodeMalformed       Code = 2  // bytes that do not decode
	CodeTooLarge        Code = 3  // a frame, batch, record or name above its limit
	CodeUnsupported     Code = 4  // an op, version, feature or compression this node does not serve
	CodeState           Code = 5  // a frame that has no place in this state of the connection
	CodeAuth            Code = 6  // who the client is could not be established
	CodeDenied          Code = 7  // it may not do this
	CodeIdle            Code = 8  // nothing arrived for the idle time
	CodeShutdown        Code = 9  // the node is stopping
	CodeOverloaded      Code = 10 // a queue or memory limit; try again after the delay
	CodeWrongCluster    Code = 11
	CodeUnknownStream   Code = 20
	CodeStreamExists    Code = 21
	CodeSubjectOverlap  Code = 22 // two streams would capture the same subject
	CodeBadName         Code = 23 // a name or subject the grammar refuses
	CodeSubjectMismatch Code = 24 // a record outside the stream it was sent to
	CodeUnknownPart     Code = 25 // the stream has no such partition
	CodeNotLeader       Code = 26 // another node leads the partition, or none at present
	CodeStaleMap        Code = 27 // the stream has grown: ask METADATA again
	CodeLimit           Code = 28 // a configured limit, of streams or partitions say
	CodeBadChecksum     Code = 40 // a batch fails its CRC-32C
	CodeBadBatch        Code = 41 // a batch whose records do not decode or do not match its count
	CodeBadSequence     Code = 42 // overlaps what was published, in part
	CodeSequenceGap     Code = 43 // an earlier batch is missing: resend from the expected sequence
	CodeProducerExpired Code = 44 // the producer was forgotten: open a new one
	CodeProducerFenced  Code = 45 // a newer epoch of this producer exists
	CodeInFlight        Code = 46 // more in flight than allowed
	CodeUnknownOutcome  Code = 47 // leadership was lost meanwhile: resend with the same sequence
	CodeOffsetRange     Code = 60 // below the log start, or above the high watermark, said by the leader
	CodeDataLoss        Code = 61 // the range is damaged and no good copy exists
	CodeCredit          Code = 62 // more credit outstanding than the limit
)

var codeNames = map[Code]string{
	CodeInternal: "INTERNAL", CodeMalformed: "MALFORMED", CodeTooLarge: "TOO_LARGE", CodeUnsupported: "UNSUPPORTED",
	CodeState: "STATE", CodeAuth: "AUTH", CodeDenied: "DENIED", CodeIdle: "IDLE", CodeShutdown: "SHUTDOWN",
	CodeOverloaded: "OVERLOADED", CodeWrongCluster: "WRONG_CLUSTER", CodeUnknownStream: "UNKNOWN_STREAM",
	CodeStreamExists: "STREAM_EXISTS", CodeSubjectOverlap: "SUBJECT_OVERLAP", CodeBadName: "BAD_NAME",
	CodeSubjectMismatch: "SUBJECT_MISMATCH", CodeUnknownPart: "UNKNOWN_PARTITION", CodeNotLeader: "NOT_LEADER",
	CodeStaleMap: "STALE_MAP", CodeLimit: "LIMIT", CodeBadChecksum: "BAD_CHECKSUM", CodeBadBatch: "BAD_BATCH",
	CodeBadSequence: "BAD_SEQUENCE", CodeSequenceGap: "SEQUENCE_GAP", CodeProducerExpired: "PRODUCER_EXPIRED",
	CodeProducerFenced: "PRODUCER_FENCED", CodeInFlight: "IN_FLIGHT", CodeUnknownOutcome: "UNKNOWN_OUTCOME",
	CodeOffsetRange: "OFFSET_RANGE", CodeDataLoss: "DATA_LOSS", CodeCredit: "CREDIT",
}

// String gives the name docs/protocol.md uses.
func (c Code) String() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	return fmt.Sprintf("CODE(%d)", uint16(c))
}

// ErrorBits tell what an ERROR means for the conversation and the connection it came on.
type ErrorBits uint8

// The bits of version 1; the others are zero.
const (
	ErrorRetriable      ErrorBits = 1 // the same request may succeed later
	ErrorEndsCorr       ErrorBits = 2 // the conversation is over
	ErrorEndsConnection ErrorBits = 4 // the node closes the connection behind this frame
	ErrorOneBatch       ErrorBits = 8 // about the batch whose first sequence is Sequence; the producer stays open

	errorBitsDefined = ErrorRetriable | ErrorEndsCorr | ErrorEndsConnection | ErrorOneBatch
)

// Error is the body of ERROR. It is also a Go error, so that a client can hand it on as it came.
//
// Value is, with SEQUENCE_GAP, the sequence expected; with OFFSET_RANGE, the nearest offset there
// is: the log start for one below it, the high watermark for one above; with DATA_LOSS, the first
// offset after what is lost; with TOO_LARGE, LIMIT, IN_FLIGHT and CREDIT, the limit; with
// UNSUPPORTED in answer to HELLO, the highest version the node speaks.
//
//	Code u16 | Bits u8 | RetryAfter ms | Sequence uvarint | Value uvarint | Leader string | Message string
type Error struct {
	Code       Code
	Bits       ErrorBits
	RetryAfter time.Duration // sent in whole milliseconds, rounded up; 0: no advice
	Sequence   uint64        // with ErrorOneBatch
	Value      uint64        // a number that helps, by code (below); else 0
	Leader     string        // NOT_LEADER: its address, if known; at most MaxText bytes
	Message    string        // what happened and what to do, for a person; at most MaxMessage bytes
}

func (e *Error) Error() string { return e.Code.String() + ": " + e.Message }

// Retriable reports whether the same request may succeed later.
func (e *Error) Retriable() bool { return e.Bits&ErrorRetriable != 0 }

// Is matches another *Error of the same code, so that errors.Is(err, &wire.Error{Code: c}) asks for c.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// AppendTo appends an ERROR frame.
func (e *Error) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpError, 0, corr)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(e.Code))
	dst = append(dst, byte(e.Bits))
	dst = appendMs(dst, e.RetryAfter)
	dst = binary.AppendUvarint(dst, e.Sequence)
	dst = binary.AppendUvarint(dst, e.Value)
	dst = appendText(dst, e.Leader, MaxText)
	dst = appendText(dst, e.Message, MaxMessage)
	return end(dst, at)
}

// Decode reads the body of an ERROR.
func (e *Error) Decode(body []byte) error {
	d := decoder{what: "ERROR", b: body}
	e.Code = Code(d.u16("code"))
	e.Bits = ErrorBits(d.u8("bits"))
	e.RetryAfter = d.ms("retry after")
	e.Sequence = d.uvarint("sequence")
	e.Value = d.uvarint("value")
	e.Leader = d.text("leader", MaxText)
	e.Message = d.text("message", MaxMessage)
	switch {
	case d.err != nil:
	case e.Code == 0:
		d.fail("code 0")
	case e.Bits&^errorBitsDefined != 0:
		d.fail("undefined bits %#x", uint8(e.Bits))
	}
	return d.done()
}
