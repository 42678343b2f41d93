package storage_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tidewire/tidewire/storage"
	"github.com/tidewire/tidewire/storage/crashfs"
)

// The crash test runs one story against a file system in memory, stops it at every single step (write, sync, create,
// rename, remove, ...), and for several choices of what of the unsynced survives opens what is left. The log must then
// be as after the last operation that returned, or as after the one that was under way (of an append also a part of it),
// in every byte; it must take appends, and they must survive the next crash.

// story is a run of operations on one log, and the states that a crash may leave.
type story struct {
	fs   *crashfs.FS
	cfg  storage.Config
	pool *storage.Pool
	log  *storage.Log
	rng  *rand.Rand
	size int // of entries and segments, times what steps says

	acked   model   // after the last operation that returned
	allowed []model // what may be found besides acked
}

var errViolation = errors.New("violation")

// pooling is where a story's segments come from.
type pooling int

const (
	noPool   pooling = iota
	prepared         // zeroed, where the pool has had the time
	recycled         // with old bytes in them
)

func newStory(fsys *crashfs.FS, from pooling) *story {
	s := &story{fs: fsys, rng: rand.New(rand.NewPCG(1, 2)), size: 1}
	s.cfg = storage.Config{FS: fsys, Dir: "partitions/7", Cluster: [16]byte{1, 2, 3}, Partition: 7, SegmentBytes: 8 << 10, HotBytes: 2 << 10}
	if from != noPool {
		s.cfg.Pool = &storage.Pool{} // replaced in open; says that there is to be one
	}
	if from == recycled {
		s.size = 8 // so that writes are large, and leave much of a file as it was
		s.cfg.SegmentBytes *= 8
	}
	return s
}

func (s *story) open() error {
	s.cfg.FS = s.fs
	if s.cfg.Pool != nil {
		pool, err := storage.NewIdlePool(s.fs, "pool", 8*s.cfg.SegmentBytes)
		if err != nil {
			return err
		}
		s.pool, s.cfg.Pool = pool, pool
	}
	l, err := storage.Open(s.cfg)
	s.log = l
	return err
}

// do runs one operation, which takes the log from the acknowledged state to next, perhaps through others.
func (s *story) do(next model, through []model, op func() error) error {
	s.allowed = append(through, next)
	if err := op(); err != nil {
		return err
	}
	s.acked, s.allowed = next, nil
	return nil
}

func (s *story) append(n, size int, term storage.Term) error {
	var entries []storage.Entry
	var through []model
	for range n {
		entries = append(entries, makeEntry(s.rng, s.acked.last()+storage.Index(len(entries))+1, term, 1+s.rng.IntN(size*max(s.size, 1))))
		through = append(through, s.acked.append(entries))
	}
	return s.do(s.acked.append(entries), through, func() error { return s.log.Append(entries, s.acked.last()) })
}

// snapshotAt makes up the snapshot after entry i.
func (s *story) snapshotAt(i storage.Index) storage.Snapshot {
	return storage.Snapshot{Index: i, Term: s.acked.termOf(i), Offset: s.acked.endOf(i), Data: fmt.Appendf(nil, "state at %d: %x", i, s.rng.Uint64())}
}

func (s *story) save(i storage.Index) error {
	snap := s.snapshotAt(i)
	return s.do(s.acked.save(snap), nil, func() error { return s.log.SaveSnapshot(snap) })
}

func (s *story) trim(to storage.Offset) error {
	return s.do(s.acked.trim(to), nil, func() error { return s.log.Trim(to) })
}

func (s *story) truncate(from storage.Index) error {
	return s.do(s.acked.truncate(from), nil, func() error { return s.log.TruncateSuffix(from) })
}

func (s *story) reset(snap storage.Snapshot) error {
	return s.do(s.acked.reset(snap), nil, func() error { return s.log.Reset(snap) })
}

func (s *story) reopen() error {
	if err := s.do(s.acked, nil, s.log.Close); err != nil {
		return err
	}
	return s.open()
}

func (s *story) work() error {
	if s.pool != nil && s.size == 1 {
		s.pool.Want(8 << 10)
		s.pool.Work()
	}
	return nil
}

