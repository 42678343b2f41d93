package storage

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"
)

// Each decoder must not panic, must not allocate more than its input warrants, and must accept only what its encoder
// writes.

func FuzzFrame(f *testing.F) {
	const seed = 0x12345678
	valid := func(payload string, e frame) []byte {
		e.length = uint32(len(payload))
		b := make([]byte, e.size())
		copy(b[frameBytes:], payload)
		e.encode(b, seed, []byte(payload))
		return b
	}
	f.Add(valid("", frame{index: 1, synced: 64}))
	f.Add(valid("hello", frame{index: 9, term: 3, records: 2, base: 7, time: -1, commit: 8, synced: 4096, kind: 255}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, reason := decodeFrame(b, seed)
		if reason != "" || got.size() > int64(len(b)) || !got.verify(b, seed) {
			return
		}
		payload := b[frameBytes : frameBytes+int(got.length)]
		again := make([]byte, got.size())
		copy(again[frameBytes:], payload)
		got.encode(again, seed, payload)
		if pad := b[frameBytes+len(payload) : got.size()]; zero(pad) && !bytes.Equal(again, b[:got.size()]) {
			t.Errorf("accepted %x, encodes as %x", b, again)
		}
	})
}

// FuzzScan puts arbitrary bytes behind a good segment and walks it: it must end, and return nothing but the entries.
func FuzzScan(f *testing.F) {
	const seed = 0x12345678
	var good []byte
	at := mark{position: headerBytes, crc: seed}
	for i := range Index(3) {
		e := frame{length: 16, previous: at.crc, records: 2, index: i + 1, base: Offset(2 * i), synced: uint32(at.position)}
		b := make([]byte, e.size())
		e.encode(b, seed, b[frameBytes:frameBytes+16])
		good = append(good, b...)
		at = mark{position: at.position + e.size(), index: e.index, offset: e.end(), crc: e.crc}
	}
	f.Add([]byte{}, uint16(0), byte(1))
	f.Add(good, uint16(100), byte(0x80))
	f.Add(bytes.Repeat(good[:frameBytes], 4), uint16(300), byte(0))
	f.Fuzz(func(t *testing.T, tail []byte, flip uint16, mask byte) {
		b := append(append(make([]byte, headerBytes), good...), tail...)
		b[int(flip)%len(b)] ^= mask
		for _, known := range []mark{{}, at} {
			s := scanner{file: bytes.NewReader(b), seed: seed, chunk: 128, end: int64(len(b)), known: known,
				at: mark{position: headerBytes, crc: seed}, chained: true}
			for steps := 0; ; steps++ {
				before := s.at
				fr, payload, g, err := s.next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil || steps > len(b) {
					t.Fatalf("after %d steps: %v", steps, err)
				}
				if s.at.position <= before.position && s.at != known {
					t.Fatalf("from %+v to %+v", before, s.at)
				}
				if g == nil && (fr.index != before.index+1 || len(payload) != int(fr.length)) {
					t.Fatalf("frame %d after %d", fr.index, before.index)
				}
			}
		}
	})
}

func FuzzSegmentHeader(f *testing.F) {
	b := make([]byte, headerBytes)
	identity{partition: 7, id: 8, salt: 9}.encodeHeader(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := decodeHeader(b, "")
		if err != nil {
			return
		}
		again := make([]byte, headerBytes)
		id.encodeHeader(again)
		if !bytes.Equal(again, b[:headerBytes]) {
			t.Errorf("accepted %x, encodes as %x", b, again)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add(encodeManifest(&manifest{nextFile: 1}))
	f.Add(encodeManifest(&manifest{nextFile: 9, clean: true, segments: []segmentMeta{{id: 1, capacity: 4096, first: 1,
		end: mark{position: 64}, maxTime: math.MinInt64}}, snapshots: []SnapshotInfo{{Index: 1, file: 2}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		fix(b) // so that the fuzzer gets past the checksum
		m, err := decodeManifest(b, "")
		if err != nil {
			return
		}
		if again := encodeManifest(&m); !bytes.Equal(again, b) {
			t.Errorf("accepted %x, encodes as %x", b, again)
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	f.Add(encodeSnapshot([16]byte{1}, 2, &Snapshot{Index: 3, Term: 4, Offset: 5, Data: []byte("data")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		fix(b)
		cluster, partition, s, err := decodeSnapshot(b, "")
		if err != nil {
			return
		}
		if again := encodeSnapshot(cluster, partition, &s); !bytes.Equal(again, b) {
			t.Errorf("accepted %x, encodes as %x", b, again)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(encodeIndex(1, 2, nil), uint64(5))
	f.Add(encodeIndex(1, 2, []sparseItem{{index: 1, position: 64}, {index: 7, offset: 9, earlier: 5, position: 4104}}), uint64(7))
	f.Fuzz(func(t *testing.T, b []byte, i uint64) {
		if len(b) >= indexHead {
			fix(b[:indexHead])
		}
		index, err := openIndex(b, 1, 2)
		if err != nil {
			return
		}
		if again := encodeIndex(1, 2, nil); !bytes.Equal(again[:16+8], b[:16+8]) && index.n == 0 {
			t.Errorf("accepted %x", b)
		}
		if it, ok, err := index.find(func(it sparseItem) bool { return it.index <= Index(i) }); err == nil && ok && it.index > Index(i) {
			t.Errorf("found entry %d, asked for %d", it.index, i)
		}
	})
}

// fix gives b version 1 and the right checksum.
func fix(b []byte) {
	if len(b) < envelopeBytes {
		return
	}
	le32(b[8:], formatVersion)
	le32(b[12:], envelopeCRC(b))
}
