package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
)

// SnapshotState returns the machine's state in a snapshot as a log keeps it (storage.Snapshot.Data); it
// aliases data. Error: ErrFormat.
func SnapshotState(data []byte) ([]byte, error) {
	s, err := decodeSnapshot(data)
	if err != nil {
		return nil, err
	}
	return s.state, nil
}

// boltStoreBucket is where raft-boltdb keeps what is not log.
var boltStoreBucket = []byte("conf")

// Elected reads a file of terms and votes, of the partitions or of the catalog, that no node has open, and
// returns the groups that have had a leader: their logs hold entries, so one that is empty has lost them. It
// changes nothing. A copy that is damaged counts as absent, as the other one says the same.
//
// Errors: of opening the file, fs.ErrNotExist among them; ErrStable if it is damaged.
func Elected(path string) (groups map[uint64]bool, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil { // bbolt, of pages that contradict themselves
			err = fmt.Errorf("%w: %s is damaged (%v)", ErrStable, path, r)
		}
	}()
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("raft: opening %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	groups = make(map[uint64]bool)
	err = db.View(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{firstCopies, secondCopies, boltStoreBucket} {
			bucket := tx.Bucket(name)
			if bucket == nil {
				continue
			}
			err := bucket.ForEach(func(_, record []byte) error {
				if len(record) < ballotFixedBytes {
					return nil
				}
				group := binary.LittleEndian.Uint64(record[1:])
				// Term 1 is that of the first entry, which a group has before it elects anybody.
				if b, err := decodeBallot(group, record); err == nil && (b.term > 1 || b.voteTerm > 0) {
					groups[group] = true
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return groups, err
}
