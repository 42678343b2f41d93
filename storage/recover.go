package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Report is what Open found and did.
type Report struct {
	Created bool // there was no log
	Clean   bool // the log had been closed in good order, and ends exactly there

	ScannedBytes int64 // of the active segment
	ScanTime     time.Duration

	// A torn tail was cut at these places: no frame there proved that it had ever been synced. CutBytes counts up to
	// the last byte that was not zero. CutNonZero says that there was one, or that the file had a length that no
	// write of ours leaves: an acknowledged entry may have been damaged, if it was the very last write. A replica
	// that is told so must not vote until it knows from the others that it lost nothing.
	CutBytes    int64
	CutNonZero  bool
	CutIndex    Index
	CutOffset   Offset
	CutPath     string
	CutPosition int64

	// Damaged are ranges that were once durable and cannot be read. They stay in the log: reading them is a
	// *CorruptError. Open finds them in the active segment, and segments that are missing or too short.
	Damaged []*CorruptError

	// Orphans counts files of this directory that the manifest did not list and that were cleared away.
	Orphans int
}

// Open opens the log in cfg.Dir, or creates it if the directory is missing or empty, and recovers it.
//
// Only the active segment is scanned. A torn tail is cut, durably, before Open returns; damage before what was synced
// is quarantined; see Report.
//
// Errors that leave everything as it is: ErrForeign, ErrVersion, ErrNoManifest (files but no manifest), *CorruptError
// (the manifest is unreadable, the active segment is missing, or the manifest is older than the segments), *UnreadableError
// (the active segment is), and whatever the file system returns. *FailedError: a write or sync of the recovery failed.
// ErrRemoved: the log had been removed; what was left of it is gone now.
func Open(cfg Config) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg.withDefaults(), fs: cfg.FS, dir: cfg.Dir}
	if l.fs == nil {
		fsys, err := OSFS(cfg.Dir)
		if err != nil {
			return nil, err
		}
		l.fs, l.dir, l.ownsFS = fsys, ".", true
	}
	l.hot = hotTail{limit: l.cfg.HotBytes, memory: l.cfg.Memory}
	if err := l.open(); err != nil {
		l.release(l.segments)
		l.closeFS()
		return nil, err
	}
	return l, nil
}

func (l *Log) open() error {
	m, err := readManifest(l.fs, l.dir)
	if isMissing(err) {
		return l.create()
	}
	if err != nil {
		return err
	}
	if m.cluster != l.cfg.Cluster || m.partition != l.cfg.Partition {
		return &ForeignError{Path: join(l.dir, manifestName), Cluster: m.cluster, Partition: m.partition,
			WantedCluster: l.cfg.Cluster, WantedPartition: l.cfg.Partition}
	}
	// A process that died between the rename and the sync of the directory left a manifest that a power cut may still
	// take back. Nothing may be done on its word before it is certain.
	if err := l.fs.SyncDir(l.dir); err != nil {
		return fmt.Errorf("storage: sync %s: %w", l.dir, err)
	}
	if m.removed {
		if err := purge(l.fs, l.dir, l.cfg.Pool); err != nil {
			return err
		}
		return ErrRemoved
	}
	names, err := l.fs.List(l.dir)
	if err != nil {
		return fmt.Errorf("storage: list %s: %w", l.dir, err)
	}
	if err := l.checkOrphans(&m, names); err != nil {
		return err
	}
	l.load(&m)
	if err := l.recoverActive(); err != nil {
		return err
	}
	if err := l.checkSealed(); err != nil {
		return err
	}
	l.clearOrphans(names)
	return nil
}

// create makes an empty log. A log without entries has no segment.
func (l *Log) create() error {
	names, err := l.fs.List(l.dir)
	if err != nil && !isMissing(err) {
		return fmt.Errorf("storage: list %s: %w", l.dir, err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".seg") || strings.HasSuffix(n, ".snap") {
			return fmt.Errorf("%w: %s holds %s", ErrNoManifest, l.dir, n)
		}
	}
	if err := makeDir(l.fs, l.dir); err != nil {
		return fmt.Errorf("storage: create %s: %w", l.dir, err)
	}
	if err := l.fs.Remove(join(l.dir, manifestTemp)); err != nil && !isMissing(err) {
		return fmt.Errorf("storage: create %s: %w", l.dir, err)
	}
	m := manifest{cluster: l.cfg.Cluster, partition: l.cfg.Partition, nextFile: 1}
	if err := writeManifest(l.fs, l.dir, &m); err != nil {
		return fmt.Errorf("storage: create %s: %w", l.dir, err)
	}
	l.load(&m)
	l.report.Created = true
	return nil
}

