package storage

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
)

const (
	defaultPoolBytes = 1 << 30
	maxPoolFiles     = 4096

	// zeroStep is how much is zero-filled between two syncs, so that other files' syncs never wait for much.
	zeroStep = 1 << 20
	// zeroWrite is how much one write does of it. A page cache keeps pieces as large as the writes that made them, and a
	// small write goes through all blocks of its piece. (A write and its fdatasync, in two runs, of what they take in pieces of
	// 1 MiB: of 304 B 0.63 and 0.90, of 12 KB 1.01 and 0.87, of 1 MiB 1.12 and 1.00.)
	zeroWrite = 64 << 10
)

var zeros [zeroWrite]byte

// writeZeros overwrites [pos, end) with zeros.
func writeZeros(file File, pos, end int64) error {
	for ; pos < end; pos += zeroWrite {
		if _, err := file.WriteAt(zeros[:min(zeroWrite, end-pos)], pos); err != nil {
			return err
		}
	}
	return nil
}

// Pool keeps segment files that no log uses, for all logs of a node: recycled ones, still full of old bytes, and
// spares, filled with zeros and ready.
//
// Files are renamed in and out, never deleted on anybody's way: on a discard mount an unlink stalls every sync beside
// it (p99.9 0.9 → 11.5 ms). One goroutine makes spares, from recycled files if there are any, and deletes what is too
// much. A log that writes much at a time takes recycled files as they are and clears what stands right behind its end
// with each write.
type Pool struct {
	fs  FS
	dir string
	max int64

	mu     sync.Mutex // guards what follows
	next   uint64     // number of the next file name
	bytes  int64      // of all files in the pool
	used   []poolFile // recycled, oldest first
	spares []poolFile
	excess []poolFile // to be deleted
	wanted []int64    // sizes of spares asked for
	closed bool
	space  Space // may be nil

	wake chan struct{}
	done chan struct{}
}

type poolFile struct {
	name string
	size int64
}

// NewPool returns the pool in dir, with what an earlier process left there. maxBytes 0 means 1 GiB.
func NewPool(fsys FS, dir string, maxBytes int64) (*Pool, error) {
	p, err := newPool(fsys, dir, maxBytes)
	if err != nil {
		return nil, err
	}
	p.done = make(chan struct{})
	go p.run()
	return p, nil
}

// newPool is NewPool without the goroutine.
func newPool(fsys FS, dir string, maxBytes int64) (*Pool, error) {
	p := &Pool{fs: fsys, dir: dir, max: cmp.Or(maxBytes, defaultPoolBytes), wake: make(chan struct{}, 1)}
	if err := makeDir(fsys, dir); err != nil {
		return nil, fmt.Errorf("storage: pool: %w", err)
	}
	names, err := fsys.List(dir)
	if err != nil {
		return nil, fmt.Errorf("storage: pool: %w", err)
	}
	for _, n := range names {
		var number uint64
		if _, err := fmt.Sscanf(n, "%d.free", &number); err != nil {
			continue // not ours
		}
		name := join(dir, n)
		size, err := fsys.Size(name)
		if err != nil {
			return nil, fmt.Errorf("storage: pool: %w", err)
		}
		p.next = max(p.next, number+1)
		p.keep(poolFile{name, size})
	}
	p.signal()
	return p, nil
}

// Bytes is the size of all files in the pool.
func (p *Pool) Bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}

// Close stops the pool's goroutine and waits for it. The files stay.
func (p *Pool) Close() error {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.mu.Unlock()
	if !closed {
		p.signal()
	}
	if p.done != nil {
		<-p.done
	}
	return nil
}

// keep adds a recycled file, or marks it for deletion if there are too many.
func (p *Pool) keep(f poolFile) {
	if p.bytes+f.size > p.max || len(p.used)+len(p.spares) >= maxPoolFiles || f.size == 0 {
		p.excess = append(p.excess, f)
		return
	}
	p.bytes += f.size
	p.used = append(p.used, f)
}

