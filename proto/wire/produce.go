package wire

import "encoding/binary"

// Open is the body of OPEN: it makes its Corr a producer bound to one partition. Answered by
// OPENED; until then PUBLISH on that Corr is refused (STATE).
//
//	Stream uvarint | Partition uvarint | MapVersion uvarint | Idempotent bool | Producer uvarint | Epoch u16
type Open struct {
	Stream     uint64
	Partition  uint32
	MapVersion uint64 // of the stream, as TOPOLOGY told it
	Idempotent bool   // false: sequences only tie acks to batches, and a resend may double records
	Producer   uint64 // with Idempotent: an id from an earlier OPENED; 0: mint one. Otherwise 0
	Epoch      uint16 // of that id; 0 without one
}

// AppendTo appends an OPEN frame.
func (o *Open) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpOpen, 0, corr)
	dst = binary.AppendUvarint(dst, o.Stream)
	dst = binary.AppendUvarint(dst, uint64(o.Partition))
	dst = binary.AppendUvarint(dst, o.MapVersion)
	dst = appendBool(dst, o.Idempotent)
	dst = binary.AppendUvarint(dst, o.Producer)
	dst = binary.LittleEndian.AppendUint16(dst, o.Epoch)
	return end(dst, at)
}

// Decode reads the body of an OPEN.
func (o *Open) Decode(body []byte) error {
	d := decoder{what: "OPEN", b: body}
	o.Stream = d.uvarint("stream")
	o.Partition = d.uvarint32("partition")
	o.MapVersion = d.uvarint("map version")
	o.Idempotent = d.bool("idempotent")
	o.Producer = d.uvarint("producer")
	o.Epoch = d.u16("epoch")
	switch {
	case d.err != nil:
	case !o.Idempotent && o.Producer != 0:
		d.fail("a producer id without idempotence")
	case o.Producer == 0 && o.Epoch != 0:
		d.fail("an epoch without a producer id")
	}
	return d.done()
}

// Opened is the body of OPENED.
//
//	Producer uvarint | Epoch u16 | NextSequence uvarint | LeaderEpoch uvarint
type Opened struct {
	Producer     uint64 // 0 without idempotence
	Epoch        uint16
	NextSequence uint64 // what the partition expects next of this producer: 0 if it never published here
	LeaderEpoch  uint64
}

// AppendTo appends an OPENED frame.
func (o *Opened) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpOpened, 0, corr)
	dst = binary.AppendUvarint(dst, o.Producer)
	dst = binary.LittleEndian.AppendUint16(dst, o.Epoch)
	dst = binary.AppendUvarint(dst, o.NextSequence)
	dst = binary.AppendUvarint(dst, o.LeaderEpoch)
	return end(dst, at)
}

// Decode reads the body of an OPENED.
func (o *Opened) Decode(body []byte) error {
	d := decoder{what: "OPENED", b: body}
	o.Producer = d.uvarint("producer")
	o.Epoch = d.u16("epoch")
	o.NextSequence = d.uvarint("next sequence")
	o.LeaderEpoch = d.uvarint("leader epoch")
	return d.done()
}

// AppendPublish appends a PUBLISH frame: its body is one batch and nothing else. corr is a producer.
func AppendPublish(dst []byte, corr uint32, batch []byte) []byte {
	dst = appendHeader(dst, OpPublish, 0, corr, len(batch))
	return append(dst, batch...)
}

// PutPublishHeader writes the header of a PUBLISH to dst[:HeaderBytes], for a batch of n bytes
// that stands right behind it, so that an encoder can leave room for it and copy nothing.
func PutPublishHeader(dst []byte, corr uint32, n int) {
	appendHeader(dst[:0:HeaderBytes], OpPublish, 0, corr, n)
}

// ParsePublish reads the body of a PUBLISH: exactly one batch, not filtered. Like ParseBatch it
// checks the form of the header only; Verify and Check do the rest.
//
// Errors: *TooLargeError; *UnsupportedError; *MalformedError.
func ParsePublish(body []byte) (Batch, error) {
	b, err := ParseBatch(body)
	switch {
	case err == ErrShort:
		return Batch{}, malformed("PUBLISH", "the batch is cut short")
	case err != nil:
		return Batch{}, err
	case len(b.Bytes) != len(body):
		return Batch{}, malformed("PUBLISH", "%d bytes follow the batch", len(body)-len(b.Bytes))
	case b.Filtered():
		return Batch{}, malformed("PUBLISH", "a filtered batch")
	}
	return b, nil
}

// Ack is the body of ACK: records [Sequence, Sequence+Count) of the producer stand at
// [Offset, Offset+Count), appended under leader epoch Epoch, and are on stable storage on
// Quorum of the partition's Voters.
//
//	Quorum u8 | Voters u8 | Sequence uvarint | Count uvarint | Offset uvarint | Epoch uvarint
type Ack struct {
	Quorum, Voters uint8 // 1 <= Quorum <= Voters
	Sequence       uint64
	Count          uint64 // at least 1
	Offset         uint64
	Epoch          uint64
}

// AppendTo appends an ACK frame; corr is the producer.
func (a *Ack) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpAck, 0, corr)
	dst = append(dst, a.Quorum, a.Voters)
	dst = binary.AppendUvarint(dst, a.Sequence)
	dst = binary.AppendUvarint(dst, a.Count)
	dst = binary.AppendUvarint(dst, a.Offset)
	dst = binary.AppendUvarint(dst, a.Epoch)
	return end(dst, at)
}

// Decode reads the body of an ACK.
func (a *Ack) Decode(body []byte) error {
	d := decoder{what: "ACK", b: body}
	a.Quorum, a.Voters = d.u8("quorum"), d.u8("voters")
	a.Sequence = d.uvarint("sequence")
	a.Count = d.uvarint("count")
	a.Offset = d.uvarint("offset")
	a.Epoch = d.uvarint("epoch")
	switch {
	case d.err != nil:
	case a.Quorum == 0 || a.Quorum > a.Voters:
		d.fail("a quorum of %d of %d voters", a.Quorum, a.Voters)
	case a.Count == 0 || a.Sequence+a.Count < a.Sequence || a.Offset+a.Count < a.Offset:
		d.fail("%d records from sequence %d, offset %d", a.Count, a.Sequence, a.Offset)
	}
	return d.done()
}
