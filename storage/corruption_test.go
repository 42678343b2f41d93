package storage_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/storage"
	"github.com/tidewire/tidewire/storage/crashfs"
)

// victim is a small log to be damaged: files as a stop left them, and what they hold.
type victim struct {
	files   map[string][]byte
	cfg     storage.Config
	want    model
	extents []storage.Extent
	clean   bool          // stopped in good order
	reused  bool          // in files that another log had before
	last    storage.Index // first entry of the last append
}

func newVictim(t *testing.T, clean, reused bool) *victim {
	t.Helper()
	fsys := crashfs.New()
	s := &story{fs: fsys, rng: rand.New(rand.NewPCG(5, 6)), size: 1}
	s.cfg = storage.Config{FS: fsys, Dir: "p/1", Partition: 1, SegmentBytes: 4 << 10, HotBytes: -1}
	if reused {
		s.size = 8
		s.cfg.SegmentBytes *= 8
		s.cfg.Pool = recycledPool(t, s.cfg)
	}
	v := &victim{clean: clean, reused: reused, files: map[string][]byte{}}
	ops := []func() error{s.open}
	for i := range 14 {
		ops = append(ops, func() error { v.last = s.acked.last() + 1; return s.append(1+i%3, 500, storage.Term(1+i/5)) })
		if i == 4 || i == 8 {
			ops = append(ops, func() error { return s.save(s.acked.last()) })
		}
	}
	for _, op := range ops {
		if err := op(); err != nil {
			t.Fatal(err)
		}
	}
	v.want = s.acked
	v.extents = s.log.Layout(func(i storage.Index) int { return len(v.want.at(i).Payload) })
	if clean {
		if err := s.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range fsys.Files() {
		if !strings.HasPrefix(name, "pool/") {
			v.files[name] = fsys.ReadFile(name)
		}
	}
	v.cfg = s.cfg
	v.cfg.Pool = nil
	return v
}

// recycledPool is a pool with the files of a log like that of cfg.
func recycledPool(t *testing.T, cfg storage.Config) *storage.Pool {
	t.Helper()
	pool, err := storage.NewIdlePool(cfg.FS, "pool", 8*cfg.SegmentBytes)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Dir, cfg.Partition, cfg.Pool = "p/2", 2, pool
	l, err := storage.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, 40, int(cfg.SegmentBytes)/8)
	if err := l.Remove(); err != nil {
		t.Fatal(err)
	}
	if pool.Used() < 4 {
		t.Fatalf("the pool has %d files", pool.Used())
	}
	return pool
}

// damage is one case: name's bytes are now data (nil: the file is gone), which differ in [from, to).
type damage struct {
	what     string
	name     string
	data     []byte
	from, to int64
}

// check opens the log with the damage done and says what is wrong with what it gives.
func (v *victim) check(d damage) error {
	fsys := crashfs.New()
	if err := fsys.MkdirAll(v.cfg.Dir); err != nil {
		return err
	}
	for name, data := range v.files {
		if name != d.name {
			fsys.WriteFile(name, data)
		} else if d.data != nil {
			fsys.WriteFile(name, d.data)
		}
	}
	hit, mayVanish := v.hit(d)
	cfg := v.cfg
	cfg.FS = fsys
	l, err := storage.Open(cfg)
	if err != nil {
		return v.checkRefusal(fsys, d, err)
	}
	end, err := v.checkEntries(l, d, hit, mayVanish)
	if err != nil {
		return err
	}
	if err := v.checkReader(l, hit, end); err != nil {
		return err
	}
	if err := v.checkSnapshots(l, d); err != nil {
		return err
	}
	if err := v.checkKept(fsys, d, end); err != nil {
		return err
	}
	return v.checkGoesOn(fsys, cfg, l)
}

// hit returns the entries whose frames the damage touches, and the first entry that recovery may take for a torn tail:
// one that was never followed by a synced write that says so.
func (v *victim) hit(d damage) (hit map[storage.Index]bool, mayVanish storage.Index) {
	hit = map[storage.Index]bool{}
	mayVanish = v.want.last() + 1
	for n := len(v.extents) - 1; n >= 0; n-- {
		e := v.extents[n]
		touched := e.File == d.name && e.Start < d.to && e.End > d.from
		if touched {
			hit[e.Index] = true
		}
		if !v.clean && e.Active && mayVanish == e.Index+1 && (touched || e.Index >= v.last) {
			mayVanish = e.Index
		}
	}
	for i := mayVanish; i <= v.want.last() && !hit[i]; i++ {
		mayVanish = i + 1
	}
	return hit, mayVanish
}

