package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"testing"
)

// body is what each op's body type has in common; the tests go through all ops by it.
type body interface {
	Decode([]byte) error
	frame(dst []byte, op Op, corr uint32) []byte
}

// The production types differ in what their encoder takes; these give them one shape.
type (
	helloBody    struct{ Hello }
	welcomeBody  struct{ Welcome }
	authBody     struct{ Auth }
	goawayBody   struct{ Goaway }
	pingBody     struct{ Ping }
	errorBody    struct{ Error }
	metadataBody struct{ Metadata }
	topologyBody struct{ Topology }
	createBody   struct{ CreateStream }
	deleteBody   struct{ DeleteStream }
	openBody     struct{ Open }
	openedBody   struct{ Opened }
	ackBody      struct{ Ack }
	fetchBody    struct{ Fetch }
	subBody      struct{ Subscribe }
	creditBody   struct{ Credit }
	consumedBody struct{ Consumed }
	raftBody     struct{ Raft }
)

func (b *helloBody) frame(dst []byte, _ Op, corr uint32) []byte    { return b.AppendTo(dst, corr) }
func (b *welcomeBody) frame(dst []byte, _ Op, corr uint32) []byte  { return b.AppendTo(dst, corr) }
func (b *authBody) frame(dst []byte, _ Op, corr uint32) []byte     { return b.AppendTo(dst, corr) }
func (b *goawayBody) frame(dst []byte, _ Op, corr uint32) []byte   { return b.AppendTo(dst, corr) }
func (b *pingBody) frame(dst []byte, op Op, corr uint32) []byte    { return b.AppendTo(dst, op, corr) }
func (b *errorBody) frame(dst []byte, _ Op, corr uint32) []byte    { return b.AppendTo(dst, corr) }
func (b *metadataBody) frame(dst []byte, _ Op, corr uint32) []byte { return b.AppendTo(dst, corr) }
func (b *topologyBody) frame(dst []byte, _ Op, corr uint32) []byte { return b.AppendTo(dst, corr, 0) }
func (b *createBody) frame(dst []byte, _ Op, corr uint32) []byte   { return b.AppendTo(dst, corr) }
func (b *deleteBody) frame(dst []byte, _ Op, corr uint32) []byte   { return b.AppendTo(dst, corr) }
func (b *openBody) frame(dst []byte, _ Op, corr uint32) []byte     { return b.AppendTo(dst, corr) }
func (b *openedBody) frame(dst []byte, _ Op, corr uint32) []byte   { return b.AppendTo(dst, corr) }
func (b *ackBody) frame(dst []byte, _ Op, corr uint32) []byte      { return b.AppendTo(dst, corr) }
func (b *fetchBody) frame(dst []byte, _ Op, corr uint32) []byte    { return b.AppendTo(dst, corr) }
func (b *subBody) frame(dst []byte, _ Op, corr uint32) []byte      { return b.AppendTo(dst, corr) }
func (b *creditBody) frame(dst []byte, _ Op, corr uint32) []byte   { return b.AppendTo(dst, corr) }
func (b *consumedBody) frame(dst []byte, _ Op, corr uint32) []byte { return b.AppendTo(dst, corr) }
func (b *raftBody) frame(dst []byte, _ Op, corr uint32) []byte     { return b.AppendTo(dst, corr) }

// emptyBody is that of the ops that have none.
type emptyBody struct{}

func (*emptyBody) Decode(b []byte) error                       { return DecodeEmpty(Frame{Op: OpOK, Body: b}) }
func (*emptyBody) frame(dst []byte, op Op, corr uint32) []byte { return AppendEmpty(dst, op, corr) }
func (b *publishBody) frame(dst []byte, _ Op, corr uint32) []byte {
	return AppendPublish(dst, corr, b.encode())
}
func (b *publishBody) Decode(p []byte) (err error) {
	h, err := ParsePublish(p)
	if err != nil {
		return err
	}
	b.batch, err = readBatch(h)
	return err
}

type publishBody struct{ batch }

// recordsBody is a whole RECORDS.
type recordsBody struct {
	Header RecordsHeader
	Runs   []run
}

type run struct {
	Base, Epoch, Time uint64
	Batches           []batch
}

func (r *recordsBody) Decode(b []byte) error {
	*r = recordsBody{}
	runs, err := r.Header.Decode(b)
	for err == nil && len(runs) > 0 {
		var next Run
		if next, runs, err = NextRun(runs); err != nil {
			break
		}
		x := run{Base: next.Base, Epoch: next.Epoch, Time: next.Time}
		for rest := next.Batches; err == nil && len(rest) > 0; {
			var h Batch
			var b batch
			if h, rest, err = NextBatch(rest); err == nil {
				b, err = readBatch(h)
			}
			x.Batches = append(x.Batches, b)
		}
		r.Runs = append(r.Runs, x)
	}
	return err
}

func (r *recordsBody) frame(dst []byte, _ Op, corr uint32) []byte {
	dst, at := BeginRecords(dst, corr, &r.Header)
	for _, x := range r.Runs {
		next := Run{Base: x.Base, Epoch: x.Epoch, Time: x.Time}
		for _, b := range x.Batches {
			next.Batches = append(next.Batches, b.encode()...)
		}
		dst = next.AppendTo(dst)
	}
	return EndRecords(dst, at)
}