// steps is the story: every operation, and the transitions between them that matter.
func (s *story) steps() []func() error {
	return []func() error{
		s.open,
		func() error { return s.append(1, 100, 1) },
		func() error { return s.append(3, 900, 1) },
		func() error { return s.append(2, 2000, 1) },
		func() error { return s.save(s.acked.last()) },
		func() error { return s.append(6, 2500, 2) }, // rolls within one append
		s.work,
		func() error { return s.append(1, 20000, 2) }, // larger than a segment
		func() error { return s.append(4, 600, 2) },
		func() error { return s.truncate(s.acked.last() - 1) }, // within the active segment
		func() error { return s.append(2, 300, 3) },
		func() error { return s.truncate(s.acked.last() - 4) }, // across segments
		func() error { return s.append(5, 1500, 4) },
		func() error { return s.save(s.acked.last() - 2) },
		func() error { return s.save(s.acked.last() - 2) }, // replaces the one before
		s.reopen,
		func() error { return s.append(3, 2500, 4) },
		func() error { return s.trim(s.acked.snapshots[1].Offset + 1) }, // recycles
		s.work,
		func() error { return s.append(4, 3000, 5) }, // into recycled files
		func() error { return s.do(s.acked, nil, s.log.Roll) },
		func() error { return s.append(2, 700, 5) },
		func() error { return s.save(s.acked.last()) },
		func() error { return s.trim(s.acked.end()) },
		func() error { return s.append(2, 700, 5) },
		func() error {
			return s.reset(storage.Snapshot{Index: s.acked.last() + 100, Term: 7, Offset: s.acked.end() + 1000, Data: []byte("from a peer")})
		},
		s.work,
		func() error { return s.append(4, 2500, 8) },
		s.reopen,
		func() error { return s.append(2, 500, 8) },
		func() error { return s.truncate(s.acked.head.Index + 1) }, // everything
		func() error { return s.append(2, 500, 9) },
		func() error { return s.do(s.acked, nil, s.log.Close) },
	}
}

// run runs the story until it ends (true) or the file system stops.
func (s *story) run() (ended bool, err error) {
	for i, step := range s.steps() {
		if err := step(); err != nil {
			if errors.Is(err, crashfs.ErrStopped) {
				return false, nil
			}
			return false, fmt.Errorf("operation %d: %w", i, err)
		}
	}
	return true, nil
}

// check opens the log in image and compares it with what may be there; it returns the state it found. It then goes on:
// appends, loses everything that is not certain, and looks again.
func (s *story) check(image *crashfs.FS) (model, error) {
	after := &story{fs: image, cfg: s.cfg, size: s.size, rng: rand.New(rand.NewPCG(3, 4))}
	if err := after.open(); err != nil {
		return model{}, fmt.Errorf("%w: open: %v", errViolation, err)
	}
	if d := after.log.Recovered().Damaged; len(d) > 0 {
		return model{}, fmt.Errorf("%w: a crash was taken for damage: %v", errViolation, d[0])
	}
	state, err := s.match(after.log)
	if err != nil {
		return model{}, err
	}
	after.acked = state
	term := max(state.lastTerm(), 9)
	for _, op := range []func() error{
		func() error { return after.append(2, 400, term) },
		func() error { return after.append(3, 2500, term) },
	} {
		if err := op(); err != nil {
			return model{}, fmt.Errorf("%w: append after recovery: %v", errViolation, err)
		}
	}
	again := &story{fs: image.Image(0), cfg: s.cfg, acked: after.acked}
	if err := again.open(); err != nil {
		return model{}, fmt.Errorf("%w: second open: %v", errViolation, err)
	}
	if err := compare(again.log, after.acked); err != nil {
		return model{}, fmt.Errorf("%w: after the second crash: %v", errViolation, err)
	}
	return state, nil
}

// match returns the one of the states that l may be in that it is in.
func (s *story) match(l *storage.Log) (model, error) {
	first := compare(l, s.acked)
	if first == nil {
		return s.acked, nil
	}
	for _, m := range s.allowed {
		if compare(l, m) == nil {
			return m, nil
		}
	}
	return model{}, fmt.Errorf("%w: %v (and none of %d other states)", errViolation, first, len(s.allowed))
}

