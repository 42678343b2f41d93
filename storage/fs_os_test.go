package storage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func openOS(t *testing.T) (FS, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "not", "yet")
	fsys, err := OSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	return fsys, dir
}

func TestOSFile(t *testing.T) {
	fsys, _ := openOS(t)
	f, err := fsys.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fsys.Create("a"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create twice: %v", err)
	}
	var vector [][]byte // more than one pwritev takes
	for i := range 3000 {
		vector = append(vector, []byte{byte(i), byte(i >> 8), 7}[:1+i%3])
	}
	n, err := f.WriteVAt(vector, 5)
	if err != nil || n != 6000 {
		t.Fatalf("wrote %d, %v", n, err)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 5); err != nil {
		t.Fatal(err)
	}
	for _, v := range vector {
		if string(b[:len(v)]) != string(v) {
			t.Fatal("the bytes differ")
		}
		b = b[len(v):]
	}
	if err := f.Truncate(3); err != nil {
		t.Error(err)
	}
	if size, err := fsys.Size("a"); err != nil || size != 3 {
		t.Errorf("size %d, %v", size, err)
	}
	if err := errors.Join(f.Sync(), fsys.SyncDir(".")); err != nil {
		t.Error(err)
	}
	if free, total, err := fsys.Space(); err != nil || free <= 0 || total < free {
		t.Errorf("space %d of %d, %v", free, total, err)
	}
}

func TestOSFSStaysBelowItsRoot(t *testing.T) {
	fsys, dir := openOS(t)
	if err := os.WriteFile(filepath.Join(dir, "..", "secret"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../secret", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../secret", "link", "/etc/passwd"} {
		if f, err := fsys.Open(name); err == nil {
			f.Close()
			t.Errorf("%s can be opened", name)
		}
	}
	if _, err := fsys.Open("none"); !isMissing(err) {
		t.Errorf("a missing file: %v", err)
	}
}

// A mapped index that is truncated under us is a fault, which must end neither the process nor the search.
func TestMappingFaultIsABadIndex(t *testing.T) {
	fsys, dir := openOS(t)
	var items []sparseItem
	for i := range Index(1000) {
		items = append(items, sparseItem{index: i + 1, position: 64 + int64(i)*8})
	}
	if err := writeFile(fsys, "i", encodeIndex(1, 2, items)); err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open("i")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := f.Map()
	if err != nil {
		t.Fatal(err)
	}
	index, err := openIndex(m.Bytes(), 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	search := func() (sparseItem, bool, error) {
		return index.find(func(it sparseItem) bool { return it.index <= 700 })
	}
	if it, ok, err := search(); err != nil || !ok || it.index != 700 {
		t.Fatalf("found %+v, %v, %v", it, ok, err)
	}
	if err := os.Truncate(filepath.Join(dir, "i"), 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := search(); !errors.Is(err, errBadIndex) {
		t.Errorf("after the file was truncated: %v", err)
	}
	if _, err := openIndex(m.Bytes(), 1, 2); !errors.Is(err, errBadIndex) {
		t.Errorf("opening it then: %v", err)
	}
	if err := errors.Join(m.Unmap(), m.Unmap()); err != nil {
		t.Error(err)
	}
}

func TestMapEmptyFile(t *testing.T) {
	fsys, _ := openOS(t)
	f, err := fsys.Create("empty")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := f.Map()
	if err != nil || len(m.Bytes()) != 0 || m.Unmap() != nil {
		t.Errorf("mapping of an empty file: %v", err)
	}
}

// A log with no FS given has the operating system's, rooted at its own directory.
func TestDefaultFS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	for range 2 {
		l, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		i := l.Bounds().Last + 1
		if err := l.Append([]Entry{{Index: i, Term: 1, Records: 1, Payload: []byte("x")}}, 0); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if r := l.Recovered(); !r.Clean || r.Created || l.Bounds().Last != 2 {
		t.Errorf("report %+v, bounds %+v", r, l.Bounds())
	}
	if err := l.Remove(); err != nil {
		t.Fatal(err)
	}
}
