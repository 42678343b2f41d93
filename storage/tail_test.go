package storage_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/tidewire/tidewire/storage"
)

// tailLog is a log on the real file system with small segments, a pool and a small hot tail, so that a short test
// passes through everything.
func tailLog(t *testing.T, hot int64) (*storage.Log, storage.Config) {
	t.Helper()
	fsys, err := storage.OSFS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pool, err := storage.NewPool(fsys, "pool", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	cfg := storage.Config{FS: fsys, Dir: "partitions/1", Partition: 1, SegmentBytes: 16 << 10, HotBytes: hot, Pool: pool,
		Syncs: storage.NewSyncLimit(2)}
	l, err := storage.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), pool.Close(), fsys.Close()); err != nil {
			t.Error(err)
		}
	})
	return l, cfg
}

// numbered is a payload that says which entry it is, in every byte.
func numbered(i storage.Index, size int) []byte {
	b := make([]byte, size)
	for k := range b {
		b[k] = byte(uint64(i)*31 + uint64(k))
	}
	return b
}

func checkNumbered(e storage.Entry) error {
	for k, v := range e.Payload {
		if v != byte(uint64(e.Index)*31+uint64(k)) {
			return fmt.Errorf("entry %d has other contents at byte %d", e.Index, k)
		}
	}
	return nil
}

// pulse tells readers that the writer wrote.
type pulse struct {
	mu   sync.Mutex
	cond *sync.Cond
	n    int
	over bool
}

func newPulse() *pulse {
	p := &pulse{}
	p.cond = sync.NewCond(&p.mu)
	return p
}

func (p *pulse) beat(last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n, p.over = p.n+1, last
	p.cond.Broadcast()
}

// wait returns after the next beat, and whether there are no more.
func (p *pulse) wait() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := p.n; n == p.n && !p.over; {
		p.cond.Wait()
	}
	return p.over
}

