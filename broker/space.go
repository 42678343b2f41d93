package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/storage"
)

// What ends a node that has lost its disk.
var (
	// ErrDataDirLost: the data directory was removed, replaced or unmounted while the node ran.
	ErrDataDirLost = errors.New("the data directory is not the one the node opened")
	// ErrReadOnly: its file system became read-only while the node ran.
	ErrReadOnly = errors.New("the file system of the data directory is read-only")
)

// space keeps some of the disk free. Publishes are refused before the floor is touched, so that what
// goes on without them (Raft, the catalog, retention, deletes, what was admitted) has room.
type space struct {
	full     atomic.Bool  // publishes are refused
	free     atomic.Int64 // bytes, when last looked at
	total    atomic.Int64
	floor    atomic.Int64  // bytes; 0: none is kept
	resume   atomic.Int64  // bytes that must be free for publishes to go on: the floor, what is about to be taken, and some more
	step     atomic.Int64  // half the floor: how far things may go, roughly, before somebody looks again
	left     atomic.Int64  // of step, what is not yet admitted; down to minus step is taken from the floor
	look     chan struct{} // asks for a look
	identity fs.FileInfo   // of the data directory

	mu       sync.Mutex // guards what follows, of spare segments; held for nothing that takes long
	room     int64      // bytes free above the floor, when last looked at, less what was admitted by then
	reserved int64      // bytes they are about to take
	released int64      // bytes they took, or gave up, since the last look began: room may not show it
}

// spaceInterval is how often the disk is looked at, where nothing is stored: otherwise as often as a part of the
// floor's size was admitted, so that neither a burst nor somebody else who fills the disk overruns the floor.
const spaceInterval = time.Second

// resumeShare is the part of the floor that has to be free above it before publishes go on, lest that flicker.
const resumeShare = 8

// frameCost is what a stored batch costs beside its bytes, roughly: most entries hold several batches.
const frameCost = 64

// took counts what is about to be written: an admitted batch, or what a log takes ahead. Event loops call it, and logs when they write.
func (s *space) took(bytes int64) {
	step := s.step.Load()
	if step == 0 {
		return
	}
	left := s.left.Add(-bytes - frameCost)
	if left < step/2 {
		select {
		case s.look <- struct{}{}:
		default:
		}
	}
	if left < -step {
		s.full.Store(true) // until the disk has been looked at
	}
}

// diskObserver counts what logs are about to take of the disk ahead of publishes, as hundreds of partitions may do in one moment.
type diskObserver struct {
	storage.Observer
	space *space
}

// Grew implements storage.Observer.
func (o diskObserver) Grew(bytes int64) { o.space.took(bytes) }

// Reserve implements storage.Space: spares come after publishes, so as much as is kept free has to be left.
func (s *space) Reserve(bytes int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if floor := s.floor.Load(); floor > 0 && s.spareLocked()-bytes < floor {
		return false
	}
	s.reserved += bytes
	return true
}

// Release implements storage.Space. What was taken is missing from the disk by now.
func (s *space) Release(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved -= bytes
	s.released += bytes
}

// spareLocked is what is left of room.
func (s *space) spareLocked() int64 { return s.room - s.reserved - s.released }

// looking is what was counted when a look began, before the disk was asked.
type looking struct{ left, released int64 }

func (s *space) beginLook() looking {
	s.mu.Lock()
	defer s.mu.Unlock()
	return looking{s.left.Load(), s.released}
}

// endLook takes over what the disk said after beginLook; admitted are bytes of publishes, counted between the two. What was
// reserved, released or admitted meanwhile may show in free or not, and is taken off in any case: counted twice
// until the next look, never forgotten. It gives the bytes that are left above the floor.
func (s *space) endLook(began looking, free, total, floor, admitted int64) (room int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total.Store(total)
	s.free.Store(free)
	s.floor.Store(floor)
	s.released -= began.released
	s.room = free - floor - admitted
	room = s.spareLocked()
	s.resume.Store(free - room + floor/resumeShare)
	step := floor / 2
	s.step.Store(step)
	s.left.Add(min(room, step) - began.left) // and not Store: event loops take from it meanwhile
	return room
}

