// Package cluster knows who is here and what exists. The catalog is a Raft group of its own: its
// log is commands, its state the streams and the numbers that must never be given out twice.
//
// A command is one JSON object, {"op": …} with the fields of command (machine.go); a snapshot is
// the whole state as one JSON object. Both name their format; a node that meets one it does not
// know stops the catalog rather than guess.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

// CatalogGroup is the Raft group of the catalog; partitions count from 1.
const CatalogGroup = 0

// Limits of the catalog.
const (
	MaxStreams    = 100_000
	MaxPartitions = wire.MaxPartitions     // of one stream
	MaxFilters    = wire.MaxStreamSubjects // of one stream

	// producerLease is how many producer ids a node takes with one command. Those it has not
	// used when it stops are never used: ids are plentiful, fsyncs are not.
	producerLease = 4096
)

// Sentinels; the typed errors below carry the values and unwrap to them.
var (
	ErrUnknownStream = errors.New("cluster: unknown stream")
	ErrStreamExists  = errors.New("cluster: stream exists")
	ErrOverlap       = errors.New("cluster: subjects overlap")
	ErrLimit         = errors.New("cluster: limit exceeded")
	ErrUnsupported   = errors.New("cluster: not supported")
	ErrChanged       = errors.New("cluster: the stream has changed since")
	ErrLiving        = errors.New("cluster: the stream is not deleted")
	ErrRequestReused = errors.New("cluster: request id belongs to another request")
)

// StreamError tells which stream was refused and why.
type StreamError struct {
	Stream string
	Limit  uint64 // with ErrLimit
	Detail string
	reason error
}

func (e *StreamError) Error() string { return fmt.Sprintf("stream %q: %s", e.Stream, e.Detail) }
func (e *StreamError) Unwrap() error { return e.reason }

// UnknownStream is the error for a stream name, or the subject of none, that does not exist.
func UnknownStream(name, detail string) error {
	return &StreamError{Stream: name, Detail: detail, reason: ErrUnknownStream}
}

// Stream is one stream as the catalog holds it. It is never changed once published: a change
// makes a new one.
type Stream struct {
	ID         uint64         `json:"id"`
	Name       string         `json:"name"`
	Subjects   []string       `json:"subjects"` // filters, at least one
	Partitions []Partition    `json:"partitions"`
	Replicas   uint8          `json:"replicas"`
	Retention  wire.Retention `json:"retention"`
	Created    int64          `json:"created"` // Unix ms
	Deleted    int64          `json:"deleted"` // Unix ms; 0: it lives
	MapVersion uint64         `json:"map_version"`
	Revision   uint64         `json:"revision,omitempty"` // counts changes of the definition, deletion too
}

// ETag is different after every change of the stream, and for every stream.
func (s *Stream) ETag() string { return fmt.Sprintf("%x-%x", s.ID, s.Revision) }

// Partition is where one partition's replicas are.
type Partition struct {
	Group uint64   `json:"group"` // of Raft; numbers the directory; never reused
	Nodes []uint64 `json:"nodes"` // that hold a replica
}

// Captures reports whether the stream captures subject.
func (s *Stream) Captures(subject string) bool {
	for _, f := range s.Subjects {
		if wire.Match(f, subject) {
			return true
		}
	}
	return false
}

// StreamSpec says what stream to make. Zero fields mean their defaults.
type StreamSpec struct {
	Name       string
	Subjects   []string // default: Name and Name.>
	Partitions uint32   // default 1, at most MaxPartitions
	Replicas   uint8    // default 1
	Retention  wire.Retention
}

// validate fills in the defaults and refuses what no catalog would take.
func (s *StreamSpec) validate() error {
	if err := wire.ValidStreamName(s.Name); err != nil {
		return err
	}
	if len(s.Subjects) == 0 {
		s.Subjects = []string{s.Name, s.Name + ".>"}
	}
	if err := validSubjects(s.Name, s.Subjects); err != nil {
		return err
	}
	if s.Partitions == 0 {
		s.Partitions = 1
	}
	if s.Partitions > MaxPartitions {
		return &StreamError{s.Name, MaxPartitions, fmt.Sprintf("%d partitions, limit %d", s.Partitions, MaxPartitions), ErrLimit}
	}
	if s.Replicas == 0 {
		s.Replicas = 1
	}
	if s.Replicas > 1 {
		return &StreamError{s.Name, 1, fmt.Sprintf("%d replicas, but the cluster has 1 node", s.Replicas), ErrUnsupported}
	}
	return nil
}

