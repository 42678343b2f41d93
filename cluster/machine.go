package cluster

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/storage"
)

// Format 2 knows updates, undeletes, conditions and remembered requests, format 3 purged streams whose data are still there, and
// numbers that are passed over. What has format 1 or 2 is read too.
const (
	commandFormat  = 3
	snapshotFormat = 3
)

type op string

const (
	opCreate op = "create-stream"
	opDelete op = "delete-stream"
	opPurge  op = "purge-stream"
	opLease  op = "lease-producers"

	opUpdate   op = "update-stream"   // since format 2
	opUndelete op = "undelete-stream" // since format 2

	opRemoved op = "removed-stream" // since format 3
	opSkip    op = "skip-numbers"   // since format 3
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

	// Since format 2.
	Update  *StreamUpdate `json:"update,omitempty"`
	ETag    string        `json:"etag,omitempty"` // the stream's must be this
	Force   bool          `json:"force,omitempty"`
	Request *request      `json:"request,omitempty"`

	// Since format 3: numbers that are in use.
	Group    uint64 `json:"group,omitempty"`
	Producer uint64 `json:"producer,omitempty"`

	checkOnly bool
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
	Streams      map[uint64]*Stream `json:"streams"`            // by id, the deleted ones included
	Purged       map[uint64]*Stream `json:"purged,omitempty"`   // by id, with the partitions whose data some nodes have yet to remove
	Requests     []*request         `json:"requests,omitempty"` // remembered, oldest first

	byName map[string]*Stream // the living ones
	living []*Stream          // the same, by name
}

func newState() *State {
	return &State{Format: snapshotFormat, NextStream: 1, NextGroup: CatalogGroup + 1, NextProducer: 1,
		Streams: map[uint64]*Stream{}, byName: map[string]*Stream{}}
}

// Stream is the living stream of that name, or nil.
func (s *State) Stream(name string) *Stream { return s.byName[name] }

// StreamOf is the living stream that captures subject, or nil. There is at most one.
func (s *State) StreamOf(subject string) *Stream {
	for _, st := range s.living {
		if st.Captures(subject) {
			return st
		}
	}
	return nil
}

// Living gives the streams that are not deleted, by name. It belongs to the state: nobody changes it.
func (s *State) Living() []*Stream { return s.living }

// index finds what Streams holds by name.
func (s *State) index() {
	s.byName = make(map[string]*Stream, len(s.Streams))
	for _, st := range s.Streams {
		if st.Deleted == 0 {
			s.byName[st.Name] = st
		}
	}
	s.living = slices.SortedFunc(maps.Values(s.byName), func(a, b *Stream) int { return cmp.Compare(a.Name, b.Name) })
}

// place gives the living streams with st, or without the one of its name, in their order.
func (s *State) place(name string, st *Stream) []*Stream {
	at, found := slices.BinarySearchFunc(s.living, name, func(st *Stream, name string) int { return cmp.Compare(st.Name, name) })
	end := at
	if found {
		end++
	}
	if st == nil {
		return slices.Concat(s.living[:at], s.living[end:])
	}
	return slices.Concat(s.living[:at], []*Stream{st}, s.living[end:])
}

// DeletedStreams gives the deleted streams of that name, the newest first.
func (s *State) DeletedStreams(name string) (found []*Stream) {
	for _, st := range s.Streams {
		if st.Deleted != 0 && st.Name == name {
			found = append(found, st)
		}
	}
	slices.SortFunc(found, func(a, b *Stream) int { return cmp.Compare(b.ID, a.ID) })
	return found
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
			next.living = next.place(put.Name, put)
		} else if cur := next.byName[put.Name]; cur != nil && cur.ID == put.ID {
			delete(next.byName, put.Name)
			next.living = next.place(put.Name, nil)
		}
	}
	if gone != nil {
		delete(next.Streams, gone.ID)
		if cur := next.byName[gone.Name]; cur != nil && cur.ID == gone.ID {
			delete(next.byName, gone.Name)
			next.living = next.place(gone.Name, nil)
		}
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
			"put the directory catalog/ back from a copy", ErrCatalog, e.Index)
	case json.Unmarshal(e.Payload, &cmd) != nil:
		return fmt.Errorf("%w: the command at index %d does not decode", ErrCatalog, e.Index)
	case cmd.Format < 1 || cmd.Format > commandFormat || !cmd.Op.known():
		return fmt.Errorf("%w: %w: the command %q at index %d has format %d, this version reads 1 to %d",
			ErrCatalog, storage.ErrVersion, cmd.Op, e.Index, cmd.Format, commandFormat)
	}
	return nil
}

func (o op) known() bool {
	switch o {
	case opCreate, opDelete, opPurge, opLease, opUpdate, opUndelete, opRemoved, opSkip:
		return true
	}
	return false
}

