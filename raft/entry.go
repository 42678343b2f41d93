package raft

import (
	"encoding/binary"
	"iter"

	"github.com/tidewire/tidewire/storage"
)

// Sizes of an entry (package comment), in bytes.
const (
	// MaxEntryBytes is the most the batches of one entry take, and so the largest batch.
	MaxEntryBytes = 1 << 20

	entryHeaderBytes = 46
	descriptorBytes  = 22
	logStartBytes    = entryHeaderBytes + 8
	entryVersion     = 1
)

var (
	_ = [1]struct{}{}[entryHeaderBytes-(1+1+8+8+8+4+4+8+4)] // compile-time: the picture in doc.go is 46 bytes
	_ = [1]struct{}{}[descriptorBytes-(8+2+8+4)]
)

// entryKind says what an entry of a partition is.
type entryKind uint8

const (
	kindData     entryKind = 1
	kindLogStart entryKind = 2
)

// entryHeader is the head of a partition's entry, as the package comment draws it.
type entryHeader struct {
	kind    entryKind
	term    storage.Term // the proposer's
	number  uint64
	follows uint64
	batches uint32
	records uint32
	time    int64
	region  uint32
}

// Descriptor is what an entry says about one of its batches.
type Descriptor struct {
	Producer uint64 // 0: not deduplicated
	Epoch    uint16
	Sequence uint64
	Count    uint32         // records
	Offset   storage.Offset // of its first record
}

// put writes the header over the first bytes of b, which must have room for it.
func (h *entryHeader) put(b []byte) {
	_ = b[entryHeaderBytes-1]
	b[0] = entryVersion
	b[1] = byte(h.kind)
	binary.LittleEndian.PutUint64(b[2:], uint64(h.term))
	binary.LittleEndian.PutUint64(b[10:], h.number)
	binary.LittleEndian.PutUint64(b[18:], h.follows)
	binary.LittleEndian.PutUint32(b[26:], h.batches)
	binary.LittleEndian.PutUint32(b[30:], h.records)
	binary.LittleEndian.PutUint64(b[34:], uint64(h.time))
	binary.LittleEndian.PutUint32(b[42:], h.region)
}

// parseEntry reads the header of an entry and checks everything but the batches themselves.
func parseEntry(b []byte) (entryHeader, error) {
	h, err := parseHeader(b)
	if err == nil && h.kind == kindData {
		err = checkDescriptors(b, h)
	}
	return h, err
}

// parseHeader reads the header of b and checks that the rest of b has the size it tells.
func parseHeader(b []byte) (entryHeader, error) {
	if len(b) < entryHeaderBytes {
		return entryHeader{}, malformed("entry", "%d bytes, the header alone has %d", len(b), entryHeaderBytes)
	}
	if b[0] != entryVersion {
		return entryHeader{}, &VersionError{What: "entry", Version: b[0], Reads: entryVersion}
	}
	h := entryHeader{
		kind:    entryKind(b[1]),
		term:    storage.Term(binary.LittleEndian.Uint64(b[2:])),
		number:  binary.LittleEndian.Uint64(b[10:]),
		follows: binary.LittleEndian.Uint64(b[18:]),
		batches: binary.LittleEndian.Uint32(b[26:]),
		records: binary.LittleEndian.Uint32(b[30:]),
		time:    int64(binary.LittleEndian.Uint64(b[34:])),
		region:  binary.LittleEndian.Uint32(b[42:]),
	}
	switch h.kind {
	case kindData:
		if h.region > MaxEntryBytes {
			return entryHeader{}, malformed("entry", "batches of %d bytes, limit %d", h.region, MaxEntryBytes)
		}
		if h.term == 0 || h.number == 0 || h.follows >= h.number || h.batches == 0 || h.records < h.batches {
			return entryHeader{}, malformed("entry", "impossible header %+v", h)
		}
		if want := entryHeaderBytes + uint64(h.region) + descriptorBytes*uint64(h.batches); uint64(len(b)) != want {
			return entryHeader{}, malformed("entry", "%d bytes, the header tells %d", len(b), want)
		}
		return h, nil
	case kindLogStart:
		if len(b) != logStartBytes || h != (entryHeader{kind: kindLogStart}) {
			return entryHeader{}, malformed("entry", "impossible log start of %d bytes", len(b))
		}
		return h, nil
	}
	return entryHeader{}, malformed("entry", "kind %d", h.kind)
}

