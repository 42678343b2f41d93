package broker

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/storage"
)

// A data directory:
//
//	node.json    who this node is; written once
//	lock         locked while a node runs on the directory; holds its process id
//	catalog/     the catalog's log       catalog.db  its term and vote
//	partitions/  a log each, by number   stable.db   their terms and votes
//	pool/        recycled and spare segment files
//	catalog.seen how far the catalog reached; catalog.older: it did not reach there any more (compareCatalog)
//	clock        when a clock was last looked at, and whether it is believed (deleteTime)
//	reserve      a little of the disk for deletions when it is full (keepReserve)

// identity is who this node is: node.json.
type identity struct {
	Format      int      `json:"format"`
	Cluster     [16]byte `json:"-"`
	ClusterHex  string   `json:"cluster"` // minted once, when the cluster began
	Node        uint64   `json:"node"`
	Incarnation uint64   `json:"incarnation"`
}

const (
	identityFormat = 1
	identityFile   = "node.json"
	lockFile       = "lock"
)

// ErrDataDir is what a refused data directory unwraps to.
var ErrDataDir = errors.New("data directory refused")

// DataDirError tells why a data directory was refused. Nothing in it was changed.
type DataDirError struct {
	ID     explain.ID
	Dir    string
	Reason string
	Pid    int // of the process that uses it, if that is the reason
}

func (e *DataDirError) Error() string { return fmt.Sprintf("data directory %s: %s", e.Dir, e.Reason) }
func (e *DataDirError) Unwrap() error { return ErrDataDir }

// dataDir is a data directory that this process holds the lock of.
type dataDir struct {
	dir  string
	fs   storage.FS
	lock *os.File

	minted bool // the identity is new: nothing of a node was here before
}

// openDataDir takes the directory, making it if it is not there, and reads or mints the identity.
func openDataDir(dir string) (_ *dataDir, id identity, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, id, err
	}
	fsys, err := storage.OSFS(abs)
	if err != nil {
		return nil, id, err // it names the directory
	}
	d := &dataDir{dir: abs, fs: fsys}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	// An empty directory becomes a node's; one with other things in it is somebody else's.
	names, err := fsys.List(".")
	if err != nil {
		return nil, id, err
	}
	known, foreign := false, ""
	for _, name := range names {
		switch name {
		case identityFile:
			known = true
		case lockFile, identityFile + ".new", "lost+found":
		default:
			foreign = name
		}
	}
	if !known && foreign != "" {
		return nil, id, &DataDirError{ID: explain.DataDirForeign, Dir: abs, Reason: fmt.Sprintf("holds %q but no %s: it is not a node's, or that file was lost; "+
			"name an empty directory, or put the file back", foreign, identityFile)}
	}
	if err := d.acquire(); err != nil {
		return nil, id, err
	}
	if known {
		id, err = d.readIdentity()
	} else {
		id, err = d.mintIdentity()
		d.minted = err == nil
	}
	return d, id, err
}

// acquire takes the lock, or says who has it.
func (d *dataDir) acquire() error {
	f, err := os.OpenFile(filepath.Join(d.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := tryLock(f); err != nil {
		defer f.Close()
		b := make([]byte, 32)
		n, _ := f.ReadAt(b, 0)
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
		return &DataDirError{ID: explain.DataDirInUse, Dir: d.dir, Pid: pid, Reason: fmt.Sprintf("is in use by process %d: stop that one first, or name another directory", pid)}
	}
	d.lock = f
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	return err
}

func (d *dataDir) readIdentity() (id identity, err error) {
	b, err := readAll(d.fs, identityFile)
	if err != nil {
		return id, err
	}
	refuse := func(format string, args ...any) (identity, error) {
		return identity{}, &DataDirError{ID: explain.DataDirDamaged, Dir: d.dir, Reason: identityFile + " " + fmt.Sprintf(format, args...)}
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return refuse("does not decode (%v): it is damaged; put it back from a copy", err)
	}
	if id.Format > identityFormat {
		_, err := refuse("has format %d, this version reads up to %d: run the version that wrote it", id.Format, identityFormat)
		err.(*DataDirError).ID = explain.DataDirVersion
		return identity{}, err
	}
	if n, err := hex.Decode(id.Cluster[:], []byte(id.ClusterHex[:min(len(id.ClusterHex), 32)])); err != nil || n != 16 || len(id.ClusterHex) != 32 ||
		id.Format < 1 || id.Node == 0 || id.Incarnation == 0 {
		return refuse("lacks a field or has a bad one: it is damaged; put it back from a copy")
	}
	return id, nil
}

// mintIdentity makes this directory the first node of a new cluster.
func (d *dataDir) mintIdentity() (identity, error) {
	id := identity{Format: identityFormat, Node: 1, Incarnation: 1}
	_, _ = rand.Read(id.Cluster[:]) // never fails: crypto/rand
	id.ClusterHex = hex.EncodeToString(id.Cluster[:])
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return id, err
	}
	tmp := identityFile + ".new"
	if err := d.fs.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	f, err := d.fs.Create(tmp)
	if err != nil {
		return id, err
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = d.fs.Rename(tmp, identityFile)
	}
	if err == nil {
		err = d.fs.SyncDir(".")
	}
	return id, err
}

// path is a name in the directory, for libraries that open files by themselves.
func (d *dataDir) path(name string) string { return filepath.Join(d.dir, name) }

// exists reports whether a file or directory is there, or cannot be looked at.
func (d *dataDir) exists(name string) bool {
	_, err := d.fs.Size(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// missing is the error for a directory that was there and is not.
func (d *dataDir) missing(dir, what string) error {
	return &DataDirError{ID: explain.DataDirDamaged, Dir: d.dir, Reason: fmt.Sprintf("%s (%s) is missing, though it held entries: put it back from a copy. "+
		"Nothing was changed", dir, what)}
}

func (d *dataDir) close() {
	if d.lock != nil {
		_ = d.lock.Close()
	}
	_ = d.fs.Close()
}

func readAll(fsys storage.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, 1<<20))
	_, err = f.ReadAt(b, 0)
	return b, err
}

// reportRecovery logs what opening a log found, if there is anything to say.
func reportRecovery(log *zap.Logger, r storage.Report) {
	if r.CutBytes > 0 {
		say, why := log.Info, "no write after them proves that they were ever synced, so they were never acknowledged"
		if r.CutNonZero {
			say, why = log.Warn, "a write that was never synced leaves this, and so does damage to the very last write"
		}
		say("a torn tail was cut", zap.Int64("bytes", r.CutBytes), zap.Uint64("offset", uint64(r.CutOffset)), zap.Uint64("index", uint64(r.CutIndex)),
			zap.String("file", r.CutPath), zap.Int64("position", r.CutPosition), zap.String("why", why))
	}
	for _, d := range r.Damaged {
		log.Error("records are damaged on disk and are not served; the rest is", zap.Error(d),
			zap.Uint64("from_offset", uint64(d.Start)), zap.Uint64("to_offset", uint64(d.End)))
	}
	if r.ScannedBytes > 0 {
		log.Debug("log recovered", zap.Bool("clean", r.Clean), zap.Int64("scanned", r.ScannedBytes), zap.Duration("took", r.ScanTime))
	}
}
