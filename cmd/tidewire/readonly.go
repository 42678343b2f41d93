package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/storage"
)

var errReadOnly = errors.New("opened for reading only")

// readOnlyFS is a directory as storage sees it, in which files are opened for reading and nothing can be
// written: what looks at damaged data must not be able to change them.
type readOnlyFS struct {
	root *os.Root
	read *atomic.Int64 // bytes of files that were read
}

func openReadOnly(dir string) (*readOnlyFS, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &readOnlyFS{root, new(atomic.Int64)}, nil
}

func (r readOnlyFS) Open(name string) (storage.File, error) {
	f, err := r.root.Open(name)
	if err != nil {
		return nil, err
	}
	return readOnlyFile{f, r.read}, nil
}

func (r readOnlyFS) List(dir string) ([]string, error) {
	d, err := r.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func (r readOnlyFS) Size(name string) (int64, error) {
	info, err := r.root.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (r readOnlyFS) Create(string) (storage.File, error) { return nil, errReadOnly }
func (r readOnlyFS) Rename(string, string) error         { return errReadOnly }
func (r readOnlyFS) Remove(string) error                 { return errReadOnly }
func (r readOnlyFS) MkdirAll(string) error               { return errReadOnly }
func (r readOnlyFS) SyncDir(string) error                { return nil }
func (r readOnlyFS) Space() (int64, int64, error)        { return 0, 0, errReadOnly }
func (r readOnlyFS) Close() error                        { return r.root.Close() }

type readOnlyFile struct {
	*os.File
	read *atomic.Int64
}

func (f readOnlyFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	f.read.Add(int64(n))
	return n, err
}

func (f readOnlyFile) WriteAt([]byte, int64) (int, error)    { return 0, errReadOnly }
func (f readOnlyFile) WriteVAt([][]byte, int64) (int, error) { return 0, errReadOnly }
func (f readOnlyFile) Truncate(int64) error                  { return errReadOnly }
func (f readOnlyFile) Sync() error                           { return nil }

func (f readOnlyFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Map reads the file instead: an index is small, and a bad disk then gives an error and no signal.
func (f readOnlyFile) Map() (storage.Mapping, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make(heapMapping, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

type heapMapping []byte

func (m heapMapping) Bytes() []byte { return m }
func (m heapMapping) Unmap() error  { return nil }

// logSet is the logs below a directory that a user named.
type logSet struct {
	fs   *readOnlyFS
	base string   // where fs is rooted
	dirs []string // below base: "catalog", "partitions/1", …; "." for one log

	whole     bool       // base is a node's data directory
	inventory *inventory // of a whole data directory; otherwise nil
}

// findLogs takes a data directory, or the directory of one log.
func findLogs(dir string) (_ *logSet, err error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &problem{id: explain.NoData, what: "there is no directory " + dir, todo: "name a node's data directory, or one partition's in it", code: exitNoInput}
	case err != nil:
		return nil, cannotLook(dir, err)
	case !info.IsDir():
		return nil, &problem{id: explain.NoData, what: dir + " is a file", todo: "name the directory that it lies in", code: exitNoInput}
	}
	fsys, err := openReadOnly(dir)
	if err != nil {
		return nil, cannotLook(dir, err)
	}
	set := &logSet{fs: fsys, base: dir}
	defer func() {
		if err != nil {
			fsys.Close()
		}
	}()
	here, err := fsys.List(".")
	if err != nil {
		return nil, cannotLook(dir, err)
	}
	isLog := func(name string) bool { return name == "manifest" || strings.HasSuffix(name, ".seg") }
	if slices.ContainsFunc(here, isLog) {
		set.dirs = []string{"."}
		return set, nil
	}
	if slices.Contains(here, "catalog") {
		set.dirs = append(set.dirs, "catalog")
	}
	partitions := "partitions"
	if filepath.Base(dir) == partitions {
		partitions = "."
	}
	numbers, err := fsys.List(partitions)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // none: said below
		return nil, cannotLook(filepath.Join(dir, partitions), err)
	}
	slices.SortFunc(numbers, byNumber)
	for _, n := range numbers {
		if _, err := strconv.ParseUint(n, 10, 64); err == nil {
			set.dirs = append(set.dirs, filepath.ToSlash(filepath.Join(partitions, n)))
		}
	}
	set.whole = slices.Contains(here, "node.json") || slices.Contains(here, "catalog") || slices.Contains(here, "catalog.db")
	if len(set.dirs) == 0 && !set.whole {
		return nil, &problem{id: explain.NoData, what: "there is no log in " + dir, todo: "name a node's data directory, or one partition's in it (DIR/partitions/1)", code: exitNoInput}
	}
	return set, nil
}

// cannotLook is the error of a directory that cannot be examined, which says nothing of what is in it.
func cannotLook(name string, err error) *problem {
	p := &problem{id: explain.CannotLook, what: "cannot look at " + name, err: err, code: exitNoInput}
	if errors.Is(err, fs.ErrPermission) {
		p.todo = "run it as the user that the node runs as"
	}
	return p
}

func byNumber(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// name is how a log is called in what is printed.
func (s *logSet) name(dir string) string {
	if dir == "." {
		return filepath.Clean(s.base)
	}
	return dir
}

// stopped reports a node that runs on the directory: what it is writing would look like damage.
func (s *logSet) stopped() error {
	abs, err := filepath.Abs(s.base)
	if err != nil {
		return cannotLook(s.base, err)
	}
	for _, up := range []string{".", "..", "../.."} {
		f, err := os.Open(filepath.Join(abs, up, "lock"))
		if err != nil {
			continue
		}
		defer f.Close()
		if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
			continue // free; closing lets go of it again
		}
		pid, _ := io.ReadAll(io.LimitReader(f, 32))
		return &problem{id: explain.NodeRuns, what: "a node runs on " + filepath.Join(abs, up), err: fmt.Errorf("process %s holds its lock, and what it is just writing would look like damage", strings.TrimSpace(string(pid))),
			todo: "stop that process first, or copy the directory and look at the copy", code: exitDataDir}
	}
	return nil
}

// each opens one log after the other.
func (s *logSet) each(f func(dir string, l *storage.Log, err error) error) error {
	for _, dir := range s.dirs {
		l, err := s.open(dir)
		if errors.Is(err, fs.ErrPermission) {
			return cannotLook(s.name(dir), err)
		}
		if err = f(dir, l, err); l != nil {
			_ = l.Close() // writes nothing, and says so
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *logSet) open(dir string) (*storage.Log, error) {
	l, err := storage.Inspect(s.fs, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, s.lacking(dir)
	case err != nil:
		return nil, err
	}
	b := l.Bounds()
	if b.Last < b.First && len(l.Snapshots()) == 0 && b.First <= 1 {
		if err := s.lacking(dir); errors.Is(err, errMissing) {
			_ = l.Close()
			return nil, err
		}
	}
	return l, nil
}
