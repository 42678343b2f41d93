package raft

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync/atomic"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

// snapshotStore keeps raft's snapshots beside the log (hraft.SnapshotStore). They hold metadata
// only, a few KB. storage keeps them until retention passes them, and the oldest one kept lies at the
// start of the log: a follower below it gets that one, and then the log as ordinary appends.
type snapshotStore struct {
	log  *storage.Log
	fail func(error)

	boot atomic.Pointer[snapshotBlob] // what NewRaft is to restore; nil once it has
}

var _ hraft.SnapshotStore = (*snapshotStore)(nil)

// Create begins a snapshot at an index that the machine has applied.
func (s *snapshotStore) Create(_ hraft.SnapshotVersion, index, term uint64, configuration hraft.Configuration,
	configIndex uint64, _ hraft.Transport,
) (hraft.SnapshotSink, error) {
	return &snapshotSink{store: s, blob: snapshotBlob{
		index:         storage.Index(index),
		term:          storage.Term(term),
		configIndex:   configIndex,
		configuration: hraft.EncodeConfiguration(configuration),
	}}, nil
}

// List returns one snapshot. While NewRaft looks for a state to restore it is what was replayed; afterwards only
// a leader asks, for a follower that is behind the log start, and it is the log-start snapshot.
func (s *snapshotStore) List() ([]*hraft.SnapshotMeta, error) {
	if blob := s.boot.Load(); blob != nil {
		meta, err := blob.meta()
		return []*hraft.SnapshotMeta{meta}, err
	}
	infos := s.log.Snapshots()
	if len(infos) == 0 {
		return nil, nil
	}
	blob, err := s.load(infos[0].Index)
	if err != nil {
		return nil, err
	}
	meta, err := blob.meta()
	if err != nil {
		return nil, err
	}
	return []*hraft.SnapshotMeta{meta}, nil
}

// Open returns a snapshot and its body.
func (s *snapshotStore) Open(id string) (*hraft.SnapshotMeta, io.ReadCloser, error) {
	index, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return nil, nil, fmt.Errorf("raft: snapshot %q: %w", id, err)
	}
	blob := s.boot.Load()
	if blob == nil {
		if blob, err = s.load(storage.Index(index)); err != nil {
			return nil, nil, err
		}
	}
	meta, err := blob.meta()
	if err != nil {
		return nil, nil, err
	}
	return meta, io.NopCloser(bytes.NewReader(blob.body())), nil
}

func (s *snapshotStore) load(index storage.Index) (*snapshotBlob, error) {
	snap, err := s.log.LoadSnapshot(index)
	if err != nil {
		return nil, fmt.Errorf("raft: snapshot at index %d: %w", index, err)
	}
	blob, err := decodeSnapshot(snap.Data)
	if err != nil {
		return nil, fmt.Errorf("raft: snapshot at index %d: %w", index, err)
	}
	if blob.index != snap.Index || blob.term != snap.Term {
		return nil, malformed("snapshot", "it says index %d of term %d, the log %d of term %d", blob.index, blob.term, snap.Index, snap.Term)
	}
	return blob, nil
}

// snapshotSink gathers the body of a snapshot and saves it when it is closed.
type snapshotSink struct {
	store *snapshotStore
	blob  snapshotBlob
	body  []byte
	done  bool
}

func (k *snapshotSink) ID() string { return strconv.FormatUint(uint64(k.blob.index), 10) }

func (k *snapshotSink) Write(b []byte) (int, error) {
	k.body = append(k.body, b...)
	return len(b), nil
}

// Cancel forgets the snapshot. Nothing was written yet.
func (k *snapshotSink) Cancel() error {
	k.done = true
	return nil
}

// Close saves the snapshot; it is durable when Close returns nil. A failed write ends the group, as any does.
func (k *snapshotSink) Close() error {
	if k.done {
		return nil
	}
	k.done = true
	var err error
	if k.blob.mark, k.blob.state, err = splitBody(k.body); err != nil {
		return err
	}
	if slices.ContainsFunc(k.store.log.Snapshots(), func(i storage.SnapshotInfo) bool { return i.Index == k.blob.index }) {
		return nil // nothing was applied since the last one
	}
	err = k.store.log.SaveSnapshot(storage.Snapshot{
		Index:  k.blob.index,
		Term:   k.blob.term,
		Offset: k.blob.mark.end,
		Data:   k.blob.encode(),
	})
	if err != nil {
		err = fmt.Errorf("raft: saving the snapshot at index %d: %w", k.blob.index, err)
		if !errors.Is(err, storage.ErrTooLarge) { // nothing was written then: the log stays as long as it is
			k.store.fail(err)
		}
	}
	return err
}
