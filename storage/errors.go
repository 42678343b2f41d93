package storage

import (
	"errors"
	"fmt"
)

// What a caller decides on. Match with errors.Is; where numbers help, a typed error below unwraps to one of these.
var (
	ErrClosed     = errors.New("storage: log is closed")
	ErrFailed     = errors.New("storage: log stopped after a failed write")
	ErrCorrupt    = errors.New("storage: data is damaged")
	ErrNotFound   = errors.New("storage: no such entry")
	ErrOutOfRange = errors.New("storage: offset is out of range")
	ErrCold       = errors.New("storage: position is not in memory")
	ErrForeign    = errors.New("storage: data belongs to another cluster or partition")
	ErrVersion    = errors.New("storage: data was written by another version")
	ErrNoManifest = errors.New("storage: directory holds data but no manifest")
	ErrSequence   = errors.New("storage: entries do not continue the log")
	ErrTooLarge   = errors.New("storage: entry is too large")
	ErrRemoved    = errors.New("storage: log was removed")
	ErrPinned     = errors.New("storage: a snapshot rests on these entries")
)

// CorruptError names damaged bytes and, exactly, the entries and offsets that lie in them.
// It unwraps to ErrCorrupt.
//
// A reader goes on by seeking to End. Start == End means that no records were hit.
type CorruptError struct {
	Path       string // file, below the root of the FS
	Position   int64  // first damaged byte of the file
	FirstIndex Index  // entries [FirstIndex, EndIndex) are unreadable
	EndIndex   Index
	Start      Offset // offsets [Start, End) are unreadable
	End        Offset
	Reason     string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("storage: %s is damaged at byte %d: %s (entries [%d, %d), offsets [%d, %d))",
		e.Path, e.Position, e.Reason, e.FirstIndex, e.EndIndex, e.Start, e.End)
}

func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// FailedError is what every write returns after one has failed. It unwraps to ErrFailed and to the cause.
//
// Nothing is ever retried: after a failed fsync the kernel marks the pages clean, so a second fsync reports
// success for data that is gone (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
// Only reopening the log, which reads back what the disk holds, tells what survived.
type FailedError struct {
	Op  string // what failed first
	Err error
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("storage: log stopped: %s: %v", e.Op, e.Err)
}

func (e *FailedError) Unwrap() []error { return []error{ErrFailed, e.Err} }

// UnreadableError is a start that failed as the disk cannot read all of an active segment: what was acknowledged last may stand in
// what it does not read, and nobody cuts that off, or takes for damaged what may be read the next time. Nothing was changed. It
// unwraps to what the kernel said.
type UnreadableError struct {
	Path string
	Err  error
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("storage: %s, which was written last, cannot be read: %v", e.Path, e.Err)
}

func (e *UnreadableError) Unwrap() error { return e.Err }

// ForeignError says whose data was found. It unwraps to ErrForeign.
type ForeignError struct {
	Path            string
	Cluster         [16]byte
	Partition       uint64
	Segment         uint64 // 0 for a manifest or a snapshot
	WantedCluster   [16]byte
	WantedPartition uint64
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("storage: %s belongs to cluster %x partition %d (file %d), not to cluster %x partition %d",
		e.Path, e.Cluster, e.Partition, e.Segment, e.WantedCluster, e.WantedPartition)
}

func (e *ForeignError) Unwrap() error { return ErrForeign }

// VersionError says which format version was found. It unwraps to ErrVersion.
type VersionError struct {
	Path    string
	Version uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("storage: %s has format version %d; this program reads up to %d", e.Path, e.Version, formatVersion)
}

func (e *VersionError) Unwrap() error { return ErrVersion }
