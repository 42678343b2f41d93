package storage

// What the tests outside the package see of the inside.

// NewIdlePool is NewPool without its goroutine: Work does what that would do, when the test says so.
func NewIdlePool(fsys FS, dir string, maxBytes int64) (*Pool, error) {
	return newPool(fsys, dir, maxBytes)
}

// Work does all the pool's outstanding work.
func (p *Pool) Work() {
	for p.step() {
	}
}

// Want asks for a spare.
func (p *Pool) Want(size int64) { p.want(size) }

// Spares returns how many spares there are, and Used how many recycled files.
func (p *Pool) Spares() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.spares)
}

func (p *Pool) Used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.used)
}

// Extent is where an entry lies.
type Extent struct {
	File       string
	Start, End int64
	Index      Index
	Active     bool // in the active segment
}

// Layout returns where each of the entries lies, which are those of l from the first one in a file on.
func (l *Log) Layout(payload func(Index) int) []Extent {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []Extent
	for _, s := range l.segments {
		pos := int64(headerBytes)
		for i := s.meta.first; i <= l.endLocked(s).index; i++ {
			end := pos + frameSize(payload(i))
			out = append(out, Extent{s.name(), pos, end, i, !s.meta.sealed})
			pos = end
		}
	}
	return out
}

// Kept is how many bytes of what was read the reader keeps in memory, or others because of it.
func (r *Reader) Kept() int {
	n := cap(r.window) + cap(r.scan.window)
	for _, e := range r.entries[:cap(r.entries)] {
		n += len(e.Payload)
	}
	return n
}