func (m *machine) apply(e storage.Entry) any {
	var cmd command
	if err := json.Unmarshal(e.Payload, &cmd); err != nil {
		panic(err) // check has decoded it
	}
	s := m.state.Load()
	next, r := step(s, &cmd)
	if next == s {
		return r
	}
	m.state.Store(next)
	if m.changed != nil && r.stream != nil {
		m.changed(r.stream, cmd.Op == opPurge)
	}
	return r
}

// step is what a command makes of a state; the same state if it changes nothing. It looks at nothing else.
func step(s *State, cmd *command) (*State, result) {
	switch cmd.Op { // what no client asks for
	case opLease:
		next := *s
		next.Format = snapshotFormat
		next.NextProducer += cmd.Count
		return &next, result{first: s.NextProducer}
	case opRemoved:
		return removed(s, cmd), result{}
	case opSkip:
		return skip(s, cmd), result{}
	}
	if st, found, err := s.replay(cmd.Request, cmd.Now); found || err != nil {
		return s, result{stream: st, err: err}
	}
	var next *State
	var st *Stream
	var err error
	switch cmd.Op {
	case opCreate:
		next, st, err = create(s, cmd)
	case opUpdate:
		next, st, err = update(s, cmd)
	case opDelete:
		next, st, err = remove(s, cmd)
	case opUndelete:
		next, st, err = undelete(s, cmd)
	case opPurge:
		next, st, err = purge(s, cmd)
	default:
		panic("cluster: unknown op " + cmd.Op) // check knows it
	}
	if err != nil {
		return s, result{stream: st, err: err}
	}
	next.Format = snapshotFormat
	next.remember(cmd, st)
	return next, result{stream: st}
}

func create(s *State, cmd *command) (*State, *Stream, error) {
	spec := cmd.Create
	if len(s.Streams) >= MaxStreams && s.byName[spec.Name] == nil {
		return nil, nil, &StreamError{spec.Name, MaxStreams,
			fmt.Sprintf("there are %d streams, deleted ones included, limit %d: purge some", len(s.Streams), MaxStreams), ErrLimit}
	}
	if old, err := s.free(spec.Name, spec.Subjects, 0); err != nil {
		return nil, old, err
	}
	st := &Stream{ID: s.NextStream, Name: spec.Name, Subjects: spec.Subjects, Replicas: spec.Replicas,
		Retention: spec.Retention, Created: cmd.Now, MapVersion: 1}
	for i := range uint64(spec.Partitions) {
		st.Partitions = append(st.Partitions, Partition{Group: s.NextGroup + i, Nodes: []uint64{cmd.Node}})
	}
	next := s.with(st, nil)
	next.NextStream++
	next.NextGroup += uint64(spec.Partitions)
	return next, st, nil
}

// free reports whether a stream may have the name and the subjects: no living one but that of the id has.
// With ErrStreamExists it gives the one that has the name.
func (s *State) free(name string, subjects []string, id uint64) (*Stream, error) {
	if old := s.byName[name]; old != nil && old.ID != id {
		return old, &StreamError{name, 0, "exists already", ErrStreamExists}
	}
	for _, other := range s.Living() { // in an order, so that every node says the same
		if other.ID == id {
			continue
		}
		for _, theirs := range other.Subjects {
			for _, ours := range subjects {
				if wire.Overlap(ours, theirs) {
					return nil, &StreamError{name, 0, fmt.Sprintf("subject %q overlaps %q of stream %q", ours, theirs, other.Name), ErrOverlap}
				}
			}
		}
	}
	return nil, nil
}

// changed is a copy of the stream to change, if the command's condition holds.
func (s *Stream) changed(cmd *command) (*Stream, error) {
	if cmd.ETag != "" && cmd.ETag != s.ETag() {
		return nil, &StreamError{s.Name, 0, fmt.Sprintf("has etag %q, not %q: it was changed since; get it again", s.ETag(), cmd.ETag), ErrChanged}
	}
	c := *s
	c.Revision++
	return &c, nil
}

func update(s *State, cmd *command) (*State, *Stream, error) {
	old := s.byName[cmd.Name]
	if old == nil {
		return nil, nil, UnknownStream(cmd.Name, "does not exist")
	}
	st, err := old.changed(cmd)
	if err != nil {
		return nil, nil, err
	}
	if cmd.Update.Retention != nil {
		st.Retention = *cmd.Update.Retention
	}
	if cmd.Update.Subjects != nil {
		for _, f := range old.Subjects {
			if !slices.Contains(cmd.Update.Subjects, f) {
				return nil, nil, &StreamError{old.Name, 0, fmt.Sprintf("subject %q cannot be removed, only others added", f), ErrUnsupported}
			}
		}
		if _, err := s.free(old.Name, cmd.Update.Subjects, old.ID); err != nil {
			return nil, nil, err
		}
		st.Subjects = cmd.Update.Subjects
	}
	return s.with(st, nil), st, nil
}

