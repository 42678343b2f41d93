package storage

import (
	"sync"
	"sync/atomic"
	"time"
)

// Offset is the number of a record in its partition, from 0, without gaps.
type Offset uint64

// Index is a Raft index, from 1. It also counts entries without records.
type Index uint64

// Term is a Raft term.
type Term uint64

// Entry is one Raft entry as the log keeps it.
type Entry struct {
	Index   Index
	Term    Term
	Type    uint8  // opaque to storage
	Records uint32 // records in Payload; 0 for control, configuration and void entries
	Base    Offset // offset of the first record; assigned by Append: Base(i) = Base(i-1) + Records(i-1)
	Time    int64  // broker time, Unix milliseconds; 0 for none
	Payload []byte
}

// Log is one partition's log.
//
// One goroutine at a time writes (Append, Roll, TruncateSuffix, Trim, SaveSnapshot, Reset): they wait for each other.
// Any number may read at the same time; readers never wait for a write or a sync, only for changes in memory.
type Log struct {
	cfg    Config
	fs     FS
	dir    string
	ownsFS bool

	// writeMu serialises the writers and guards the fields up to mu. Taken before mu.
	writeMu  sync.Mutex
	manifest manifest // as it is on disk, but for what every write advances: see commitManifest
	failed   *FailedError
	headers  []byte   // scratch for frame headers
	vector   [][]byte // scratch for pwritev

	// mu guards what readers see. It is held for changes in memory only, never over a system call.
	mu         sync.RWMutex
	closed     bool
	segments   []*segment // oldest first; the last is the active one if it is not sealed
	sealed     int64      // bytes in sealed segments
	seals      uint64     // Bounds.Seals
	index      dense      // of the active segment
	tail       mark       // the end of the log; its position is in the active segment
	head       mark       // the entry before the first one
	start      Offset
	commit     Index
	hot        hotTail
	cooled     Index // where tail stood when Cool was last called
	snapshots  []SnapshotInfo
	generation uint64 // counts suffix truncations and resets: a reader's place in a file is void then

	idle    atomic.Pointer[segment] // a sealed segment kept open for the next cold Entry
	reading sync.WaitGroup          // reads in progress outside mu
	writing atomic.Int64            // when the write in progress began, in nanoseconds since epoch; 0 for none
	report  Report
}

// epoch is where the monotonic clock readings of writing count from.
var epoch = time.Now()

func sinceEpoch() int64 { return max(int64(time.Since(epoch)), 1) }

// Bounds says what a log holds.
type Bounds struct {
	First      Index // lowest entry held: the one after the log-start snapshot once the log has been trimmed
	Last       Index // First-1 if the log holds no entry
	LastTerm   Term  // term of Last, also if Last is only known from a snapshot
	Start      Offset
	End        Offset // after the last record
	Bytes      int64  // in segments, counted as written
	Segments   int
	Seals      uint64 // how many segments were sealed since the log was opened
	CommitHint Index  // highest index known to be committed; after a restart, as the frames remember it
}

// Bounds returns what the log holds now.
func (l *Log) Bounds() Bounds {
	l.mu.RLock()
	defer l.mu.RUnlock()
	b := Bounds{
		First: l.head.index + 1, Last: l.tail.index, LastTerm: l.tail.term,
		Start: l.start, End: l.tail.offset, Segments: len(l.segments), Seals: l.seals, CommitHint: l.commit,
	}
	b.Bytes = l.sealed
	if l.activeLocked() != nil {
		b.Bytes += l.tail.position
	}
	return b
}

// Cool lets go of the hot tail of a log that has taken nothing since it was last called, when half of what the hot tails of the node
// may hold is in use: the memory is for logs that are.
func (l *Log) Cool() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tail.index == l.cooled && l.hot.memory.crowded() {
		l.hot.clear()
	}
	l.cooled = l.tail.index
}

// countSealedLocked counts l.sealed anew after the segments changed.
func (l *Log) countSealedLocked() {
	l.sealed = 0
	for _, s := range l.segments {
		if s.meta.sealed {
			l.sealed += s.meta.end.position
		}
	}
}

// endLocked returns where s ends.
func (l *Log) endLocked(s *segment) mark {
	if s.meta.sealed {
		return s.meta.end
	}
	return l.tail
}

// activeLocked returns the segment being written, or nil if the next write begins one.
func (l *Log) activeLocked() *segment {
	if n := len(l.segments); n > 0 && !l.segments[n-1].meta.sealed {
		return l.segments[n-1]
	}
	return nil
}