// crash runs the story up to step stop and checks what is left, for each seed. ended says that the story was over before.
func crash(prepare func(*crashfs.FS), from pooling, stop int, seeds uint64, report func(error)) (ended bool) {
	fsys := crashfs.New()
	prepare(fsys)
	fsys.StopAt = stop
	s := newStory(fsys, from)
	ended, err := s.run()
	if err != nil {
		report(fmt.Errorf("stop at step %d: %w", stop, err))
		return true
	}
	for seed := range seeds {
		image := fsys.Image(seed)
		if _, err := s.check(image.Image(0)); err != nil {
			report(fmt.Errorf("stop at step %d, seed %d: %w", stop, seed, err))
		}
		if seed > 1 { // crash during recovery too
			image.StopAt = 1 + int(seed)*7%11
			twice := &story{fs: image, cfg: s.cfg}
			_ = twice.open()
			if _, err := s.check(image.Image(seed + 100)); err != nil {
				report(fmt.Errorf("stop at step %d, seed %d, then at %d of recovery: %w", stop, seed, image.StopAt, err))
			}
		}
	}
	// The process dies, the next one finds everything, and only then the power goes: what the second process was told
	// must hold.
	fsys.Revive()
	survivor := &story{fs: fsys, cfg: s.cfg}
	if err := survivor.open(); err != nil {
		report(fmt.Errorf("stop at step %d: open after a kill: %w", stop, err))
		return ended
	}
	state, err := s.match(survivor.log)
	if err != nil {
		report(fmt.Errorf("stop at step %d, kill: %w", stop, err))
		return ended
	}
	told := &story{cfg: s.cfg, acked: state}
	for seed := range uint64(3) {
		if _, err := told.check(fsys.Image(seed)); err != nil {
			report(fmt.Errorf("stop at step %d, kill, then power cut with seed %d: %w", stop, seed, err))
		}
	}
	return ended
}

func TestCrash(t *testing.T) {
	for name, from := range map[string]pooling{"no pool": noPool, "prepared segments": prepared, "recycled segments": recycled} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failures := 0
			report := func(err error) {
				t.Error(err)
				if failures++; failures == 10 {
					t.FailNow()
				}
			}
			stop := 1
			for ; !crash(func(*crashfs.FS) {}, from, stop, 8, report); stop += raceStride {
			}
			if stop < 100 {
				t.Errorf("the story had only %d steps", stop)
			}
			t.Logf("%d steps", stop)
		})
	}
}

// TestCrashFindsMissingSyncs proves that TestCrash can fail: with Sync or SyncDir removed it must.
func TestCrashFindsMissingSyncs(t *testing.T) {
	for name, lie := range map[string]func(*crashfs.FS){
		"sync":    func(f *crashfs.FS) { f.SyncLies = true },
		"syncdir": func(f *crashfs.FS) { f.SyncDirLies = true },
	} {
		for _, from := range []pooling{noPool, recycled} {
			t.Run(fmt.Sprintf("%s, pool %d", name, from), func(t *testing.T) {
				violations := 0
				for stop := 1; !crash(lie, from, stop, 3, func(error) { violations++ }); stop += 5 {
				}
				if violations == 0 {
					t.Fatal("no violation was found")
				}
				t.Logf("%d violations", violations)
			})
		}
	}
}

// TestCrashRemove stops a removal at every step: the log is then there as it was, or removed, or gone; never in between.
func TestCrashRemove(t *testing.T) {
	for stop := 1; ; stop++ {
		fsys := crashfs.New()
		s := newStory(fsys, prepared)
		for _, op := range []func() error{s.open, func() error { return s.append(4, 3000, 1) }, func() error { return s.save(2) }} {
			if err := op(); err != nil {
				t.Fatal(err)
			}
		}
		fsys.StopAt = fsys.Steps() + stop
		removed := s.log.Remove()
		for seed := range uint64(12) {
			again := &story{fs: fsys.Image(seed), cfg: s.cfg}
			err := again.open()
			switch {
			case errors.Is(err, storage.ErrRemoved):
				if names, err := again.fs.List(s.cfg.Dir); err == nil {
					t.Errorf("stop at %d, seed %d: removed, but %v are left", stop, seed, names)
				}
			case err != nil:
				t.Errorf("stop at %d, seed %d: %v", stop, seed, err)
			case again.log.Recovered().Created:
			case removed == nil:
				t.Errorf("stop at %d, seed %d: the log is back", stop, seed)
			default:
				if err := compare(again.log, s.acked); err != nil {
					t.Errorf("stop at %d, seed %d: %v", stop, seed, err)
				}
			}
		}
		if removed == nil {
			return
		}
	}
}
