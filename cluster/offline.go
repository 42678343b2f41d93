package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tidewire/tidewire/storage"
)

// Where a snapshot keeps the machine's state (layout: package raft, "What a snapshot holds"): behind a head
// of fixed size stand the configuration and the body, each after its length; a mark precedes the state.
const (
	snapshotHeadBytes = 4 + 1 + 8 + 8 + 8
	snapshotMarkBytes = 24
	snapshotCRCBytes  = 4
)

// ReadCatalog gives the catalog that a log holds, without a node: its newest snapshot and every command behind
// it. It changes nothing and may be called on a log opened by storage.Inspect.
//
// Commands that were written and never committed count too: a catalog of one node commits what it writes.
// Errors unwrap to ErrCatalog, or are what the log returns.
func ReadCatalog(log *storage.Log) (*State, error) {
	m := newMachine(nil, func(error) {})
	next := log.Bounds().First
	if snaps := log.Snapshots(); len(snaps) > 0 {
		newest := snaps[len(snaps)-1].Index
		s, err := log.LoadSnapshot(newest)
		if err != nil {
			return nil, fmt.Errorf("%w: its snapshot at index %d: %w", ErrCatalog, newest, err)
		}
		state, err := snapshotState(s.Data)
		if err == nil {
			err = m.Restore(state)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: its snapshot at index %d: %w", ErrCatalog, newest, err)
		}
		next = max(next, newest+1)
	}
	for ; next <= log.Bounds().Last; next++ {
		e, err := log.Entry(next)
		if err != nil {
			return nil, fmt.Errorf("%w: index %d: %w", ErrCatalog, next, err)
		}
		if e.Type != 0 { // Raft's own
			continue
		}
		if m.Apply(e); m.broken != nil {
			return nil, m.broken
		}
	}
	return m.state.Load(), nil
}

// snapshotState cuts the machine's state out of a snapshot, whose checksum storage has verified.
func snapshotState(b []byte) ([]byte, error) {
	if len(b) < snapshotHeadBytes+snapshotCRCBytes || !bytes.HasPrefix(b, []byte("TWSN\x01")) {
		return nil, fmt.Errorf("%d bytes are no snapshot that this version reads", len(b))
	}
	b = b[snapshotHeadBytes : len(b)-snapshotCRCBytes]
	_, b, ok := cutCounted(b)
	body, rest, ok2 := cutCounted(b)
	if !ok || !ok2 || len(rest) > 0 || len(body) < snapshotMarkBytes {
		return nil, errors.New("its lengths contradict one another")
	}
	return body[snapshotMarkBytes:], nil
}

// cutCounted takes off a u32 length and so many bytes.
func cutCounted(b []byte) (got, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if b = b[4:]; n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