// checkRefusal: only an unreadable manifest, or a missing active segment, may make Open refuse; it must change nothing.
func (v *victim) checkRefusal(fsys *crashfs.FS, d damage, err error) error {
	if _, typed := errors.AsType[*storage.CorruptError](err); !typed && !errors.Is(err, storage.ErrNoManifest) {
		return fmt.Errorf("open: %w", err)
	}
	activeGone := d.data == nil && d.name == v.extents[len(v.extents)-1].File
	if !strings.HasSuffix(d.name, "manifest") && !activeGone {
		return fmt.Errorf("open refuses: %w", err)
	}
	for name, data := range v.files {
		if name == d.name {
			data = d.data
		}
		if !bytes.Equal(fsys.ReadFile(name), data) {
			return fmt.Errorf("open refuses and changes %s", name)
		}
	}
	return nil
}

// checkEntries asks for each entry and returns the offset where the log ends now.
func (v *victim) checkEntries(l *storage.Log, d damage, hit map[storage.Index]bool, mayVanish storage.Index) (storage.Offset, error) {
	last := l.Bounds().Last
	if last != v.want.last() && last+1 < mayVanish {
		return 0, fmt.Errorf("the log ends at %d; only entries from %d on may be cut", last, mayVanish)
	}
	for _, w := range v.want.entries {
		e, err := l.Entry(w.Index)
		switch {
		case err == nil && !sameEntry(e, w):
			return 0, fmt.Errorf("entry %d is returned with other contents", w.Index)
		case err == nil:
		case w.Index > last && errors.Is(err, storage.ErrNotFound):
			if !l.Recovered().CutNonZero && !v.vanishes(d, w.Index) {
				return 0, fmt.Errorf("entry %d was cut without a word", w.Index)
			}
		case !hit[w.Index]:
			return 0, fmt.Errorf("entry %d, which is not damaged: %w", w.Index, err)
		default:
			if c, ok := errors.AsType[*storage.CorruptError](err); !ok || w.Index < c.FirstIndex || w.Index >= c.EndIndex || c.Start > w.Base {
				return 0, fmt.Errorf("entry %d: %w", w.Index, err)
			}
		}
	}
	return l.Bounds().End, nil
}

// vanishes excuses silence: the damage left no byte of entry i nor after it, as if it had never been written. In a
// reused file, where bytes further on may be older, no byte right behind the entry before, and no entry after it.
func (v *victim) vanishes(d damage, i storage.Index) bool {
	for _, e := range v.extents {
		if e.Index == i {
			rest := d.data[min(int64(len(d.data)), e.Start):]
			if v.reused && i == v.want.last() {
				rest = rest[:min(int64(len(rest)), (e.Start+4095)/4096*4096+4096-e.Start)]
			}
			return len(bytes.Trim(rest, "\x00")) == 0 && len(d.data)%4096 == 0
		}
	}
	return false
}

// checkReader reads from the start, past the damage.
func (v *victim) checkReader(l *storage.Log, hit map[storage.Index]bool, end storage.Offset) error {
	r := l.Reader(0)
	defer r.Close()
	got := map[storage.Index]bool{}
	for r.Position() < end {
		es, err := r.Next(end, 300)
		if c, ok := errors.AsType[*storage.CorruptError](err); ok {
			if c.Start > r.Position() || c.End <= r.Position() {
				return fmt.Errorf("reader at %d reports %w", r.Position(), err)
			}
			for i := c.FirstIndex; i < c.EndIndex; i++ {
				if !hit[i] {
					return fmt.Errorf("reader reports entry %d, which is not damaged: %w", i, err)
				}
			}
			r.Seek(c.End)
			continue
		}
		if err != nil || len(es) == 0 {
			return fmt.Errorf("reader at %d gives %d entries, %w", r.Position(), len(es), err)
		}
		for _, e := range es {
			if !sameEntry(e, v.want.at(e.Index)) {
				return fmt.Errorf("reader gives entry %d with other contents", e.Index)
			}
			got[e.Index] = true
		}
	}
	for _, w := range v.want.entries {
		if w.Records > 0 && w.Base < end && !got[w.Index] && !hit[w.Index] {
			return fmt.Errorf("reader passes over entry %d", w.Index)
		}
	}
	return nil
}

func (v *victim) checkSnapshots(l *storage.Log, d damage) error {
	for _, w := range v.want.snapshots {
		s, err := l.LoadSnapshot(w.Index)
		if err == nil && (s.Index != w.Index || s.Offset != w.Offset || s.Term != w.Term || !bytes.Equal(s.Data, w.Data)) {
			return fmt.Errorf("snapshot %d is returned with other contents", w.Index)
		}
		if err != nil && (!strings.HasSuffix(d.name, ".snap") || !errors.Is(err, storage.ErrCorrupt)) {
			return fmt.Errorf("snapshot %d: %w", w.Index, err)
		}
	}
	return nil
}

