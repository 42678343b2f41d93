package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sync"
)

// stoppable is an input that can be told to end. It waits for nothing then: who may never write again keeps nobody.
type stoppable struct {
	r io.Reader

	mu               sync.Mutex
	stopped, reading bool
	cut              bool // what was read ends within a line
}

// errStopped is what reading a stoppable gives once it is stopped.
var errStopped = errors.New("interrupted")

func (s *stoppable) Read(b []byte) (int, error) {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return 0, errStopped
	}
	s.reading = true
	s.mu.Unlock()
	n, err := s.r.Read(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading = false
	if s.stopped && n > 0 {
		return 0, errStopped
	}
	if n > 0 {
		s.cut = b[n-1] != '\n'
	}
	return n, err
}

// stop lets no other Read begin, and reports whether one is under way, which may never end and gives nothing any more, and
// whether what was read before ends within a line.
func (s *stoppable) stop() (reading, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	return s.reading, s.cut
}

// lineReader cuts its input into lines. Lines longer than limit are an error: memory stays bounded
// whatever comes in.
type lineReader struct {
	r     *bufio.Reader
	limit int
	long  []byte // a line that did not fit the reader's buffer
	line  int    // number of the line last returned, from 1
}

// errLongLine is what a line unwraps to that is longer than the limit.
var errLongLine = errors.New("it is longer")

func newLineReader(r io.Reader, limit int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 256<<10), limit: limit}
}

// next gives the next line without its newline, valid until the call after; io.EOF after the last. A last line
// need not end in a newline.
func (l *lineReader) next() ([]byte, error) {
	l.line++
	b, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		l.long = l.long[:0]
		for errors.Is(err, bufio.ErrBufferFull) && len(l.long)+len(b) <= l.limit+1 {
			l.long = append(l.long, b...)
			b, err = l.r.ReadSlice('\n')
		}
		l.long = append(l.long, b...)
		b = l.long
	}
	switch {
	case err == nil:
		b = b[:len(b)-1]
	case errors.Is(err, io.EOF) && len(b) == 0:
		return nil, io.EOF
	case errors.Is(err, io.EOF), errors.Is(err, bufio.ErrBufferFull): // too long, said below
	default:
		return nil, err
	}
	if len(b) > l.limit {
		return nil, fmt.Errorf("%w than %s bytes", errLongLine, count(l.limit))
	}
	return b, nil
}
