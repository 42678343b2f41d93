package crashfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
	"testing"

	"github.com/tidewire/tidewire/storage"
	"github.com/tidewire/tidewire/storage/crashfs"
)

func create(t *testing.T, f *crashfs.FS, name, data string) storage.File {
	t.Helper()
	file, err := f.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte(data), 0); err != nil {
		t.Fatal(err)
	}
	return file
}

// outcomes returns every different content of a file that some image has; "-" if it is missing.
func outcomes(f *crashfs.FS, name string) []string {
	found := map[string]bool{}
	for seed := range uint64(200) {
		image := f.Image(seed)
		if _, err := image.Size(name); errors.Is(err, fs.ErrNotExist) {
			found["-"] = true
		} else {
			found[fmt.Sprintf("%q", image.ReadFile(name))] = true
		}
	}
	var out []string
	for o := range found {
		out = append(out, o)
	}
	slices.Sort(out)
	return out
}

func expect(t *testing.T, f *crashfs.FS, name string, want ...string) {
	t.Helper()
	if got := outcomes(f, name); !slices.Equal(got, want) {
		t.Errorf("%s may be %v, want %v", name, got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatSurvives(t *testing.T) {
	f := crashfs.New()
	a := create(t, f, "a", "one")
	expect(t, f, "a", `""`, `"one"`, "-")
	must(t, f.SyncDir("."))
	expect(t, f, "a", `""`, `"one"`)
	must(t, a.Sync())
	expect(t, f, "a", `"one"`)
	must(t, f.Rename("a", "b"))
	expect(t, f, "b", `"one"`, "-")
	must(t, f.SyncDir("."))
	expect(t, f, "a", "-")
	must(t, f.Remove("b"))
	expect(t, f, "b", `"one"`, "-")
	if f.Image(0).ReadFile("b") == nil || f.Image(1).ReadFile("b") != nil {
		t.Error("seed 0 loses, seed 1 keeps")
	}
}

func TestSectorsTear(t *testing.T) {
	f := crashfs.New()
	file := create(t, f, "a", string(make([]byte, 1536)))
	must(t, errors.Join(file.Sync(), f.SyncDir(".")))
	b := make([]byte, 1536)
	for i := range b {
		b[i] = 'x'
	}
	if _, err := file.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if n := len(outcomes(f, "a")); n != 8 {
		t.Errorf("three sectors have %d outcomes", n)
	}
	must(t, file.Truncate(0))
	if !slices.Contains(outcomes(f, "a"), `""`) {
		t.Error("a truncation is never kept")
	}
}

func TestRenameReplacesAtomically(t *testing.T) {
	f := crashfs.New()
	must(t, errors.Join(create(t, f, "m", "old").Sync(), f.SyncDir(".")))
	must(t, create(t, f, "m.tmp", "new").Sync())
	must(t, f.Rename("m.tmp", "m"))
	expect(t, f, "m", `"new"`, `"old"`)
}

func TestRenameAcrossDirectories(t *testing.T) {
	f := crashfs.New()
	must(t, f.MkdirAll("p/q"))
	expect(t, f, "p/q/x", "-")
	must(t, errors.Join(f.SyncDir("."), f.SyncDir("p")))
	must(t, create(t, f, "x", "1").Sync())
	must(t, f.Rename("x", "p/q/x"))
	must(t, f.SyncDir("p/q"))
	expect(t, f, "p/q/x", `"1"`) // though "." was never synced: the journal has one order
	expect(t, f, "x", "-")
}

func TestFailedSyncLosesForGood(t *testing.T) {
	f := crashfs.New()
	file := create(t, f, "a", "x")
	must(t, f.SyncDir("."))
	f.Fault = func(op crashfs.Op, _ string) error {
		if op == crashfs.OpSync {
			return syscall.EIO
		}
		return nil
	}
	if err := file.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	f.Fault = nil
	must(t, file.Sync())
	expect(t, f, "a", `""`)
	if string(f.ReadFile("a")) != "x" {
		t.Error("the page cache forgot")
	}
}

func TestStopAndRevive(t *testing.T) {
	f := crashfs.New()
	f.StopAt = 2
	file, err := f.Create("a")
	must(t, err)
	if _, err := file.WriteAt([]byte("x"), 0); !errors.Is(err, crashfs.ErrStopped) {
		t.Fatal(err)
	}
	if _, err := f.List("."); !errors.Is(err, crashfs.ErrStopped) {
		t.Error(err)
	}
	f.Revive()
	if names, err := f.List("."); err != nil || len(names) != 1 || string(f.ReadFile("a")) != "x" {
		t.Error(names, err)
	}
}
