package storage_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tidewire/tidewire/storage"
	"github.com/tidewire/tidewire/storage/crashfs"
)

// TestFaults refuses every single write, sync, create, rename and directory sync of the story, once each. The log must
// then refuse all further writes without trying them, though the disk is well again; and what had been acknowledged
// must be there after reopening, even if the power goes: what was written before a failed sync is lost, whatever later
// syncs say.
func TestFaults(t *testing.T) {
	for fault, from := range map[error]pooling{syscall.EIO: recycled, syscall.ENOSPC: noPool} {
		t.Run(fault.Error(), func(t *testing.T) {
			t.Parallel()
			for at := 1; ; at += raceStride {
				if over, err := failOnce(fault, from, at); err != nil {
					t.Fatalf("fault at step %d: %v", at, err)
				} else if over {
					return
				}
			}
		})
	}
}

// failOnce runs the story with step number at failing.
func failOnce(fault error, from pooling, at int) (over bool, err error) {
	fsys := crashfs.New()
	s := newStory(fsys, from)
	count, hit := 0, ""
	fsys.Fault = func(op crashfs.Op, name string) error {
		if count++; count == at {
			hit = fmt.Sprintf("%s %s", op, name)
			return fault
		}
		return nil
	}
	for i, step := range s.steps() {
		err := step()
		if err == nil {
			continue
		}
		if !errors.Is(err, fault) {
			return false, fmt.Errorf("operation %d: %w", i, err)
		}
		if err := s.checkPoisoned(&count); err != nil {
			return false, fmt.Errorf("%s failed: %w", hit, err)
		}
		break
	}
	if hit == "" {
		return true, nil
	}
	for seed := range uint64(4) {
		if _, err := s.check(fsys.Image(seed)); err != nil {
			return false, fmt.Errorf("%s failed, power cut with seed %d: %w", hit, seed, err)
		}
	}
	// The process restarts on the same page cache, which believes that what it could not write is written.
	restarted := &story{fs: fsys, cfg: s.cfg}
	if err := restarted.open(); err != nil {
		return false, fmt.Errorf("%s failed, restart: %w", hit, err)
	}
	state, err := s.match(restarted.log)
	if err != nil {
		return false, fmt.Errorf("%s failed, restart: %w", hit, err)
	}
	told := &story{cfg: s.cfg, acked: state}
	if _, err := told.check(fsys.Image(0)); err != nil {
		return false, fmt.Errorf("%s failed, restart, power cut: %w", hit, err)
	}
	return false, nil
}

// checkPoisoned tries every kind of write: none may reach the file system. Reading goes on.
func (s *story) checkPoisoned(count *int) error {
	if s.log == nil { // Open itself failed
		return nil
	}
	before := *count
	e := storage.Entry{Index: s.log.Bounds().Last + 1, Term: 100}
	for name, write := range map[string]func() error{
		"Append":         func() error { return s.log.Append([]storage.Entry{e}, 0) },
		"Roll":           s.log.Roll,
		"TruncateSuffix": func() error { return s.log.TruncateSuffix(s.log.Bounds().Last) },
		"Trim":           func() error { return s.log.Trim(s.log.Bounds().End) },
		"SaveSnapshot":   func() error { return s.log.SaveSnapshot(storage.Snapshot{Index: s.log.Bounds().Last}) },
		"Reset":          func() error { return s.log.Reset(storage.Snapshot{Index: 1}) },
	} {
		err := write()
		failed, typed := errors.AsType[*storage.FailedError](err)
		if !typed || failed.Op == "" || !errors.Is(err, storage.ErrFailed) {
			if errors.Is(err, storage.ErrClosed) { // it was Close that failed
				continue
			}
			return fmt.Errorf("%s after the failure: %v", name, err)
		}
	}
	if err := s.log.Close(); err != nil && !errors.Is(err, storage.ErrFailed) {
		return fmt.Errorf("close after the failure: %v", err)
	}
	if *count != before {
		return fmt.Errorf("%d more steps after the failure", *count-before)
	}
	return nil
}

// A page cache that lies after a failed sync is why recovery writes unproven frames again. This is that case by itself.
func TestFailedSyncThenRestartThenPowerCut(t *testing.T) {
	fsys := crashfs.New()
	s := newStory(fsys, noPool)
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	if err := s.append(2, 300, 1); err != nil {
		t.Fatal(err)
	}
	fsys.Fault = func(op crashfs.Op, name string) error {
		if op == crashfs.OpSync {
			return syscall.EIO
		}
		return nil
	}
	lost := makeEntry(s.rng, 3, 1, 100)
	if err := s.log.Append([]storage.Entry{lost}, 0); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	fsys.Fault = nil
	again := &story{fs: fsys, cfg: s.cfg}
	if err := again.open(); err != nil {
		t.Fatal(err)
	}
	if _, err := again.log.Entry(3); err != nil {
		t.Fatalf("the page cache does not keep what it was given: %v", err)
	}
	after := &story{fs: fsys.Image(0), cfg: s.cfg}
	if err := after.open(); err != nil {
		t.Fatal(err)
	}
	if _, err := after.log.Entry(3); err != nil {
		t.Errorf("an entry that recovery had promised: %v", err)
	}
}

