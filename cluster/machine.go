package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/storage"
)

const (
	commandFormat  = 1
	snapshotFormat = 1
)

type op string

const (
	opCreate op = "create-stream"
	opDelete op = "delete-stream"
	opPurge  op = "purge-stream"
	opLease  op = "lease-producers"
)

// command is what the catalog's log holds. Applying one depends on nothing but the command and
// the state before it: the clock and the node stand in it.
type command struct {
	Format int         `json:"format"`
	Op     op          `json:"op"`
	Now    int64       `json:"now"` // proposer's clock, Unix ms
	Node   uint64      `json:"node,omitempty"`
	Create *StreamSpec `json:"create,omitempty"`
	Name   string      `json:"name,omitempty"`
	ID     uint64      `json:"id,omitempty"`
	Count  uint64      `json:"count,omitempty"`
}

// result is what Apply answers a proposal with.
type result struct {
	stream *Stream
	first  uint64 // of a lease
	err    error
}

// State is the whole catalog. It is never changed once published.
type State struct {
	Format       int                `json:"format"`
	MapVersion   uint64             `json:"map_version"` // counts changes of streams
	NextStream   uint64             `json:"next_stream"`
	NextGroup    uint64             `json:"next_group"`
	NextProducer uint64             `json:"next_producer"`
	Streams      map[uint64]*Stream `json:"streams"` // by id, the deleted ones included

	byName map[string]*Stream // the living ones
}

func newState() *State {
	return &State{Format: snapshotFormat, NextStream: 1, NextGroup: CatalogGroup + 1, NextProducer: 1,
		Streams: map[uint64]*Stream{}, byName: map[string]*Stream{}}
}

// Stream is the living stream of that name, or nil.
func (s *State) Stream(name string) *Stream { return s.byName[name] }

// StreamOf is the living stream that captures subject, or nil. There is at most one.
func (s *State) StreamOf(subject string) *Stream {
	for _, st := range s.byName {
		if st.Captures(subject) {
			return st
		}
	}
	return nil
}

// Living gives the streams that are not deleted, by name.
func (s *State) Living() []*Stream {
	return slices.SortedFunc(maps.Values(s.byName), func(a, b *Stream) int {
		if a.Name < b.Name {
			return -1
		}
		return 1 // names are unique
	})
}

// with is the state after put is added or replaced and gone removed, one map version later.
func (s *State) with(put, gone *Stream) *State {
	next := *s
	next.MapVersion++
	next.Streams, next.byName = maps.Clone(s.Streams), maps.Clone(s.byName)
	if put != nil {
		next.Streams[put.ID] = put
		if put.Deleted == 0 {
			next.byName[put.Name] = put
		} else if cur := next.byName[put.Name]; cur != nil && cur.ID == put.ID {
			delete(next.byName, put.Name)
		}
	}
	if gone != nil {
		delete(next.Streams, gone.ID)
	}
	return &next
}

// machine is the state machine of the catalog (raft.StateMachine).
type machine struct {
	state   atomic.Pointer[State]
	changed func(*Stream, bool)
	fatal   func(error)
	broken  error // a command could not be applied: what follows it cannot be either
}

func newMachine(changed func(*Stream, bool), fatal func(error)) *machine {
	m := &machine{changed: changed, fatal: fatal}
	m.state.Store(newState())
	return m
}

// ErrCatalog is what a catalog unwraps to that cannot be read: the node stops rather than guess
// what exists, and leaves all data where they are.
var ErrCatalog = errors.New("cluster: the catalog cannot be read")

// Apply implements raft.StateMachine.
func (m *machine) Apply(e storage.Entry) any {
	if m.broken == nil {
		m.broken = m.check(e)
		if m.broken != nil {
			m.fatal(m.broken)
		}
	}
	if m.broken != nil {
		return result{err: m.broken}
	}
	return m.apply(e)
}

// check refuses an entry that is damaged or that this version does not know.
func (m *machine) check(e storage.Entry) error {
	var cmd command
	switch {
	case e.Payload == nil:
		return fmt.Errorf("%w: the command at index %d is damaged on disk and no other copy exists; "+
			"put the directory catalog back from a copy", ErrCatalog, e.Index)
	case json.Unmarshal(e.Payload, &cmd) != nil:
		return fmt.Errorf("%w: the command at index %d does not decode", ErrCatalog, e.Index)
	case cmd.Format != commandFormat || !cmd.Op.known():
		return fmt.Errorf("%w: the command %q at index %d has format %d, this version reads %d: run the version that wrote it, or a newer one",
			ErrCatalog, cmd.Op, e.Index, cmd.Format, commandFormat)
	}
	return nil
}

