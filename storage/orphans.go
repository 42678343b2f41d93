package storage

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// checkOrphans looks at the files that m does not list. A segment with a number m does not know yet can only be one that
// was made and never committed, so it holds no frame; if it does, m is an old copy, and clearing the file away would
// destroy data.
//
// Numbers that orphans have are not used again, even though m does not know them.
func (l *Log) checkOrphans(m *manifest, names []string) error {
	next := m.nextFile
	for _, n := range names {
		var id uint64
		if _, err := fmt.Sscanf(n, "%d.", &id); err != nil || !ours(n) || id < next {
			continue
		}
		m.nextFile = max(m.nextFile, id+1)
		if !strings.HasSuffix(n, ".seg") {
			continue
		}
		holds, err := l.holdsFrame(n, id)
		if err != nil {
			return err
		}
		if holds {
			return &CorruptError{Path: join(l.dir, manifestName), FirstIndex: m.head.index + 1, EndIndex: m.head.index + 1,
				Start: m.start, End: m.start, Reason: "it is older than " + n}
		}
	}
	return nil
}

// holdsFrame reports whether the segment file n begins with a header of this log and this number, and a good frame. (A
// recycled file may still have the header of another segment.)
func (l *Log) holdsFrame(n string, number uint64) (bool, error) {
	f, err := l.fs.Open(join(l.dir, n))
	if err != nil {
		return false, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return false, err
	}
	var b [headerBytes]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	id, err := decodeHeader(b[:], n)
	if _, newer := errors.AsType[*VersionError](err); newer {
		return false, err
	}
	if err != nil || id.cluster != l.cfg.Cluster || id.partition != l.cfg.Partition || id.id != number {
		return false, nil
	}
	scan := scanner{file: f, seed: id.seed(), chunk: scanChunk, end: size}
	_, _, reason, err := scan.frameAt(headerBytes)
	return reason == "" && err == nil, err
}

// clearOrphans clears away the files of names that the manifest does not list: what a crash left before or after a
// commit. Files that are none of ours stay.
func (l *Log) clearOrphans(names []string) {
	listed := map[string]bool{manifestName: true}
	for i := range l.manifest.segments {
		id := l.manifest.segments[i].id
		listed[segmentName(".", id)], listed[indexName(".", id)] = true, true
	}
	for i := range l.manifest.snapshots {
		listed[snapshotName(".", l.manifest.snapshots[i].file)] = true
	}
	for _, n := range names {
		if !listed[n] && ours(n) {
			clearAway(l.fs, l.dir, n, l.cfg.Pool)
			l.report.Orphans++
		}
	}
}

// ours reports whether n looks like a file of a log.
func ours(n string) bool {
	for _, suffix := range []string{".seg", ".idx", ".snap", tempSuffix} {
		if strings.HasSuffix(n, suffix) {
			return true
		}
	}
	return false
}

// clearAway recycles a segment and deletes anything else. What fails is found again by the next Open.
func clearAway(fsys FS, dir, n string, pool *Pool) {
	if strings.HasSuffix(n, ".seg") {
		giveAway(fsys, pool, join(dir, n))
		return
	}
	_ = fsys.Remove(join(dir, n))
}

// purge removes a log whose manifest says that it was removed. The manifest goes last, when nothing can come back that
// would be data without a manifest.
func purge(fsys FS, dir string, pool *Pool) error {
	names, err := fsys.List(dir)
	if err != nil {
		return fmt.Errorf("storage: remove %s: %w", dir, err)
	}
	for _, n := range names {
		if ours(n) {
			clearAway(fsys, dir, n, pool)
		}
	}
	synced := []string{dir}
	if pool != nil {
		synced = append(synced, pool.dir)
	}
	for _, d := range synced {
		if err := fsys.SyncDir(d); err != nil {
			return fmt.Errorf("storage: remove %s: %w", dir, err)
		}
	}
	if err := fsys.Remove(join(dir, manifestName)); err != nil {
		return fmt.Errorf("storage: remove %s: %w", dir, err)
	}
	_ = fsys.Remove(dir) // not if it holds something else, or is the root
	return nil
}
