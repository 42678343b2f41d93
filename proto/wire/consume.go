package wire

import (
	"encoding/binary"
	"time"
)

// From says where reading begins.
type From uint8

// The starting points of version 1. Value is 0 unless said.
const (
	FromFirst  From = 0 // the log start
	FromLast   From = 1 // the last record below the high watermark, if there is one
	FromNext   From = 2 // the high watermark: only what comes after
	FromOffset From = 3 // Value is an offset
	FromTime   From = 4 // Value is a broker time, Unix ms: the first record at or after it
)

// Start is a starting point.
//
//	From u8 | Value uvarint
type Start struct {
	From  From
	Value uint64
}

func (s Start) append(dst []byte) []byte {
	return binary.AppendUvarint(append(dst, byte(s.From)), s.Value)
}

func (d *decoder) start() (s Start) {
	s.From = From(d.u8("from"))
	s.Value = d.uvarint("value")
	switch {
	case s.From > FromTime:
		d.fail("from %d is undefined", s.From)
	case s.From < FromOffset && s.Value != 0:
		d.fail("value %d where from %d takes none", s.Value, s.From)
	}
	return s
}

// Read says how fresh a FETCH must be.
type Read uint8

// The reads of version 1.
const (
	ReadCommitted    Read = 0 // what this replica knows to be committed
	ReadMinOffset    Read = 1 // wait until this replica's high watermark exceeds MinOffset: read your writes
	ReadLinearizable Read = 2 // everything acknowledged before the request was sent
)

// Fetch is the body of FETCH, answered by one RECORDS with the same Corr. With nothing to read
// below the high watermark the node waits up to MaxWait, then answers without runs.
//
//	Stream uvarint | Partition uvarint | Start | MaxBytes uvarint | MaxWait ms | Read u8 | MinOffset uvarint
type Fetch struct {
	Stream    uint64
	Partition uint32
	Start     Start
	MaxBytes  uint32        // of batches; at least one batch comes if there is any
	MaxWait   time.Duration // whole ms
	Read      Read
	MinOffset uint64 // with ReadMinOffset, else 0
}

// AppendTo appends a FETCH frame.
func (f *Fetch) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpFetch, 0, corr)
	dst = binary.AppendUvarint(dst, f.Stream)
	dst = binary.AppendUvarint(dst, uint64(f.Partition))
	dst = f.Start.append(dst)
	dst = binary.AppendUvarint(dst, uint64(f.MaxBytes))
	dst = appendMs(dst, f.MaxWait)
	dst = append(dst, byte(f.Read))
	dst = binary.AppendUvarint(dst, f.MinOffset)
	return end(dst, at)
}

// Decode reads the body of a FETCH.
func (f *Fetch) Decode(body []byte) error {
	d := decoder{what: "FETCH", b: body}
	f.Stream = d.uvarint("stream")
	f.Partition = d.uvarint32("partition")
	f.Start = d.start()
	f.MaxBytes = d.uvarint32("max bytes")
	f.MaxWait = d.ms("max wait")
	f.Read = Read(d.u8("read"))
	f.MinOffset = d.uvarint("min offset")
	switch {
	case d.err != nil:
	case f.Read > ReadLinearizable:
		d.fail("read %d is undefined", f.Read)
	case f.Read != ReadMinOffset && f.MinOffset != 0:
		d.fail("min offset %d where read %d takes none", f.MinOffset, f.Read)
	}
	return d.done()
}

// Position is where a subscription goes on in one partition.
//
//	Stream uvarint | Partition uvarint | Offset uvarint
type Position struct {
	Stream    uint64
	Partition uint32
	Offset    uint64
}

// Subscribe is the body of SUBSCRIBE: it makes its Corr a subscription to every partition of
// every stream that captures a subject Filter matches, now and later. Answered by OK, then
// RECORDS as long as there is credit.
//
//	Filter string | Start | Credit uvarint | Consumer string | positions: uvarint count, Position…
type Subscribe struct {
	Filter    string
	Start     Start      // for partitions that exist now and are not in Positions; FromOffset is for a filter that resolves to one
	Credit    uint64     // bytes of RECORDS frames that may be pushed before CREDIT; at least 1
	Consumer  string     // a named consumer (FeatureConsumers); empty: none
	Positions []Position // resume exactly here
}

