package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
)

const (
	manifestName     = "manifest"
	manifestTemp     = "manifest.tmp"
	manifestHead     = 136 // bytes before the segments
	manifestSegment  = 96  // bytes of a segment
	manifestSnapshot = 48  // bytes of a snapshot

	// maxManifestBytes is what a reader agrees to load: seven million segments, each with a snapshot.
	maxManifestBytes = 1 << 30
)

// manifest is what a log consists of. The file is replaced as a whole (temporary file, sync, rename, sync of the
// directory), so at every moment exactly one manifest is in force: what it lists is the log, all else is not.
type manifest struct {
	cluster   [16]byte
	partition uint64
	nextFile  uint64 // number of the next file; no number is used twice
	start     Offset // log start: nothing below is served
	head      mark   // the entry before the first one held: index, term and end offset; its position is unused
	commit    Index  // highest index known to be committed
	clean     bool   // the log was closed after this was written, with nothing in between
	removed   bool   // the log was removed: whatever is left of it may go
	segments  []segmentMeta
	snapshots []SnapshotInfo
}

// mark is a known place in a segment: the end of an entry.
type mark struct {
	position int64 // where the next frame begins
	index    Index // of the last entry before it; 0 if there is none
	term     Term
	offset   Offset // after the last record before it
	crc      uint32 // of the last frame before it; the seed at a segment's beginning
}

// segmentMeta is a segment as the manifest lists it.
type segmentMeta struct {
	id       uint64
	salt     uint64
	capacity int64  // where it is rolled
	first    Index  // index of its first entry
	base     Offset // offset of its first record
	before   Term   // term of the entry before its first
	sealed   bool   // no longer written; only the last segment may be unsealed
	reused   bool   // the file is a recycled one: behind the zeros at its end stand old bytes
	end      mark   // sealed: its exact end. Active: an end that was synced; what follows is found by recovery
	maxTime  int64  // greatest Time of an entry with records; MinInt64 if there is none. Active: not used
}

const (
	flagClean   = 1 << 0
	flagRemoved = 1 << 1
	flagSealed  = 1 << 0
	flagReused  = 1 << 1
)

// encodeManifest returns the bytes of the manifest file:
//
//	0          16        32          40     48        56           64      72          80          88        92      96
//	+----------+---------+-----------+------+---------+------------+-------+-----------+-----------+---------+-------+
//	| Envelope | Cluster | Partition | Next | Start   | Head index | Term  | Offset    | Commit    | Flags   | Zero  |
//	+----------+---------+-----------+------+---------+------------+-------+-----------+-----------+---------+-------+
//	96         104         112         136
//	+----------+-----------+-----------+-----------------+-----------------+
//	| Segments | Snapshots | Zero      | Segment …       | Snapshot …      |
//	+----------+-----------+-----------+-----------------+-----------------+
//
// All fields are u64 but Cluster (16 bytes) and Flags (u32; 1 clean, 2 removed). A segment is
//
//	ID, Salt, Capacity, First index, Base, End position, End index, End term, End offset, Max time (i64): u64 each,
//	End CRC u32, Flags u32 (1 sealed, 2 reused), Term before First u64
//
// and a snapshot
//
//	File number, Index, Term, Offset, Data bytes: u64 each, CRC of the snapshot file u32, Zero u32
//
// The envelope's CRC covers the file; zero fields must be zero; the length must be exact.
func encodeManifest(m *manifest) []byte {
	le := binary.LittleEndian
	b := make([]byte, envelopeBytes, manifestHead+len(m.segments)*manifestSegment+len(m.snapshots)*manifestSnapshot)
	b = append(b, m.cluster[:]...)
	for _, v := range []uint64{m.partition, m.nextFile, uint64(m.start), uint64(m.head.index), uint64(m.head.term),
		uint64(m.head.offset), uint64(m.commit)} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, flag(m.clean, flagClean)|flag(m.removed, flagRemoved))
	b = le.AppendUint32(b, 0)
	for _, v := range []uint64{uint64(len(m.segments)), uint64(len(m.snapshots)), 0, 0, 0} {
		b = le.AppendUint64(b, v)
	}
	for i := range m.segments {
		s := &m.segments[i]
		for _, v := range []uint64{s.id, s.salt, uint64(s.capacity), uint64(s.first), uint64(s.base), uint64(s.end.position),
			uint64(s.end.index), uint64(s.end.term), uint64(s.end.offset), uint64(s.maxTime)} {
			b = le.AppendUint64(b, v)
		}
		b = le.AppendUint32(b, s.end.crc)
		b = le.AppendUint32(b, flag(s.sealed, flagSealed)|flag(s.reused, flagReused))
		b = le.AppendUint64(b, uint64(s.before))
	}
	for i := range m.snapshots {
		s := &m.snapshots[i]
		for _, v := range []uint64{s.file, uint64(s.Index), uint64(s.Term), uint64(s.Offset), uint64(s.Bytes)} {
			b = le.AppendUint64(b, v)
		}
		b = le.AppendUint32(b, s.crc)
		b = le.AppendUint32(b, 0)
	}
	sealEnvelope(b, magicManifest)
	return b
}

