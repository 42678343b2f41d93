package raft

import (
	"errors"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/storage"
)

// What a caller decides on. The typed errors below carry the numbers and unwrap to these.
var (
	// ErrNotLeader: nothing was written; ask the leader. Retriable.
	ErrNotLeader = errors.New("raft: this node does not lead the group")
	// ErrUnknownOutcome: leadership was lost while the entry was in flight; it may or may not be
	// committed. Retriable with the same sequence: the producer table tells a duplicate.
	ErrUnknownOutcome = errors.New("raft: leadership lost meanwhile, the outcome is unknown")
	// ErrOverloaded: a queue is full; nothing was written. Retriable after the delay.
	ErrOverloaded = errors.New("raft: overloaded")
	// ErrSequenceGap: an earlier batch of the producer is missing. Retriable from the expected sequence.
	ErrSequenceGap = errors.New("raft: gap in the producer's sequence")
	// ErrBadSequence: the batch overlaps in part what was published, or is older than what is remembered.
	ErrBadSequence = errors.New("raft: sequence overlaps what was published")
	// ErrProducerFenced: a newer epoch of the producer exists.
	ErrProducerFenced = errors.New("raft: producer fenced by a newer epoch")
	// ErrProducerExpired: the producer was forgotten; it needs a new id.
	ErrProducerExpired = errors.New("raft: producer expired")
	// ErrTooLarge: a batch above MaxEntryBytes.
	ErrTooLarge = errors.New("raft: too large")
	// ErrClosed: the group or partition was stopped.
	ErrClosed = errors.New("raft: closed")
	// ErrFailed: a write failed and the group stopped for good; the process is about to exit.
	ErrFailed = errors.New("raft: group failed")
	// ErrNoPeer: no way to the server a request was meant for.
	ErrNoPeer = errors.New("raft: no such peer")
	// ErrRefused: a request this node never serves, whoever asks.
	ErrRefused = errors.New("raft: request refused")
	// ErrFormat: bytes this version does not read.
	ErrFormat = errors.New("raft: unknown format")
	// ErrStable: term and vote are unreadable or contradict the log: the group does not start and does not vote.
	ErrStable = errors.New("raft: term and vote are not to be trusted")
	// ErrLogLost: the log ends before what the snapshot or the vote prove it held.
	ErrLogLost = errors.New("raft: the log lost entries")
	// ErrDiskStalled: a write has been running for too long for this node to pass as a healthy leader.
	ErrDiskStalled = errors.New("raft: disk stalled")
)

// NotLeaderError says who leads instead, as far as this node knows.
type NotLeaderError struct {
	Group  uint64
	Leader ServerID // "" when unknown
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return fmt.Sprintf("raft: this node does not lead group %d, and knows no leader", e.Group)
	}
	return fmt.Sprintf("raft: this node does not lead group %d, %s does", e.Group, e.Leader)
}
func (e *NotLeaderError) Unwrap() error { return ErrNotLeader }

// OverloadedError says when to try again.
type OverloadedError struct {
	Limit      string // which limit: "partition queue" or "node memory"
	RetryAfter time.Duration
}

func (e *OverloadedError) Error() string {
	return fmt.Sprintf("raft: overloaded: %s is full, retry after %s", e.Limit, e.RetryAfter)
}
func (e *OverloadedError) Unwrap() error { return ErrOverloaded }

// SequenceError tells which sequence was expected of a producer, and which came.
type SequenceError struct {
	Producer           uint64
	Sequence, Expected uint64
	reason             error // ErrSequenceGap or ErrBadSequence
}

func (e *SequenceError) Error() string {
	return fmt.Sprintf("%v: producer %d sent sequence %d, expected %d", e.reason, e.Producer, e.Sequence, e.Expected)
}
func (e *SequenceError) Unwrap() error { return e.reason }

// ProducerError tells of a producer that may not publish any more under this id and epoch.
type ProducerError struct {
	Producer uint64
	Epoch    uint16 // the one that came
	Current  uint16 // the newer one, for ErrProducerFenced
	reason   error  // ErrProducerFenced or ErrProducerExpired
}

func (e *ProducerError) Error() string {
	if e.reason == ErrProducerFenced {
		return fmt.Sprintf("%v: producer %d has epoch %d, not %d", e.reason, e.Producer, e.Current, e.Epoch)
	}
	return fmt.Sprintf("%v: producer %d", e.reason, e.Producer)
}
func (e *ProducerError) Unwrap() error { return e.reason }

// FormatError tells which bytes were not understood.
type FormatError struct {
	What   string // "entry", "snapshot", "partition state", "vote"
	Reason string
}

func (e *FormatError) Error() string { return "raft: " + e.What + ": " + e.Reason }
func (e *FormatError) Unwrap() error { return ErrFormat }

// VersionError tells of bytes that another version of Tidewire wrote. It unwraps to ErrFormat and storage.ErrVersion.
type VersionError struct {
	What           string // as of FormatError
	Version, Reads uint8
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("raft: %s: version %d, this program reads %d", e.What, e.Version, e.Reads)
}
func (e *VersionError) Unwrap() []error { return []error{ErrFormat, storage.ErrVersion} }

func malformed(what, format string, args ...any) error {
	return &FormatError{What: what, Reason: fmt.Sprintf(format, args...)}
}

// StableError tells why the term and vote of a group are not to be trusted.
type StableError struct {
	Group  uint64
	Reason string
	Cause  error // of the first copy, if it was unreadable
}

func (e *StableError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("raft: term and vote of group %d: %s: %v", e.Group, e.Reason, e.Cause)
	}
	return fmt.Sprintf("raft: term and vote of group %d: %s", e.Group, e.Reason)
}
func (e *StableError) Unwrap() []error {
	if e.Cause != nil {
		return []error{ErrStable, e.Cause}
	}
	return []error{ErrStable}
}

// LogLostError tells what the log should reach and where it ends.
type LogLostError struct {
	Group    uint64
	Last     storage.Index // of the log
	Expected storage.Index // of the newest snapshot; 0 when only a vote proves the loss
}

func (e *LogLostError) Error() string {
	if e.Expected == 0 {
		return fmt.Sprintf("raft: the log of group %d is empty, though the group has voted: its files are lost; put them back from a copy", e.Group)
	}
	return fmt.Sprintf("raft: the log of group %d ends at index %d, below index %d that was durable", e.Group, e.Last, e.Expected)
}
func (e *LogLostError) Unwrap() error { return ErrLogLost }

// PeerError tells which server could not be reached.
type PeerError struct {
	Group  uint64
	Server ServerID
	reason error
}

func (e *PeerError) Error() string {
	return fmt.Sprintf("%v: group %d, server %s", e.reason, e.Group, e.Server)
}
func (e *PeerError) Unwrap() error { return e.reason }