// AppendTo appends a SUBSCRIBE frame.
func (s *Subscribe) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpSub, 0, corr)
	dst = appendString(dst, s.Filter)
	dst = s.Start.append(dst)
	dst = binary.AppendUvarint(dst, s.Credit)
	dst = appendString(dst, s.Consumer)
	dst = binary.AppendUvarint(dst, uint64(len(s.Positions)))
	for _, p := range s.Positions {
		dst = binary.AppendUvarint(dst, p.Stream)
		dst = binary.AppendUvarint(dst, uint64(p.Partition))
		dst = binary.AppendUvarint(dst, p.Offset)
	}
	return end(dst, at)
}

// Decode reads the body of a SUBSCRIBE.
func (s *Subscribe) Decode(body []byte) error {
	d := decoder{what: "SUBSCRIBE", b: body}
	s.Filter = d.string("filter")
	s.Start = d.start()
	s.Credit = d.uvarint("credit")
	s.Consumer = d.string("consumer")
	n := d.count("positions", 3)
	s.Positions = sized[Position](n)
	for range n {
		s.Positions = append(s.Positions, Position{d.uvarint("stream"), d.uvarint32("partition"), d.uvarint("offset")})
	}
	if d.err == nil && s.Credit == 0 {
		d.fail("credit 0")
	}
	return d.done()
}

// Credit is the body of CREDIT: the subscription may be pushed that many bytes more. A RECORDS
// frame costs its whole size; the node sends while credit is above 0, so the last one may
// overdraw it by up to a frame.
//
//	Bytes uvarint
type Credit struct{ Bytes uint64 }

// AppendTo appends a CREDIT frame; corr is the subscription.
func (c Credit) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpCredit, 0, corr)
	return end(binary.AppendUvarint(dst, c.Bytes), at)
}

// Decode reads the body of a CREDIT.
func (c *Credit) Decode(body []byte) error {
	d := decoder{what: "CREDIT", b: body}
	c.Bytes = d.uvarint("bytes")
	if d.err == nil && c.Bytes == 0 {
		d.fail("credit 0")
	}
	return d.done()
}

// RecordsHeader begins the body of RECORDS; runs follow it to the end of the frame.
//
//	Stream uvarint | Partition uvarint | LogStart uvarint | HighWatermark uvarint | First uvarint | Next uvarint | Run…
type RecordsHeader struct {
	Stream        uint64
	Partition     uint32
	LogStart      uint64
	HighWatermark uint64
	First         uint64 // where the reader stood: batches come whole, and records below First are to be passed over
	Next          uint64 // everything below is sent, filtered out or (after DATA_LOSS) lost: go on here
}

// Run is batches that stand one behind the other: the first record of the first has offset
// Base, and each batch covers as many offsets as its Span.
//
//	Base uvarint | Epoch uvarint | Time uvarint (Unix ms) | Batches bytes
type Run struct {
	Base    uint64
	Epoch   uint64 // leader epoch they were appended under
	Time    uint64 // when the broker took them, Unix ms
	Batches []byte // one or more whole batches, as stored, for NextBatch
}

// BeginRecords appends the head of a RECORDS frame; runs are appended with Run.AppendTo, and
// EndRecords(dst, at) closes it.
func BeginRecords(dst []byte, corr uint32, h *RecordsHeader) (out []byte, at int) {
	dst, at = begin(dst, OpRecords, 0, corr)
	dst = binary.AppendUvarint(dst, h.Stream)
	dst = binary.AppendUvarint(dst, uint64(h.Partition))
	dst = binary.AppendUvarint(dst, h.LogStart)
	dst = binary.AppendUvarint(dst, h.HighWatermark)
	dst = binary.AppendUvarint(dst, h.First)
	return binary.AppendUvarint(dst, h.Next), at
}

// EndRecords fills in the length of the RECORDS frame that begins at dst[at].
func EndRecords(dst []byte, at int) []byte { return end(dst, at) }

