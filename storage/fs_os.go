package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

const (
	filePerm = 0o640
	dirPerm  = 0o750
)

// OSFS returns the operating system's file system below dir, which is created if missing.
//
// All access goes through os.Root: no name, however made, reaches outside dir. In a build with the tag
// tidewire_nosync, Sync and SyncDir do nothing (see Durable).
func OSFS(dir string) (FS, error) {
	if err := makeRoot(dir); err != nil {
		return nil, fmt.Errorf("storage: data directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("storage: data directory: %w", err)
	}
	return &osFS{root: root}, nil
}

// makeRoot creates dir, with those above it that are missing, and syncs what names it: also if it is there and empty, as a process
// that died may have made it and not synced.
func makeRoot(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		if names, err := os.ReadDir(dir); err == nil && len(names) == 0 {
			if err := syncParent(dir); errors.Is(err, syscall.EIO) { // where that cannot be opened or synced at all, somebody else made it
				return err
			}
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeRoot(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, dirPerm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncParent(dir)
}

func syncParent(dir string) error {
	p, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer p.Close()
	return syncDir(p)
}

// osFS is FS on the operating system.
type osFS struct{ root *os.Root }

func (o *osFS) Create(name string) (File, error) {
	f, err := o.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, filePerm)
	if err != nil {
		return nil, err
	}
	return newOSFile(f), nil
}

func (o *osFS) Open(name string) (File, error) {
	f, err := o.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return newOSFile(f), nil
}

func (o *osFS) Rename(old, new string) error { return o.root.Rename(old, new) }
func (o *osFS) Remove(name string) error     { return o.root.Remove(name) }
func (o *osFS) MkdirAll(dir string) error    { return o.root.MkdirAll(dir, dirPerm) }
func (o *osFS) Close() error                 { return o.root.Close() }

func (o *osFS) List(dir string) ([]string, error) {
	d, err := o.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

func (o *osFS) Size(name string) (int64, error) {
	info, err := o.root.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (o *osFS) SyncDir(dir string) error {
	d, err := o.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncDir(d)
}

func syncDir(d *os.File) error {
	if !Durable {
		return nil
	}
	return d.Sync()
}

func (o *osFS) Space() (free, total int64, err error) {
	d, err := o.root.Open(".")
	if err != nil {
		return 0, 0, err
	}
	defer d.Close()
	return space(d)
}

// osFile is File on the operating system. WriteVAt and the real Sync are in fs_os_linux.go and fs_os_other.go.
type osFile struct {
	f  *os.File
	fd int // f's descriptor, valid until Close
}

func newOSFile(f *os.File) *osFile { return &osFile{f: f, fd: int(f.Fd())} }

func (o *osFile) ReadAt(b []byte, pos int64) (int, error)  { return o.f.ReadAt(b, pos) }
func (o *osFile) WriteAt(b []byte, pos int64) (int, error) { return o.f.WriteAt(b, pos) }
func (o *osFile) Truncate(size int64) error                { return o.f.Truncate(size) }
func (o *osFile) Close() error                             { return o.f.Close() }

func (o *osFile) Sync() error {
	if !Durable {
		return nil
	}
	return o.datasync()
}

func (o *osFile) Size() (int64, error) {
	info, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Map maps the file read-only. An empty file, which the kernel refuses to map, has an empty mapping.
func (o *osFile) Map() (Mapping, error) {
	size, err := o.Size()
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return &heapMapping{}, nil
	}
	return mapFile(o.f)
}

// heapMapping serves Map from memory where there is nothing to map.
type heapMapping struct {
	mu sync.Mutex
	b  []byte
}

func (m *heapMapping) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b
}

func (m *heapMapping) Unmap() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.b = nil
	return nil
}
