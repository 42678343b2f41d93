package storage

import (
	"errors"
	"fmt"
	"io"
	"sort"
)

// Entry returns the entry at index i: from the hot tail, whose payload must not be changed, or read and verified, on
// memory of its own. It stays valid for ever.
//
// Errors: ErrNotFound outside [First, Last]; *CorruptError if it lies in a damaged range; ErrClosed.
func (l *Log) Entry(i Index) (Entry, error) { return l.entry(i, true) }

// Header returns the entry at index i without its payload. For the active segment it is known in memory.
func (l *Log) Header(i Index) (Entry, error) { return l.entry(i, false) }

func (l *Log) entry(i Index, payload bool) (Entry, error) {
	for {
		e, err := l.tryEntry(i, payload)
		if !errors.Is(err, errGone) {
			return e, err
		}
	}
}

func (l *Log) tryEntry(i Index, payload bool) (Entry, error) {
	l.mu.RLock()
	if err := l.checkEntryLocked(i); err != nil {
		l.mu.RUnlock()
		return Entry{}, err
	}
	if e := l.hot.entry(i); e != nil {
		found := *e
		l.mu.RUnlock()
		if !payload {
			found.Payload = nil
		}
		return found, nil
	}
	p := l.placeLocked(l.segmentOf(i), i)
	if p.item != nil && !payload {
		e := Entry{Index: i, Term: p.item.term, Type: p.item.kind, Records: p.item.records, Base: p.item.base, Time: p.item.time}
		l.mu.RUnlock()
		return e, nil
	}
	l.reading.Add(1)
	l.mu.RUnlock()
	defer l.reading.Done()
	return l.readEntry(p, i, payload)
}

// checkEntryLocked is why entry i cannot be read: ErrClosed, or ErrNotFound if the log does not hold it.
func (l *Log) checkEntryLocked(i Index) error {
	if l.closed {
		return ErrClosed
	}
	if first, last := l.head.index+1, l.tail.index; i < first || i > last {
		return fmt.Errorf("%w: entry %d, the log holds [%d, %d]", ErrNotFound, i, first, last)
	}
	return nil
}

// place is where to begin looking for an entry in a segment.
type place struct {
	segment *segment
	end     mark  // of the segment
	sealed  bool  // the segment has a sparse index; else from is as near as can be
	from    mark  // the entry, or the last readable one before it
	item    *item // active segment: the entry itself, unless it is damaged
}

// placeLocked returns where to find entry i, which lies in s.
func (l *Log) placeLocked(s *segment, i Index) place {
	p := place{segment: s, end: l.endLocked(s), sealed: s.meta.sealed, from: s.beginning()}
	if p.sealed {
		return p
	}
	if it := l.index.entry(i); !it.damaged {
		p.item = it
	}
	for ; i > s.meta.first; i-- {
		if it := l.index.entry(i); !it.damaged {
			p.from = mark{position: int64(it.position), index: i - 1, offset: it.base}
			break
		}
	}
	return p
}

// scan returns a scanner at p.from, or for a sealed segment at the last indexed frame for which before holds. The
// caller holds the segment.
func (p *place) scan(before func(sparseItem) bool) (scanner, error) {
	if p.sealed {
		return p.segment.locate(p.end, before)
	}
	scan := p.segment.scanner(p.end)
	scan.moveTo(p.from, p.from.position == headerBytes)
	return scan, nil
}

// readEntry reads entry i from its segment.
func (l *Log) readEntry(p place, i Index, payload bool) (Entry, error) {
	s := p.segment
	if err := s.hold(); err != nil {
		return Entry{}, l.openError(s, p.end, err)
	}
	defer l.rest(s)
	scan, err := p.scan(func(it sparseItem) bool { return it.index <= i })
	if err != nil {
		return Entry{}, err
	}
	scan.chunk = indexBlock + frameBytes
	if p.item != nil {
		scan.chunk = int(frameSize(int(p.item.length)))
	}
	for {
		f, b, g, err := scan.next()
		switch {
		case errors.Is(err, io.EOF):
			panic(fmt.Sprintf("storage: %s ends at entry %d, so it holds entry %d", s.name(), p.end.index, i))
		case err != nil:
			return Entry{}, err
		case g != nil && g.to.index >= i:
			return Entry{}, l.corrupt(s, g)
		case g != nil || f.index < i:
			continue
		}
		if !payload {
			return f.entry(nil), nil
		}
		if cap(scan.window) > 2*len(b) {
			b = append([]byte(nil), b...) // do not keep the whole window alive
		}
		return f.entry(b), nil
	}
}

