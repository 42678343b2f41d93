package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
)

// requestTimeout bounds what a request may wait for: the catalog's commit and the start of a
// stream's partitions.
const requestTimeout = 30 * time.Second

// request is a Corr whose answer is on its way.
type request struct {
	session *session
	corr    uint32
	cancel  context.CancelFunc // may be nil
}

// end implements conversation.
func (r *request) end() {
	r.session.requests--
	if r.cancel != nil {
		r.cancel()
	}
}

// request serves the ops that begin a conversation. An error it returns ends the connection.
func (s *session) request(f wire.Frame) error {
	if err := s.free(f.Corr); err != nil {
		return err // before all else: an answer would seem to be to the conversation that is open
	}
	s.costly, s.asking = true, true
	if s.state == stateDraining {
		s.refuseRequest(f.Corr, errDraining)
		return nil
	}
	var err error
	switch f.Op {
	case wire.OpMetadata:
		var m wire.Metadata
		if err = m.Decode(f.Body); err == nil {
			err = s.metadata(f.Corr, &m)
		}
	case wire.OpCreate:
		var c wire.CreateStream
		if err = c.Decode(f.Body); err == nil {
			err = s.createStream(f.Corr, &c)
		}
	case wire.OpDelete:
		var d wire.DeleteStream
		if err = d.Decode(f.Body); err == nil {
			err = s.deleteStream(f.Corr, &d)
		}
	case wire.OpOpen:
		var o wire.Open
		if err = o.Decode(f.Body); err == nil {
			err = s.open(f.Corr, &o)
		}
	case wire.OpFetch:
		var q wire.Fetch
		if err = q.Decode(f.Body); err == nil {
			err = s.fetch(f.Corr, &q)
		}
	case wire.OpSub:
		var q wire.Subscribe
		if err = q.Decode(f.Body); err == nil {
			err = s.subscribe(f.Corr, &q)
		}
	}
	if err == nil {
		return nil
	}
	we := s.node.wireError(err)
	if we.Code == wire.CodeMalformed || we.Code == wire.CodeState {
		return we // the client's idea of the connection is not ours
	}
	s.refuseRequest(f.Corr, we)
	return nil
}

// refuseRequest answers a request with an error, which ends its conversation.
func (s *session) refuseRequest(corr uint32, err error) {
	we := *s.node.wireError(err)
	we.Bits |= wire.ErrorEndsCorr
	s.loop.count.RefusedRequests.Add(we.Code, 1)
	s.out = we.AppendTo(s.output(), corr)
}

// begin registers a request, unless too many wait.
func (s *session) begin(corr uint32) (*request, error) {
	if s.requests >= s.node.config().MaxRequests {
		return nil, &wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable, RetryAfter: 10 * time.Millisecond, Value: uint64(s.node.config().MaxRequests),
			Message: fmt.Sprintf("%d requests of this connection are waiting, limit %d: wait for answers", s.requests, s.node.config().MaxRequests)}
	}
	r := &request{session: s, corr: corr}
	if err := s.converse(corr, r); err != nil {
		return nil, err
	}
	s.requests++
	return r, nil
}

// later runs work, which may block, away from the loop and answer on it, with what work gave. If
// the client has gone meanwhile nobody answers.
func (s *session) later(corr uint32, work func(context.Context) error, answer func()) error {
	r, err := s.begin(corr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.node.ctx, requestTimeout)
	r.cancel = cancel
	taken := s.node.requests.Go(func() {
		err := s.node.guarded(func() error { return work(ctx) })
		s.loop.post(func() {
			defer s.contain()
			if s.state == stateClosed || s.conversations[corr] != conversation(r) {
				return
			}
			s.finish(corr)
			if err != nil {
				s.refuseRequest(corr, err)
				return
			}
			answer()
		})
	})
	if !taken {
		s.finish(corr)
		return errDraining
	}
	return nil
}

// errPanic stands for a panic that was contained and logged; a client learns that the node failed.
var errPanic = errors.New("the node panicked; see above in the log")

// guarded makes an error of a panic in work for one client, off the loops. Locks that work holds are released by
// defer, and what they guard is replaced whole or belongs to the catalog, which proposes before it changes.
func (n *Node) guarded(work func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			n.log.Error("panic serving a request", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			err = errPanic
		}
	}()
	return work()
}

func (s *session) authorize(action auth.Action, resource string) error {
	return s.node.config().Authorizer.Authorize(&s.identity, action, []byte(resource))
}

