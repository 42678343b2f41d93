package raft

import (
	"encoding/binary"
	"hash/crc32"
	"strconv"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

const (
	snapshotMagic      = "TWSN"
	snapshotVersion    = 1
	snapshotFixedBytes = 4 + 1 + 8 + 8 + 8 + 4 + markBytes + 4 + 4
	markBytes          = 24
)

// snapshotBlob is the content of a snapshot: everything raft must know again, and the state of the
// machine, under one checksum (layout: package comment).
type snapshotBlob struct {
	index         storage.Index
	term          storage.Term
	configIndex   uint64
	configuration []byte // hraft.EncodeConfiguration
	mark          mark
	state         []byte // of the machine
}

func (s *snapshotBlob) encode() []byte {
	b := make([]byte, 0, snapshotFixedBytes+len(s.configuration)+len(s.state))
	b = append(b, snapshotMagic...)
	b = append(b, snapshotVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.index))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.term))
	b = binary.LittleEndian.AppendUint64(b, s.configIndex)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.configuration)))
	b = append(b, s.configuration...)
	b = binary.LittleEndian.AppendUint32(b, uint32(markBytes+len(s.state)))
	b = s.mark.append(b)
	b = append(b, s.state...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// body is what raft carries to a follower.
func (s *snapshotBlob) body() []byte {
	return append(s.mark.append(make([]byte, 0, markBytes+len(s.state))), s.state...)
}

// meta describes the snapshot to raft.
func (s *snapshotBlob) meta() (*hraft.SnapshotMeta, error) {
	configuration, err := decodeConfiguration(s.configuration)
	if err != nil {
		return nil, err
	}
	return &hraft.SnapshotMeta{
		Version:            hraft.SnapshotVersionMax,
		ID:                 strconv.FormatUint(uint64(s.index), 10),
		Index:              uint64(s.index),
		Term:               uint64(s.term),
		Configuration:      configuration,
		ConfigurationIndex: s.configIndex,
		Size:               int64(markBytes + len(s.state)),
	}, nil
}

// decodeSnapshot reads what encode wrote; the result aliases b.
func decodeSnapshot(b []byte) (*snapshotBlob, error) {
	if len(b) < snapshotFixedBytes {
		return nil, malformed("snapshot", "%d bytes", len(b))
	}
	if string(b[:4]) != snapshotMagic {
		return nil, malformed("snapshot", "no magic")
	}
	if b[4] != snapshotVersion {
		return nil, &VersionError{What: "snapshot", Version: b[4], Reads: snapshotVersion}
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, malformed("snapshot", "checksum %08x, computed %08x", sum, got)
	}
	s := &snapshotBlob{
		index:       storage.Index(binary.LittleEndian.Uint64(b[5:])),
		term:        storage.Term(binary.LittleEndian.Uint64(b[13:])),
		configIndex: binary.LittleEndian.Uint64(b[21:]),
	}
	rest := body[29:]
	var content []byte
	var ok bool
	if s.configuration, rest, ok = cut(rest); !ok {
		return nil, malformed("snapshot", "configuration runs past the end")
	}
	if content, rest, ok = cut(rest); !ok || len(rest) != 0 {
		return nil, malformed("snapshot", "body does not end where the snapshot does")
	}
	var err error
	s.mark, s.state, err = splitBody(content)
	return s, err
}

// mark is where the machine stands: the chain after the last entry it applied, and the offset after the
// last record.
type mark struct {
	chain chain
	end   storage.Offset
}

// append writes the mark as a snapshot's body begins with it.
func (m mark) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(m.chain.term))
	b = binary.LittleEndian.AppendUint64(b, m.chain.number)
	return binary.LittleEndian.AppendUint64(b, uint64(m.end))
}

// splitBody takes apart what raft carries of a snapshot: the mark and the machine's state.
func splitBody(b []byte) (m mark, state []byte, err error) {
	if len(b) < markBytes {
		return mark{}, nil, malformed("snapshot", "body of %d bytes", len(b))
	}
	m.chain.term = storage.Term(binary.LittleEndian.Uint64(b))
	m.chain.number = binary.LittleEndian.Uint64(b[8:])
	m.end = storage.Offset(binary.LittleEndian.Uint64(b[16:]))
	return m, b[markBytes:], nil
}

// cut takes a length-prefixed field off the front of b.
func cut(b []byte) (field, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.LittleEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n : 4+n], b[4+n:], true
}

// decodeConfiguration reads a configuration; hashicorp/raft panics on bytes it cannot read.
func decodeConfiguration(b []byte) (c hraft.Configuration, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = malformed("snapshot", "configuration: %v", r)
		}
	}()
	return hraft.DecodeConfiguration(b), nil
}
