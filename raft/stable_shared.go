package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tidewire/tidewire/storage"
)

// The two copies stand in buckets of their own, and so on pages of their own.
var (
	firstCopies  = []byte("ballots.1")
	secondCopies = []byte("ballots.2")
)

// batchDelay is how long a write waits for others to share its fdatasync: of a thousand groups that
// elect at once (10 ms together, against 964 ms one after the other).
const batchDelay = 2 * time.Millisecond

// StableStore keeps term and vote of all partition groups of a node in one bbolt file. Writes of many
// groups share transactions. Safe for concurrent use.
type StableStore struct {
	db *bbolt.DB
}

// OpenStable opens or creates the file at path, which only one process can hold open.
func OpenStable(path string) (*StableStore, error) {
	var db *bbolt.DB
	err := openBolt(path, func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      time.Second, // for the file lock; bbolt's default waits for ever
			FreelistType: bbolt.FreelistMapType,
		})
		if err != nil {
			return err
		}
		db.MaxBatchDelay = batchDelay
		return db.Update(func(tx *bbolt.Tx) error {
			if _, err := tx.CreateBucketIfNotExists(firstCopies); err != nil {
				return err
			}
			_, err := tx.CreateBucketIfNotExists(secondCopies)
			return err
		})
	})
	if err != nil {
		if db != nil {
			_ = db.Close()
		}
		return nil, err
	}
	return &StableStore{db: db}, nil
}

// openBolt runs open, in which bbolt maps a file and trusts what it finds: damage there shows as an error of
// bbolt's, a panic or a fault, all of which mean that term and vote are not to be trusted (ErrStable).
func openBolt(path string, open func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %s is damaged (%v): put it back from a copy", ErrStable, path, r)
		}
	}()
	err = open()
	var file *fs.PathError
	var kernel syscall.Errno // of fdatasync, mmap or flock, which bbolt passes on as they are
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EIO):
		return &storage.FailedError{Op: "open " + path, Err: err}
	case errors.As(err, &file), errors.As(err, &kernel), errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("raft: opening %s: %w", path, err)
	}
	return fmt.Errorf("%w: %s is damaged: %w: put it back from a copy", ErrStable, path, err)
}

// Group returns the term and vote of one group. A group has one Stable at a time.
//
// Error: *StableError if both copies are bad. Then the group must not start: without its vote it
// could vote twice in a term.
func (s *StableStore) Group(id uint64) (*Stable, error) { return openStable(s, id) }

// Forget removes what is stored about a group that was deleted; ids are never used again.
func (s *StableStore) Forget(id uint64) error {
	key := ballotKey(id)
	return s.db.Batch(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(firstCopies).Delete(key); err != nil {
			return err
		}
		return tx.Bucket(secondCopies).Delete(key)
	})
}

// Close closes the file; no Stable of it may be used afterwards.
func (s *StableStore) Close() error { return s.db.Close() }

func ballotKey(group uint64) []byte { return binary.BigEndian.AppendUint64(nil, group) }

// load copies out what is stored. bbolt panics on pages that contradict themselves, and its file is
// mapped, so a sector that cannot be read is a fault: both become errors of this group.
func (s *StableStore) load(group uint64) (first, second []byte, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading %s: %v", s.db.Path(), r)
		}
	}()
	key := ballotKey(group)
	err = s.db.View(func(tx *bbolt.Tx) error {
		first = clone(tx.Bucket(firstCopies).Get(key))
		second = clone(tx.Bucket(secondCopies).Get(key))
		return nil
	})
	return first, second, err
}

// clone copies bytes that belong to a transaction; nil stays nil, for "not there".
func clone(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append(make([]byte, 0, len(b)), b...)
}

// store writes both copies in one transaction, shared with other groups. Batch may run the function
// twice; it does the same again.
func (s *StableStore) store(group uint64, record []byte) error {
	key := ballotKey(group)
	return s.db.Batch(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(firstCopies).Put(key, record); err != nil {
			return err
		}
		return tx.Bucket(secondCopies).Put(key, record)
	})
}

var _ ballotBox = (*StableStore)(nil)