// metadata serves METADATA.
func (s *session) metadata(corr uint32, m *wire.Metadata) error {
	n := s.node
	if s.described++; s.described > n.config().MaxRequests {
		return errTooManyAsked
	}
	state := n.catalog.State()
	if waits := int64(s.backlog()); waits > min(readAhead, n.config().backlog()) || waits > largeUnsent/2 && n.outbound.Load() > n.config().OutboundMemory {
		return &wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable, RetryAfter: 10 * time.Millisecond,
			Message: fmt.Sprintf("%d bytes wait for this client to read them: read before asking more", waits)}
	}
	switch m.Select {
	case wire.SelectAll:
		if err := s.authorize(auth.Describe, ""); err != nil {
			return err
		}
		return s.topologyOf(corr, state, func(*cluster.Stream) bool { return true })
	case wire.SelectFilter:
		if err := wire.ValidFilter(m.Name); err != nil {
			return err
		}
		if err := s.authorize(auth.Read, m.Name); err != nil {
			return err
		}
		return s.topologyOf(corr, state, func(st *cluster.Stream) bool { return overlaps(st, m.Name) })
	case wire.SelectStream:
		if err := wire.ValidStreamName(m.Name); err != nil {
			return err
		}
		if err := s.authorize(auth.Describe, m.Name); err != nil {
			return err
		}
		st := state.Stream(m.Name)
		if st == nil {
			return cluster.UnknownStream(m.Name, "does not exist: create it, or see the list of streams")
		}
		s.topology(corr, state, []*cluster.Stream{st})
		return nil
	}
	if err := wire.ValidSubject(m.Name); err != nil {
		return err
	}
	if err := s.authorize(auth.Publish, m.Name); err != nil {
		return err
	}
	st := state.StreamOf(m.Name)
	if st != nil && n.serves(st) {
		s.topology(corr, state, []*cluster.Stream{st})
		return nil
	}
	name, _, _ := strings.Cut(m.Name, ".")
	if st == nil {
		if !m.Create || !n.config().Dev {
			return &wire.Error{Code: wire.CodeUnknownStream,
				Message: fmt.Sprintf("no stream captures subject %q: create one, or run the node in dev mode", m.Name)}
		}
		if err := s.authorize(auth.CreateStream, name); err != nil {
			return err
		}
	}
	return s.later(corr, func(ctx context.Context) (err error) {
		if st != nil {
			return n.startStream(ctx, st)
		}
		st, err = n.streamFor(ctx, m.Name, name)
		return err
	}, func() { s.topology(corr, n.catalog.State(), []*cluster.Stream{st}) })
}

// createStream serves STREAM_CREATE.
func (s *session) createStream(corr uint32, c *wire.CreateStream) error {
	if err := s.authorize(auth.CreateStream, c.Name); err != nil {
		return err
	}
	var st *cluster.Stream
	return s.later(corr, func(ctx context.Context) (err error) {
		st, err = s.node.createStream(ctx, cluster.StreamSpec{Name: c.Name, Subjects: c.Subjects,
			Partitions: c.Partitions, Replicas: c.Replicas, Retention: c.Retention})
		return s.node.undecided(st != nil, err)
	}, func() { s.topology(corr, s.node.catalog.State(), []*cluster.Stream{st}) })
}

// undecided is the error of a request that changes something; of one that was done in part, if partly. A client that is told to
// repeat it would find its own stream in its way, or delete another of that name.
func (n *Node) undecided(partly bool, err error) error {
	mayBeDone := partly
	for _, open := range []error{context.Canceled, context.DeadlineExceeded, raft.ErrUnknownOutcome, raft.ErrFailed, raft.ErrClosed} {
		mayBeDone = mayBeDone || errors.Is(err, open)
	}
	if err == nil || !mayBeDone {
		return err
	}
	return &wire.Error{Code: wire.CodeUnknownOutcome,
		Message: "it may be done, or done in part: look before it is repeated: " + n.wireError(err).Message}
}

// deleteStream serves STREAM_DELETE.
func (s *session) deleteStream(corr uint32, d *wire.DeleteStream) error {
	if err := s.authorize(auth.DeleteStream, d.Name); err != nil {
		return err
	}
	return s.later(corr, func(ctx context.Context) error {
		st, err := s.node.catalog.DeleteStream(ctx, d.Name)
		deleted := err == nil
		if deleted && d.Purge {
			_, err = s.node.catalog.PurgeStream(ctx, st.ID)
		}
		return s.node.undecided(deleted, err)
	}, func() { s.out = wire.AppendEmpty(s.output(), wire.OpOK, corr) })
}

// topology answers with what the node knows of streams, in as many frames as it takes.
func (s *session) topology(corr uint32, state *cluster.State, streams []*cluster.Stream) {
	s.out = s.node.appendTopology(s.output(), corr, state, streams)
}

// appendTopology appends TOPOLOGY frames of the streams.
func (n *Node) appendTopology(b []byte, corr uint32, state *cluster.State, streams []*cluster.Stream) []byte {
	t := wire.Topology{MapVersion: state.MapVersion, Nodes: []wire.NodeInfo{n.info()}, Streams: make([]wire.StreamInfo, 0, len(streams))}
	for _, st := range streams {
		t.Streams = append(t.Streams, n.describe(st))
	}
	return t.AppendFrames(b, corr)
}

