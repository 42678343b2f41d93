package storage

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"
)

// The bytes of every file, written out: whoever changes one changes the format, and must say so.

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	var clean strings.Builder
	for line := range strings.Lines(s) {
		line, _, _ = strings.Cut(line, "#")
		clean.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(clean.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", hex.Dump(got), hex.Dump(want))
	}
}

var goldenIdentity = identity{cluster: [16]byte{0xc1, 0xc2, 15: 0xcf}, partition: 0x17, id: 5, salt: 0x1122334455667788}

const goldenSeed = 0x9a7ec197

const goldenHeader = `
	5457 5345 474d 4e54                       # Magic
	0100 0000                                 # Version
	5f4e b07d                                 # CRC
	c1c2 0000 0000 0000 0000 0000 0000 00cf   # Cluster
	1700 0000 0000 0000                       # Partition
	0500 0000 0000 0000                       # ID
	8877 6655 4433 2211                       # Salt
	0000 0000 0000 0000                       # Reserved`

func TestGoldenSegmentHeader(t *testing.T) {
	want := unhex(t, goldenHeader)
	got := make([]byte, headerBytes)
	goldenIdentity.encodeHeader(got)
	same(t, got, want)
	id, err := decodeHeader(want, "")
	if err != nil || id != goldenIdentity {
		t.Errorf("decoded %+v, %v", id, err)
	}
	if seed := goldenIdentity.seed(); seed != goldenSeed {
		t.Errorf("seed is %08x", seed)
	}
}

const goldenFrame = `
	c8cc 96e1                                  # CRC
	0500 0000                                 # Length
	97c1 7e9a                                 # Previous: the seed
	0300 0000                                 # Records
	0900 0000 0000 0000                       # Index
	0200 0000 0000 0000                       # Term
	6400 0000 0000 0000                       # Base
	0068 e5cf 8b01 0000                       # Time: 1700000000000
	0800 0000 0000 0000                       # Commit
	4000 0000                                 # Synced
	07 00                                     # Type, 0
	97c1                                      # Tag
	6865 6c6c 6f 00 0000                      # "hello", padding`

func TestGoldenFrame(t *testing.T) {
	want := unhex(t, goldenFrame)
	f := frame{length: 5, previous: goldenSeed, records: 3, index: 9, term: 2, base: 100, time: 1_700_000_000_000, commit: 8,
		synced: headerBytes, kind: 7, tag: goldenSeed & 0xffff}
	got := make([]byte, f.size())
	copy(got[frameBytes:], "hello")
	f.encode(got, goldenSeed, got[frameBytes:frameBytes+5])
	same(t, got, want)
	back, reason := decodeFrame(want, goldenSeed)
	if reason != "" || back != f || !back.verify(want, goldenSeed) {
		t.Errorf("decoded %+v, %q", back, reason)
	}
}

func TestGoldenIndex(t *testing.T) {
	items := []sparseItem{{index: 9, offset: 100, earlier: math.MinInt64, position: 64}, {index: 12, offset: 140, earlier: 77, position: 4200}}
	want := unhex(t, `
	5457 494e 4445 5800  0100 0000  d355 08f7   # Envelope
	0500 0000 0000 0000  0200 0000 0000 0000   # ID, Count
	0000 0000 0000 0000  0000 0000 0000 0000   # Reserved
	0900 0000 0000 0000  6400 0000 0000 0000   # Index, Offset
	0000 0000 0000 0080  4000 0000  60d6 0f3a   # Earlier, Position, CRC
	0c00 0000 0000 0000  8c00 0000 0000 0000
	4d00 0000 0000 0000  6810 0000  7912 ca42`)
	same(t, encodeIndex(5, goldenSeed, items), want)
	index, err := openIndex(want, 5, goldenSeed)
	if err != nil {
		t.Fatal(err)
	}
	it, ok, err := index.find(func(it sparseItem) bool { return it.index <= 11 })
	if err != nil || !ok || it != items[0] {
		t.Errorf("found %+v, %v, %v", it, ok, err)
	}
	it, ok, err = index.find(func(it sparseItem) bool { return it.index <= 1000 })
	if err != nil || !ok || it != items[1] {
		t.Errorf("found %+v, %v, %v", it, ok, err)
	}
}