func remove(s *State, cmd *command) (*State, *Stream, error) {
	old := s.byName[cmd.Name]
	if old == nil {
		return nil, nil, UnknownStream(cmd.Name, "does not exist")
	}
	st, err := old.changed(cmd)
	if err != nil {
		return nil, nil, err
	}
	st.Deleted = cmd.Now
	return s.with(st, nil), st, nil
}

func undelete(s *State, cmd *command) (*State, *Stream, error) {
	old := s.Streams[cmd.ID]
	if old == nil {
		return nil, nil, UnknownStream(fmt.Sprintf("#%d", cmd.ID), "does not exist: it may have been purged")
	}
	if old.Deleted == 0 {
		return nil, nil, &StreamError{old.Name, 0, "is not deleted", ErrLiving}
	}
	st, err := old.changed(cmd)
	if err != nil {
		return nil, nil, err
	}
	if _, err := s.free(st.Name, st.Subjects, st.ID); errors.Is(err, ErrStreamExists) {
		return nil, nil, &StreamError{st.Name, 0, fmt.Sprintf("another stream took the name meanwhile, stream %q (#%d): delete that one first",
			st.Name, s.byName[st.Name].ID), ErrStreamExists}
	} else if err != nil {
		return nil, nil, err
	}
	st.Deleted = 0
	return s.with(st, nil), st, nil
}

func purge(s *State, cmd *command) (*State, *Stream, error) {
	old := s.Streams[cmd.ID]
	if old == nil {
		return nil, nil, UnknownStream(fmt.Sprintf("#%d", cmd.ID), "does not exist")
	}
	if old.Deleted == 0 && !cmd.Force {
		return nil, nil, &StreamError{old.Name, 0, "is not deleted: delete it before it is purged", ErrLiving}
	}
	st, err := old.changed(cmd)
	if err != nil {
		return nil, nil, err
	}
	if st.Deleted == 0 {
		st.Deleted = cmd.Now
	}
	next := s.with(nil, st)
	next.Purged = maps.Clone(s.Purged)
	if next.Purged == nil {
		next.Purged = map[uint64]*Stream{}
	}
	next.Purged[st.ID] = st
	return next, st, nil
}

// removed takes a node off the purged stream, and the stream off the state with the last.
func removed(s *State, cmd *command) *State {
	st := s.Purged[cmd.ID]
	if st == nil {
		return s
	}
	left := *st
	left.Partitions = nil
	for _, p := range st.Partitions {
		p.Nodes = slices.DeleteFunc(slices.Clone(p.Nodes), func(node uint64) bool { return node == cmd.Node })
		if len(p.Nodes) > 0 {
			left.Partitions = append(left.Partitions, p)
		}
	}
	next := *s
	next.Format = snapshotFormat
	next.Purged = maps.Clone(s.Purged)
	if len(left.Partitions) > 0 {
		next.Purged[st.ID] = &left
	} else {
		delete(next.Purged, st.ID)
	}
	return &next
}

// skipped is how many streams and producers a catalog may have known that an older copy of it took the place of: more than can be.
const skipped = 1 << 32

// skip passes over numbers that this catalog would give out, though they are in use: it is an older one than that which gave them.
func skip(s *State, cmd *command) *State {
	if cmd.Group < s.NextGroup && cmd.Producer < s.NextProducer {
		return s
	}
	next := *s
	next.Format = snapshotFormat
	next.NextGroup = max(s.NextGroup, cmd.Group+1)
	next.NextProducer = max(s.NextProducer, cmd.Producer+1) + skipped
	next.NextStream += skipped
	return &next
}

// Snapshot implements raft.StateMachine. There is none behind a command that could not be applied: the next start would take
// that for applied.
func (m *machine) Snapshot() ([]byte, error) {
	if m.broken != nil {
		return nil, m.broken
	}
	return json.Marshal(m.state.Load())
}

// Restore implements raft.StateMachine.
func (m *machine) Restore(data []byte) error {
	s := newState()
	if len(data) == 0 { // where there is no snapshot the machine begins empty
		m.state.Store(s)
		return nil
	}
	if err := json.Unmarshal(data, s); err != nil {
		return fmt.Errorf("%w: its snapshot: %w", ErrCatalog, err)
	}
	if s.Format < 1 || s.Format > snapshotFormat {
		return fmt.Errorf("%w: %w: its snapshot has format %d, this version reads 1 to %d", ErrCatalog, storage.ErrVersion, s.Format, snapshotFormat)
	}
	s.index()
	m.state.Store(s)
	return nil
}