// load takes the state from m, as if nothing had been written after it.
func (l *Log) load(m *manifest) {
	l.manifest = *m
	l.head, l.tail, l.start, l.commit = m.head, m.head, m.start, m.commit
	l.snapshots = append([]SnapshotInfo(nil), m.snapshots...)
	for i := range m.segments {
		l.segments = append(l.segments, l.newSegment(m.segments[i]))
		l.tail = m.segments[i].end
	}
	l.countSealedLocked()
	l.index = newDense(l.tail.index + 1)
	if l.tail.index < l.head.index { // the rest of a trimmed segment
		l.tail = l.head
	}
}

// recoverActive finds the end of the log, behind what the manifest knows to be synced.
func (l *Log) recoverActive() error {
	s := l.activeLocked()
	if s == nil {
		l.report.Clean = l.manifest.clean
		return nil
	}
	began := time.Now()
	if err := s.hold(); err != nil { // the writer's hold
		if isMissing(err) {
			return l.corrupt(s, &gap{from: s.beginning(), to: s.meta.end, reason: "the active segment is missing"})
		}
		return fmt.Errorf("storage: open %s: %w", s.name(), err)
	}
	size, err := s.file.Size()
	if err != nil {
		return fmt.Errorf("storage: size of %s: %w", s.name(), err)
	}
	if err := l.checkHeader(s); err != nil {
		return err
	}
	found, err := scanActive(s, size)
	if err != nil {
		return &UnreadableError{Path: s.name(), Err: err}
	}
	l.report.ScannedBytes = size
	l.tail, l.index = found.end, found.index
	l.commit = min(max(l.commit, found.commit), l.tail.index)
	for i := range found.gaps {
		l.report.Damaged = append(l.report.Damaged, l.corrupt(s, &found.gaps[i]))
	}
	if err := l.settle(s, size, found); err != nil {
		return &FailedError{Op: "recover " + s.name(), Err: err}
	}
	l.report.Clean = l.manifest.clean && found.end == s.meta.end && l.report.CutBytes == 0
	l.report.ScanTime = time.Since(began)
	return nil
}

// checkHeader refuses a segment that is not ours. A damaged header is reported and costs nothing.
func (l *Log) checkHeader(s *segment) error {
	var b [headerBytes]byte
	if _, err := s.file.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return &UnreadableError{Path: s.name(), Err: err}
	}
	id, err := decodeHeader(b[:], s.name())
	if _, newer := errors.AsType[*VersionError](err); newer {
		return err
	}
	if err != nil {
		at := s.beginning()
		at.position = 0
		l.report.Damaged = append(l.report.Damaged, l.corrupt(s, &gap{from: at, to: at, reason: "segment header: " + err.Error()}))
		return nil
	}
	if id != s.id {
		return &ForeignError{Path: s.name(), Cluster: id.cluster, Partition: id.partition, Segment: id.id,
			WantedCluster: l.cfg.Cluster, WantedPartition: l.cfg.Partition}
	}
	return nil
}

// found is what a scan of the active segment found.
type found struct {
	end    mark
	index  dense
	commit Index
	proven int64 // everything before was synced
	gaps   []gap // damage before proven
	used   int64 // end of what has to be cleared: the last byte that is not zero, or the last frame
}

// scanActive reads the whole file of s, size bytes: its frames, the gaps between them, and which of those are damage.
//
// The manifest's mark and the Synced fields of the frames prove that everything up to some position was synced. A gap
// that begins before is damage, and stays a part of the log. The first one that begins at or after it is the torn tail:
// the log ends there, whatever follows. (What follows can be good frames of the same torn write: their Synced is the
// beginning of that write, so they prove nothing about it.)
//
// In a file that was used before, what stands far behind the end may be of another segment. There only what is right
// behind it is looked at, which every write clears, and good frames: those were torn.
func scanActive(s *segment, size int64) (found, error) {
	end := roundUp(max(size, s.meta.end.position), frameAlign)
	scan := scanner{file: s.file, seed: s.seed, chunk: 4 * scanChunk, end: end, known: s.meta.end, at: s.beginning(), chained: true}
	all := found{end: scan.at, index: newDense(s.meta.first), proven: s.meta.end.position}
	type open struct {
		gap
		items  int
		commit Index
	}
	var gaps []open
	for {
		pos := scan.at.position
		f, _, g, err := scan.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return found{}, err
		}
		if g != nil {
			gaps = append(gaps, open{*g, all.index.n, all.commit})
			for range g.to.index - g.from.index {
				all.index.add(item{base: g.from.offset, damaged: true})
			}
			continue
		}
		all.index.add(item{base: f.base, time: f.time, term: f.term, position: uint32(pos), length: f.length,
			records: f.records, kind: f.kind})
		all.commit = max(all.commit, f.commit)
		all.proven = max(all.proven, int64(f.synced))
	}
	all.end = scan.at
	lastFrame := scan.at.position
	for _, g := range gaps {
		if g.from.position >= all.proven {
			all.end, all.commit = g.from, g.commit
			all.index.cut(g.items)
			break
		}
		all.gaps = append(all.gaps, g.gap)
	}
	if s.meta.reused {
		end = min(end, s.clear(all.end.position))
	}
	used, err := lastNonZero(&scan, all.end.position, end)
	all.used = max(used, lastFrame)
	return all, err
}

