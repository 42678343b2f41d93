package storage

import "fmt"

// TruncateSuffix removes the entries from index from on, as a Raft conflict asks. If it holds nothing from there on, it
// does nothing.
//
// The segment that holds from is sealed at the entry before, in one commit, and the next Append begins another: what was
// cut lies behind a recorded end and never comes back.
//
// Errors: ErrOutOfRange if that would cut below the log start; ErrPinned if a snapshot rests on an entry to be cut;
// *CorruptError if the entry before is damaged, so that the log would not know its own last term. None of these stops
// the log.
func (l *Log) TruncateSuffix(from Index) error {
	if err := l.beginWrite(); err != nil {
		return err
	}
	defer l.writeMu.Unlock()
	l.mu.RLock()
	head, tail, start := l.head, l.tail, l.start
	l.mu.RUnlock()
	switch {
	case from > tail.index:
		return nil
	case from <= head.index:
		return fmt.Errorf("%w: cut from entry %d, the log begins after %d", ErrOutOfRange, from, head.index)
	case l.newestSnapshot().Index >= from:
		return fmt.Errorf("%w: cut from entry %d, snapshot at %d", ErrPinned, from, l.newestSnapshot().Index)
	}
	keep, end, err := l.endBefore(from)
	if err != nil {
		return err
	}
	if end.offset < start {
		return fmt.Errorf("%w: cut back to offset %d, the log starts at %d", ErrOutOfRange, end.offset, start)
	}
	return l.timed(func() error { return l.cut(keep, end) })
}

// endBefore returns the state before entry from and how many segments remain whole or in part. For writers.
func (l *Log) endBefore(from Index) (keep int, end mark, err error) {
	keep = len(l.segments)
	for keep > 0 && l.segments[keep-1].meta.first >= from {
		keep--
	}
	if keep == 0 {
		return 0, l.head, nil
	}
	s := l.segments[keep-1]
	end = l.endLocked(s) // writers may read without mu what only writers change
	if end.index == from-1 {
		return keep, end, nil
	}
	if err := s.hold(); err != nil {
		return 0, mark{}, l.openError(s, end, err)
	}
	defer s.release()
	p := l.placeLocked(s, from-1)
	scan, err := p.scan(func(it sparseItem) bool { return it.index < from })
	if err != nil {
		return 0, mark{}, err
	}
	for scan.at.index < from-1 {
		_, _, g, err := scan.next()
		if err == nil && g != nil && g.to.index >= from-1 {
			err = l.corrupt(s, g)
		}
		if err != nil {
			return 0, mark{}, err
		}
	}
	return keep, scan.at, nil
}

// cut seals the first keep segments at end and drops the rest.
func (l *Log) cut(keep int, end mark) error {
	active := l.activeLocked()
	wasActive := active != nil && keep == len(l.segments)
	index := l.index
	if wasActive {
		index = l.index.clone()
		index.cut(int(end.index + 1 - index.first))
	}
	err := l.commitManifest(func(m *manifest) {
		m.segments = m.segments[:keep]
		m.commit = min(m.commit, end.index)
		if keep > 0 {
			last := &m.segments[keep-1]
			last.sealed, last.end = true, end
			if wasActive {
				last.maxTime = index.maxTime
			}
		}
	})
	if err != nil {
		return err
	}
	dropped := l.segments[keep:]
	l.mu.Lock()
	l.segments = l.segments[:keep:keep]
	if keep > 0 {
		s := l.segments[keep-1]
		s.meta.sealed, s.meta.end, s.meta.maxTime = true, end, l.manifest.segments[keep-1].maxTime
	}
	l.countSealedLocked()
	l.seals++
	l.tail, l.index = end, newDense(end.index+1)
	l.commit = min(l.commit, end.index)
	l.hot.truncate(end.index + 1)
	l.generation++
	l.mu.Unlock()
	if wasActive {
		active.writeIndex(encodeIndex(active.id.id, active.seed, index.sparse()))
	}
	if active != nil {
		active.release() // the writer's hold
	}
	l.drop(dropped)
	return nil
}

// drop recycles segments that the manifest in force does not list.
func (l *Log) drop(segments []*segment) {
	for _, s := range segments {
		s.drop() // first: who lays s to rest meanwhile looks whether it is dropped
		if l.idle.CompareAndSwap(s, nil) {
			s.release()
		}
	}
}

// Reset makes the log empty, to begin at s.Index+1, with s as its only snapshot: the offline install of a snapshot from
// a peer, in one commit. A log that is damaged or behind the others' log start is made whole by it.
func (l *Log) Reset(s Snapshot) error {
	if len(s.Data) > MaxSnapshotBytes {
		return fmt.Errorf("%w: snapshot of %d bytes", ErrTooLarge, len(s.Data))
	}
	if err := l.beginWrite(); err != nil {
		return err
	}
	defer l.writeMu.Unlock()
	return l.timed(func() error { return l.reset(&s) })
}

func (l *Log) reset(s *Snapshot) error {
	info, err := l.writeSnapshot(s)
	if err != nil {
		return err
	}
	old, head := l.manifest.snapshots, mark{index: s.Index, term: s.Term, offset: s.Offset}
	err = l.commitManifest(func(m *manifest) {
		m.segments, m.snapshots = nil, []SnapshotInfo{info}
		m.head, m.start, m.commit = head, s.Offset, s.Index
		m.nextFile++
	})
	if err != nil {
		return err
	}
	active, dropped := l.activeLocked(), l.segments
	l.mu.Lock()
	l.segments, l.sealed = nil, 0
	l.head, l.tail, l.start, l.commit = head, head, s.Offset, s.Index
	l.index = newDense(s.Index + 1)
	l.hot.clear()
	l.generation++
	l.mu.Unlock()
	l.setSnapshots()
	if active != nil {
		active.release()
	}
	l.drop(dropped)
	l.removeSnapshots(old)
	return nil
}

// removeSnapshots deletes the files of snapshots that are no longer listed; the next Open sees to what stays.
func (l *Log) removeSnapshots(snapshots []SnapshotInfo) {
	for _, s := range snapshots {
		_ = l.fs.Remove(snapshotName(l.dir, s.file))
	}
}
