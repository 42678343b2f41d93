package harness

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/proto/wire"
)

// Verdict is what a check found.
type Verdict struct {
	Records  int // read back
	Acked    int // acknowledged before the check began: each was looked for
	Unacked  int // read back without an acknowledgement: allowed, at most once each
	Retired  int // acknowledged, and removed by retention since
	Lost     int // acknowledged and not there
	Problems []string
}

// maxProblems bounds what a verdict spells out; it counts all.
const maxProblems = 20

func (v *Verdict) problem(format string, args ...any) {
	if len(v.Problems) < maxProblems {
		v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
	} else if len(v.Problems) == maxProblems {
		v.Problems = append(v.Problems, "and more")
	}
}

// Err is nil if the promise was kept.
func (v *Verdict) Err() error {
	if len(v.Problems) == 0 {
		return nil
	}
	return fmt.Errorf("of %d acknowledged records %d are lost; %d were read back:\n  %s",
		v.Acked, v.Lost, v.Records, strings.Join(v.Problems, "\n  "))
}

// Check reads the stream from the node at address, every partition from its first offset to its
// high watermark, and holds it against the journal:
//
//   - offsets have no gaps, from 0, or where the stream is bound in size from the log start;
//   - what was acknowledged before the check began is there, at its offset;
//   - nothing is there twice, and each producer's records stand in its order, without a hole: as a
//     producer numbers what it sends to a partition, nothing can be stored before what precedes it;
//   - every record is, byte for byte, one that was published;
//   - retention has not taken more than it may.
//
// Producers may go on meanwhile. The error is of reading; a broken promise is in the verdict.
func (j *Journal) Check(address string) (*Verdict, error) {
	before := j.snapshot() // first: whatever is in it must be below the high watermarks asked for next
	r, err := DialReader(address)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	info, err := r.Stream(j.Stream)
	if err != nil {
		return nil, err
	}
	v := &Verdict{}
	if len(info.Partitions) != int(j.Partitions) {
		v.problem("the stream has %d partitions, it was made with %d", len(info.Partitions), j.Partitions)
	}
	c := checker{j: j, v: v, before: before}
	for number, p := range info.Partitions {
		c.begin(uint32(number))
		if p.Start != 0 && j.MaxBytes == 0 {
			v.problem("partition %d begins at offset %d, though nothing may delete", number, p.Start)
		}
		c.start = p.Start
		for c.start < p.HighWatermark {
			err := r.Each(info.ID, uint32(number), c.start, p.HighWatermark, c.record)
			var e *wire.Error
			if err == nil {
				break
			}
			if j.MaxBytes == 0 || !errors.As(err, &e) || e.Code != wire.CodeOffsetRange || e.Value <= c.start {
				return nil, err
			}
			c.start = e.Value // retention went on while we read
			clear(c.met)
		}
		c.end(p.HighWatermark)
	}
	return v, nil
}

// MustCheck is Check for a test in which the promise has to hold.
func (j *Journal) MustCheck(t testing.TB, address string) *Verdict {
	t.Helper()
	v, err := j.Check(address)
	if err == nil {
		err = v.Err()
	}
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return v
}

// CheckLast reads, in each partition, only the acknowledged record of the highest offset: cheap
// enough for every restart.
func (j *Journal) CheckLast(address string) error {
	type last struct {
		writer   *Writer
		sequence uint64
		offset   uint64
		any      bool
	}
	lasts := make([]last, j.Partitions)
	for _, w := range j.all() {
		w.mu.Lock()
		for sequence, s := range w.slots {
			if l := &lasts[s.partition]; s.offset != unacked && (!l.any || s.offset > l.offset) {
				*l = last{w, uint64(sequence), s.offset, true}
			}
		}
		w.mu.Unlock()
	}
	r, err := DialReader(address)
	if err != nil {
		return err
	}
	defer r.Close()
	info, err := r.Stream(j.Stream)
	if err != nil {
		return err
	}
	for number, l := range lasts {
		if !l.any || l.offset < info.Partitions[number].Start {
			continue
		}
		if high := info.Partitions[number].HighWatermark; high <= l.offset {
			return fmt.Errorf("partition %d: offset %d was acknowledged, the high watermark is %d", number, l.offset, high)
		}
		err := r.Each(info.ID, uint32(number), l.offset, l.offset+1, func(_ uint64, rec *wire.Record) error {
			var buf []byte
			want := l.writer.message(l.sequence, &buf)
			return same(rec, &want)
		})
		if err != nil {
			return fmt.Errorf("partition %d, offset %d, acknowledged last: %w", number, l.offset, err)
		}
	}
	return nil
}

// checker walks one partition after the other.
type checker struct {
	j      *Journal
	v      *Verdict
	before [][]slot

	partition uint32
	start     uint64   // log start
	bytes     uint64   // of values read
	next      []uint64 // by producer: the sequence it may have here next
	met       []bool   // by producer: whether a record of it was read here
	found     []int    // by producer: records acknowledged before, and found here
	buf       []byte
}

func (c *checker) begin(partition uint32) {
	c.partition = partition
	writers := len(c.j.all())
	c.bytes = 0
	c.next = make([]uint64, writers)
	c.met = make([]bool, writers)
	c.found = make([]int, writers)
	for n, w := range c.j.all() {
		c.next[n] = w.nextIn(partition, 0)
	}
}

// nextIn is the first sequence from the given one on that belongs to a partition; the number of
// records published if there is none yet.
func (w *Writer) nextIn(partition uint32, from uint64) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	for from < uint64(len(w.slots)) && w.slots[from].partition != partition {
		from++
	}
	return from
}

