package harness

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/proto/wire"
)

// Journal is what the tests know for certain about one stream: which records were published,
// and which of them were acknowledged, where. It lives in the test process, so no fault of the node reaches it.
//
// A record is a function of (seed, producer, sequence), so it need not be kept to be compared byte
// for byte. Its value begins with a mark, the producer and the sequence:
//
//	0      8      12         20
//	+------+------+----------+-- ... --+
//	| Mark | Prod | Sequence | filler  |   little-endian; Mark is a function of the seed
//	+------+------+----------+-- ... --+
type Journal struct {
	Stream     string
	Partitions uint32
	MaxBytes   uint64 // what the stream keeps in each partition; 0: everything. Set before NewStream
	seed       uint64

	mu       sync.Mutex
	writers  []*Writer
	failures []error // publishes that ended in an error, and acknowledgements that contradict each other
	waiting  chan struct{}

	acks   atomic.Int64
	target atomic.Int64 // AwaitAcks waits for acks to reach it; MaxInt64: nobody waits
}

// Writer is one producer's part of the journal. Its records are numbered from 0 without gaps.
type Writer struct {
	journal *Journal
	number  uint32
	mixed   bool // its batches mix subjects
	subject string
	value   []byte // scratch of Next

	mu    sync.Mutex
	slots []slot // by sequence
	acked int
}

// slot is what became of one record.
type slot struct {
	offset    uint64 // unacked until it is acknowledged
	partition uint32
}

const unacked = math.MaxUint64

// NewJournal makes an empty journal for a stream that captures NAME and NAME.>.
func NewJournal(seed uint64, stream string, partitions uint32) *Journal {
	j := &Journal{Stream: stream, Partitions: partitions, seed: seed}
	j.target.Store(math.MaxInt64)
	return j
}

// Writer adds a producer. Every third one mixes subjects within its batches.
func (j *Journal) Writer() *Writer {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := len(j.writers)
	w := &Writer{journal: j, number: uint32(n), mixed: n%3 == 2, subject: fmt.Sprintf("%s.p%d", j.Stream, n)}
	j.writers = append(j.writers, w)
	return w
}

// Next gives the producer's next record. Its bytes are valid until the call after.
func (w *Writer) Next() (sequence uint64, m client.Message) {
	w.mu.Lock()
	sequence = uint64(len(w.slots))
	w.mu.Unlock()
	m = w.message(sequence, &w.value)
	w.mu.Lock()
	w.slots = append(w.slots, slot{offset: unacked, partition: wire.PartitionOf(m.Subject, m.Key, w.journal.Partitions)})
	w.mu.Unlock()
	return sequence, m
}

// message makes the record of a sequence; its value is in *buf, which is replaced if it is too small.
func (w *Writer) message(sequence uint64, buf *[]byte) client.Message {
	state := mix(w.journal.seed ^ uint64(w.number)<<48 ^ sequence)
	size := 20 + int(state%200)
	switch n := state >> 32 % 4096; {
	case n == 0:
		size = 300 << 10 // a batch of its own
	case n < 8:
		size = 32 << 10
	case n < 64:
		size = 2 << 10
	case n < 80:
		size = 20
	}
	step := mix
	if w.number%4 == 3 { // this one's records can be compressed
		step = func(x uint64) uint64 { return x }
	}
	if cap(*buf) < size+8 {
		*buf = make([]byte, size+8)
	}
	b := (*buf)[:size+8]
	binary.LittleEndian.PutUint64(b, mix(w.journal.seed))
	binary.LittleEndian.PutUint32(b[8:], w.number)
	binary.LittleEndian.PutUint64(b[12:], sequence)
	for at := 20; at < size; at += 8 {
		state = step(state)
		binary.LittleEndian.PutUint64(b[at:], state)
	}
	*buf = b
	m := client.Message{Subject: w.subject, Value: b[:size], Time: time.UnixMilli(1_700_000_000_000 + int64(sequence))}
	if w.mixed {
		m.Subject += "." + strconv.FormatUint(sequence%5, 10)
	}
	if sequence%4 != 0 {
		m.Key = strconv.AppendUint([]byte{'k'}, sequence%11, 10)
	}
	if sequence%32 == 0 {
		m.Headers = []client.Header{{Name: "sequence", Value: strconv.AppendUint(nil, sequence, 10)}}
	}
	return m
}