func TestGoldenManifest(t *testing.T) {
	m := manifest{
		cluster: goldenIdentity.cluster, partition: 0x17, nextFile: 7, start: 101, head: mark{index: 8, term: 1, offset: 100},
		commit: 11, clean: true,
		segments: []segmentMeta{{id: 5, salt: 0x1122334455667788, capacity: 1 << 20, first: 9, base: 100, before: 1, sealed: true,
			end: mark{position: 4272, index: 12, term: 2, offset: 150, crc: 0xdeadbeef}, maxTime: 77}},
		snapshots: []SnapshotInfo{{Index: 8, Term: 1, Offset: 100, Bytes: 3, file: 6, crc: 0xcafef00d}},
	}
	want := unhex(t, `
	5457 4d41 4e46 5354  0100 0000  0a44 9824   # Envelope
	c1c2 0000 0000 0000  0000 0000 0000 00cf   # Cluster
	1700 0000 0000 0000  0700 0000 0000 0000   # Partition, Next
	6500 0000 0000 0000  0800 0000 0000 0000   # Start, Head index
	0100 0000 0000 0000  6400 0000 0000 0000   # Head term, Head offset
	0b00 0000 0000 0000  0100 0000  0000 0000  # Commit, Flags, Zero
	0100 0000 0000 0000  0100 0000 0000 0000   # Segments, Snapshots
	0000 0000 0000 0000  0000 0000 0000 0000   # Zero
	0000 0000 0000 0000
	0500 0000 0000 0000  8877 6655 4433 2211   # Segment: ID, Salt
	0000 1000 0000 0000  0900 0000 0000 0000   # Capacity, First index
	6400 0000 0000 0000  b010 0000 0000 0000   # Base, End position
	0c00 0000 0000 0000  0200 0000 0000 0000   # End index, End term
	9600 0000 0000 0000  4d00 0000 0000 0000   # End offset, Max time
	efbe adde  0100 0000  0100 0000 0000 0000  # End CRC, Flags, Term before First
	0600 0000 0000 0000  0800 0000 0000 0000   # Snapshot: File, Index
	0100 0000 0000 0000  6400 0000 0000 0000   # Term, Offset
	0300 0000 0000 0000  0df0 feca  0000 0000  # Bytes, CRC, Zero`)
	same(t, encodeManifest(&m), want)
	back, err := decodeManifest(want, "manifest")
	if err != nil {
		t.Fatal(err)
	}
	same(t, encodeManifest(&back), want)
}

func TestGoldenSnapshot(t *testing.T) {
	want := unhex(t, `
	5457 534e 4150 5348  0100 0000  9ba2 cdbc   # Envelope
	c1c2 0000 0000 0000  0000 0000 0000 00cf   # Cluster
	1700 0000 0000 0000  0800 0000 0000 0000   # Partition, Index
	0100 0000 0000 0000  6400 0000 0000 0000   # Term, Offset
	0300 0000 0000 0000  6162 63               # Bytes, Data`)
	s := Snapshot{Index: 8, Term: 1, Offset: 100, Data: []byte("abc")}
	same(t, encodeSnapshot(goldenIdentity.cluster, 0x17, &s), want)
	cluster, partition, back, err := decodeSnapshot(want, "")
	if err != nil || cluster != goldenIdentity.cluster || partition != 0x17 || back.Index != 8 || back.Term != 1 ||
		back.Offset != 100 || string(back.Data) != "abc" {
		t.Errorf("decoded %x %d %+v %v", cluster, partition, back, err)
	}
}

// A version we cannot read is its own error; a flipped bit in the version field is damage.
func TestVersionIsNotDamage(t *testing.T) {
	m := encodeManifest(&manifest{nextFile: 1})
	flipped := bytes.Clone(m)
	flipped[8] = 2
	if _, err := decodeManifest(flipped, "m"); errors.Is(err, ErrVersion) {
		t.Errorf("flipped version: %v", err)
	}
	newer := bytes.Clone(m)
	newer[8] = 2
	le32(newer[12:], envelopeCRC(newer))
	_, err := decodeManifest(newer, "m")
	if v, ok := errors.AsType[*VersionError](err); !ok || v.Version != 2 || !errors.Is(err, ErrVersion) {
		t.Errorf("newer version: %v", err)
	}
}

func le32(b []byte, v uint32) { b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24) }

// Zeros are what a file holds behind its end: they must decode as nothing.
func TestZerosAreNothing(t *testing.T) {
	b := make([]byte, 4096)
	if _, reason := decodeFrame(b, 0); reason == "" {
		t.Error("zeros are a frame")
	}
	if _, err := decodeHeader(b, ""); err == nil {
		t.Error("zeros are a segment header")
	}
	if _, err := decodeManifest(b, ""); err == nil {
		t.Error("zeros are a manifest")
	}
	if _, err := openIndex(b, 0, 0); err == nil {
		t.Error("zeros are an index")
	}
	if _, _, _, err := decodeSnapshot(b, ""); err == nil {
		t.Error("zeros are a snapshot")
	}
}

func TestManifestRules(t *testing.T) {
	ok := func() manifest {
		return manifest{nextFile: 9, head: mark{index: 4, offset: 40}, segments: []segmentMeta{
			{id: 1, capacity: 4096, first: 3, base: 30, sealed: true, end: mark{position: 640, index: 6, offset: 60}},
			{id: 2, capacity: 4096, first: 7, base: 60, end: mark{position: 64, index: 6, offset: 60}},
		}, snapshots: []SnapshotInfo{{Index: 4, file: 3}, {Index: 6, file: 5}}}
	}
	m := ok()
	if _, err := decodeManifest(encodeManifest(&m), ""); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*manifest){
		"a gap between segments":               func(m *manifest) { m.segments[1].first++ },
		"offsets that do not follow":           func(m *manifest) { m.segments[1].base++ },
		"a gap after the head":                 func(m *manifest) { m.head.index = 1 },
		"an active segment in the middle":      func(m *manifest) { m.segments[0].sealed = false },
		"a file number from the future":        func(m *manifest) { m.segments[1].id = 9 },
		"a snapshot from the future":           func(m *manifest) { m.snapshots[1].file = 9 },
		"snapshots out of order":               func(m *manifest) { m.snapshots[1].Index = 4 },
		"a segment that ends before it begins": func(m *manifest) { m.segments[1].end.index = 2 },
		"an impossible position":               func(m *manifest) { m.segments[1].end.position = 63 },
		"an impossible capacity":               func(m *manifest) { m.segments[1].capacity = 1 << 40 },
	} {
		m := ok()
		spoil(&m)
		if _, err := decodeManifest(encodeManifest(&m), ""); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