// Recovered tells what Open found.
func (l *Log) Recovered() Report { return l.report }

// WriteAge tells for how long the write or sync in progress has been running, waiting for a SyncLimit included; 0 if
// there is none. A leader whose disk hangs must stop its heartbeats (hashicorp/raft #666).
func (l *Log) WriteAge() time.Duration {
	began := l.writing.Load()
	if began == 0 {
		return 0
	}
	return time.Since(epoch) - time.Duration(began)
}

// timed runs a write and lets WriteAge see it.
func (l *Log) timed(write func() error) error {
	l.writing.Store(sinceEpoch())
	defer l.writing.Store(0)
	return write()
}

// beginWrite takes the write lock, unless the log takes no more writes.
func (l *Log) beginWrite() error {
	l.writeMu.Lock()
	if err := l.writable(); err != nil {
		l.writeMu.Unlock()
		return err
	}
	return nil
}

func (l *Log) writable() error {
	l.mu.RLock()
	closed := l.closed
	l.mu.RUnlock()
	switch {
	case closed:
		return ErrClosed
	case l.failed != nil:
		return l.failed
	}
	return nil
}

// fail stops the log for good. See FailedError.
func (l *Log) fail(op string, err error) error {
	l.failed = &FailedError{Op: op, Err: err}
	return l.failed
}

// commitManifest puts the log's state in force as change leaves it. The mark of the active segment moves to the end of
// the log: everything written is synced by now.
func (l *Log) commitManifest(change func(*manifest)) error {
	m := l.manifest.clone()
	l.mu.RLock()
	m.commit, m.start = l.commit, l.start
	if n := len(m.segments); n > 0 && !m.segments[n-1].sealed {
		m.segments[n-1].end, m.segments[n-1].maxTime = l.tail, l.index.maxTime
	}
	l.mu.RUnlock()
	m.clean = false
	if change != nil {
		change(&m)
	}
	if err := writeManifest(l.fs, l.dir, &m); err != nil {
		return l.fail("commit", err)
	}
	l.manifest = m
	return nil
}

// Close ends the log in good order: the manifest records the exact end, so that any later damage is told from a torn
// tail. It waits for the write and the reads in progress; readers get ErrClosed afterwards.
//
// After a failed write it records nothing and returns the *FailedError.
func (l *Log) Close() error {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	if !l.shutReads() {
		return nil
	}
	defer l.closeFS()
	var err error
	if l.failed != nil {
		err = l.failed
	} else {
		err = l.timed(func() error { return l.commitManifest(func(m *manifest) { m.clean = true }) })
	}
	l.release(l.segments)
	return err
}

// Remove closes the log and gives its files away: segments to the pool, the rest is deleted. It cannot be undone; a crash
// in the middle is finished by the next Open, which then returns ErrRemoved.
func (l *Log) Remove() error {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	if !l.shutReads() {
		return ErrClosed
	}
	segments := l.segments
	defer l.closeFS()
	if l.failed != nil {
		l.release(segments)
		return l.failed
	}
	return l.timed(func() error {
		err := l.commitManifest(func(m *manifest) {
			m.removed, m.segments, m.snapshots = true, nil, nil
			m.head, m.start = mark{index: l.tail.index, term: l.tail.term, offset: l.tail.offset}, l.tail.offset
		})
		if err != nil {
			l.release(segments)
			return err
		}
		for _, s := range segments {
			s.drop()
		}
		l.release(segments)
		return purge(l.fs, l.dir, l.cfg.Pool)
	})
}

// shutReads refuses new reads and waits for those in progress. It returns false if the log was closed before.
func (l *Log) shutReads() bool {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.hot.clear()
	l.mu.Unlock()
	l.reading.Wait()
	return !closed
}

// release closes the files.
func (l *Log) release(segments []*segment) {
	l.idle.Store(nil)
	for _, s := range segments {
		s.shut()
	}
}

func (l *Log) closeFS() {
	if l.ownsFS {
		_ = l.fs.Close()
	}
}

// giveAway recycles the segment file called name, or deletes it if there is no pool. What fails leaves a file behind that
// the manifest does not list; the next Open sees to it.
func giveAway(fsys FS, pool *Pool, name string) {
	if pool == nil || pool.put(name) != nil {
		_ = fsys.Remove(name)
	}
}
