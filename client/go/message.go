package client

import (
	"bytes"
	"fmt"
	"iter"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// Message is one record to publish. The client copies what it needs before PublishAsync or
// Publish returns: all of it may be changed afterwards.
type Message struct {
	Subject string    // dot-separated tokens, 1 to 255 bytes: "orders.new"
	Key     []byte    // picks the partition, so that records of one key stay in order; empty: the subject does
	Value   []byte    // anything, empty too
	Headers []Header  // kept in order
	Time    time.Time // the record's own time, in milliseconds; zero: now
}

// Header is one name (1 to 255 bytes) and value beside a record.
type Header struct {
	Name  string
	Value []byte
}

// Ack says where a record stands, and on what that rests: when an Ack is given, the record is on
// stable storage on Quorum of the partition's Voters.
type Ack struct {
	Stream    string
	Partition uint32
	Offset    uint64
	Epoch     uint64 // leader epoch it was appended under
	Quorum    int
	Voters    int
}

// String gives all of it for a person: orders/0 offset 41, epoch 1, durable on 1 of 1.
func (a Ack) String() string {
	return fmt.Sprintf("%s/%d offset %d, epoch %d, durable on %d of %d", a.Stream, a.Partition, a.Offset, a.Epoch, a.Quorum, a.Voters)
}

// Record is one stored record.
//
// From a subscription, Key, Value and headers are borrowed: they are valid until the next
// iteration (or the return of the function given to Each). Clone keeps them. Records of a Fetch
// own their bytes together. Strings may always be kept.
type Record struct {
	Stream    string // name of the stream
	Subject   string
	Partition uint32
	Offset    uint64
	Epoch     uint64 // leader epoch it was appended under
	Key       []byte // empty: none
	Value     []byte

	time     int64 // Unix ms, by the producer
	stored   int64 // Unix ms, by the broker
	streamID uint64
	raw      *wire.Record // has the headers, if there are any and they are borrowed
	own      []Header     // the headers of a clone
}

// Time is the time the publisher gave the record, in milliseconds.
func (r Record) Time() time.Time { return time.UnixMilli(r.time) }

// Stored is when the broker took the record, in milliseconds.
func (r Record) Stored() time.Time { return time.UnixMilli(r.stored) }

// StreamID is the number of the stream, which no later stream of the same name will have.
func (r Record) StreamID() uint64 { return r.streamID }

// HeaderCount is the number of headers.
func (r Record) HeaderCount() int {
	if r.raw != nil {
		return r.raw.HeaderCount()
	}
	return len(r.own)
}

// Header gives the first header of that name, and whether there is one.
func (r Record) Header(name string) (value []byte, ok bool) {
	for _, h := range r.own {
		if h.Name == name {
			return h.Value, true
		}
	}
	if r.raw != nil {
		r.raw.Headers(func(h wire.Header) bool {
			if string(h.Name) == name {
				value, ok = h.Value, true
			}
			return !ok
		})
	}
	return value, ok
}

// Headers yields the headers in the order the publisher gave them.
func (r Record) Headers() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, h := range r.own {
			if !yield(h.Name, h.Value) {
				return
			}
		}
		if r.raw != nil {
			r.raw.Headers(func(h wire.Header) bool { return yield(string(h.Name), h.Value) })
		}
	}
}

// Clone gives the record bytes of its own.
func (r Record) Clone() Record {
	r.Key = bytes.Clone(r.Key)
	r.Value = bytes.Clone(r.Value)
	own := make([]Header, 0, r.HeaderCount())
	for name, value := range r.Headers() {
		own = append(own, Header{name, bytes.Clone(value)})
	}
	r.own, r.raw = own, nil
	return r
}
