package storage

import "fmt"

// Trim makes to the log start: nothing below is served any more. It recycles the sealed segments that the newest
// snapshot at or below to covers entirely, and drops the snapshots older than that one, which is from then on the
// log-start snapshot. Without such a snapshot only the log start moves, since somebody who lacks the older entries could
// not be helped without them.
//
// A log start below the present one changes nothing. ErrOutOfRange above the log's end.
func (l *Log) Trim(to Offset) error {
	if err := l.beginWrite(); err != nil {
		return err
	}
	defer l.writeMu.Unlock()
	l.mu.RLock()
	start, tail := l.start, l.tail
	l.mu.RUnlock()
	if to > tail.offset {
		return fmt.Errorf("%w: trim to offset %d, the log ends at %d", ErrOutOfRange, to, tail.offset)
	}
	if to < start {
		return nil
	}
	head, snapshots, segments := l.trimPlan(to)
	if to == start && head == l.manifest.head && snapshots == 0 && segments == 0 {
		return nil
	}
	return l.timed(func() error { return l.trim(to, head, snapshots, segments) })
}

// trimPlan returns what Trim(to) leaves: the entry before the first one held, and how many of the oldest snapshots and
// segments go.
func (l *Log) trimPlan(to Offset) (head mark, snapshots, segments int) {
	m := &l.manifest
	head = m.head
	for i := range m.snapshots {
		if s := &m.snapshots[i]; s.Offset <= to {
			snapshots = i
			if s.Index > head.index {
				head = mark{index: s.Index, term: s.Term, offset: s.Offset}
			}
		}
	}
	for segments < len(m.segments) && m.segments[segments].sealed && m.segments[segments].end.index <= head.index {
		segments++
	}
	return head, snapshots, segments
}

func (l *Log) trim(to Offset, head mark, snapshots, segments int) error {
	oldSnapshots, oldSegments := l.manifest.snapshots[:snapshots], l.segments[:segments]
	err := l.commitManifest(func(m *manifest) {
		m.start, m.head = to, head
		m.snapshots, m.segments = m.snapshots[snapshots:], m.segments[segments:]
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.start, l.head = to, head
	l.segments = append([]*segment(nil), l.segments[segments:]...)
	l.countSealedLocked()
	l.hot.trim(head.index + 1)
	l.mu.Unlock()
	l.setSnapshots()
	l.drop(oldSegments)
	l.removeSnapshots(oldSnapshots)
	return nil
}

// RetentionPoint returns the highest log start that the limits ask for, counting whole sealed segments only; the present
// log start if they ask for none. A segment may go, oldest first, if any of these holds:
//
//	maxBytes    more than 0, and what is left without the segment is at least that
//	maxRecords  more than 0, and what is left without the segment is at least that
//	before      more than 0, and all its records are older (Unix milliseconds)
//
// The active segment stays: to let age reach what lies in it, Roll.
func (l *Log) RetentionPoint(maxBytes int64, maxRecords uint64, before int64) Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var bytes int64
	for _, s := range l.segments {
		bytes += l.endLocked(s).position
	}
	point := l.start
	for _, s := range l.segments {
		if !s.meta.sealed {
			break
		}
		bytes -= s.meta.end.position
		records := uint64(l.tail.offset - s.meta.end.offset)
		if !(maxBytes > 0 && bytes >= maxBytes || maxRecords > 0 && records >= maxRecords || before > 0 && s.meta.maxTime < before) {
			break
		}
		point = max(point, s.meta.end.offset)
	}
	return point
}

// ActiveSince returns the time of the first entry with records in the active segment; ok is false if it has none.
// Retention takes sealed segments only, so one that is older than what is kept wants to be rolled (Roll).
func (l *Log) ActiveSince() (ms int64, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.activeLocked() == nil {
		return 0, false
	}
	for i := range l.index.n {
		if it := l.index.at(i); it.records > 0 && !it.damaged {
			return it.time, true
		}
	}
	return 0, false
}