func validSubjects(name string, subjects []string) error {
	if len(subjects) == 0 {
		return &StreamError{name, 1, "captures no subject: name one at least", ErrLimit}
	}
	if len(subjects) > MaxFilters {
		return &StreamError{name, MaxFilters, fmt.Sprintf("%d subjects, limit %d", len(subjects), MaxFilters), ErrLimit}
	}
	for i, f := range subjects {
		if err := wire.ValidFilter(f); err != nil {
			return err
		}
		for _, g := range subjects[:i] {
			if f == g {
				return &StreamError{name, 0, fmt.Sprintf("names subject %q twice", f), ErrOverlap}
			}
		}
	}
	return nil
}

// CatalogConfig is what OpenCatalog needs.
type CatalogConfig struct {
	Node   uint64 // this node's id
	Server raft.ServerID
	Log    *storage.Log
	Stable *raft.Stable
	Logger *zap.Logger
	Fatal  func(error)      // a write failed, or the catalog cannot be read (ErrCatalog): the process must end
	Clock  func() time.Time // default time.Now

	// Changed is called after each applied change, with the stream as it now is; gone when it
	// was purged. It runs on the state machine's goroutine and must not block.
	Changed func(s *Stream, gone bool)
}

// Catalog is this node's replica of the catalog. Its methods are safe for concurrent use.
type Catalog struct {
	cfg     CatalogConfig
	machine *machine
	group   *raft.Group

	mu    sync.Mutex // one lease at a time; guards changing lease
	lease struct{ next, end atomic.Uint64 }
}

// OpenCatalog starts the group over the log, and returns once this node leads it and has applied
// all of it, or ctx ends.
func OpenCatalog(ctx context.Context, cfg CatalogConfig) (*Catalog, error) {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	failed := make(chan error, 1)
	c := &Catalog{cfg: cfg, machine: newMachine(cfg.Changed, func(err error) {
		select {
		case failed <- err:
		default:
		}
		cfg.Fatal(err)
	})}
	group, err := raft.StartGroup(raft.GroupConfig{
		ID: CatalogGroup, Server: cfg.Server, Log: cfg.Log, Stable: cfg.Stable,
		Machine: c.machine, Logger: cfg.Logger, Fatal: cfg.Fatal, Compact: true,
	})
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	c.group = group
	select {
	case <-group.Leading(): // which comes after its barrier
		select {
		case err := <-failed:
			group.Stop()
			return nil, err
		default:
			return c, nil
		}
	case <-ctx.Done():
		group.Stop()
		return nil, fmt.Errorf("catalog: waiting to lead: %w", ctx.Err())
	}
}

// Stop ends the group.
func (c *Catalog) Stop() { c.group.Stop() }

// Applied is the index of the last entry applied.
func (c *Catalog) Applied() storage.Index { return c.group.Applied() }

// State is the catalog as applied so far. It is never changed: a later call may give another.
func (c *Catalog) State() *State { return c.machine.state.Load() }

// propose commits a command and returns the stream it is about. One that is only to be checked is
// tried on the present state, which it leaves alone.
func (c *Catalog) propose(ctx context.Context, cmd command, options ...Option) (result, error) {
	cmd.Format, cmd.Now = commandFormat, c.cfg.Clock().UnixMilli()
	for _, option := range options {
		option(&cmd)
	}
	if cmd.checkOnly {
		_, r := step(c.State(), &cmd)
		return r, r.err
	}
	data, err := json.Marshal(cmd)
	if err != nil {
		return result{}, err
	}
	future := c.group.Propose(ctx, data)
	select {
	case <-future.Done():
	case <-ctx.Done():
		return result{}, fmt.Errorf("catalog: %s: %w; it may yet be done", cmd.Op, ctx.Err())
	}
	v, err := future.Wait()
	if err != nil {
		return result{}, fmt.Errorf("catalog: %s: %w", cmd.Op, err)
	}
	r := v.(result)
	return r, r.err
}

// Option is a condition or a way of a change.
type Option func(*command)

// WithETag refuses the change with ErrChanged unless the stream's ETag is etag; an empty one allows any.
func WithETag(etag string) Option { return func(c *command) { c.ETag = etag } }

// WithRequest has the change remembered under an id: the same change again gives what the first gave,
// and one whose digest differs is refused with ErrRequestReused. digest is of the whole request.
func WithRequest(id, digest string) Option {
	return func(c *command) {
		if id != "" {
			c.Request = &request{ID: id, Digest: digest}
		}
	}
}

