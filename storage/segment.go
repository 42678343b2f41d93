package storage

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// errGone says that a segment was recycled while somebody was on the way to it: look again.
var errGone = errors.New("storage: segment is gone")

// segment is one segment file. What it holds (meta) is guarded by Log.mu; the open file is counted: whoever reads or
// writes it holds it, and while anybody does it is neither closed nor recycled.
type segment struct {
	fs      FS
	dir     string
	seed    uint32
	id      identity
	meta    segmentMeta
	recycle func(name string) // gives the file away

	ready      int64     // where what is ours ends in the file, the zeros behind the frames included; the writer's own
	began      time.Time // when the writer began to fill it; the writer's own
	writes     int64     // since began; the writer's own
	spareAsked bool      // the pool was asked for the next one; the writer's own

	building sync.Mutex // one goroutine rebuilds the index; taken before mu

	mu      sync.Mutex // guards what follows; taken after Log.mu, never before it
	file    File
	index   *sparse
	holders int
	dropped bool // no longer part of the log: recycle when nobody holds it
	gone    bool // recycled, or the log is closed
}

const tempSuffix = ".tmp"

func segmentName(dir string, id uint64) string { return join(dir, fmt.Sprintf("%020d.seg", id)) }
func indexName(dir string, id uint64) string   { return join(dir, fmt.Sprintf("%020d.idx", id)) }

func (s *segment) name() string { return segmentName(s.dir, s.id.id) }

// hold keeps the file open and in place until release.
func (s *segment) hold() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return errGone
	}
	if s.file == nil {
		f, err := s.fs.Open(s.name())
		if err != nil {
			return err
		}
		s.file = f
	}
	s.holders++
	return nil
}

func (s *segment) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holders--
	if s.holders > 0 || s.gone {
		return
	}
	s.closeLocked()
	if s.dropped {
		s.recycleLocked()
	}
}

// drop takes the segment out of the log: its file is recycled as soon as nobody holds it.
func (s *segment) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped = true
	if s.holders == 0 && !s.gone {
		s.closeLocked()
		s.recycleLocked()
	}
}

func (s *segment) isDropped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// shut closes the file under whoever still holds it. The caller made sure that nobody is reading.
func (s *segment) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return
	}
	s.closeLocked()
	if s.dropped {
		s.recycleLocked()
	}
	s.gone = true
}

// closeLocked lets go of file and mapping. Nothing written is lost by it, so errors have no consequence.
func (s *segment) closeLocked() {
	if s.index != nil {
		_ = s.index.close()
		s.index = nil
	}
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

func (s *segment) recycleLocked() {
	s.gone = true
	_ = s.fs.Remove(indexName(s.dir, s.id.id)) // missing if it was never sealed; a leftover goes at the next start
	s.recycle(s.name())
}

// scanner returns a scanner over the segment's frames from the first on. end is the state where they end, known for
// certain. The caller holds the segment.
func (s *segment) scanner(end mark) scanner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return scanner{
		file: s.file, seed: s.seed, chunk: scanChunk, end: end.position, known: end, lenient: true,
		at: s.beginning(), chained: true,
	}
}

// leastGrowth is how many zeros at least are written ahead of small writes.
func (s *segment) leastGrowth() int64 { return min(minGrowth, s.meta.capacity/16) }

// large reports whether a write of that many bytes is better off without zeros ahead of it.
func (s *segment) large(bytes int64) bool { return bytes >= s.leastGrowth() }

// clear is how far zeros reach at least behind frames that end at end. In a file that was not used before they reach to
// the end of the file, wherever that is.
func (s *segment) clear(end int64) int64 {
	end = roundUp(end, indexBlock)
	if s.meta.reused {
		end = min(end+indexBlock, max(end, s.meta.capacity))
	}
	return end
}

// beginning is the state before the segment's first frame.
func (s *segment) beginning() mark {
	return mark{position: headerBytes, index: s.meta.first - 1, term: s.meta.before, offset: s.meta.base, crc: s.seed}
}

// locate returns a scanner that stands at the last indexed frame for which before holds, or at the first one. The
// caller holds the segment, which is sealed at end.
//
// A bad index is rebuilt from the segment: a scan of the whole file, once.
func (s *segment) locate(end mark, before func(sparseItem) bool) (scanner, error) {
	scan := s.scanner(end)
	index, err := s.loadIndex(end, nil)
	if err != nil {
		return scan, err
	}
	// An index written before the segment was cut short goes on behind its end.
	inside := func(it sparseItem) bool { return it.position < end.position && before(it) }
	it, ok, err := index.find(inside)
	if errors.Is(err, errBadIndex) {
		if index, err = s.loadIndex(end, index); err == nil {
			it, ok, err = index.find(inside)
		}
	}
	if err != nil || !ok {
		return scan, err
	}
	scan.moveTo(mark{position: it.position, index: it.index - 1, offset: it.offset}, false)
	return scan, nil
}

// loadIndex returns the sealed segment's index: mapped if there is a good file, else rebuilt. bad is an index that the
// caller found to be bad.
func (s *segment) loadIndex(end mark, bad *sparse) (*sparse, error) {
	s.building.Lock()
	defer s.building.Unlock()
	s.mu.Lock()
	index := s.index
	s.mu.Unlock()
	if index != nil && index != bad {
		return index, nil
	}
	if bad == nil {
		index = s.mapIndex()
	} else {
		index = nil
	}
	if index == nil {
		scan := s.scanner(end)
		items, err := buildSparse(&scan)
		if err != nil {
			return nil, err
		}
		b := encodeIndex(s.id.id, s.seed, items)
		s.writeIndex(b)
		index = &sparse{seed: s.seed, items: b[indexHead:], n: len(items)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if bad != nil { // others may be reading the bad one: it is unmapped with the file
		index.unmap = bad.unmap
	}
	s.index = index
	return index, nil
}

// mapIndex returns the mapped index file, or nil if there is no good one.
func (s *segment) mapIndex() *sparse {
	f, err := s.fs.Open(indexName(s.dir, s.id.id))
	if err != nil {
		return nil
	}
	defer f.Close()
	m, err := f.Map()
	if err != nil {
		return nil
	}
	index, err := openIndex(m.Bytes(), s.id.id, s.seed)
	if err != nil {
		_ = m.Unmap()
		return nil
	}
	index.unmap = m.Unmap
	return index
}

// writeIndex puts an index file in place. It is derived data, so it is not synced and may fail: whoever finds none, or a
// torn one, rebuilds it.
func (s *segment) writeIndex(b []byte) {
	name := indexName(s.dir, s.id.id)
	temp := name + tempSuffix
	_ = s.fs.Remove(temp)
	f, err := s.fs.Create(temp)
	if err != nil {
		return
	}
	_, err = f.WriteAt(b, 0)
	if errors.Join(err, f.Close()) == nil {
		err = s.fs.Rename(temp, name)
	}
	if err != nil {
		_ = s.fs.Remove(temp)
	}
}
