package storage

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Reader reads the entries that hold records, in order, and follows the tail. The segment it is in is neither closed nor
// recycled under it, so close a Reader that is no longer needed. Not safe for concurrent use.
type Reader struct {
	log      *Log
	position Offset
	entries  []Entry // what the last call returned

	// Where position lies in a file; no segment: not known. The reader holds the segment.
	segment    *segment
	scan       scanner
	generation uint64
	window     []byte // kept for the next segment's scanner
}

// maxIdleWindow is the largest read buffer a Reader keeps.
const maxIdleWindow = 2 << 20

// maxIdleEntries is how many entries a Reader that has left keeps room for.
const maxIdleEntries = 16

// windows are those of readers that have left: a new one each time would be garbage faster than it is collected.
var windows = sync.Pool{New: func() any { return new([]byte) }}

// Reader returns a reader at from, which need not exist yet.
func (l *Log) Reader(from Offset) *Reader { return &Reader{log: l, position: from} }

// Position is the offset of the next record to be read.
func (r *Reader) Position() Offset { return r.position }

// Seek moves to an offset, which need not exist yet.
func (r *Reader) Seek(to Offset) {
	if to != r.position {
		r.position = to
		r.leave()
	}
}

// Close gives back what the reader holds. What the last call returned is not valid any more.
func (r *Reader) Close() { r.Leave() }

// Holds reports whether the reader holds a segment. Its file then stays, whatever retention does.
func (r *Reader) Holds() bool { return r.segment != nil }

// Leave gives the segment and what memory matters back and keeps the position: for a reader that will not be used for a while.
// What the last call returned is not valid any more. It may touch the disk, as Seek and Close may, if Holds.
func (r *Reader) Leave() {
	r.leave()
	if w := r.window; w != nil {
		windows.Put(&w)
		r.window = nil
	}
	if r.entries = r.entries[:cap(r.entries)]; len(r.entries) > maxIdleEntries {
		r.entries = nil
	}
	clear(r.entries) // they keep payloads in memory that the hot tail may have let go of
}

// leave forgets the place in a file, and keeps the window for the next.
func (r *Reader) leave() {
	if r.segment == nil {
		return
	}
	r.window = r.scan.window[:0]
	if cap(r.window) > maxIdleWindow {
		r.window = nil
	}
	s := r.segment
	r.segment, r.scan = nil, scanner{}
	s.release()
}

// NextHot is Next from memory alone: it touches neither disk nor mapped memory and never waits, so an event loop may
// call it. ErrCold if the position is not in the hot tail. The payloads are never to be changed and stay valid for ever;
// the slice of entries until the next call.
func (r *Reader) NextHot(limit Offset, maxBytes int) ([]Entry, error) {
	l := r.log
	l.mu.RLock()
	defer l.mu.RUnlock()
	if more, err := r.checkLocked(limit); !more {
		return nil, err
	}
	if !r.hotLocked(limit, maxBytes) {
		return nil, ErrCold
	}
	return r.entries, nil
}

// Next returns the entries that hold records of [Position, limit), in order, and moves past them. It returns at least
// one if there is any, and otherwise at most maxBytes of payload; it may return less than there is. nil, nil: there is
// nothing below limit yet. The first entry may begin before Position. Entries without records are passed over.
//
// Entries and payloads are valid until the next call and must not be changed: they alias the hot tail or the reader's
// buffer.
//
// Errors: ErrOutOfRange below the log start; *CorruptError if Position lies in a damaged range (Seek to its End to go
// on); ErrClosed; and what reading the disk gives.
func (r *Reader) Next(limit Offset, maxBytes int) ([]Entry, error) {
	for {
		entries, err := r.next(limit, maxBytes)
		if !errors.Is(err, errGone) {
			return entries, err
		}
		r.leave()
	}
}