func flag(set bool, bit uint32) uint32 {
	if set {
		return bit
	}
	return 0
}

// decodeManifest is the reverse of encodeManifest and accepts nothing that encodeManifest would not write.
func decodeManifest(b []byte, path string) (manifest, error) {
	if err := openEnvelope(b, magicManifest, path); err != nil {
		return manifest{}, err
	}
	if len(b) < manifestHead {
		return manifest{}, fmt.Errorf("%d bytes are too few", len(b))
	}
	le := binary.LittleEndian
	var m manifest
	copy(m.cluster[:], b[16:])
	m.partition, m.nextFile = le.Uint64(b[32:]), le.Uint64(b[40:])
	m.start = Offset(le.Uint64(b[48:]))
	m.head = mark{index: Index(le.Uint64(b[56:])), term: Term(le.Uint64(b[64:])), offset: Offset(le.Uint64(b[72:]))}
	m.commit = Index(le.Uint64(b[80:]))
	flags := le.Uint32(b[88:])
	m.clean, m.removed = flags&flagClean != 0, flags&flagRemoved != 0
	segments, snapshots := le.Uint64(b[96:]), le.Uint64(b[104:])
	rest := uint64(len(b) - manifestHead)
	switch {
	case flags&^(flagClean|flagRemoved) != 0, !zero(b[92:96]), !zero(b[112:manifestHead]):
		return manifest{}, errors.New("unknown flags")
	case segments > rest/manifestSegment, snapshots > rest/manifestSnapshot,
		segments*manifestSegment+snapshots*manifestSnapshot != rest:
		return manifest{}, fmt.Errorf("length does not fit %d segments and %d snapshots", segments, snapshots)
	}
	b = b[manifestHead:]
	m.segments = make([]segmentMeta, segments)
	for i := range m.segments {
		if err := m.segments[i].decode(b); err != nil {
			return manifest{}, fmt.Errorf("segment %d: %w", i, err)
		}
		b = b[manifestSegment:]
	}
	m.snapshots = make([]SnapshotInfo, snapshots)
	for i := range m.snapshots {
		s := &m.snapshots[i]
		s.file, s.Index, s.Term = le.Uint64(b), Index(le.Uint64(b[8:])), Term(le.Uint64(b[16:]))
		s.Offset, s.Bytes, s.crc = Offset(le.Uint64(b[24:])), int64(le.Uint64(b[32:])), le.Uint32(b[40:])
		if !zero(b[44:48]) || s.Bytes < 0 {
			return manifest{}, fmt.Errorf("snapshot %d is malformed", i)
		}
		b = b[manifestSnapshot:]
	}
	return m, m.check()
}

