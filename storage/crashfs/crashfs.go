// Package crashfs is a file system in memory for crash tests: it knows, for every byte and every name, what would
// survive if the power went now.
//
// What it promises is what storage.FS says and no more:
//
//   - bytes written and lengths changed survive for certain only after Sync of the file; until then each 512-byte
//     sector of each write is kept or lost on its own;
//   - a file made, renamed or removed, and a directory made, is so for certain only after SyncDir of the directory that
//     holds the (new) name; until then each such change is kept or lost on its own, as far as it makes sense without
//     the others. A rename is atomic;
//   - after a Sync that failed, what was written before is lost, whatever later Syncs say (as on ext4).
//
// A test lets a program run against an FS, stops it at a step of its choice (StopAt), and asks for images of what a
// power cut would leave (Image) or goes on as after the death of the process alone (Revive).
package crashfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/tidewire/tidewire/storage"
)

// ErrStopped is what every call returns once the FS has stopped.
var ErrStopped = errors.New("crashfs: stopped")

// sector is what a disk writes whole or not at all.
const sector = 512

// Op names a kind of call, for Fault and Trace.
type Op string

// The calls that change something. Each is a step.
const (
	OpCreate   Op = "create"
	OpWrite    Op = "write"
	OpSync     Op = "sync"
	OpTruncate Op = "truncate"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
	OpMkdir    Op = "mkdir"
	OpSyncDir  Op = "syncdir"
)

// FS is a storage.FS. Set the exported fields before use.
type FS struct {
	// StopAt stops the FS at that step, counted from 1: the step's change may or may not survive, and the call and
	// every later one return ErrStopped. 0 never stops.
	StopAt int

	// SyncLies and SyncDirLies make Sync and SyncDir do nothing and report success.
	SyncLies, SyncDirLies bool

	// Fault, if set, is asked before each step; an error is returned to the caller in place of doing it.
	Fault func(op Op, name string) error

	// ReadFault, if set, is asked before each read of n bytes at pos.
	ReadFault func(name string, pos int64, n int) error

	// Trace, if set, is told of each step.
	Trace func(step int, op Op, name string)

	mu      sync.Mutex
	steps   int
	stopped bool
	names   map[string]*inode // as processes see them; nil for a directory
	durable map[string]*inode // as a power cut leaves them at least
	pending []change          // to names, oldest first
}

type inode struct {
	data    []byte // as processes see it
	durable []byte
	pending []write // since the last Sync
}

// write is a change to an inode's bytes, or with data nil to its length.
type write struct {
	pos  int64
	data []byte
}

// change is a change to names.
type change struct {
	op       Op
	name, to string
	node     *inode
}

// New returns an empty file system.
func New() *FS {
	return &FS{names: map[string]*inode{".": nil}, durable: map[string]*inode{".": nil}}
}

// Steps returns how many steps there have been.
func (f *FS) Steps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steps
}

// Revive lets a stopped FS go on where it is, as after the death of a process: what it wrote is visible, and still no
// more durable than it was.
func (f *FS) Revive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped, f.StopAt, f.steps = false, 0, 0
}

// Image returns what a power cut now may leave. Seeds 0 and 1 lose and keep everything that is not certain; others
// choose for each change.
func (f *FS) Image(seed uint64) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, 0x7469646577697265))
	likely := rng.Float64()
	keep := func() bool { return rng.Float64() < likely }
	switch seed {
	case 0:
		keep = func() bool { return false }
	case 1:
		keep = func() bool { return true }
	}
	image := New()
	names := maps.Clone(f.durable)
	for _, c := range f.pending {
		if keep() {
			c.apply(names)
		}
	}
	// In a fixed order, so that a seed means the same each time.
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if node := names[name]; node == nil {
			image.names[name] = nil
		} else if _, ok := names[path.Dir(name)]; ok {
			data := node.image(keep)
			image.names[name] = &inode{data: data, durable: slices.Clone(data)}
		}
	}
	image.durable = maps.Clone(image.names)
	return image
}

// image returns the bytes a power cut leaves.
func (n *inode) image(keep func() bool) []byte {
	data := slices.Clone(n.durable)
	for _, w := range n.pending {
		if w.data == nil {
			if keep() {
				data = resize(data, w.pos)
			}
			continue
		}
		whole := keep()
		for from := int64(0); from < int64(len(w.data)); {
			to := min(from+sector-(w.pos+from)%sector, int64(len(w.data)))
			if whole && keep() || keep() {
				data = resize(data, max(int64(len(data)), w.pos+to))
				copy(data[w.pos+from:], w.data[from:to])
			}
			from = to
		}
	}
	return data
}