// put takes over the file called name.
func (p *Pool) put(name string) error {
	size, err := p.fs.Size(name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	f := poolFile{p.newNameLocked(), size}
	p.mu.Unlock()
	if err := p.fs.Rename(name, f.name); err != nil {
		return err
	}
	p.mu.Lock()
	p.keep(f)
	p.mu.Unlock()
	p.signal()
	return nil
}

// taken is what take found.
type taken int

const (
	nothing  taken = iota
	aSpare         // full of zeros
	usedFile       // as its log left it
)

// take renames a spare of exactly size bytes to name; if there is none, the largest recycled file that is not larger.
func (p *Pool) take(size int64, name string) (taken, error) {
	p.mu.Lock()
	got, from := aSpare, &p.spares
	i := slices.IndexFunc(p.spares, func(f poolFile) bool { return f.size == size })
	if i < 0 {
		got, from = usedFile, &p.used
		i = p.largestUsedLocked(size)
	}
	if i < 0 {
		p.mu.Unlock()
		return nothing, nil
	}
	f := (*from)[i]
	*from = slices.Delete(*from, i, i+1)
	p.bytes -= f.size
	p.mu.Unlock()
	return got, p.fs.Rename(f.name, name)
}

// largestUsedLocked is the position of the largest recycled file that is not larger than size; -1 if there is none.
func (p *Pool) largestUsedLocked(size int64) int {
	best := -1
	for i, u := range p.used {
		if u.size <= size && (best < 0 || u.size > p.used[best].size) {
			best = i
		}
	}
	return best
}

// Space looks after the free space of the file system that a pool is on.
type Space interface {
	// Reserve reports whether bytes may be taken for a spare. Release takes back what it allowed, once they are
	// taken, or will not be.
	Reserve(bytes int64) bool
	Release(bytes int64)
}

// SetSpace has the pool ask before it makes a spare that needs more of the file system.
func (p *Pool) SetSpace(s Space) {
	p.mu.Lock()
	p.space = s
	p.mu.Unlock()
}

// Shrink deletes every file of the pool, in the background: the disk is short of space.
func (p *Pool) Shrink() {
	p.mu.Lock()
	for _, files := range [][]poolFile{p.used, p.spares} {
		for _, f := range files {
			p.bytes -= f.size
		}
		p.excess = append(p.excess, files...)
	}
	p.used, p.spares, p.wanted = nil, nil, nil // a spare that is being made stays counted
	p.mu.Unlock()
	p.signal()
}

// want asks for a spare of size bytes. The pool makes it when it gets to it, if it may.
func (p *Pool) want(size int64) {
	p.mu.Lock()
	if len(p.wanted) < maxPoolFiles {
		p.wanted = append(p.wanted, size)
	}
	p.mu.Unlock()
	p.signal()
}

func (p *Pool) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Pool) newNameLocked() string {
	p.next++
	return join(p.dir, fmt.Sprintf("%020d.free", p.next-1))
}

func (p *Pool) run() {
	defer close(p.done)
	for range p.wake {
		for p.step() {
		}
		p.mu.Lock()
		closed := p.closed
		p.mu.Unlock()
		if closed {
			return
		}
	}
}

// step does one piece of work, if there is any: deletes a file or makes a spare.
func (p *Pool) step() bool {
	p.mu.Lock()
	switch {
	case p.closed:
		p.mu.Unlock()
		return false
	case len(p.excess) > 0:
		f := p.excess[0]
		p.excess = p.excess[1:]
		p.mu.Unlock()
		_ = p.fs.Remove(f.name) // what stays is found again at the next start
		return true
	case len(p.wanted) > 0:
		size := p.wanted[0]
		p.wanted = p.wanted[1:]
		f, ok := p.rawLocked(size)
		p.mu.Unlock()
		if ok {
			p.makeSpare(f, size)
		}
		return true
	}
	p.mu.Unlock()
	return false
}

// rawLocked takes the file to make a spare of size bytes from, counted as size: the largest recycled one that is not
// larger, else a name for a new one. ok is false if the pool would get too large.
func (p *Pool) rawLocked(size int64) (f poolFile, ok bool) {
	best := p.largestUsedLocked(size)
	if best >= 0 {
		f = p.used[best]
		p.used = slices.Delete(p.used, best, best+1)
	}
	for p.bytes-f.size+size > p.max && len(p.used) > 0 { // many small files, of removed logs: they make room
		p.excess = append(p.excess, p.used[0])
		p.bytes -= p.used[0].size
		p.used = slices.Delete(p.used, 0, 1)
	}
	if p.bytes-f.size+size > p.max {
		if best >= 0 {
			p.used = append(p.used, f)
		}
		return poolFile{}, false
	}
	if best < 0 {
		f.name = p.newNameLocked()
	}
	p.bytes += size - f.size
	return f, true
}

// makeSpare zeroes f, extends it to size and adds it to the spares. On any failure the file is given up: nothing is
// known about bytes whose sync failed.
func (p *Pool) makeSpare(f poolFile, size int64) {
	err := p.zero(f, size)
	p.mu.Lock()
	defer p.mu.Unlock()
	f.size = size
	if err != nil {
		p.bytes -= size
		p.excess = append(p.excess, f)
		return
	}
	p.spares = append(p.spares, f)
}

func (p *Pool) zero(f poolFile, size int64) error {
	p.mu.Lock()
	space := p.space
	p.mu.Unlock()
	if more := size - f.size; space != nil && more > 0 {
		if !space.Reserve(more) {
			return errNoSpare
		}
		defer space.Release(more)
	}
	open := p.fs.Open
	if f.size == 0 {
		open = p.fs.Create
	}
	file, err := open(f.name)
	if err != nil {
		return err
	}
	for pos := int64(0); pos < size && err == nil; pos += zeroStep {
		p.mu.Lock()
		closed := p.closed
		p.mu.Unlock()
		if closed {
			err = ErrClosed
			break
		}
		if err = writeZeros(file, pos, min(pos+zeroStep, size)); err == nil {
			err = file.Sync()
		}
	}
	return errors.Join(err, file.Close())
}

var errNoSpare = errors.New("storage: no room for a spare")

// makeDir creates dir so that it survives a crash. It syncs the parents even if dir is there: a process that died may have
// made it and not synced.
func makeDir(fsys FS, dir string) error {
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	for _, d := range parents(dir) {
		if err := fsys.SyncDir(d); err != nil {
			return err
		}
	}
	return nil
}