func newBody(op Op) body {
	switch op {
	case OpHello:
		return new(helloBody)
	case OpWelcome:
		return new(welcomeBody)
	case OpAuth:
		return new(authBody)
	case OpPing, OpPong:
		return new(pingBody)
	case OpGoaway:
		return new(goawayBody)
	case OpError:
		return new(errorBody)
	case OpOK, OpClose, OpUnsub:
		return new(emptyBody)
	case OpMetadata:
		return new(metadataBody)
	case OpTopology:
		return new(topologyBody)
	case OpCreate:
		return new(createBody)
	case OpDelete:
		return new(deleteBody)
	case OpOpen:
		return new(openBody)
	case OpOpened:
		return new(openedBody)
	case OpPublish:
		return new(publishBody)
	case OpAck:
		return new(ackBody)
	case OpFetch:
		return new(fetchBody)
	case OpRecords:
		return new(recordsBody)
	case OpSub:
		return new(subBody)
	case OpCredit:
		return new(creditBody)
	case OpConsumed:
		return new(consumedBody)
	case OpRaft:
		return new(raftBody)
	}
	return nil
}

func TestEveryOpHasABodyUnderTest(t *testing.T) {
	for op := range 256 {
		if known := Op(op).Known(); known != (newBody(Op(op)) != nil) {
			t.Errorf("%s: known %t, under test %t", Op(op), known, !known)
		}
	}
}

// batch is a batch with nothing left out, and encode a second encoder of it, written as plainly
// as the picture in the document reads, to hold the real ones against.
type batch struct {
	Attributes Attributes
	Sequence   uint64
	BaseTime   int64
	Subject    string
	Span       uint32 // with AttrFiltered
	Records    []record
	Zstd       []byte // with AttrZstd: the compressed form of Records, which no two compressors agree on
}

type record struct {
	Offset  uint32 // delta
	Time    int64
	Subject string // with AttrMixed
	Key     string
	Headers [][2]string
	Value   string
}

func (b *batch) encode() []byte {
	out := make([]byte, 8)
	out = append(out, 1, byte(b.Attributes))
	out = binary.LittleEndian.AppendUint16(out, uint16(len(b.Records)))
	out = binary.LittleEndian.AppendUint64(out, b.Sequence)
	out = binary.LittleEndian.AppendUint64(out, uint64(b.BaseTime))
	out = append(out, byte(len(b.Subject)))
	out = append(out, b.Subject...)
	if b.Attributes&AttrFiltered != 0 {
		out = binary.LittleEndian.AppendUint16(out, uint16(b.Span))
	}
	raw := b.raw()
	if b.Attributes&AttrZstd != 0 {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(raw)))
		raw = b.Zstd
	}
	out = append(out, raw...)
	binary.LittleEndian.PutUint32(out, uint32(len(out)-4))
	binary.LittleEndian.PutUint32(out[4:], crc32.Checksum(out[8:], crc32.MakeTable(crc32.Castagnoli)))
	return out
}

func (b *batch) raw() (raw []byte) {
	str := func(dst []byte, s string) []byte { return append(binary.AppendUvarint(dst, uint64(len(s))), s...) }
	for _, r := range b.Records {
		rec := binary.AppendVarint(nil, r.Time-b.BaseTime)
		if b.Attributes&AttrMixed != 0 {
			rec = str(rec, r.Subject)
		}
		rec = str(rec, r.Key)
		rec = binary.AppendUvarint(rec, uint64(len(r.Headers)))
		for _, h := range r.Headers {
			rec = str(str(rec, h[0]), h[1])
		}
		rec = append(rec, r.Value...)
		if b.Attributes&AttrFiltered != 0 {
			raw = binary.AppendUvarint(raw, uint64(r.Offset))
		}
		raw = str(raw, string(rec))
	}
	return raw
}

// readBatch reads everything in a batch whose header was parsed, and checks it.
func readBatch(h Batch) (batch, error) {
	b := batch{Attributes: h.Attributes, Sequence: h.Sequence, BaseTime: h.BaseTime, Subject: string(h.Subject)}
	if err := h.Verify(); err != nil {
		return b, err
	}
	raw, err := h.Raw(nil)
	if err != nil {
		return b, err
	}
	if err := h.Check(raw); err != nil {
		return b, err
	}
	if h.Filtered() {
		b.Span = h.Span
	} else if h.Span != h.Count {
		return b, fmt.Errorf("span %d of %d records that were not filtered", h.Span, h.Count)
	}
	if h.Compressed() {
		b.Zstd = h.records[4:]
	}
	it := h.Iterate(raw)
	for rec := (Record{}); it.Next(&rec); {
		r := record{Time: rec.Time, Key: string(rec.Key), Value: string(rec.Value)}
		if h.Filtered() {
			r.Offset = rec.OffsetDelta
		} else if int(rec.OffsetDelta) != len(b.Records) {
			return b, fmt.Errorf("record %d has offset delta %d", len(b.Records), rec.OffsetDelta)
		}
		if h.Mixed() {
			r.Subject = string(rec.Subject)
		} else if !bytes.Equal(rec.Subject, h.Subject) {
			return b, fmt.Errorf("record %d has subject %q, the batch %q", len(b.Records), rec.Subject, h.Subject)
		}
		for h := range rec.Headers {
			r.Headers = append(r.Headers, [2]string{string(h.Name), string(h.Value)})
		}
		if len(r.Headers) != rec.HeaderCount() {
			return b, fmt.Errorf("record %d yields %d headers of %d", len(b.Records), len(r.Headers), rec.HeaderCount())
		}
		b.Records = append(b.Records, r)
	}
	return b, it.Err()
}