func resize(b []byte, n int64) []byte {
	if n <= int64(len(b)) {
		return b[:n]
	}
	return append(b, make([]byte, n-int64(len(b)))...)
}

// apply makes the change in names if that makes sense there.
func (c change) apply(names map[string]*inode) {
	switch c.op {
	case OpCreate, OpMkdir:
		_, parent := names[path.Dir(c.name)]
		if _, taken := names[c.name]; parent && !taken {
			names[c.name] = c.node
		}
	case OpRename:
		_, parent := names[path.Dir(c.to)]
		if n, ok := names[c.name]; ok && n == c.node && parent {
			delete(names, c.name)
			names[c.to] = n
		}
	case OpRemove:
		if n, ok := names[c.name]; ok && n == c.node {
			delete(names, c.name)
		}
	}
}

// before reports whether c, made earlier than d, cannot be lost if d is kept.
func (c change) before(d change) bool {
	return c.node != nil && c.node == d.node || c.name == d.name || c.name == d.to || c.to != "" && (c.to == d.name || c.to == d.to)
}

// dir is the directory whose sync makes the change certain.
func (c change) dir() string {
	if c.op == OpRename {
		return path.Dir(c.to)
	}
	return path.Dir(c.name)
}

// step counts a step. done false means that the call is to return err at once; otherwise the change is to be made and
// err, ErrStopped at the step to stop at, returned after it.
func (f *FS) step(op Op, name string) (done bool, err error) {
	if f.stopped {
		return false, ErrStopped
	}
	if f.Fault != nil {
		if err := f.Fault(op, name); err != nil {
			return false, &fs.PathError{Op: string(op), Path: name, Err: err}
		}
	}
	f.steps++
	if f.Trace != nil {
		f.Trace(f.steps, op, name)
	}
	if f.steps == f.StopAt {
		f.stopped = true
		return true, ErrStopped
	}
	return true, nil
}

func (f *FS) change(c change) {
	c.apply(f.names)
	f.pending = append(f.pending, c)
}

func failed(op Op, name string, err error) error {
	return &fs.PathError{Op: string(op), Path: name, Err: err}
}

// Create implements storage.FS.
func (f *FS) Create(name string) (storage.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, taken := f.names[name]; taken && !f.stopped {
		return nil, failed(OpCreate, name, fs.ErrExist)
	}
	if _, parent := f.names[path.Dir(name)]; !parent && !f.stopped {
		return nil, failed(OpCreate, name, fs.ErrNotExist)
	}
	done, err := f.step(OpCreate, name)
	if !done {
		return nil, err
	}
	n := &inode{}
	f.change(change{op: OpCreate, name: name, node: n})
	return &file{fs: f, node: n, name: name}, err
}

// Open implements storage.FS.
func (f *FS) Open(name string) (storage.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return nil, ErrStopped
	}
	n := f.names[name]
	if n == nil {
		return nil, failed("open", name, fs.ErrNotExist)
	}
	return &file{fs: f, node: n, name: name}, nil
}

// Rename implements storage.FS.
func (f *FS) Rename(old, new string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.names[old]
	if _, parent := f.names[path.Dir(new)]; !f.stopped && (n == nil || !parent) {
		return failed(OpRename, old, fs.ErrNotExist)
	}
	done, err := f.step(OpRename, new)
	if done {
		f.change(change{op: OpRename, name: old, to: new, node: n})
	}
	return err
}

// Remove implements storage.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.names[name]
	if !ok && !f.stopped {
		return failed(OpRemove, name, fs.ErrNotExist)
	}
	if n == nil && !f.stopped && len(f.list(name)) > 0 {
		return failed(OpRemove, name, errors.New("directory not empty"))
	}
	done, err := f.step(OpRemove, name)
	if done {
		f.change(change{op: OpRemove, name: name, node: n})
	}
	return err
}

func (f *FS) list(dir string) []string {
	var names []string
	for name := range f.names {
		if name != "." && path.Dir(name) == dir {
			names = append(names, path.Base(name))
		}
	}
	slices.Sort(names)
	return names
}

// List implements storage.FS.
func (f *FS) List(dir string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return nil, ErrStopped
	}
	if n, ok := f.names[dir]; !ok || n != nil {
		return nil, failed("list", dir, fs.ErrNotExist)
	}
	return f.list(dir), nil
}

// Size implements storage.FS.
func (f *FS) Size(name string) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return 0, ErrStopped
	}
	n := f.names[name]
	if n == nil {
		return 0, failed("stat", name, fs.ErrNotExist)
	}
	return int64(len(n.data)), nil
}