// mix is splitmix64's step (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Told takes in what became of a record: the callback of PublishAsync.
func (w *Writer) Told(sequence uint64, ack client.Ack, err error) {
	j := w.journal
	if err != nil {
		j.fail(fmt.Errorf("producer %d, record %d: %w", w.number, sequence, err))
		return
	}
	w.mu.Lock()
	s := &w.slots[sequence]
	switch {
	case s.offset != unacked:
		err = fmt.Errorf("producer %d, record %d: acknowledged twice, at offsets %d and %d", w.number, sequence, s.offset, ack.Offset)
	case ack.Stream != j.Stream || ack.Partition != s.partition:
		err = fmt.Errorf("producer %d, record %d: acknowledged in %s/%d, it belongs to %s/%d",
			w.number, sequence, ack.Stream, ack.Partition, j.Stream, s.partition)
	case ack.Quorum < 1 || ack.Voters < ack.Quorum || ack.Epoch == 0:
		err = fmt.Errorf("producer %d, record %d: an acknowledgement that rests on nothing: %v", w.number, sequence, ack)
	default:
		s.offset = ack.Offset
		w.acked++
	}
	w.mu.Unlock()
	if err != nil {
		j.fail(err)
		return
	}
	if j.acks.Add(1) >= j.target.Load() {
		j.wake()
	}
}

func (j *Journal) fail(err error) {
	j.mu.Lock()
	j.failures = append(j.failures, err)
	j.mu.Unlock()
	j.wake()
}

func (j *Journal) wake() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.waiting != nil {
		close(j.waiting)
		j.waiting = nil
		j.target.Store(math.MaxInt64)
	}
}

// Acks is how many records are acknowledged.
func (j *Journal) Acks() int64 { return j.acks.Load() }

// Handed is how many records were handed to the client.
func (j *Journal) Handed() (n int64) {
	for _, w := range j.all() {
		w.mu.Lock()
		n += int64(len(w.slots))
		w.mu.Unlock()
	}
	return n
}

func (j *Journal) all() []*Writer {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.writers[:len(j.writers):len(j.writers)]
}

// Failures are publishes that ended in an error and acknowledgements that contradict each other.
func (j *Journal) Failures() []error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failures[:len(j.failures):len(j.failures)]
}

// AwaitAcks waits until n records are acknowledged, but not past a failure, the end of stop (a
// process, say), or the bound; then the error says which. One goroutine waits at a time.
func (j *Journal) AwaitAcks(n int64, stop <-chan struct{}, bound time.Duration) error {
	timeout := time.NewTimer(bound)
	defer timeout.Stop()
	for {
		j.mu.Lock()
		if len(j.failures) > 0 {
			defer j.mu.Unlock()
			return fmt.Errorf("waiting for %d acknowledgements: %w", n, j.failures[0])
		}
		wake := make(chan struct{})
		j.waiting = wake
		j.mu.Unlock()
		j.target.Store(n)
		if j.acks.Load() >= n {
			return nil
		}
		select {
		case <-wake:
		case <-stop:
			return fmt.Errorf("the node ended by itself after %d of %d acknowledgements", j.acks.Load(), n)
		case <-timeout.C:
			return fmt.Errorf("%d of %d acknowledgements within %v (%d records handed to clients)", j.acks.Load(), n, bound, j.Handed())
		}
	}
}

// snapshot copies every producer's slots as they are now.
func (j *Journal) snapshot() (slots [][]slot) {
	for _, w := range j.all() {
		w.mu.Lock()
		slots = append(slots, append([]slot(nil), w.slots...))
		w.mu.Unlock()
	}
	return slots
}
