package storage

import (
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	snapshotHead = 72

	// MaxSnapshotBytes is the largest snapshot: they are meant to be a few KB.
	MaxSnapshotBytes = 256 << 20
)

// Snapshot is the state of the caller's machine after the entry at Index, kept beside the log.
type Snapshot struct {
	Index  Index
	Term   Term
	Offset Offset // end of the records up to and with Index
	Data   []byte // opaque
}

// SnapshotInfo is a snapshot without its data.
type SnapshotInfo struct {
	Index  Index
	Term   Term
	Offset Offset
	Bytes  int64 // of Data

	file uint64
	crc  uint32 // of the file
}

func snapshotName(dir string, file uint64) string { return join(dir, fmt.Sprintf("%020d.snap", file)) }

// encodeSnapshot returns the bytes of a snapshot file:
//
//	0          16        32          40      48     56       64      72
//	+----------+---------+-----------+-------+------+--------+-------+--- ... ---+
//	| Envelope | Cluster | Partition | Index | Term | Offset | Bytes | Data      |
//	+----------+---------+-----------+-------+------+--------+-------+--- ... ---+
//
// All fields are u64 but Cluster (16 bytes). The envelope's CRC covers the file.
func encodeSnapshot(cluster [16]byte, partition uint64, s *Snapshot) []byte {
	b := make([]byte, snapshotHead+len(s.Data))
	copy(b[16:], cluster[:])
	for i, v := range []uint64{partition, uint64(s.Index), uint64(s.Term), uint64(s.Offset), uint64(len(s.Data))} {
		binary.LittleEndian.PutUint64(b[32+8*i:], v)
	}
	copy(b[snapshotHead:], s.Data)
	sealEnvelope(b, magicSnapshot)
	return b
}

// decodeSnapshot is the reverse of encodeSnapshot. Data aliases b.
func decodeSnapshot(b []byte, path string) (cluster [16]byte, partition uint64, s Snapshot, err error) {
	if err = openEnvelope(b, magicSnapshot, path); err != nil {
		return cluster, 0, s, err
	}
	if len(b) < snapshotHead {
		return cluster, 0, s, fmt.Errorf("%d bytes are too few", len(b))
	}
	le := binary.LittleEndian
	copy(cluster[:], b[16:])
	s = Snapshot{Index: Index(le.Uint64(b[40:])), Term: Term(le.Uint64(b[48:])), Offset: Offset(le.Uint64(b[56:])),
		Data: b[snapshotHead:]}
	if le.Uint64(b[64:]) != uint64(len(s.Data)) {
		return cluster, 0, s, fmt.Errorf("%d bytes of data are not %d", len(s.Data), le.Uint64(b[64:]))
	}
	return cluster, le.Uint64(b[32:]), s, nil
}

// SaveSnapshot keeps s, durably when it returns. Its Index must lie in the log and not below a snapshot kept. It replaces
// the newest one if that has the same Index, or the same Offset and is not the log-start snapshot: Trim, which goes by
// offsets, would never choose it again, and a node that only starts and stops gathers none. Data is not kept.
func (l *Log) SaveSnapshot(s Snapshot) error {
	if len(s.Data) > MaxSnapshotBytes {
		return fmt.Errorf("%w: snapshot of %d bytes", ErrTooLarge, len(s.Data))
	}
	if err := l.beginWrite(); err != nil {
		return err
	}
	defer l.writeMu.Unlock()
	newest := l.newestSnapshot()
	l.mu.RLock()
	head, tail := l.head, l.tail
	l.mu.RUnlock()
	if s.Index < head.index || s.Index > tail.index || s.Index < newest.Index || s.Offset > tail.offset || s.Offset < newest.Offset {
		return fmt.Errorf("%w: snapshot at entry %d, offset %d; the log holds (%d, %d] up to offset %d, the newest snapshot is at %d",
			ErrOutOfRange, s.Index, s.Offset, head.index, tail.index, tail.offset, newest.Index)
	}
	return l.timed(func() error {
		info, err := l.writeSnapshot(&s)
		if err != nil {
			return err
		}
		replaced := newest.file != 0 && (newest.Index == s.Index || newest.Offset == s.Offset && newest.Index > head.index)
		err = l.commitManifest(func(m *manifest) {
			if replaced {
				m.snapshots = m.snapshots[:len(m.snapshots)-1]
			}
			m.snapshots = append(m.snapshots, info)
			m.nextFile++
		})
		if err != nil {
			return err
		}
		l.setSnapshots()
		if replaced {
			_ = l.fs.Remove(snapshotName(l.dir, newest.file)) // unlisted: the next Open removes what stays
		}
		return nil
	})
}