// describedHere is how many streams, subjects and partitions are described on the loop: in less than a turn.
const describedHere = 512

// topologyOf answers with those of all streams that match: away from the loop where there are many.
func (s *session) topologyOf(corr uint32, state *cluster.State, match func(*cluster.Stream) bool) error {
	matching := func() (found []*cluster.Stream) {
		for _, st := range state.Living() {
			if match(st) {
				found = append(found, st)
			}
		}
		return found
	}
	size := len(state.Living())
	for i := 0; i < len(state.Living()) && size <= describedHere; i++ {
		st := state.Living()[i]
		size += len(st.Partitions) + len(st.Subjects)
	}
	if size <= describedHere {
		s.topology(corr, state, matching())
		return nil
	}
	if s.describing {
		return errDescribing
	}
	s.describing = true
	var frames []byte
	err := s.later(corr, func(ctx context.Context) error {
		defer s.loop.post(func() { s.describing = false })
		select { // one at a time: an answer may have megabytes
		case s.node.describing <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-s.node.describing }()
		frames = s.node.appendTopology(nil, corr, state, matching())
		return nil
	}, func() { s.write(frames) })
	if err != nil {
		s.describing = false
	}
	return err
}

// errTooManyAsked is said of METADATA that comes in one piece with as many as a connection may have requests waiting:
// others leave something open, which is bounded.
var errTooManyAsked = &wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable, RetryAfter: 10 * time.Millisecond,
	Message: "METADATA too many times at once on this connection: wait for answers"}

// errDescribing is said of a request for many streams while one of the same connection is being answered.
var errDescribing = &wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable, RetryAfter: 10 * time.Millisecond,
	Message: "a list of many streams is being made for this connection: wait for it"}

// open serves OPEN.
func (s *session) open(corr uint32, o *wire.Open) error {
	part, err := s.node.find(o.Stream, o.Partition)
	if err != nil {
		return err
	}
	if v := part.stream().MapVersion; o.MapVersion != v {
		return &wire.Error{Code: wire.CodeStaleMap, Bits: wire.ErrorRetriable, Value: v,
			Message: fmt.Sprintf("map version %d of stream %q, now %d: ask METADATA again", o.MapVersion, part.stream().Name, v)}
	}
	if o.Producer != 0 && !s.node.catalog.Minted(o.Producer) {
		return &wire.Error{Code: wire.CodeProducerExpired,
			Message: fmt.Sprintf("producer %d was never given by this cluster: open with producer 0 to get an id", o.Producer)}
	}
	p := &producer{session: s, corr: corr, part: part, id: o.Producer, epoch: o.Epoch, idempotent: o.Idempotent}
	if !o.Idempotent || o.Producer != 0 {
		if err := s.converse(corr, p); err != nil {
			return err
		}
		s.opened(p)
		return nil
	}
	return s.later(corr, func(ctx context.Context) (err error) {
		p.id, err = s.node.catalog.MintProducer(ctx)
		return err
	}, func() {
		if part.gone.Load() { // meanwhile, and the loop may have forgotten it
			s.refuseRequest(corr, cluster.UnknownStream(part.stream().Name, "was deleted"))
			return
		}
		if err := s.converse(corr, p); err != nil {
			s.refuseRequest(corr, err)
			return
		}
		s.opened(p)
	})
}

// opened answers OPEN.
func (s *session) opened(p *producer) {
	p.opened = true
	s.loop.count.Producers.Add(1)
	a := wire.Opened{Producer: p.id, Epoch: p.epoch, LeaderEpoch: uint64(p.part.raft.Group().Term())}
	if epoch, next, known := p.part.raft.NextSequence(p.id); known && p.id != 0 && epoch == p.epoch {
		a.NextSequence = next
	}
	s.out = a.AppendTo(s.output(), p.corr)
}

// overlaps reports whether the stream captures a subject that filter matches.
func overlaps(st *cluster.Stream, filter string) bool {
	for _, f := range st.Subjects {
		if wire.Overlap(f, filter) {
			return true
		}
	}
	return false
}

// covers reports whether filter matches every subject the stream captures.
func covers(st *cluster.Stream, filter string) bool {
	for _, f := range st.Subjects {
		if !coversFilter(filter, f) {
			return false
		}
	}
	return true
}

// coversFilter reports whether outer matches every subject that inner matches.
func coversFilter(outer, inner string) bool {
	for {
		o, outerRest, outerMore := strings.Cut(outer, ".")
		i, innerRest, innerMore := strings.Cut(inner, ".")
		switch {
		case o == ">":
			return true
		case i == ">", o != "*" && o != i, outerMore != innerMore:
			return false
		case !outerMore:
			return true
		}
		outer, inner = outerRest, innerRest
	}
}
