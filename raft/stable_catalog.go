package raft

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// Keys of the two copies in raft-boltdb's stable bucket.
var (
	catalogFirst  = []byte("ballot.1")
	catalogSecond = []byte("ballot.2")
)

// CatalogStable keeps term and vote of the catalog's group, in a raft-boltdb file of its own: the
// catalog comes up even when the file of the partitions does not.
type CatalogStable struct {
	bolt *raftboltdb.BoltStore
	path string
}

var _ ballotBox = (*CatalogStable)(nil)

// OpenCatalogStable opens or creates the file at path, which only one process can hold open.
func OpenCatalogStable(path string) (*CatalogStable, error) {
	s := &CatalogStable{path: path}
	err := openBolt(path, func() (err error) {
		s.bolt, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{Timeout: time.Second}})
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Group returns the term and vote of the group; see StableStore.Group.
func (s *CatalogStable) Group(id uint64) (*Stable, error) { return openStable(s, id) }

// Close closes the file; no Stable of it may be used afterwards.
func (s *CatalogStable) Close() error { return s.bolt.Close() }

func (s *CatalogStable) load(uint64) (first, second []byte, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading %s: %v", s.path, r)
		}
	}()
	get := func(key []byte) ([]byte, error) {
		b, err := s.bolt.Get(key)
		if errors.Is(err, raftboltdb.ErrKeyNotFound) {
			return nil, nil
		}
		return b, err
	}
	if first, err = get(catalogFirst); err != nil {
		return nil, nil, err
	}
	second, err = get(catalogSecond)
	return first, second, err
}

// store makes two transactions, one a copy, as raft-boltdb has no other way. After a crash between
// them the first copy is the newer one, and its revision says so.
func (s *CatalogStable) store(_ uint64, record []byte) error {
	if err := s.bolt.Set(catalogFirst, record); err != nil {
		return err
	}
	return s.bolt.Set(catalogSecond, record)
}
