package storage

import (
	"encoding/binary"
	"errors"
	"io"
)

// scanChunk is how much a scanner reads at a time.
const scanChunk = 256 << 10

// scanner walks the frames of a segment file in order and verifies each. It reads through a window, so the payloads it
// returns are valid until the next call that moves it.
//
// A frame is good if its checksum is right *and* it is the one expected: the next index, the next offset, chained to
// the frame before.
type scanner struct {
	file  io.ReaderAt
	seed  uint32
	chunk int // bytes to read at a time
	end   int64
	known mark // the state at a known position at or before end; zero position: nothing is known

	at      mark // position of the next frame, and the entry before it
	chained bool // at.crc is known

	window []byte
	start  int64 // position of window[0]

	lenient bool // unreadable blocks count as damage, not as an error
	inUse   bool // somebody uses what the window holds: next stays before a bad frame, as looking for the one behind it overwrites the window
}

// moveTo makes the frame at m the next one. The window is kept.
func (s *scanner) moveTo(m mark, chained bool) { s.at, s.chained = m, chained }

// bytes returns the file's bytes [pos, pos+n), fewer at the end of the file or of the scan.
func (s *scanner) bytes(pos, n int64) ([]byte, error) {
	n = min(n, s.end-pos)
	if n <= 0 {
		return nil, nil
	}
	if have := s.start + int64(len(s.window)); pos < s.start || pos+n > have {
		if err := s.fill(pos, n); err != nil {
			return nil, err
		}
	}
	from := pos - s.start
	return s.window[min(from, int64(len(s.window))):min(from+n, int64(len(s.window)))], nil
}

// fill makes the window begin at pos and hold at least n bytes, if the file has them.
func (s *scanner) fill(pos, n int64) error {
	keep := s.window[:0]
	if off := pos - s.start; off >= 0 && off < int64(len(s.window)) {
		keep = s.window[off:]
	}
	size := min(max(n, int64(s.chunk)), s.end-pos)
	buf := s.window[:0]
	if int64(cap(buf)) < size {
		buf = make([]byte, 0, size)
	}
	buf = append(buf, keep...)
	s.window, s.start = buf, pos
	if int64(len(buf)) >= size {
		return nil
	}
	rest := buf[len(buf):size]
	read, err := s.file.ReadAt(rest, pos+int64(len(buf)))
	if err != nil && !errors.Is(err, io.EOF) {
		if !s.lenient {
			return err
		}
		read = s.readBlocks(rest, pos+int64(len(buf)))
	}
	s.window = buf[:len(buf)+read]
	return nil
}

// readBlocks reads b block by block and leaves zeros, which are no frame, where the disk gives nothing.
func (s *scanner) readBlocks(b []byte, pos int64) int {
	const block = 4 << 10
	done := 0
	for done < len(b) {
		n := min(block-int((pos+int64(done))%block), len(b)-done)
		got, err := s.file.ReadAt(b[done:done+n], pos+int64(done))
		if errors.Is(err, io.EOF) {
			return done + got
		}
		if err != nil {
			clear(b[done : done+n])
		}
		done += n
	}
	return done
}

// buffered reports whether the next frame can be examined without moving the window.
func (s *scanner) buffered() bool {
	have := s.start + int64(len(s.window))
	if s.at.position < s.start || s.at.position+frameBytes > have {
		return false
	}
	f, reason := decodeFrame(s.window[s.at.position-s.start:], s.seed)
	return reason != "" || s.at.position+f.size() <= have
}

// frameAt returns the frame at pos if its checksum is right, whatever its place in the log.
func (s *scanner) frameAt(pos int64) (f frame, payload []byte, reason string, err error) {
	b, err := s.bytes(pos, frameBytes)
	if err != nil {
		return frame{}, nil, "", err
	}
	if f, reason = decodeFrame(b, s.seed); reason != "" {
		return f, nil, reason, nil
	}
	if pos+f.size() > s.end {
		return f, nil, "the frame is longer than what is left", nil
	}
	if b, err = s.bytes(pos, f.size()); err != nil {
		return f, nil, "", err
	}
	if int64(len(b)) < f.size() {
		return f, nil, "the file ends within the frame", nil
	}
	if !f.verify(b, s.seed) {
		return f, nil, "the checksum is wrong", nil
	}
	return f, b[frameBytes : frameBytes+int(f.length)], "", nil
}

// expected says why f, whose checksum is right, is not the frame that follows, or "".
func (s *scanner) expected(f *frame) string {
	switch {
	case f.index != s.at.index+1:
		return "the frame has another index"
	case f.base != s.at.offset:
		return "the frame has another offset"
	case s.chained && f.previous != s.at.crc:
		return "the frame does not follow the one before it"
	case s.at.position < s.known.position && s.at.position+f.size() > s.known.position:
		return "the frame runs over the end of another"
	}
	return ""
}