// follow reads like a consumer: from memory if it can, else from disk; and jumps to the log start when it is passed.
func follow(l *storage.Log, writes *pulse) error {
	r := l.Reader(0)
	defer r.Close()
	for over := false; !over || r.Position() < l.Bounds().End; {
		limit := l.Bounds().End
		before := r.Position()
		if before == limit {
			over = writes.wait()
			continue
		}
		es, err := r.NextHot(limit, 4000)
		if errors.Is(err, storage.ErrCold) {
			es, err = r.Next(limit, 4000)
		}
		if errors.Is(err, storage.ErrOutOfRange) {
			r.Seek(l.Bounds().Start)
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range es {
			if e.Base > before || e.Base+storage.Offset(e.Records) <= before {
				return fmt.Errorf("at offset %d: entry %d with offset %d", before, e.Index, e.Base)
			}
			before = e.Base + storage.Offset(e.Records)
			if err := checkNumbered(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookup asks for entries here and there while the log grows and shrinks at its start.
func lookup(l *storage.Log, rng *rand.Rand, writes *pulse) error {
	for n := 1; n%10 > 0 || !writes.wait(); n++ {
		b := l.Bounds()
		if b.Last < b.First {
			continue
		}
		i := b.First + storage.Index(rng.Uint64N(uint64(b.Last-b.First+1)))
		e, err := l.Entry(i)
		if err == nil {
			err = checkNumbered(e)
		}
		if err == nil && e.Records > 0 {
			var at storage.Index
			if at, err = l.FindOffset(e.Base); err == nil && at != i {
				return fmt.Errorf("offset %d is in entry %d, not %d", e.Base, at, i)
			}
		}
		if err == nil {
			_, err = l.FindTime(e.Time)
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrOutOfRange) {
			return err
		}
	}
	return nil
}

func TestReadersFollowTheTail(t *testing.T) {
	for _, hot := range []int64{-1, 4 << 10, 1 << 20} {
		t.Run(fmt.Sprintf("hot=%d", hot), func(t *testing.T) {
			l, _ := tailLog(t, hot)
			writes := newPulse()
			var readers sync.WaitGroup
			for n := range 3 {
				readers.Go(func() {
					if err := follow(l, writes); err != nil {
						t.Error(err)
					}
				})
				readers.Go(func() {
					if err := lookup(l, rand.New(rand.NewPCG(uint64(n), 1)), writes); err != nil {
						t.Error(err)
					}
				})
			}
			rng := rand.New(rand.NewPCG(9, 9))
			for i := range 250 {
				if err := write(l, rng, i); err != nil {
					t.Error(err)
					break
				}
				writes.beat(false)
			}
			writes.beat(true)
			readers.Wait()
			if d, err := l.Verify(); err != nil || len(d) > 0 {
				t.Errorf("verify: %v, %v", d, err)
			}
		})
	}
}

// write does one append, and sometimes what else a writer does.
func write(l *storage.Log, rng *rand.Rand, step int) error {
	b := l.Bounds()
	var es []storage.Entry
	for k := range storage.Index(1 + rng.IntN(4)) {
		i := b.Last + 1 + k
		es = append(es, storage.Entry{Index: i, Term: 1, Records: uint32(rng.IntN(4)), Time: int64(i), Payload: numbered(i, 1+rng.IntN(3000))})
	}
	es[0].Records = 1 // the log always ends with a record or later
	if err := l.Append(es, b.Last); err != nil {
		return err
	}
	if step%20 == 19 {
		b = l.Bounds()
		if err := l.SaveSnapshot(storage.Snapshot{Index: b.Last, Term: 1, Offset: b.End, Data: []byte("state")}); err != nil {
			return err
		}
	}
	if step%30 == 29 {
		return l.Trim(l.RetentionPoint(100<<10, 0, 0))
	}
	return nil
}

// A log may be closed while it is read: readers then get ErrClosed, and Close returns when the last is out.
func TestCloseUnderReaders(t *testing.T) {
	l, _ := tailLog(t, -1)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 19 {
		if err := write(l, rng, i); err != nil {
			t.Fatal(err)
		}
	}
	var readers sync.WaitGroup
	for range 4 {
		began := make(chan struct{})
		readers.Go(func() {
			r := l.Reader(0)
			defer r.Close()
			for once := true; ; once = false {
				r.Seek(0)
				_, err := r.Next(l.Bounds().End, 1<<20)
				if once {
					close(began)
				}
				if errors.Is(err, storage.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		<-began
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	readers.Wait()
	for name, call := range map[string]func() error{
		"Append":       func() error { return l.Append([]storage.Entry{{Index: l.Bounds().Last + 1, Term: 1}}, 0) },
		"Entry":        func() error { _, err := l.Entry(1); return err },
		"Header":       func() error { _, err := l.Header(1); return err },
		"FindOffset":   func() error { _, err := l.FindOffset(0); return err },
		"FindTime":     func() error { _, err := l.FindTime(0); return err },
		"LoadSnapshot": func() error { _, err := l.LoadSnapshot(1); return err },
		"Verify":       func() error { _, err := l.Verify(); return err },
		"NextHot":      func() error { _, err := l.Reader(0).NextHot(1, 1); return err },
	} {
		if err := call(); !errors.Is(err, storage.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// A segment that was trimmed away is recycled only when its last reader has left it.
func TestReaderPinsSegment(t *testing.T) {
	fsys, err := storage.OSFS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	pool, err := storage.NewIdlePool(fsys, "pool", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	l, err := storage.Open(storage.Config{FS: fsys, Dir: "1", SegmentBytes: 4 << 10, HotBytes: -1, Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := storage.Index(1); i <= 8; i++ {
		if err := l.Append([]storage.Entry{{Index: i, Term: 1, Records: 1, Payload: numbered(i, 1500)}}, i); err != nil {
			t.Fatal(err)
		}
	}
	r := l.Reader(0)
	es, err := r.Next(8, 1)
	if err != nil || len(es) != 1 {
		t.Fatal(es, err)
	}
	if err := l.SaveSnapshot(storage.Snapshot{Index: 6, Term: 1, Offset: 6}); err != nil {
		t.Fatal(err)
	}
	if err := l.Trim(6); err != nil {
		t.Fatal(err)
	}
	if pool.Used() != 2 {
		t.Errorf("%d files were recycled; of three one is held", pool.Used())
	}
	if err := checkNumbered(es[0]); err != nil {
		t.Error(err)
	}
	if _, err := r.Next(8, 1); !errors.Is(err, storage.ErrOutOfRange) {
		t.Errorf("reader below the log start: %v", err)
	}
	if pool.Used() != 3 {
		t.Errorf("%d files were recycled; the reader is out", pool.Used())
	}
	r.Close()
}
