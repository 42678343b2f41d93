package raft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for something that must happen; nothing waits this long unless it is broken.
const patience = 30 * time.Second

// testNode is one node's directory, and what is open in it.
type testNode struct {
	tb     testing.TB
	dir    string
	fs     *faultFS
	stable *StableStore
	log    *storage.Log
	fatal  chan error
	config func(*storage.Config)
}

func newNode(tb testing.TB) *testNode {
	n := &testNode{tb: tb, dir: tb.TempDir(), fatal: make(chan error, 1)}
	tb.Cleanup(n.close)
	return n
}

// open opens log and stable store.
func (n *testNode) open() {
	n.tb.Helper()
	base, err := storage.OSFS(n.dir)
	must(n.tb, err)
	n.fs = &faultFS{FS: base}
	cfg := storage.Config{FS: n.fs, Dir: "partitions/1", Partition: 1}
	if n.config != nil {
		n.config(&cfg)
	}
	n.log, err = storage.Open(cfg)
	must(n.tb, err)
	n.stable, err = OpenStable(filepath.Join(n.dir, "stable.db"))
	must(n.tb, err)
}

func (n *testNode) close() {
	if n.log != nil {
		n.log.Close()
		n.stable.Close()
		n.fs.FS.Close()
		n.log = nil
	}
}

// copyKilled copies a node that is being written to, as a kill at one moment would leave it: no write to the
// log while it is copied.
func (n *testNode) copyKilled() *testNode {
	n.fs.writes.Lock()
	defer n.fs.writes.Unlock()
	return n.copyTo()
}

// copyTo copies the node's files as they are, as a kill would leave them, into a new node.
func (n *testNode) copyTo() *testNode {
	n.tb.Helper()
	c := newNode(n.tb)
	c.config = n.config
	err := filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(n.dir, path)
		if err != nil {
			return err
		}
		to := filepath.Join(c.dir, rel)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, 0o600)
	})
	must(n.tb, err)
	return c
}

// damage flips bytes on disk, from the middle of one entry's payload to that of another, or a single one.
func (n *testNode) damage(from, to []byte) {
	n.tb.Helper()
	found := false
	must(n.tb, filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".seg") {
			return err
		}
		b, err := os.ReadFile(path)
		must(n.tb, err)
		if first, last := bytes.Index(b, from), bytes.Index(b, to); first >= 0 && last >= 0 {
			for i := first + len(from)/2; i <= last+len(to)/2; i++ {
				b[i] ^= 1
			}
			found = true
			must(n.tb, os.WriteFile(path, b, 0o600))
		}
		return nil
	}))
	if !found {
		n.tb.Fatal("the entry was not found on disk")
	}
}

// group returns the term and vote of group 1.
func (n *testNode) group() *Stable {
	n.tb.Helper()
	s, err := n.stable.Group(1)
	must(n.tb, err)
	return s
}

// testPartition is a partition and what it answered.
type testPartition struct {
	*Partition
	node    *testNode
	answers chan []*Pending // copies of what Committed was given
}

func (n *testNode) partition(change ...func(*PartitionConfig)) *testPartition {
	n.tb.Helper()
	p := &testPartition{node: n, answers: make(chan []*Pending, 1<<16)}
	cfg := PartitionConfig{
		ID: 1, Server: "1.1", Log: n.log, Stable: n.group(),
		Fatal:     func(err error) { n.fatal <- err },
		Committed: func(done []*Pending) { p.answers <- append([]*Pending(nil), done...) },
	}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	p.Partition, err = StartPartition(cfg)
	must(n.tb, err)
	return p
}

// lead waits until the partition takes publishes.
func (p *testPartition) lead() *testPartition {
	p.node.tb.Helper()
	wait(p.node.tb, p.Leading(), "leadership")
	return p
}

// take waits for the answers to n batches.
func (p *testPartition) take(n int) []*Pending {
	p.node.tb.Helper()
	var out []*Pending
	deadline := time.After(patience)
	for len(out) < n {
		select {
		case done := <-p.answers:
			out = append(out, done...)
		case <-deadline:
			p.node.tb.Fatalf("%d of %d batches were answered", len(out), n)
		}
	}
	return out
}

// publish publishes one batch and waits for its answer.
func (p *testPartition) publish(pend *Pending, b []byte) *Pending {
	p.node.tb.Helper()
	must(p.node.tb, p.Publish(pend, b))
	got := p.take(1)
	if len(got) != 1 || got[0] != pend {
		p.node.tb.Fatalf("answered %d batches, not the one published", len(got))
	}
	return pend
}

// batch makes bytes that say whose they are.
func batch(producer, sequence uint64, size int) []byte {
	b := make([]byte, max(size, 16))
	binary.LittleEndian.PutUint64(b, producer)
	binary.LittleEndian.PutUint64(b[8:], sequence)
	for i := 16; i < len(b); i++ {
		b[i] = byte(i)
	}
	return b
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func wait(tb testing.TB, ch <-chan struct{}, what string) {
	tb.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		tb.Fatalf("waited in vain for %s", what)
	}
}

func wantErr(tb testing.TB, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("got %v, want %v", err, want)
	}
}

// faultFS is a file system whose syncs can be made to fail or to wait, and are counted.
type faultFS struct {
	storage.FS
	syncs    atomic.Int64
	mu       sync.Mutex
	failSync error
	hold     chan struct{} // while not nil, syncs wait until it is closed
	held     chan struct{} // gets a value for each sync that waits
	writes   sync.RWMutex  // held while anything changes
}

var errDisk = errors.New("disk broken")

func (f *faultFS) breakSync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failSync = errDisk
}

// holdSync makes every sync wait until release is called; held gets a value for each one that does.
func (f *faultFS) holdSync() (held <-chan struct{}, release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hold := make(chan struct{})
	f.hold, f.held = hold, make(chan struct{}, 1024)
	return f.held, func() {
		f.mu.Lock()
		f.hold = nil
		f.mu.Unlock()
		close(hold)
	}
}

func (f *faultFS) sync() error {
	f.syncs.Add(1)
	f.mu.Lock()
	hold, held, err := f.hold, f.held, f.failSync
	f.mu.Unlock()
	if hold != nil {
		held <- struct{}{}
		<-hold
	}
	return err
}

func (f *faultFS) Create(name string) (storage.File, error) {
	f.writes.RLock()
	defer f.writes.RUnlock()
	file, err := f.FS.Create(name)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f}, nil
}

func (f *faultFS) Open(name string) (storage.File, error) {
	file, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f}, nil
}

type faultFile struct {
	storage.File
	fs *faultFS
}

func (f *faultFile) Sync() error {
	if err := f.fs.sync(); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultFS) Rename(old, new string) error {
	f.writes.RLock()
	defer f.writes.RUnlock()
	return f.FS.Rename(old, new)
}

func (f *faultFS) Remove(name string) error {
	f.writes.RLock()
	defer f.writes.RUnlock()
	return f.FS.Remove(name)
}

func (f *faultFile) WriteVAt(buffers [][]byte, pos int64) (int, error) {
	f.fs.writes.RLock()
	defer f.fs.writes.RUnlock()
	return f.File.WriteVAt(buffers, pos)
}

func (f *faultFile) WriteAt(b []byte, pos int64) (int, error) {
	f.fs.writes.RLock()
	defer f.fs.writes.RUnlock()
	return f.File.WriteAt(b, pos)
}

func (f *faultFile) Truncate(size int64) error {
	f.fs.writes.RLock()
	defer f.fs.writes.RUnlock()
	return f.File.Truncate(size)
}
