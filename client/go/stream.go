package client

import (
	"time"
)

// StreamConfig is what CreateStream makes. Only Name is needed.
type StreamConfig struct {
	Name       string        // 1 to 128 of A-Z a-z 0-9 _ - and dot
	Subjects   []string      // filters of the subjects it captures; none: Name and Name.>
	Partitions int           // default 1
	Replicas   int           // default: the cluster's
	MaxAge     time.Duration // how long records are kept; 0: for ever
	MaxBytes   uint64        // kept in each partition; 0: no limit
	MaxRecords uint64        // kept in each partition; 0: no limit
}

// Stream is one stream and where its partitions stand, as the node that answered sees it.
type Stream struct {
	ID         uint64
	Name       string
	Subjects   []string
	Created    time.Time
	Replicas   int
	MaxAge     time.Duration
	MaxBytes   uint64
	MaxRecords uint64
	Deleted    bool // its data is kept for a grace time
	Partitions []Partition
}

// Partition is one log of a stream.
type Partition struct {
	Number        uint32
	Leader        uint64 // node id; 0: none known
	LeaderAddress string // empty: not known
	Epoch         uint64
	LogStart      uint64 // offset of the first record kept
	HighWatermark uint64 // offset the next record will get: readers see what is below
	Bytes         uint64 // on the disk of the node that answered
}

// Records is how many records the stream holds.
func (s *Stream) Records() uint64 {
	var n uint64
	for _, p := range s.Partitions {
		n += p.HighWatermark - p.LogStart
	}
	return n
}

// Bytes is what the stream holds on the disk of the node that answered.
func (s *Stream) Bytes() uint64 {
	var n uint64
	for _, p := range s.Partitions {
		n += p.Bytes
	}
	return n
}