// AppendTo appends the run.
func (r *Run) AppendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, r.Base)
	dst = binary.AppendUvarint(dst, r.Epoch)
	dst = binary.AppendUvarint(dst, r.Time)
	return appendBytes(dst, r.Batches)
}

// Decode reads the head of a RECORDS and returns the bytes of its runs, for NextRun.
func (h *RecordsHeader) Decode(body []byte) (runs []byte, err error) {
	d := decoder{what: "RECORDS", b: body}
	h.Stream = d.uvarint("stream")
	h.Partition = d.uvarint32("partition")
	h.LogStart = d.uvarint("log start")
	h.HighWatermark = d.uvarint("high watermark")
	h.First = d.uvarint("first")
	h.Next = d.uvarint("next")
	if d.err == nil && h.First > h.Next {
		d.fail("first %d above next %d", h.First, h.Next)
	}
	runs = d.rest()
	return runs, d.err
}

// NextRun takes the first run off runs, which is not empty.
func NextRun(runs []byte) (r Run, rest []byte, err error) {
	d := decoder{what: "run", b: runs}
	r.Base = d.uvarint("base offset")
	r.Epoch = d.uvarint("leader epoch")
	r.Time = d.uvarint("broker time")
	r.Batches = d.bytes("batches")
	if d.err == nil && len(r.Batches) == 0 {
		d.fail("no batches")
	}
	return r, d.b, d.err
}

// NextBatch takes the first batch off batches, which is not empty; its first record has the
// offset at which the run stands, and the next batch b.Span above that.
//
// Errors: as ParseBatch, but a batch that is cut short is malformed.
func NextBatch(batches []byte) (b Batch, rest []byte, err error) {
	b, err = ParseBatch(batches)
	if err == ErrShort {
		err = malformed("run", "its last batch is cut short")
	}
	return b, batches[len(b.Bytes):], err
}

// Outcome is what a consumer made of records.
type Outcome uint8

// The outcomes of version 1.
const (
	OutcomeDone   Outcome = 1
	OutcomeRetry  Outcome = 2 // deliver again, after Delay
	OutcomeReject Outcome = 3 // never again: to the dead letters
)

// Consumed is the body of CONSUMED, on a subscription of a named consumer (FeatureConsumers).
//
//	Stream uvarint | Partition uvarint | Offset uvarint | Count uvarint | Outcome u8 | Delay ms
type Consumed struct {
	Stream    uint64
	Partition uint32
	Offset    uint64
	Count     uint64
	Outcome   Outcome
	Delay     time.Duration // with OutcomeRetry, else 0; whole ms
}

// AppendTo appends a CONSUMED frame; corr is the subscription.
func (c *Consumed) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpConsumed, 0, corr)
	dst = binary.AppendUvarint(dst, c.Stream)
	dst = binary.AppendUvarint(dst, uint64(c.Partition))
	dst = binary.AppendUvarint(dst, c.Offset)
	dst = binary.AppendUvarint(dst, c.Count)
	dst = append(dst, byte(c.Outcome))
	dst = appendMs(dst, c.Delay)
	return end(dst, at)
}

// Decode reads the body of a CONSUMED.
func (c *Consumed) Decode(body []byte) error {
	d := decoder{what: "CONSUMED", b: body}
	c.Stream = d.uvarint("stream")
	c.Partition = d.uvarint32("partition")
	c.Offset = d.uvarint("offset")
	c.Count = d.uvarint("count")
	c.Outcome = Outcome(d.u8("outcome"))
	c.Delay = d.ms("delay")
	switch {
	case d.err != nil:
	case c.Outcome < OutcomeDone || c.Outcome > OutcomeReject:
		d.fail("outcome %d is undefined", c.Outcome)
	case c.Outcome != OutcomeRetry && c.Delay != 0:
		d.fail("a delay with outcome %d", c.Outcome)
	case c.Count == 0 || c.Offset+c.Count < c.Offset:
		d.fail("%d records from offset %d", c.Count, c.Offset)
	}
	return d.done()
}
