package raft

import (
	"fmt"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

// Install takes a snapshot that a leader sent, in the way a crash, a repair by hand and a restart would:
// raft is shut down, the log replaced by an empty one that begins behind the snapshot, and raft started
// again. It inherits the proof of a restart.
//
// Raft's own installSnapshot is never run. It does not set its last entry, so that the follower refuses every
// append behind the snapshot (hashicorp/raft #697) and, worse, grants votes from the last entry
// it had before: a candidate without the snapshot's entries can win. With a monotonic store it also
// deletes entries it has acknowledged when the snapshot lies behind them.
//
// body is the snapshot's, of which req tells index, term and configuration. A snapshot whose last entry
// the log already holds changes nothing and succeeds (Raft §7, figure 13, rule 6). Any error after raft was
// shut down ends the group.
func (g *Group) Install(req *hraft.InstallSnapshotRequest, body []byte) (*hraft.InstallSnapshotResponse, error) {
	m, state, err := splitBody(body)
	if err != nil {
		return nil, err
	}
	if _, err := decodeConfiguration(req.Configuration); err != nil {
		return nil, err
	}
	g.restartMu.Lock()
	defer g.restartMu.Unlock()
	r := g.current()
	if r == nil {
		return nil, ErrClosed
	}
	if err := g.Failed(); err != nil {
		return nil, err
	}
	current := r.raft.CurrentTerm()
	resp := &hraft.InstallSnapshotResponse{
		RPCHeader: hraft.RPCHeader{ProtocolVersion: hraft.ProtocolVersionMax, ID: []byte(g.cfg.Server), Addr: []byte(g.cfg.Server)},
		Term:      current,
	}
	if req.Term < current {
		return resp, nil
	}
	if g.holds(storage.Index(req.LastLogIndex), storage.Term(req.LastLogTerm)) {
		resp.Success = true
		return resp, nil
	}
	g.halt(r)
	blob := snapshotBlob{
		index:         storage.Index(req.LastLogIndex),
		term:          storage.Term(req.LastLogTerm),
		configIndex:   req.ConfigurationIndex,
		configuration: req.Configuration,
		mark:          m,
		state:         state,
	}
	if err := g.replace(req.Term, &blob); err != nil {
		err = fmt.Errorf("raft: installing the snapshot at index %d in group %d: %w", blob.index, g.cfg.ID, err)
		g.fail(err)
		return nil, err
	}
	resp.Term, resp.Success = req.Term, true
	return resp, nil
}

// holds reports whether the log holds the snapshot's last entry, or begins behind it.
func (g *Group) holds(index storage.Index, term storage.Term) bool {
	b := g.cfg.Log.Bounds()
	if index < b.First {
		return true
	}
	h, err := g.cfg.Log.Header(index)
	return err == nil && h.Term == term
}

// replace is the part between shutting down and serving again.
func (g *Group) replace(term uint64, blob *snapshotBlob) error {
	if err := g.cfg.Stable.advanceTerm(term); err != nil {
		return err
	}
	err := g.cfg.Log.Reset(storage.Snapshot{
		Index:  blob.index,
		Term:   blob.term,
		Offset: blob.mark.end,
		Data:   blob.encode(),
	})
	if err != nil {
		return err
	}
	return g.start()
}