// pass moves the scanner over f.
func (s *scanner) pass(f *frame) {
	s.at = mark{position: s.at.position + f.size(), index: f.index, term: f.term, offset: f.end(), crc: f.crc}
	s.chained = true
}

// gap is a range without a readable frame.
type gap struct {
	from, to mark // the state before and after; to.position is where the next frame begins
	reason   string
}

// errNotGood is what next says of a bad frame while the window is in use.
var errNotGood = errors.New("storage: the next frame is not good")

// next returns the next frame and moves over it; or, if it is not good, a gap, and moves to the frame after it. io.EOF
// says that there is no good frame from here on, which with a known end means that the end is reached.
func (s *scanner) next() (f frame, payload []byte, g *gap, err error) {
	if g := s.checkKnown(); g != nil {
		return frame{}, nil, g, nil
	}
	if s.at.position+frameBytes > s.end {
		return frame{}, nil, nil, io.EOF
	}
	f, payload, reason, err := s.frameAt(s.at.position)
	if err != nil {
		return frame{}, nil, nil, err
	}
	if reason == "" {
		if reason = s.expected(&f); reason == "" {
			s.pass(&f)
			return f, payload, nil, nil
		}
	}
	if s.inUse {
		return frame{}, nil, nil, errNotGood
	}
	g, err = s.resynchronise(reason)
	return frame{}, nil, g, err
}

// checkKnown returns a gap if the frames so far do not lead to the known mark.
func (s *scanner) checkKnown() *gap {
	from, left := s.at, s.known.position-s.at.position
	short := left > 0 && left < frameBytes
	wrong := left == 0 && (from.index != s.known.index || from.offset != s.known.offset)
	if !short && !wrong {
		return nil
	}
	s.moveTo(s.known, true)
	return &gap{from: from, to: s.known, reason: "entries are missing"}
}

// resynchronise finds the next good frame after a bad one and moves there. It stops at the known mark, where the state
// is certain. io.EOF says that there is none: the scanner has not moved.
func (s *scanner) resynchronise(reason string) (*gap, error) {
	from, stop := s.at, s.end
	toKnown := from.position < s.known.position
	if toKnown {
		stop = s.known.position
	}
	s.chunk = max(s.chunk, scanChunk)
	for pos := from.position; ; {
		var err error
		if pos, err = s.candidate(pos+frameAlign, stop); err != nil {
			return nil, err
		}
		if pos < 0 {
			break
		}
		b, err := s.bytes(pos, frameBytes)
		if err != nil {
			return nil, err
		}
		f, bad := decodeFrame(b, s.seed)
		if bad != "" || !plausible(&f, from, pos) || pos+f.size() > stop {
			continue
		}
		if toKnown && (f.index > s.known.index || f.end() > s.known.offset) {
			continue
		}
		if _, _, bad, err = s.frameAt(pos); err != nil {
			return nil, err
		} else if bad != "" {
			continue
		}
		// The term before f is unknown; f's own is an upper bound, and what follows is checked against that.
		s.moveTo(mark{position: pos, index: f.index - 1, term: f.term, offset: f.base, crc: f.previous}, true)
		return &gap{from: from, to: s.at, reason: reason}, nil
	}
	if toKnown {
		s.moveTo(s.known, true)
		return &gap{from: from, to: s.known, reason: reason}, nil
	}
	return nil, io.EOF
}

// candidate returns the first place on the grid, from pos on, that has the segment's tag and an index where a frame
// header has them; -1 if there is none before stop. It is the inner loop of recovery: the zeros behind a log's end are
// searched through it too.
func (s *scanner) candidate(pos, stop int64) (int64, error) {
	le, tag := binary.LittleEndian, uint16(s.seed)
	for pos+frameBytes <= stop {
		b, err := s.bytes(pos, frameBytes)
		if err != nil {
			return 0, err
		}
		if len(b) < frameBytes {
			return -1, nil // the end of the file
		}
		b = s.window[pos-s.start:]
		b = b[:min(int64(len(b)), stop-pos)]
		for len(b) >= frameBytes {
			if le.Uint16(b[62:]) == tag && le.Uint64(b[16:]) != 0 {
				return pos, nil
			}
			b, pos = b[frameAlign:], pos+frameAlign
		}
	}
	return -1, nil
}

// plausible reports whether f can lie at pos when the state at from is known and everything between is unreadable: no
// more entries are missing than there is room for.
func plausible(f *frame, from mark, pos int64) bool {
	room := Index(pos-from.position) / frameBytes
	return f.index > from.index && f.index-from.index-1 <= room && f.base >= from.offset && int64(f.synced) <= pos
}
