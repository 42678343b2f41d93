package cluster

import (
	"fmt"

	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
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
		state, err := raft.SnapshotState(s.Data)
		if err != nil {
			return nil, fmt.Errorf("%w: its snapshot at index %d: %w", ErrCatalog, newest, err)
		}
		if err := m.Restore(state); err != nil {
			return nil, err
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