// MkdirAll implements storage.FS.
func (f *FS) MkdirAll(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := ""
	for part := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, part)
		if _, ok := f.names[at]; ok {
			continue
		}
		done, err := f.step(OpMkdir, at)
		if done {
			f.change(change{op: OpMkdir, name: at})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// SyncDir implements storage.FS.
func (f *FS) SyncDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.step(OpSyncDir, dir); err != nil {
		return err
	}
	if f.SyncDirLies {
		return nil
	}
	// The journal keeps the order of what happened to one file and to one name: with a change, all earlier ones.
	certain := make([]bool, len(f.pending))
	for i, c := range f.pending {
		certain[i] = c.dir() == dir
	}
	for i := len(f.pending) - 1; i >= 0; i-- {
		for j := range i {
			certain[j] = certain[j] || certain[i] && f.pending[j].before(f.pending[i])
		}
	}
	var rest []change
	for i, c := range f.pending {
		if certain[i] {
			c.apply(f.durable)
		} else {
			rest = append(rest, c)
		}
	}
	f.pending = rest
	return nil
}

// Space implements storage.FS.
func (f *FS) Space() (free, total int64, err error) { return 1 << 40, 1 << 40, nil }

// Close implements storage.FS.
func (f *FS) Close() error { return nil }

// ReadFile returns a copy of a file's bytes, as processes see them.
func (f *FS) ReadFile(name string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.names[name]; n != nil {
		return slices.Clone(n.data)
	}
	return nil
}

// WriteFile replaces a file's bytes, durably and without counting a step: damage done from outside.
func (f *FS) WriteFile(name string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.names[name]
	if n == nil {
		n = &inode{}
		f.names[name], f.durable[name] = n, n
	}
	n.data, n.durable, n.pending = slices.Clone(data), slices.Clone(data), nil
}

// Delete removes a file, durably and without counting a step.
func (f *FS) Delete(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.names, name)
	delete(f.durable, name)
}

// Files returns the names of all files.
func (f *FS) Files() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name, n := range f.names {
		if n != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// file is an open file.
type file struct {
	fs   *FS
	node *inode
	name string
}

func (h *file) ReadAt(b []byte, pos int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.fs.stopped {
		return 0, ErrStopped
	}
	if h.fs.ReadFault != nil {
		if err := h.fs.ReadFault(h.name, pos, len(b)); err != nil {
			return 0, failed("read", h.name, err)
		}
	}
	if pos >= int64(len(h.node.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.node.data[pos:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *file) WriteAt(b []byte, pos int64) (int, error) { return h.WriteVAt([][]byte{b}, pos) }

func (h *file) WriteVAt(buffers [][]byte, pos int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	done, err := h.fs.step(OpWrite, h.name)
	if !done {
		return 0, err
	}
	b := slices.Concat(buffers...)
	if len(b) == 0 {
		return 0, err
	}
	n := h.node
	n.data = resize(n.data, max(int64(len(n.data)), pos+int64(len(b))))
	copy(n.data[pos:], b)
	n.pending = append(n.pending, write{pos: pos, data: b})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (h *file) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	done, err := h.fs.step(OpSync, h.name)
	if !done {
		if !h.fs.stopped {
			h.node.pending = nil // the pages are marked clean, and will never be written
		}
		return err
	}
	if err != nil || h.fs.SyncLies {
		return err
	}
	for _, w := range h.node.pending {
		if w.data == nil {
			h.node.durable = resize(h.node.durable, w.pos)
			continue
		}
		end := w.pos + int64(len(w.data))
		h.node.durable = resize(h.node.durable, max(int64(len(h.node.durable)), end))
		copy(h.node.durable[w.pos:], w.data)
	}
	h.node.pending = nil
	return nil
}

func (h *file) Truncate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	done, err := h.fs.step(OpTruncate, h.name)
	if !done {
		return err
	}
	h.node.data = resize(h.node.data, size)
	h.node.pending = append(h.node.pending, write{pos: size})
	return err
}

func (h *file) Size() (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.fs.stopped {
		return 0, ErrStopped
	}
	return int64(len(h.node.data)), nil
}

// Map returns a copy: what is written later is not seen in it.
func (h *file) Map() (storage.Mapping, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.fs.stopped {
		return nil, ErrStopped
	}
	return copied(slices.Clone(h.node.data)), nil
}

func (h *file) Close() error { return nil }

// String names the file.
func (h *file) String() string { return fmt.Sprintf("crashfs file %s", h.name) }

type copied []byte

func (c copied) Bytes() []byte { return c }
func (c copied) Unmap() error  { return nil }