// checkKept: opening and reading deletes nothing. What lies in the log is on disk as it was found.
func (v *victim) checkKept(fsys *crashfs.FS, d damage, end storage.Offset) error {
	for _, e := range v.extents {
		found := v.files[e.File]
		if e.File == d.name {
			found = d.data
		}
		if v.want.at(e.Index).Base >= end || int64(len(found)) < e.End {
			continue
		}
		now := fsys.ReadFile(e.File)
		if int64(len(now)) < e.End || !bytes.Equal(now[e.Start:e.End], found[e.Start:e.End]) {
			return fmt.Errorf("the bytes of entry %d were changed", e.Index)
		}
	}
	for name := range v.files {
		if fsys.ReadFile(name) == nil && name != d.name && !strings.HasSuffix(name, ".idx") {
			return fmt.Errorf("%s was deleted", name)
		}
	}
	return nil
}

// checkGoesOn appends, reopens, and finds it.
func (v *victim) checkGoesOn(fsys *crashfs.FS, cfg storage.Config, l *storage.Log) error {
	b := l.Bounds()
	e := storage.Entry{Index: b.Last + 1, Term: b.LastTerm, Records: 3, Payload: []byte("after the damage")}
	if err := l.Append([]storage.Entry{e}, 0); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	e.Base = b.End
	l, err := storage.Open(cfg)
	if err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	if got, err := l.Entry(e.Index); err != nil || !sameEntry(got, e) {
		return fmt.Errorf("entry appended after the damage: %w", err)
	}
	if l.Recovered().CutBytes != 0 {
		return fmt.Errorf("opening again cuts again: %+v", l.Recovered())
	}
	return l.Close()
}

func TestCorruption(t *testing.T) {
	for i := range 4 {
		clean, reused, stride := i%2 == 0, i >= 2, raceStride
		v := newVictim(t, clean, reused)
		if reused {
			stride *= 23 // there is more of it
		}
		for name, data := range v.files {
			t.Run(fmt.Sprintf("clean=%v/reused=%v/%s", clean, reused, strings.TrimPrefix(name, "p/1/")), func(t *testing.T) {
				t.Parallel()
				failures := 0
				try := func(d damage) {
					if err := v.check(d); err != nil {
						t.Errorf("%s: %v", d.what, err)
						if failures++; failures == 5 {
							t.FailNow()
						}
					}
				}
				for i := 0; i < len(data); i += stride {
					for _, mask := range []byte{0x01, 0x80, 0xff} {
						if mask != 0x01 && (i%5 != 0 || !clean) {
							continue // two of three patterns on every fifth byte
						}
						d := damage{fmt.Sprintf("flip %02x of byte %d", mask, i), name, bytes.Clone(data), int64(i), int64(i) + 1}
						d.data[i] ^= mask
						try(d)
					}
				}
				for i := 0; i < len(data); i += 7 * stride {
					try(damage{fmt.Sprintf("cut to %d bytes", i), name, bytes.Clone(data[:i]), int64(i), int64(len(data))})
				}
				for from := 0; from < len(data); from += 512 * (stride + 3) / 4 {
					for _, n := range []int{512, 4096} {
						d := damage{fmt.Sprintf("zero %d bytes at %d", n, from), name, bytes.Clone(data), int64(from), int64(min(from+n, len(data)))}
						clear(d.data[d.from:d.to])
						try(d)
					}
				}
				try(damage{"delete", name, nil, 0, int64(len(data))})
			})
		}
	}
}

// A log that is only looked at must not fail on files that are none of its own.
func TestStrangeFilesStay(t *testing.T) {
	v := newVictim(t, true, false)
	fsys := crashfs.New()
	if err := fsys.MkdirAll(v.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	for name, data := range v.files {
		fsys.WriteFile(name, data)
	}
	fsys.WriteFile("p/1/lost+found.txt", []byte("not ours"))
	cfg := v.cfg
	cfg.FS = fsys
	l, err := storage.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := compare(l, v.want); err != nil {
		t.Error(err)
	}
	if fsys.ReadFile("p/1/lost+found.txt") == nil {
		t.Error("a strange file was deleted")
	}
	if _, err := fsys.Size("p/1/manifest"); errors.Is(err, fs.ErrNotExist) {
		t.Error("no manifest")
	}
}