func (o op) known() bool { return o == opCreate || o == opDelete || o == opPurge || o == opLease }

func (m *machine) apply(e storage.Entry) any {
	var cmd command
	if err := json.Unmarshal(e.Payload, &cmd); err != nil {
		panic(err) // check has decoded it
	}
	switch s := m.state.Load(); cmd.Op {
	case opCreate:
		return m.create(s, &cmd)
	case opDelete:
		return m.delete(s, &cmd)
	case opPurge:
		return m.purge(s, &cmd)
	case opLease:
		next := *s
		next.NextProducer += cmd.Count
		m.state.Store(&next)
		return result{first: s.NextProducer}
	}
	panic("cluster: unknown op " + cmd.Op) // check knows it
}

func (m *machine) publish(next *State, s *Stream, gone bool) result {
	m.state.Store(next)
	if m.changed != nil {
		m.changed(s, gone)
	}
	return result{stream: s}
}

func (m *machine) create(s *State, cmd *command) result {
	spec := cmd.Create
	if old := s.byName[spec.Name]; old != nil {
		return result{stream: old, err: &StreamError{spec.Name, 0, "exists already", ErrStreamExists}}
	}
	if len(s.Streams) >= MaxStreams {
		return result{err: &StreamError{spec.Name, MaxStreams, fmt.Sprintf("there are %d streams, limit %d", len(s.Streams), MaxStreams), ErrLimit}}
	}
	for _, other := range s.byName {
		for _, theirs := range other.Subjects {
			for _, ours := range spec.Subjects {
				if wire.Overlap(ours, theirs) {
					return result{err: &StreamError{spec.Name, 0,
						fmt.Sprintf("subject %q overlaps %q of stream %q", ours, theirs, other.Name), ErrOverlap}}
				}
			}
		}
	}
	st := &Stream{ID: s.NextStream, Name: spec.Name, Subjects: spec.Subjects, Replicas: spec.Replicas,
		Retention: spec.Retention, Created: cmd.Now, MapVersion: 1}
	for i := range uint64(spec.Partitions) {
		st.Partitions = append(st.Partitions, Partition{Group: s.NextGroup + i, Nodes: []uint64{cmd.Node}})
	}
	next := s.with(st, nil)
	next.NextStream++
	next.NextGroup += uint64(spec.Partitions)
	return m.publish(next, st, false)
}

func (m *machine) delete(s *State, cmd *command) result {
	old := s.byName[cmd.Name]
	if old == nil {
		return result{err: UnknownStream(cmd.Name, "does not exist")}
	}
	st := *old
	st.Deleted = cmd.Now
	return m.publish(s.with(&st, nil), &st, false)
}

func (m *machine) purge(s *State, cmd *command) result {
	st := s.Streams[cmd.ID]
	if st == nil {
		return result{err: UnknownStream(fmt.Sprint(cmd.ID), "does not exist")}
	}
	if st.Deleted == 0 {
		return result{err: &StreamError{st.Name, 0, "is not deleted: delete it before it is purged", ErrUnsupported}}
	}
	return m.publish(s.with(nil, st), st, true)
}

// Snapshot implements raft.StateMachine.
func (m *machine) Snapshot() ([]byte, error) { return json.Marshal(m.state.Load()) }

// Restore implements raft.StateMachine.
func (m *machine) Restore(data []byte) error {
	s := newState()
	if len(data) == 0 { // where there is no snapshot the machine begins empty
		m.state.Store(s)
		return nil
	}
	if err := json.Unmarshal(data, s); err != nil {
		return fmt.Errorf("cluster: catalog snapshot: %w", err)
	}
	if s.Format != snapshotFormat {
		return fmt.Errorf("cluster: catalog snapshot has format %d, this version reads %d", s.Format, snapshotFormat)
	}
	for _, st := range s.Streams {
		if st.Deleted == 0 {
			s.byName[st.Name] = st
		}
	}
	m.state.Store(s)
	return nil
}