// checkLocked reports whether there is anything to read, and the error if there cannot be.
func (r *Reader) checkLocked(limit Offset) (bool, error) {
	l := r.log
	r.entries = r.entries[:0]
	switch {
	case l.closed:
		return false, ErrClosed
	case r.position < l.start:
		return false, fmt.Errorf("%w: offset %d, the log starts at %d", ErrOutOfRange, r.position, l.start)
	}
	return r.position < min(limit, l.tail.offset), nil
}

// hotLocked reads from the hot tail, if it holds the position.
func (r *Reader) hotLocked(limit Offset, maxBytes int) bool {
	hot := &r.log.hot
	i, ok := hot.find(r.position)
	if !ok {
		return false
	}
	for size := 0; i < hot.n; i++ {
		e := hot.at(i)
		if e.Records == 0 {
			continue
		}
		size += len(e.Payload)
		if e.Base >= limit || len(r.entries) > 0 && size > maxBytes {
			break
		}
		r.entries = append(r.entries, *e)
		r.position = e.Base + Offset(e.Records)
	}
	return true
}

func (r *Reader) next(limit Offset, maxBytes int) ([]Entry, error) {
	l := r.log
	l.mu.RLock()
	more, err := r.checkLocked(limit)
	if !more {
		l.mu.RUnlock()
		if err != nil {
			r.leave() // what lies below the log start is waiting to be recycled
		}
		return nil, err
	}
	if r.hotLocked(limit, maxBytes) {
		l.mu.RUnlock()
		r.leave()
		return r.entries, nil
	}
	p := l.placeOfLocked(r.position)
	generation := l.generation
	l.reading.Add(1)
	l.mu.RUnlock()
	defer l.reading.Done()

	if err := r.goTo(p, generation); err != nil {
		return nil, err
	}
	r.scan.chunk = min(max(maxBytes, scanChunk/4), 4*scanChunk)
	return r.readCold(limit, maxBytes)
}

// goTo makes the scanner stand at or before the position, in the segment that p names.
func (r *Reader) goTo(p place, generation uint64) error {
	if r.segment == p.segment && r.generation == generation {
		r.scan.end, r.scan.known = p.end.position, p.end // the active segment has grown, or was sealed
		return nil
	}
	r.leave()
	if err := p.segment.hold(); err != nil {
		return r.log.openError(p.segment, p.end, err)
	}
	scan, err := p.scan(func(it sparseItem) bool { return it.offset <= r.position })
	if err != nil {
		p.segment.release()
		return err
	}
	r.segment, r.scan, r.generation = p.segment, scan, generation
	if r.window == nil {
		r.window = *windows.Get().(*[]byte)
	}
	r.scan.window, r.window = r.window[:0], nil
	return nil
}

// readCold reads from the segment's file. The scanner's window must not move once there are entries in it to return.
func (r *Reader) readCold(limit Offset, maxBytes int) ([]Entry, error) {
	size := 0
	for len(r.entries) == 0 || r.scan.buffered() {
		before, chained := r.scan.at, r.scan.chained
		r.scan.inUse = len(r.entries) > 0
		f, payload, g, err := r.scan.next()
		switch {
		case err == errNotGood:
			return r.entries, nil // the next call looks behind it
		case errors.Is(err, io.EOF):
			if len(r.entries) > 0 {
				return r.entries, nil
			}
			panic(fmt.Sprintf("storage: %s ends at offset %d without offset %d", r.segment.name(), r.scan.known.offset, r.position))
		case err != nil:
			r.leave()
			return nil, err
		case g != nil && g.to.offset <= r.position:
			continue // nothing of it is asked for
		case g != nil && len(r.entries) > 0:
			r.scan.moveTo(before, chained) // the next call reports it
			return r.entries, nil
		case g != nil:
			err := r.log.corrupt(r.segment, g)
			r.leave()
			return nil, err
		case f.records == 0 || f.end() <= r.position:
			continue
		}
		size += len(payload)
		if f.base >= limit || len(r.entries) > 0 && size > maxBytes {
			r.scan.moveTo(before, chained)
			return r.entries, nil
		}
		r.entries = append(r.entries, f.entry(payload))
		r.position = f.end()
	}
	return r.entries, nil
}