// newestSnapshot returns the newest snapshot, or a zero one. For writers.
func (l *Log) newestSnapshot() SnapshotInfo {
	if n := len(l.manifest.snapshots); n > 0 {
		return l.manifest.snapshots[n-1]
	}
	return SnapshotInfo{}
}

// writeSnapshot writes the file of s, under the next file number, so that it survives a crash.
func (l *Log) writeSnapshot(s *Snapshot) (SnapshotInfo, error) {
	b := encodeSnapshot(l.cfg.Cluster, l.cfg.Partition, s)
	info := SnapshotInfo{Index: s.Index, Term: s.Term, Offset: s.Offset, Bytes: int64(len(s.Data)), file: l.manifest.nextFile,
		crc: binary.LittleEndian.Uint32(b[12:])}
	if err := writeFile(l.fs, snapshotName(l.dir, info.file), b); err != nil {
		return info, l.fail("write snapshot", err)
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return info, l.fail("sync directory of snapshot", err)
	}
	return info, nil
}

// setSnapshots shows readers the snapshots of the manifest.
func (l *Log) setSnapshots() {
	l.mu.Lock()
	l.snapshots = slices.Clone(l.manifest.snapshots)
	l.mu.Unlock()
}

// Snapshots returns the snapshots kept, oldest first. After a trim the oldest is the log-start snapshot: the state that
// the first entry held follows.
func (l *Log) Snapshots() []SnapshotInfo {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Clone(l.snapshots)
}

// LoadSnapshot reads the snapshot at index i. ErrNotFound if there is none; *CorruptError if the file is missing or
// damaged, in which case an older one, or a peer's, must serve.
func (l *Log) LoadSnapshot(i Index) (Snapshot, error) {
	l.mu.RLock()
	at := slices.IndexFunc(l.snapshots, func(s SnapshotInfo) bool { return s.Index == i })
	if l.closed || at < 0 {
		closed := l.closed
		l.mu.RUnlock()
		if closed {
			return Snapshot{}, ErrClosed
		}
		return Snapshot{}, fmt.Errorf("%w: snapshot at %d", ErrNotFound, i)
	}
	info := l.snapshots[at]
	l.reading.Add(1)
	l.mu.RUnlock()
	defer l.reading.Done()

	name := snapshotName(l.dir, info.file)
	damaged := func(reason string) (Snapshot, error) {
		return Snapshot{}, &CorruptError{Path: name, FirstIndex: i, EndIndex: i, Start: info.Offset, End: info.Offset, Reason: reason}
	}
	b, err := readFile(l.fs, name, snapshotHead+MaxSnapshotBytes)
	if isMissing(err) {
		if l.hasSnapshot(info) {
			return damaged("the file is missing")
		}
		return Snapshot{}, fmt.Errorf("%w: snapshot at %d", ErrNotFound, i) // dropped in this moment
	}
	if err != nil {
		return Snapshot{}, err
	}
	cluster, partition, s, err := decodeSnapshot(b, name)
	switch {
	case err != nil:
		return damaged(err.Error())
	case binary.LittleEndian.Uint32(b[12:]) != info.crc:
		return damaged("the file is another snapshot")
	case cluster != l.cfg.Cluster || partition != l.cfg.Partition:
		return damaged("the file belongs to another log")
	}
	return s, nil
}

func (l *Log) hasSnapshot(info SnapshotInfo) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Contains(l.snapshots, info)
}