// CheckOnly finds out whether the change would be made, and makes none.
func CheckOnly() Option { return func(c *command) { c.checkOnly = true } }

// WithForce lets PurgeStream purge a stream that is not deleted.
func WithForce() Option { return func(c *command) { c.Force = true } }

// CreateStream makes a stream.
//
// Errors: *wire.NameError; *StreamError with ErrStreamExists, ErrOverlap, ErrLimit, ErrUnsupported or
// ErrRequestReused; raft's.
func (c *Catalog) CreateStream(ctx context.Context, spec StreamSpec, options ...Option) (*Stream, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	r, err := c.propose(ctx, command{Op: opCreate, Node: c.cfg.Node, Create: &spec}, options...)
	return r.stream, err
}

// StreamUpdate is what to change of a stream; nil: as it is.
type StreamUpdate struct {
	Subjects  []string        `json:"subjects,omitempty"` // all that it has, and more
	Retention *wire.Retention `json:"retention,omitempty"`
}

// UpdateStream changes a stream. Subjects can be added, not removed: what was published under
// them would stand in a stream that does not capture it. Errors as CreateStream's, and ErrChanged, ErrUnknownStream.
func (c *Catalog) UpdateStream(ctx context.Context, name string, update StreamUpdate, options ...Option) (*Stream, error) {
	if update.Subjects != nil {
		if err := validSubjects(name, update.Subjects); err != nil {
			return nil, err
		}
	}
	r, err := c.propose(ctx, command{Op: opUpdate, Name: name, Update: &update}, options...)
	return r.stream, err
}

// DeleteStream marks a stream deleted: nobody can publish or read any more, its name and
// subjects are free, and its data stay until they are purged.
func (c *Catalog) DeleteStream(ctx context.Context, name string, options ...Option) (*Stream, error) {
	r, err := c.propose(ctx, command{Op: opDelete, Name: name}, options...)
	return r.stream, err
}

// UndeleteStream makes a deleted stream live again, unless its name or subjects were taken meanwhile.
func (c *Catalog) UndeleteStream(ctx context.Context, id uint64, options ...Option) (*Stream, error) {
	r, err := c.propose(ctx, command{Op: opUndelete, ID: id}, options...)
	return r.stream, err
}

// PurgeStream forgets a deleted stream: the applied command is what lets nodes remove its data.
// It gives the stream as it last was; one that lives is refused with ErrLiving, but for WithForce.
func (c *Catalog) PurgeStream(ctx context.Context, id uint64, options ...Option) (*Stream, error) {
	r, err := c.propose(ctx, command{Op: opPurge, ID: id}, options...)
	return r.stream, err
}

// StreamRemoved says that this node has removed its data of a purged stream. Until then State.Purged has it.
func (c *Catalog) StreamRemoved(ctx context.Context, id uint64) error {
	_, err := c.propose(ctx, command{Op: opRemoved, ID: id, Node: c.cfg.Node})
	return err
}

// Skip has numbers up to those of a group and of a producer that are in use never given out again, nor those of streams
// that the catalog they were given by may have known. It changes nothing if this catalog gave them itself.
func (c *Catalog) Skip(ctx context.Context, group, producer uint64) error {
	_, err := c.propose(ctx, command{Op: opSkip, Group: group, Producer: producer})
	return err
}

// Replay gives what a remembered request gave; found is false if there is none under that id.
// Errors: ErrRequestReused.
func (c *Catalog) Replay(id, digest string) (s *Stream, found bool, err error) {
	return c.State().replay(&request{ID: id, Digest: digest}, c.cfg.Clock().UnixMilli())
}

// MintProducer gives a producer id that was never given before, by any node.
func (c *Catalog) MintProducer(ctx context.Context) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock() // one lease at a time: the others wait for it rather than take their own
	if c.lease.next.Load() == c.lease.end.Load() {
		r, err := c.propose(ctx, command{Op: opLease, Count: producerLease})
		if err != nil {
			return 0, err
		}
		c.lease.next.Store(r.first) // first: Minted errs towards no
		c.lease.end.Store(r.first + producerLease)
	}
	return c.lease.next.Add(1) - 1, nil
}

// Minted reports whether id was given to somebody, as far as this node can tell: an id that is yet
// to be given must not be used by who guesses it. It does not block.
func (c *Catalog) Minted(id uint64) bool {
	end, next := c.lease.end.Load(), c.lease.next.Load()
	return id < c.State().NextProducer && (id < next || id >= end)
}
