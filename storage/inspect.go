package storage

import (
	"errors"
	"fmt"
)

// ErrReadOnly is what writes to a log opened by Inspect return.
var ErrReadOnly = errors.New("storage: log is opened for inspection only")

// Inspect opens the log in dir to be looked at, whoever it belongs to, and changes nothing: no tail is cut, no file
// cleared away, no index written. What recovery would do is in Recovered; the log ends where it would end. No process
// may be writing to it.
func Inspect(fsys FS, dir string) (*Log, error) {
	m, err := readManifest(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("storage: inspect %s: %w", dir, err)
	}
	if m.removed {
		return nil, ErrRemoved
	}
	cfg := Config{FS: inspectFS{fsys}, Dir: dir, Cluster: m.cluster, Partition: m.partition, HotBytes: -1}
	l := &Log{cfg: cfg.withDefaults(), fs: cfg.FS, dir: dir, failed: &FailedError{Op: "write", Err: ErrReadOnly}}
	l.hot = hotTail{limit: -1}
	l.load(&m)
	if err = l.recoverActive(); err == nil {
		err = l.checkSealed()
	}
	if err != nil {
		l.release(l.segments)
		return nil, err
	}
	return l, nil
}

// inspectFS lets writes come to nothing. Recovery may then do as it always does: what it would cut is cut in memory.
type inspectFS struct{ FS }

func (i inspectFS) Create(name string) (File, error) {
	return nil, fmt.Errorf("%w: create %s", ErrReadOnly, name)
}
func (i inspectFS) Rename(old, new string) error {
	return fmt.Errorf("%w: rename %s", ErrReadOnly, old)
}
func (i inspectFS) Remove(name string) error  { return fmt.Errorf("%w: remove %s", ErrReadOnly, name) }
func (i inspectFS) MkdirAll(dir string) error { return fmt.Errorf("%w: make %s", ErrReadOnly, dir) }
func (i inspectFS) SyncDir(string) error      { return nil }

func (i inspectFS) Open(name string) (File, error) {
	f, err := i.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return inspectFile{f}, nil
}

type inspectFile struct{ File }

func (i inspectFile) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (i inspectFile) Sync() error                            { return nil }
func (i inspectFile) Truncate(int64) error                   { return nil }

func (i inspectFile) WriteVAt(buffers [][]byte, _ int64) (int, error) {
	n := 0
	for _, b := range buffers {
		n += len(b)
	}
	return n, nil
}

// Identity returns the cluster and partition that the log belongs to.
func (l *Log) Identity() (cluster [16]byte, partition uint64) { return l.cfg.Cluster, l.cfg.Partition }

// Verify reads all of the log, segments and snapshots, and returns every damaged range, oldest first. It may run beside
// everything else; what is trimmed or cut meanwhile is passed over.
func (l *Log) Verify() ([]*CorruptError, error) {
	l.mu.RLock()
	if l.closed {
		l.mu.RUnlock()
		return nil, ErrClosed
	}
	var places []place
	for _, s := range l.segments {
		places = append(places, place{segment: s, end: l.endLocked(s)})
	}
	snapshots := l.snapshots
	l.mu.RUnlock()

	var damage []*CorruptError
	for i := range places {
		err := l.verifySegment(&places[i], &damage)
		if err != nil && !errors.Is(err, errGone) {
			return damage, err
		}
	}
	for _, s := range snapshots {
		_, err := l.LoadSnapshot(s.Index)
		if c, ok := errors.AsType[*CorruptError](err); ok {
			damage = append(damage, c)
		} else if err != nil && !errors.Is(err, ErrNotFound) {
			return damage, err
		}
	}
	return damage, nil
}

// verifySegment scans the segment at p and adds its gaps to damage.
func (l *Log) verifySegment(p *place, damage *[]*CorruptError) error {
	l.mu.RLock()
	if l.closed {
		l.mu.RUnlock()
		return ErrClosed
	}
	l.reading.Add(1)
	l.mu.RUnlock()
	defer l.reading.Done()
	return l.gaps(p.segment, p.end, func(c *CorruptError) { *damage = append(*damage, c) })
}
