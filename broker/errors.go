package broker

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

var errDraining = &wire.Error{Code: wire.CodeShutdown, Bits: wire.ErrorRetriable,
	Message: "the node is stopping: connect elsewhere or later"}

// wireError turns an error into what a client is told. Nothing else makes codes of errors.
func (n *Node) wireError(err error) *wire.Error {
	if we, as := err.(*wire.Error); as { // floods of requests come here
		return we
	}
	if we := toWire(err); we != nil {
		if outOfFiles(err) {
			n.log.Error("out of file descriptors: raise the process's limit of open files", zap.Error(err))
		}
		return we
	}
	n.log.Error("internal error answered to a client", zap.Error(err)) // in full here; the client learns no more
	return &wire.Error{Code: wire.CodeInternal, Message: "the node failed; its log says more"}
}

// codeOf is the code of an error, for counting.
func (n *Node) codeOf(err error) wire.Code {
	if we := toWire(err); we != nil {
		return we.Code
	}
	return wire.CodeInternal
}

// toWire is wireError for errors that clients may learn of; nil for others.
func toWire(err error) *wire.Error {
	var (
		we         *wire.Error
		tooLarge   *wire.TooLargeError
		overloaded *raft.OverloadedError
		sequence   *raft.SequenceError
		stream     *cluster.StreamError
	)
	make := func(code wire.Code, retriable bool) *wire.Error {
		e := &wire.Error{Code: code, Message: err.Error()}
		if retriable {
			e.Bits = wire.ErrorRetriable
		}
		return e
	}
	switch {
	case errors.As(err, &we):
		return we
	case errors.As(err, &tooLarge):
		e := make(wire.CodeTooLarge, false)
		e.Value = tooLarge.Limit
		return e
	case errors.Is(err, wire.ErrUnsupported):
		return make(wire.CodeUnsupported, false)
	case errors.Is(err, wire.ErrMalformed):
		return make(wire.CodeMalformed, false)
	case errors.Is(err, wire.ErrChecksum):
		return make(wire.CodeBadChecksum, false)
	case errors.Is(err, wire.ErrName):
		return make(wire.CodeBadName, false)
	case errors.Is(err, auth.ErrDenied):
		return make(wire.CodeDenied, false)

	case errors.As(err, &overloaded):
		e := make(wire.CodeOverloaded, true)
		e.RetryAfter = max(overloaded.RetryAfter, time.Millisecond)
		return e
	case errors.As(err, &sequence):
		e := make(wire.CodeBadSequence, false)
		if errors.Is(err, raft.ErrSequenceGap) {
			e = make(wire.CodeSequenceGap, true)
		}
		e.Value = sequence.Expected
		return e
	case errors.Is(err, raft.ErrProducerFenced):
		return make(wire.CodeProducerFenced, false)
	case errors.Is(err, raft.ErrProducerExpired):
		return make(wire.CodeProducerExpired, false)
	case errors.Is(err, raft.ErrTooLarge):
		return make(wire.CodeTooLarge, false)
	case errors.Is(err, context.Canceled): // nobody but the node's end cancels what somebody waits for
		return errDraining
	case errors.Is(err, context.DeadlineExceeded):
		e := make(wire.CodeOverloaded, true)
		e.RetryAfter = time.Second
		return e
	case errors.Is(err, raft.ErrUnknownOutcome):
		return make(wire.CodeUnknownOutcome, true)
	case errors.Is(err, raft.ErrNotLeader):
		e := make(wire.CodeNotLeader, true)
		e.RetryAfter = 50 * time.Millisecond
		return e
	case errors.Is(err, raft.ErrClosed), errors.Is(err, raft.ErrFailed):
		return make(wire.CodeShutdown, true)

	case outOfFiles(err):
		return &wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable, RetryAfter: time.Second, Value: uint64(openFileLimit()),
			Message: "this node is out of file descriptors: raise its limit of open files"}

	case errors.Is(err, cluster.ErrUnknownStream):
		return make(wire.CodeUnknownStream, false)
	case errors.Is(err, cluster.ErrStreamExists):
		return make(wire.CodeStreamExists, false)
	case errors.Is(err, cluster.ErrOverlap):
		return make(wire.CodeSubjectOverlap, false)
	case errors.Is(err, cluster.ErrUnsupported):
		return make(wire.CodeUnsupported, false)
	case errors.Is(err, cluster.ErrLimit):
		e := make(wire.CodeLimit, false)
		if errors.As(err, &stream) {
			e.Value = stream.Limit
		}
		return e
	}
	return nil
}

func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// readError turns an error of reading into what the reader is told.
func (n *Node) readError(c *cursor, err error) *wire.Error {
	var corrupt *storage.CorruptError
	var beyond *offsetRangeError
	where := fmt.Sprintf("stream %q partition %d", c.part.stream().Name, c.part.number)
	switch {
	case errors.As(err, &corrupt):
		n.metrics.DamagedForReader()
		c.part.damage.add(corrupt)
		n.log.Error("damaged records met by a reader", zap.String("stream", c.part.stream().Name), zap.Uint32("partition", c.part.number), zap.Error(err))
		return &wire.Error{Code: wire.CodeDataLoss, Value: uint64(corrupt.End),
			Message: fmt.Sprintf("%s: offsets %d to %d are damaged on disk and no good copy exists", where, corrupt.Start, corrupt.End-1)}
	case errors.As(err, &beyond):
		return &wire.Error{Code: wire.CodeOffsetRange, Value: beyond.high,
			Message: fmt.Sprintf("%s: offset %d is above the high watermark %d", where, beyond.offset, beyond.high)}
	case errors.Is(err, storage.ErrOutOfRange):
		start := uint64(c.part.raft.LogStart())
		return &wire.Error{Code: wire.CodeOffsetRange, Value: start,
			Message: fmt.Sprintf("%s: the log begins at offset %d: what was before is gone by retention", where, start)}
	case errors.Is(err, storage.ErrClosed):
		return &wire.Error{Code: wire.CodeShutdown, Bits: wire.ErrorRetriable, Message: where + " is closed here"}
	}
	return n.wireError(err)
}