func (s *segmentMeta) decode(b []byte) error {
	le := binary.LittleEndian
	s.id, s.salt, s.capacity = le.Uint64(b), le.Uint64(b[8:]), int64(le.Uint64(b[16:]))
	s.first, s.base = Index(le.Uint64(b[24:])), Offset(le.Uint64(b[32:]))
	s.end = mark{position: int64(le.Uint64(b[40:])), index: Index(le.Uint64(b[48:])), term: Term(le.Uint64(b[56:])),
		offset: Offset(le.Uint64(b[64:])), crc: le.Uint32(b[80:])}
	s.maxTime, s.before = int64(le.Uint64(b[72:])), Term(le.Uint64(b[88:]))
	flags := le.Uint32(b[84:])
	s.sealed, s.reused = flags&flagSealed != 0, flags&flagReused != 0
	if flags&^(flagSealed|flagReused) != 0 {
		return errors.New("unknown flags")
	}
	if s.capacity < headerBytes || s.capacity > maxSegmentBytes || s.capacity%indexBlock != 0 || s.end.position < headerBytes ||
		s.end.position > maxSegmentBytes || s.end.position%frameAlign != 0 {
		return errors.New("impossible size")
	}
	return nil
}

// check proves what the rest of the package relies on: segments follow one another without a gap, from the head on.
func (m *manifest) check() error {
	at := m.head
	for i := range m.segments {
		s := &m.segments[i]
		switch {
		case s.id >= m.nextFile:
			return fmt.Errorf("segment file %d is not below %d", s.id, m.nextFile)
		case s.first == 0 || s.end.index+1 < s.first || s.end.offset < s.base:
			return fmt.Errorf("segment file %d holds [%d, %d]", s.id, s.first, s.end.index)
		case i == 0 && (s.first > at.index+1 || s.base > at.offset):
			return fmt.Errorf("segment file %d begins at entry %d, the log after %d", s.id, s.first, at.index)
		case i > 0 && (s.first != at.index+1 || s.base != at.offset):
			return fmt.Errorf("segment file %d begins at entry %d, not %d", s.id, s.first, at.index+1)
		case !s.sealed && i != len(m.segments)-1:
			return fmt.Errorf("segment file %d is not sealed", s.id)
		}
		at = s.end
	}
	for i := range m.snapshots {
		s := &m.snapshots[i]
		if s.file >= m.nextFile || i > 0 && s.Index <= m.snapshots[i-1].Index {
			return fmt.Errorf("snapshot file %d is out of order", s.file)
		}
	}
	return nil
}

// clone returns a copy whose slices may be changed.
func (m *manifest) clone() manifest {
	c := *m
	c.segments, c.snapshots = slices.Clone(m.segments), slices.Clone(m.snapshots)
	return c
}

// writeManifest puts m in force. When it returns nil, m survives a crash; on an error either manifest may be in force.
func writeManifest(fsys FS, dir string, m *manifest) error {
	if err := m.check(); err != nil {
		panic(fmt.Sprintf("storage: manifest of partition %d breaks its own rules: %v", m.partition, err))
	}
	if err := writeFile(fsys, join(dir, manifestTemp), encodeManifest(m)); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	if err := fsys.Rename(join(dir, manifestTemp), join(dir, manifestName)); err != nil {
		return fmt.Errorf("replace manifest: %w", err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("sync directory of manifest: %w", err)
	}
	return nil
}

// readManifest reads the manifest in dir. A missing one is fs.ErrNotExist, an unreadable one *CorruptError.
func readManifest(fsys FS, dir string) (manifest, error) {
	name := join(dir, manifestName)
	b, err := readFile(fsys, name, maxManifestBytes)
	if err != nil {
		return manifest{}, err
	}
	m, err := decodeManifest(b, name)
	if _, newer := errors.AsType[*VersionError](err); newer {
		return manifest{}, err
	}
	if err != nil {
		return manifest{}, &CorruptError{Path: name, End: math.MaxUint64, EndIndex: math.MaxUint64, Reason: err.Error()}
	}
	return m, nil
}

// writeFile makes a new file with contents b and syncs it.
func writeFile(fsys FS, name string, b []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// readFile reads a whole file of at most limit bytes.
func readFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, &CorruptError{Path: name, Reason: fmt.Sprintf("%d bytes are more than %d", size, limit)}
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && n == len(b)) {
		return nil, err
	}
	return b, nil
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func zero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}