func (c *checker) record(offset uint64, rec *wire.Record) error {
	c.v.Records++
	writer, sequence, err := c.j.identify(rec)
	if err != nil {
		c.v.problem("partition %d, offset %d: never published: %v", c.partition, offset, err)
		return nil
	}
	want := writer.message(sequence, &c.buf)
	if err := same(rec, &want); err != nil {
		c.v.problem("partition %d, offset %d, record %d of producer %d: %v", c.partition, offset, sequence, writer.number, err)
		return nil
	}
	writer.mu.Lock()
	s := writer.slots[sequence]
	writer.mu.Unlock()
	n := writer.number
	switch {
	case s.partition != c.partition:
		c.v.problem("partition %d, offset %d: record %d of producer %d belongs to partition %d", c.partition, offset, sequence, n, s.partition)
		return nil
	case s.offset != unacked && s.offset != offset:
		c.v.problem("partition %d, offset %d: record %d of producer %d was acknowledged at offset %d", c.partition, offset, sequence, n, s.offset)
		return nil // not found where it must be: it counts as lost too
	case sequence < c.next[n]:
		c.v.problem("partition %d, offset %d: record %d of producer %d again, or out of order (expected %d)", c.partition, offset, sequence, n, c.next[n])
		return nil
	case sequence > c.next[n] && (c.met[n] || c.start == 0): // the first one after a log start may be any
		c.v.problem("partition %d, offset %d: record %d of producer %d, but %d is missing before it", c.partition, offset, sequence, n, c.next[n])
	}
	c.bytes += uint64(len(rec.Value))
	c.met[n] = true
	c.next[n] = writer.nextIn(c.partition, sequence+1)
	if int(n) < len(c.before) && sequence < uint64(len(c.before[n])) && c.before[n][sequence].offset != unacked {
		c.found[n]++
		c.before[n][sequence].offset = unacked // looked for no more
	} else if s.offset == unacked {
		c.v.Unacked++
	}
	return nil
}

// end counts what of the partition was acknowledged and not found.
func (c *checker) end(high uint64) {
	if c.start > 0 && c.bytes < c.j.MaxBytes/2 { // half: the bound counts more than values
		c.v.problem("partition %d: retention left %d bytes of values where %d may stay", c.partition, c.bytes, c.j.MaxBytes)
	}
	for n, slots := range c.before {
		c.v.Acked += c.found[n]
		for sequence, s := range slots {
			if s.partition != c.partition || s.offset == unacked {
				continue
			}
			c.v.Acked++
			if s.offset < c.start {
				c.v.Retired++
				continue
			}
			c.v.Lost++
			c.v.problem("partition %d: record %d of producer %d was acknowledged at offset %d and is not there (high watermark %d)",
				c.partition, sequence, n, s.offset, high)
		}
	}
}

// identify tells which record of the journal this claims to be.
func (j *Journal) identify(rec *wire.Record) (*Writer, uint64, error) {
	v := rec.Value
	if len(v) < 20 || binary.LittleEndian.Uint64(v) != mix(j.seed) {
		return nil, 0, fmt.Errorf("%d bytes of subject %q without the journal's mark", len(v), rec.Subject)
	}
	number, sequence := binary.LittleEndian.Uint32(v[8:]), binary.LittleEndian.Uint64(v[12:])
	writers := j.all()
	if int(number) >= len(writers) {
		return nil, 0, fmt.Errorf("producer %d of %d", number, len(writers))
	}
	w := writers[number]
	w.mu.Lock()
	published := uint64(len(w.slots))
	w.mu.Unlock()
	if sequence >= published {
		return nil, 0, fmt.Errorf("record %d of producer %d, which published %d", sequence, number, published)
	}
	return w, sequence, nil
}

// Published checks one record read at an offset by itself: it is one that was published, byte for
// byte, and stands where it was acknowledged.
func (j *Journal) Published(offset uint64, partition uint32, rec *wire.Record) error {
	w, sequence, err := j.identify(rec)
	if err != nil {
		return fmt.Errorf("offset %d: never published: %w", offset, err)
	}
	var buf []byte
	want := w.message(sequence, &buf)
	if err := same(rec, &want); err != nil {
		return fmt.Errorf("offset %d, record %d of producer %d: %w", offset, sequence, w.number, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.slots[sequence]; s.partition != partition || s.offset != unacked && s.offset != offset {
		return fmt.Errorf("partition %d, offset %d: record %d of producer %d was acknowledged at offset %d of partition %d",
			partition, offset, sequence, w.number, s.offset, s.partition)
	}
	return nil
}

// same compares a record read back with the one published.
func same(rec *wire.Record, want *client.Message) error {
	switch {
	case string(rec.Subject) != want.Subject:
		return fmt.Errorf("subject %q, published as %q", rec.Subject, want.Subject)
	case !bytes.Equal(rec.Key, want.Key):
		return fmt.Errorf("key %q, published as %q", rec.Key, want.Key)
	case rec.Time != want.Time.UnixMilli():
		return fmt.Errorf("time %d, published as %d", rec.Time, want.Time.UnixMilli())
	case rec.HeaderCount() != len(want.Headers):
		return fmt.Errorf("%d headers, published with %d", rec.HeaderCount(), len(want.Headers))
	case !bytes.Equal(rec.Value, want.Value):
		return fmt.Errorf("a value of %d bytes that differs from the %d published", len(rec.Value), len(want.Value))
	}
	var err error
	n := 0
	rec.Headers(func(h wire.Header) bool {
		if string(h.Name) != want.Headers[n].Name || !bytes.Equal(h.Value, want.Headers[n].Value) {
			err = fmt.Errorf("header %q: %q, published as %q: %q", h.Name, h.Value, want.Headers[n].Name, want.Headers[n].Value)
		}
		n++
		return err == nil
	})
	return err
}