// checkDescriptors checks that no batch is empty and that the counts add up: offsets are made of them.
func checkDescriptors(b []byte, h entryHeader) error {
	var sum uint64
	for at := entryHeaderBytes + int(h.region); at < len(b); at += descriptorBytes {
		count := binary.LittleEndian.Uint32(b[at+18:])
		if count == 0 {
			return malformed("entry", "a batch without records")
		}
		sum += uint64(count)
	}
	if sum != uint64(h.records) {
		return malformed("entry", "the batches have %d records, the header tells %d", sum, h.records)
	}
	return nil
}

func appendDescriptor(b []byte, d Descriptor) []byte {
	b = binary.LittleEndian.AppendUint64(b, d.Producer)
	b = binary.LittleEndian.AppendUint16(b, d.Epoch)
	b = binary.LittleEndian.AppendUint64(b, d.Sequence)
	return binary.LittleEndian.AppendUint32(b, d.Count)
}

// descriptor reads the i-th descriptor of an entry that parseEntry accepted; Offset is left 0.
func descriptor(payload []byte, h entryHeader, i int) Descriptor {
	b := payload[entryHeaderBytes+int(h.region)+i*descriptorBytes:]
	return Descriptor{
		Producer: binary.LittleEndian.Uint64(b),
		Epoch:    binary.LittleEndian.Uint16(b[8:]),
		Sequence: binary.LittleEndian.Uint64(b[10:]),
		Count:    binary.LittleEndian.Uint32(b[18:]),
	}
}

// encodeLogStart makes the entry that moves the start of the log to o.
func encodeLogStart(o storage.Offset) []byte {
	b := make([]byte, logStartBytes)
	(&entryHeader{kind: kindLogStart}).put(b)
	binary.LittleEndian.PutUint64(b[entryHeaderBytes:], uint64(o))
	return b
}

func logStart(payload []byte) storage.Offset {
	return storage.Offset(binary.LittleEndian.Uint64(payload[entryHeaderBytes:]))
}

// Batches returns the batches of an entry read from a partition's log, back to back and as their
// producers encoded them; nil if it holds no records (control and void entries). The result
// aliases e.Payload and lives as long as that does.
func Batches(e storage.Entry) []byte {
	if e.Records == 0 {
		return nil
	}
	region := binary.LittleEndian.Uint32(e.Payload[42:])
	return e.Payload[entryHeaderBytes : entryHeaderBytes+region : entryHeaderBytes+region]
}

// BatchCount is how many batches stand in Batches(e).
func BatchCount(e storage.Entry) int {
	if e.Records == 0 {
		return 0
	}
	return int(binary.LittleEndian.Uint32(e.Payload[26:]))
}

// Descriptors yields what the entry e tells about each batch, in the order in which they stand in
// Batches(e), with the offset of its first record. Nothing for an entry without records.
//
// Error: ErrFormat for an entry that is not one of a partition's.
func Descriptors(e storage.Entry) (iter.Seq[Descriptor], error) {
	if e.Records == 0 {
		return func(func(Descriptor) bool) {}, nil
	}
	h, err := parseEntry(e.Payload)
	if err != nil {
		return nil, err
	}
	if h.kind != kindData || h.records != e.Records {
		return nil, malformed("entry", "the log tells %d records, the entry %d", e.Records, h.records)
	}
	return func(yield func(Descriptor) bool) {
		offset := e.Base
		for i := range int(h.batches) {
			d := descriptor(e.Payload, h, i)
			d.Offset = offset
			offset += storage.Offset(d.Count)
			if !yield(d) {
				return
			}
		}
	}, nil
}
