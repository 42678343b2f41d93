package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// Code is the number of an error on the wire; docs/protocol.md lists them.
type Code = wire.Code

// Error is a failure with a code: said by a node, or found here with the same code the node
// would have used. Match one kind with errors.Is and the sentinels below.
type Error struct {
	Code       Code
	Message    string        // what happened and what to do, for a person
	Retriable  bool          // the same call may succeed later
	RetryAfter time.Duration // when to try again; 0: no advice
	Value      uint64        // the limit passed, the log start, the first offset after a loss: see the code
	Err        error         // what lies beneath, or nil
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Code.String())
	if e.Message != "" {
		b.WriteString(": ")
		b.WriteString(e.Message)
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap gives what lies beneath.
func (e *Error) Unwrap() error { return e.Err }

// Is matches another *Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

func kind(c Code) error { return &Error{Code: c} }

// The kinds of failure a program may want to tell apart, for errors.Is.
var (
	ErrUnknownStream    = kind(wire.CodeUnknownStream)   // no stream captures the subject, or has the name
	ErrUnknownPartition = kind(wire.CodeUnknownPart)     // the stream has no such partition
	ErrStreamExists     = kind(wire.CodeStreamExists)    // CreateStream: the name is taken
	ErrSubjectOverlap   = kind(wire.CodeSubjectOverlap)  // CreateStream: another stream captures a subject of it
	ErrBadName          = kind(wire.CodeBadName)         // a subject, filter or stream name the grammar refuses
	ErrTooLarge         = kind(wire.CodeTooLarge)        // a record or header above a limit; Value is the limit
	ErrOverloaded       = kind(wire.CodeOverloaded)      // the node has no room now; RetryAfter says when
	ErrLimit            = kind(wire.CodeLimit)           // a configured limit; Value is the limit
	ErrAuth             = kind(wire.CodeAuth)            // the node does not know who this is
	ErrDenied           = kind(wire.CodeDenied)          // it knows, and does not allow it
	ErrWrongCluster     = kind(wire.CodeWrongCluster)    // the node belongs to another cluster
	ErrNotLeader        = kind(wire.CodeNotLeader)       // nobody leads the partition at present
	ErrOffsetRange      = kind(wire.CodeOffsetRange)     // below the log start, or above what there is; Value is that end
	ErrDataLoss         = kind(wire.CodeDataLoss)        // damaged, and no good copy left; Value is the first offset after it
	ErrChecksum         = kind(wire.CodeBadChecksum)     // a batch arrived damaged
	ErrMalformed        = kind(wire.CodeMalformed)       // bytes that do not decode
	ErrUnsupported      = kind(wire.CodeUnsupported)     // the node does not serve that
	ErrProducerExpired  = kind(wire.CodeProducerExpired) // unacknowledged for so long that the node forgot the producer
	ErrProducerFenced   = kind(wire.CodeProducerFenced)  // another producer took over the id
	ErrUnknownOutcome   = kind(wire.CodeUnknownOutcome)  // the record may or may not be stored
)

var (
	// ErrClosed is returned by every call after Close, and to what Close cut short.
	ErrClosed = errors.New("tidewire: the client is closed")
	// ErrSubscriptionClosed ends an iteration whose subscription was closed.
	ErrSubscriptionClosed = errors.New("tidewire: the subscription is closed")
	// ErrDisconnected says that the connection was lost before the answer came.
	ErrDisconnected = errors.New("tidewire: the connection was lost")
)

// fromWire makes the public error of one a node sent.
func fromWire(e *wire.Error) *Error {
	return &Error{
		Code:       e.Code,
		Message:    e.Message,
		Retriable:  e.Retriable(),
		RetryAfter: e.RetryAfter,
		Value:      e.Value,
	}
}

// refused makes the public error of a check in proto/wire that failed here, before anything was sent.
func refused(err error) error {
	var large *wire.TooLargeError
	switch {
	case errors.As(err, &large):
		return &Error{
			Code:    wire.CodeTooLarge,
			Message: fmt.Sprintf("%s of %d bytes, limit %d: split it, or store it elsewhere and publish a reference", large.What, large.Size, large.Limit),
			Value:   large.Limit,
		}
	case errors.Is(err, wire.ErrName):
		return &Error{Code: wire.CodeBadName, Err: err}
	case errors.Is(err, wire.ErrChecksum):
		return &Error{Code: wire.CodeBadChecksum, Err: err}
	case errors.Is(err, wire.ErrMalformed):
		return &Error{Code: wire.CodeMalformed, Err: err}
	}
	return err
}

// unknown says that ctx ended while a record was on its way.
func (c *Client) unknown(ctx context.Context) error {
	e := &Error{
		Code:    wire.CodeUnknownOutcome,
		Message: "stopped waiting; the record may still be stored",
		Err:     context.Cause(ctx),
	}
	if r := c.refusal.Load(); r != nil && time.Since(r.at) < refusalAge {
		e.Message += ". The node refuses records at present: " + r.message
	}
	return e
}

// refusal is the last answer that a batch is to be sent again.
type refusal struct {
	message string
	at      time.Time
}

// refusalAge is how long a refusal may explain why there is no answer.
const refusalAge = 10 * time.Second