// refusal is what a client is told that would use the disk.
func (s *space) refusal() error {
	return &wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable, RetryAfter: spaceInterval, Value: uint64(s.floor.Load()),
		Message: s.state().why() + "; nothing is stored until then"}
}

// DiskState is how the disk stands.
type DiskState struct {
	Free, Total int64 // bytes
	Floor       int64 // bytes kept free
	Resume      int64 // bytes that must be free for publishes to go on; more than Floor
	Full        bool  // publishes are refused
}

// why says of a disk that is full what publishes wait for.
func (d DiskState) why() string {
	if d.Free >= d.Resume { // in a burst they are refused ahead of the look that would say so
		return fmt.Sprintf("the disk may be almost full: %d bytes were free before the last publishes, and %d are kept so; they go on once it was looked at again", d.Free, d.Floor)
	}
	return fmt.Sprintf("the disk is almost full: %d bytes are free; publishes go on when %d are (%d are kept free)", d.Free, d.Resume, d.Floor)
}

// diskState tells how the disk stood a moment ago, for metrics and readiness.
func (n *Node) diskState() DiskState { return n.space.state() }

func (s *space) state() DiskState {
	return DiskState{Free: s.free.Load(), Total: s.total.Load(), Floor: s.floor.Load(), Resume: s.resume.Load(), Full: s.full.Load()}
}

// openSpace looks at the disk for the first time.
func (n *Node) openSpace() (err error) {
	n.space.look = make(chan struct{}, 1)
	if n.space.identity, err = os.Stat(n.data.dir); err != nil {
		return err
	}
	if err := n.lookAtDisk(); err != nil {
		return err
	}
	n.pool.SetSpace(&n.space)
	if err := n.keepReserve(); err != nil { // what follows writes
		n.log.Warn("the reserve for deletions", zap.Error(err))
	}
	return nil
}

// watchDisk looks after the disk until the node stops.
func (n *Node) watchDisk() {
	tick := time.NewTicker(spaceInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-n.space.look:
		case <-n.ctx.Done():
			return
		}
		err := n.sameDisk()
		if err == nil {
			err = n.lookAtDisk()
		}
		if err == nil {
			err = n.keepReserve()
		}
		if errors.Is(err, ErrDataDirLost) || errors.Is(err, ErrReadOnly) {
			n.fatal(err)
			return
		}
		if err != nil {
			n.log.Warn("the disk cannot be looked at", zap.Error(err)) // a write will tell
		}
	}
}

// sameDisk reports whether the data directory is still what was opened: files that are open live on after
// they were removed or unmounted, and nobody would find what is acknowledged into them.
func (n *Node) sameDisk() error {
	now, err := os.Stat(n.data.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s is gone", ErrDataDirLost, n.data.dir)
	case err != nil:
		return err
	case !os.SameFile(now, n.space.identity):
		return fmt.Errorf("%w: %s is another directory now", ErrDataDirLost, n.data.dir)
	}
	if readOnly(n.data.dir) {
		return fmt.Errorf("%w: %s", ErrReadOnly, n.data.dir)
	}
	return nil
}

// lookAtDisk decides whether publishes are taken.
func (n *Node) lookAtDisk() error {
	s := &n.space
	began := s.beginLook()
	admitted := n.budget.Used() // read before free: what is written meanwhile is counted twice, not never
	free, total, err := n.data.fs.Space()
	if err != nil {
		return err
	}
	floor := n.config().MinFree
	switch {
	case floor == 0:
		floor = min(total/20, 1<<30)
	case floor < 0:
		floor = 0
	}
	room := s.endLook(began, free, total, floor, admitted)
	full := floor > 0 && (room <= 0 || n.toldFull && room < floor/resumeShare)
	if full {
		n.pool.Shrink()
	}
	s.full.Store(full)
	told := n.toldFull
	n.toldFull = full
	switch {
	case full && !told:
		n.log.Error("the disk is almost full: publishes and new streams are refused, reads and deletes go on. Free space, or delete or shorten streams",
			zap.Stringer("id", explain.DiskAlmostFull), zap.Int64("free", free), zap.Int64("kept", floor), zap.Int64("resume", s.resume.Load()), zap.Int64("total", total))
	case !full && told:
		n.log.Info("there is space again: publishes are taken", zap.Int64("free", free), zap.Int64("kept", floor))
	}
	return nil
}