// The zeros behind the frames of a recycled file come with the write of those, and are lost with it: recovery writes them again
// too. Otherwise old bytes stood there after a power cut, and looked like a loss.
func TestFailedSyncInARecycledFile(t *testing.T) {
	fsys := crashfs.New()
	s := newStory(fsys, recycled)
	if err := fsys.MkdirAll("pool"); err != nil {
		t.Fatal(err)
	}
	old := bytes.Repeat([]byte{0xaa}, int(s.cfg.SegmentBytes))
	fsys.WriteFile("pool/00000000000000000007.free", old)
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	if err := s.log.Append([]storage.Entry{makeEntry(s.rng, 1, 1, 100)}, 0); err != nil {
		t.Fatal(err)
	}
	fsys.Fault = func(op crashfs.Op, name string) error {
		if op == crashfs.OpSync {
			return syscall.EIO
		}
		return nil
	}
	if err := s.log.Append([]storage.Entry{makeEntry(s.rng, 2, 1, 10<<10)}, 0); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	fsys.Fault = nil
	again := &story{fs: fsys, cfg: s.cfg}
	if err := again.open(); err != nil {
		t.Fatal(err)
	}
	cut := fsys.Image(0)
	if !slices.ContainsFunc(cut.Files(), func(name string) bool { return bytes.Contains(cut.ReadFile(name), old[:4096]) }) {
		t.Fatal("no file has old bytes: nothing is tested")
	}
	after := &story{fs: cut, cfg: s.cfg}
	if err := after.open(); err != nil {
		t.Fatal(err)
	}
	if r := after.log.Recovered(); r.CutNonZero || after.log.Bounds().Last != 2 {
		t.Errorf("report is %+v, bounds %+v", r, after.log.Bounds())
	}
}

// TestReadErrors: a block that the disk cannot read is damage of the entries in it, and of nothing else.
func TestReadErrors(t *testing.T) {
	v := newVictim(t, true, false)
	fsys := crashfs.New()
	if err := fsys.MkdirAll(v.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	for name, data := range v.files {
		fsys.WriteFile(name, data)
	}
	cfg := v.cfg
	cfg.FS = fsys
	l, err := storage.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bad := v.extents[3]
	fsys.ReadFault = func(name string, pos int64, n int) error {
		if name == bad.File && pos < bad.End && pos+int64(n) > bad.Start {
			return syscall.EIO
		}
		return nil
	}
	for _, e := range v.extents {
		got, err := l.Entry(e.Index)
		near := e.File == bad.File // everything in the segment's one block
		switch {
		case err == nil && !sameEntry(got, v.want.at(e.Index)):
			t.Errorf("entry %d is returned with other contents", e.Index)
		case err != nil && (!near || !errors.Is(err, storage.ErrCorrupt)):
			t.Errorf("entry %d: %v", e.Index, err)
		case err == nil && e.Index == bad.Index:
			t.Errorf("entry %d, which cannot be read, is returned", e.Index)
		}
	}
}

// What the disk cannot read of the active segment when the log is opened is not cut off, nor taken for damaged: it is there the next
// time, perhaps.
func TestUnreadableAtOpen(t *testing.T) {
	const block = 4 << 10
	l, fsys := openMem(t, func(c *storage.Config) { c.SegmentBytes = 256 << 10 })
	put(t, l, 10, 3000)
	files, err := fsys.List("p/1")
	if err != nil {
		t.Fatal(err)
	}
	segment := "p/1/" + files[slices.IndexFunc(files, func(f string) bool { return strings.HasSuffix(f, ".seg") })]
	before := l.Bounds()
	cfg := storage.Config{FS: fsys.Image(1), Dir: "p/1", Partition: 1, SegmentBytes: 256 << 10}
	for name, bad := range map[string]int64{"the first block": 0, "the last frame": (before.Bytes - 1) / block * block} {
		cfg.FS.(*crashfs.FS).ReadFault = func(name string, pos int64, n int) error {
			if name == segment && pos < bad+block && pos+int64(n) > bad {
				return syscall.EIO
			}
			return nil
		}
		_, err := storage.Open(cfg)
		if u, ok := errors.AsType[*storage.UnreadableError](err); !ok || u.Path != segment || !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg.FS.(*crashfs.FS).ReadFault = nil
	again, err := storage.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if b := again.Bounds(); b.Last != before.Last || b.End != before.End || len(again.Recovered().Damaged) > 0 {
		t.Errorf("%+v, %+v", b, again.Recovered())
	}
}

// An index that cannot be written or read costs time, never data.
func TestIndexIsDerived(t *testing.T) {
	fsys := crashfs.New()
	fsys.Fault = func(op crashfs.Op, name string) error {
		if strings.Contains(name, ".idx") && op != crashfs.OpRemove {
			return syscall.ENOSPC
		}
		return nil
	}
	s := newStory(fsys, noPool)
	s.rng = rand.New(rand.NewPCG(8, 8))
	s.cfg.HotBytes = -1
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := s.append(2, 900, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := compare(s.log, s.acked); err != nil {
		t.Error(err)
	}
	fsys.Fault = nil
	if err := s.reopen(); err != nil {
		t.Fatal(err)
	}
	if err := compare(s.log, s.acked); err != nil {
		t.Error(err)
	}
	written := 0
	for _, name := range fsys.Files() {
		if strings.HasSuffix(name, ".idx") {
			written++
		}
	}
	if written == 0 {
		t.Error("no index was rebuilt")
	}
	if err := s.log.Close(); err != nil {
		t.Error(err)
	}
}
