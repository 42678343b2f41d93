package raft

import (
	"fmt"
	"io"
	"sync/atomic"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

// StateMachine is what a group replicates. One call comes after the other: from one goroutine, and before that exists,
// while the group starts, from the one that starts it.
type StateMachine interface {
	// Apply takes one committed entry, in log order. e.Payload is neither to be changed nor to be kept.
	// What Apply returns is what the proposer's Future yields. It must depend on nothing but the state and the entry.
	//
	// A nil Payload is an entry that was damaged where no other copy exists: e.Records offsets are lost.
	Apply(e storage.Entry) any

	// Snapshot returns the state, small: a few KB to a few MB.
	Snapshot() ([]byte, error)

	// Restore replaces the state by one that Snapshot returned; nil means the state before the first
	// entry. It must not keep data.
	Restore(data []byte) error
}

// fsm hands committed entries to a StateMachine (hraft.BatchingFSM). On the leader an entry's payload
// is the slice that was proposed, elsewhere the one GetLog returned: no byte of it is copied here.
//
// With ApplyBatch raft's last applied index also moves past configurations, so that an idle group
// can take a snapshot after a change of membership.
type fsm struct {
	machine StateMachine
	header  func(storage.Index) (storage.Entry, error) // of the log; its error ends the group
	rule    entryRule
	failed  func() error
	fail    func(error)
	// configured is told each committed configuration.
	configured func(hraft.Configuration)

	applied atomic.Uint64 // index of the last entry applied
	mark    mark          // FSM goroutine
	one     [1]*hraft.Log // FSM goroutine
}

var (
	_ hraft.BatchingFSM        = (*fsm)(nil)
	_ hraft.ConfigurationStore = (*fsm)(nil)
)

// Apply applies one entry.
func (f *fsm) Apply(l *hraft.Log) any {
	f.one[0] = l
	return f.ApplyBatch(f.one[:])[0]
}

// ApplyBatch applies entries in order. After a failure nothing is applied any more, and so nothing is
// acknowledged.
func (f *fsm) ApplyBatch(logs []*hraft.Log) []any {
	out := make([]any, len(logs))
	for i, l := range logs {
		if f.failed() != nil {
			return out
		}
		switch l.Type {
		case hraft.LogConfiguration:
			f.StoreConfiguration(l.Index, hraft.DecodeConfiguration(l.Data))
		case hraft.LogCommand:
			// What the entry counts for was decided when it was stored.
			h, err := f.header(storage.Index(l.Index))
			if err != nil {
				f.fail(fmt.Errorf("raft: applying index %d: %w", l.Index, err))
				return out
			}
			if uint64(h.Term) != l.Term && l.Data != nil {
				panic(fmt.Sprintf("raft: applying index %d of term %d, the log holds term %d there", l.Index, l.Term, h.Term))
			}
			e := h
			e.Payload = l.Data
			out[i] = f.command(e)
		}
		f.applied.Store(l.Index)
	}
	return out
}

// command applies the entry of a command.
func (f *fsm) command(e storage.Entry) any {
	out := f.machine.Apply(e)
	if e.Records > 0 {
		if c, err := f.rule.mark(e.Term, e.Payload); err == nil { // else it is damaged, and tells nothing
			f.mark.chain = c
		}
		f.mark.end = e.Base + storage.Offset(e.Records)
	}
	return out
}

// StoreConfiguration is told committed configurations when raft does not batch.
func (f *fsm) StoreConfiguration(_ uint64, c hraft.Configuration) { f.configured(c) }

// Snapshot takes the state. It runs on the FSM goroutine and holds up Apply; writing does not. After a failure there is none:
// raft takes for applied what ApplyBatch has left out.
func (f *fsm) Snapshot() (hraft.FSMSnapshot, error) {
	if err := f.failed(); err != nil {
		return nil, err
	}
	state, err := f.machine.Snapshot()
	if err != nil {
		return nil, err
	}
	return &stateSnapshot{body: (&snapshotBlob{mark: f.mark, state: state}).body()}, nil
}

// Restore replaces the state by that of a snapshot.
func (f *fsm) Restore(r io.ReadCloser) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m, state, err := splitBody(body)
	if err != nil {
		return err
	}
	if err := f.machine.Restore(state); err != nil {
		return err
	}
	f.mark = m
	return nil
}

// begin puts the state to that of a snapshot, or to the one before the first entry.
func (f *fsm) begin(s *snapshotBlob) error {
	f.mark = s.mark
	f.applied.Store(uint64(s.index))
	return f.machine.Restore(s.state)
}

// stateSnapshot is a state waiting to be written.
type stateSnapshot struct{ body []byte }

func (s *stateSnapshot) Persist(sink hraft.SnapshotSink) error {
	if _, err := sink.Write(s.body); err != nil {
		return err
	}
	return sink.Close()
}

func (s *stateSnapshot) Release() {}