// Scan calls each with every entry of [from, to], in order, also with those that hold no records. It reads through one
// window: a payload is valid until each returns, and must not be changed. An error of each ends it and is returned.
//
// Errors: ErrNotFound if an entry is not in the log; *CorruptError where one cannot be read; ErrClosed; and what reading
// the disk gives.
func (l *Log) Scan(from, to Index, each func(Entry) error) error {
	var window []byte
	for from <= to {
		l.mu.RLock()
		if err := l.checkEntryLocked(from); err != nil {
			l.mu.RUnlock()
			return err
		}
		p := l.placeLocked(l.segmentOf(from), from)
		l.reading.Add(1)
		l.mu.RUnlock()
		var err error
		from, window, err = l.scanPlace(p, from, to, window, each)
		l.reading.Done()
		if err != nil && !errors.Is(err, errGone) { // gone: it was dropped or sealed in this moment
			return err
		}
	}
	return nil
}

// scanPlace is Scan within one segment; next is the first entry behind it, or behind to.
func (l *Log) scanPlace(p place, from, to Index, window []byte, each func(Entry) error) (next Index, kept []byte, err error) {
	if err := p.segment.hold(); err != nil {
		return from, window, l.openError(p.segment, p.end, err)
	}
	defer p.segment.release()
	scan, err := p.scan(func(it sparseItem) bool { return it.index <= from })
	if err != nil {
		return from, window, err
	}
	scan.chunk, scan.window = 4*scanChunk, window[:0]
	for from <= min(to, p.end.index) {
		f, payload, g, err := scan.next()
		switch {
		case errors.Is(err, io.EOF):
			panic(fmt.Sprintf("storage: %s ends at entry %d, so it holds entry %d", p.segment.name(), p.end.index, from))
		case err != nil:
			return from, scan.window, err
		case g != nil && g.to.index >= from:
			return from, scan.window, l.corrupt(p.segment, g)
		case g != nil || f.index < from:
			continue
		}
		if err := each(f.entry(payload)); err != nil {
			return from, scan.window, err
		}
		from = f.index + 1
	}
	return from, scan.window, nil
}

// rest gives back a hold on s, but keeps s open until another segment rests: cold entries are mostly read in order.
func (l *Log) rest(s *segment) {
	if old := l.idle.Swap(s); old != nil {
		old.release()
	}
	if s.isDropped() && l.idle.CompareAndSwap(s, nil) {
		s.release()
	}
}

// openError says what a failure to open segment s means: a file that is missing is damage to all it held.
func (l *Log) openError(s *segment, end mark, err error) error {
	if !isMissing(err) {
		return err
	}
	return l.corrupt(s, &gap{from: s.beginning(), to: end, reason: "the file is missing"})
}

// corrupt describes the gap g in segment s.
func (l *Log) corrupt(s *segment, g *gap) *CorruptError {
	return &CorruptError{
		Path: s.name(), Position: g.from.position, FirstIndex: g.from.index + 1, EndIndex: g.to.index + 1,
		Start: g.from.offset, End: g.to.offset, Reason: g.reason,
	}
}

// segmentOf returns the segment that holds entry i, given that one does.
func (l *Log) segmentOf(i Index) *segment {
	n := sort.Search(len(l.segments), func(n int) bool { return l.segments[n].meta.first > i })
	return l.segments[n-1]
}

// segmentAt returns the segment that holds the record at offset, given that one does: the last to begin at or before
// it, since segments without records begin where the next one does.
func (l *Log) segmentAt(offset Offset) *segment {
	n := sort.Search(len(l.segments), func(n int) bool { return l.segments[n].meta.base > offset })
	return l.segments[n-1]
}

// FindOffset returns the index of the entry that holds the record at offset.
//
// Errors: ErrOutOfRange outside [Start, End); *CorruptError if it lies in a damaged range; ErrClosed.
func (l *Log) FindOffset(offset Offset) (Index, error) {
	for {
		i, err := l.findOffset(offset)
		if !errors.Is(err, errGone) {
			return i, err
		}
	}
}

