package raft

import (
	"errors"
	"slices"
	"time"

	hraft "github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/storage"
)

// replay brings the machine to the last entry that the log itself proves committed (storage.Bounds.CommitHint), and returns
// the state there, which NewRaft restores as if it were a snapshot; nil if there is none.
//
// Raft would replay the same entries, from the last snapshot on, but each into memory of its own and only once it
// knows again what is committed: up to a segment of fresh memory, which takes ten times as long to fill as one
// window that is used again. After this, raft is left with the few entries of the last write.
func (g *Group) replay() (*snapshotBlob, error) {
	began := time.Now()
	state := &snapshotBlob{}
	if infos := g.cfg.Log.Snapshots(); len(infos) > 0 {
		var err error
		if state, err = g.snaps.load(infos[len(infos)-1].Index); err != nil {
			return nil, err
		}
	}
	if err := g.fsm.begin(state); err != nil {
		return nil, err
	}
	from, b := state.index, g.cfg.Log.Bounds()
	err := g.cfg.Log.Scan(from+1, min(b.CommitHint, b.Last), func(e storage.Entry) error {
		switch hraft.LogType(e.Type) {
		case hraft.LogConfiguration:
			if _, err := decodeConfiguration(e.Payload); err != nil {
				return err
			}
			state.configIndex, state.configuration = uint64(e.Index), slices.Clone(e.Payload)
		case hraft.LogCommand:
			g.fsm.command(e)
		}
		state.index, state.term = e.Index, e.Term
		return g.Failed()
	})
	if err != nil && !errors.Is(err, storage.ErrCorrupt) { // what is damaged is for GetLog to decide, entry by entry
		return nil, err
	}
	if state.index == 0 {
		return nil, nil
	}
	g.fsm.applied.Store(uint64(state.index))
	if state.index > from {
		state.mark = g.fsm.mark
		if state.state, err = g.cfg.Machine.Snapshot(); err != nil {
			return nil, err
		}
		g.logger.Debug("replayed", zap.Uint64("from", uint64(from)+1), zap.Uint64("to", uint64(state.index)), zap.Duration("took", time.Since(began)))
	}
	return state, nil
}