// lastNonZero returns the end of the last byte in [pos, end) that is not zero; pos if there is none.
func lastNonZero(scan *scanner, pos, end int64) (int64, error) {
	last := pos
	for pos < end {
		b, err := scan.bytes(pos, min(int64(scan.chunk), end-pos))
		if err != nil {
			return 0, err
		}
		if len(b) == 0 {
			break // the end of the file
		}
		for n := len(b); n > 0; {
			piece := b[max(0, n-len(zeros)):n]
			if bytes.Equal(piece, zeros[:len(piece)]) {
				n -= len(piece)
				continue
			}
			for b[n-1] == 0 {
				n--
			}
			last = pos + int64(n)
			break
		}
		pos += int64(len(b))
	}
	return last, nil
}

// settle makes the file, of size bytes, agree with what was found: zeros behind the end, everything before it synced.
func (l *Log) settle(s *segment, size int64, f found) error {
	s.ready = size
	if s.meta.reused {
		s.ready = min(size, s.clear(f.end.position))
	}
	if cut := f.used - f.end.position; cut > 0 || size%indexBlock != 0 {
		l.report.CutBytes, l.report.CutNonZero = cut, true
		l.report.CutIndex, l.report.CutOffset = f.end.index+1, f.end.offset
		l.report.CutPath, l.report.CutPosition = s.name(), f.end.position
	}
	rewrite := f.end.position > f.proven
	if !rewrite && f.used == f.end.position && size%indexBlock == 0 && size >= f.end.position {
		return nil // as a clean stop leaves it
	}
	if rewrite {
		// These frames may be in the page cache only, and if the last process died of a failed sync the cache
		// believes them to be on disk. Writing them again makes the sync below mean something.
		b := make([]byte, f.end.position-f.proven)
		if _, err := s.file.ReadAt(b, f.proven); err != nil && !errors.Is(err, io.EOF) {
			return &UnreadableError{Path: s.name(), Err: err}
		}
		if _, err := s.file.WriteAt(b, f.proven); err != nil {
			return err
		}
	}
	used := f.used
	if rewrite && s.meta.reused {
		used = max(used, s.ready) // the zeros behind these frames came with them: where they are not on disk, old bytes are
	}
	if err := writeZeros(s.file, f.end.position, used); err != nil {
		return err
	}
	if err := l.zero(s, roundUp(max(s.ready, f.end.position), indexBlock)); err != nil {
		return err
	}
	return l.cfg.Syncs.sync(s.file)
}

// checkSealed finds sealed segments that are missing or too short, without reading them.
func (l *Log) checkSealed() error {
	for _, s := range l.segments {
		if !s.meta.sealed {
			continue
		}
		size, err := l.fs.Size(s.name())
		switch {
		case isMissing(err):
			l.report.Damaged = append(l.report.Damaged, l.corrupt(s, &gap{from: s.beginning(), to: s.meta.end, reason: "the file is missing"}))
		case err != nil:
			return fmt.Errorf("storage: size of %s: %w", s.name(), err)
		case size < s.meta.end.position:
			err := l.gaps(s, s.meta.end, func(c *CorruptError) { l.report.Damaged = append(l.report.Damaged, c) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// gaps scans the segment s, which ends at end, and reports what cannot be read.
func (l *Log) gaps(s *segment, end mark, report func(*CorruptError)) error {
	if err := s.hold(); err != nil {
		if damage, ok := errors.AsType[*CorruptError](l.openError(s, end, err)); ok {
			report(damage)
			return nil
		}
		return err
	}
	defer s.release()
	scan := s.scanner(end)
	for {
		_, _, g, err := scan.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case g != nil:
			report(l.corrupt(s, g))
		}
	}
}