func (l *Log) findOffset(offset Offset) (Index, error) {
	l.mu.RLock()
	if l.closed {
		l.mu.RUnlock()
		return 0, ErrClosed
	}
	if start, end := l.start, l.tail.offset; offset < start || offset >= end {
		l.mu.RUnlock()
		return 0, fmt.Errorf("%w: offset %d, the log holds [%d, %d)", ErrOutOfRange, offset, start, end)
	}
	if i, ok := l.hot.find(offset); ok {
		found := l.hot.at(i).Index
		l.mu.RUnlock()
		return found, nil
	}
	p := l.placeOfLocked(offset)
	if p.item != nil {
		l.mu.RUnlock()
		return p.from.index + 1, nil
	}
	l.reading.Add(1)
	l.mu.RUnlock()
	defer l.reading.Done()

	s := p.segment
	if err := s.hold(); err != nil {
		return 0, l.openError(s, p.end, err)
	}
	defer l.rest(s)
	scan, err := p.scan(func(it sparseItem) bool { return it.offset <= offset })
	for err == nil {
		var f frame
		var g *gap
		f, _, g, err = scan.next()
		switch {
		case err != nil:
		case g != nil && g.to.offset > offset:
			return 0, l.corrupt(s, g)
		case g == nil && f.end() > offset:
			return f.index, nil
		}
	}
	return 0, err
}

// placeOfLocked returns where to find the record at offset, which lies in [l.start, l.tail.offset).
func (l *Log) placeOfLocked(offset Offset) place {
	s := l.segmentAt(offset)
	if s.meta.sealed {
		return l.placeLocked(s, s.meta.first)
	}
	return l.placeLocked(s, l.index.find(offset))
}

// FindTime returns the first offset at or after the log start whose entry's Time is ms or later; End if there is none.
//
// Only entries with records count, and damaged ones are passed over. Times may go backwards from one entry to the next
// (a new leader's clock): the answer is the first match in log order, so that a reader that begins there misses nothing
// at or after ms, but may also see older records among it. The indexes keep the running maximum of the times, which
// grows with the offset and first reaches ms at that very entry.
func (l *Log) FindTime(ms int64) (Offset, error) {
	for {
		o, err := l.findTime(ms)
		if !errors.Is(err, errGone) {
			return o, err
		}
	}
}

func (l *Log) findTime(ms int64) (Offset, error) {
	l.mu.RLock()
	if l.closed {
		l.mu.RUnlock()
		return 0, ErrClosed
	}
	start, end := l.start, l.tail.offset
	var places []place
	for _, s := range l.segments {
		if s.meta.sealed && s.meta.maxTime >= ms && s.meta.end.offset > start {
			places = append(places, place{segment: s, end: s.meta.end, sealed: true})
		}
	}
	active, activeOK := l.findActiveTime(ms)
	l.reading.Add(1)
	l.mu.RUnlock()
	defer l.reading.Done()

	for i := range places {
		o, ok, err := l.findTimeIn(&places[i], ms, start)
		if err != nil || ok {
			return o, err
		}
	}
	if activeOK {
		return active, nil
	}
	return end, nil
}

// findActiveTime is findTime for the active segment.
func (l *Log) findActiveTime(ms int64) (Offset, bool) {
	if l.index.maxTime < ms {
		return 0, false
	}
	for i := range l.index.n {
		if it := l.index.at(i); it.records > 0 && it.time >= ms && it.base+Offset(it.records) > l.start {
			return max(it.base, l.start), true
		}
	}
	return 0, false
}

// findTimeIn is findTime for a sealed segment.
func (l *Log) findTimeIn(p *place, ms int64, start Offset) (Offset, bool, error) {
	s := p.segment
	if err := s.hold(); err != nil {
		if isMissing(err) {
			return 0, false, nil
		}
		return 0, false, err
	}
	defer l.rest(s)
	scan, err := p.scan(func(it sparseItem) bool { return it.earlier < ms })
	if err != nil {
		return 0, false, err
	}
	for {
		f, _, g, err := scan.next()
		switch {
		case errors.Is(err, io.EOF):
			return 0, false, nil
		case err != nil:
			return 0, false, err
		case g == nil && f.records > 0 && f.time >= ms && f.end() > start:
			return max(f.base, start), true, nil
		}
	}
}
