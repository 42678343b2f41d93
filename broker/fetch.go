package broker

import (
	"fmt"
	"time"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/broker/telemetry"
	"github.com/tidewire/tidewire/proto/wire"
)

// fetch is a Corr that FETCH made: one RECORDS answers it. It lives on its session's loop.
type fetch struct {
	request
	cursor   *cursor
	maxBytes int
	deadline time.Time
	timer    *time.Timer
	span     *telemetry.Span // nil: not traced, or it has ended
	code     wire.Code       // it was answered with; 0: RECORDS
}

// maxFetchWait is how long a FETCH may ask to wait.
const maxFetchWait = time.Minute

// fetch serves FETCH.
func (s *session) fetch(corr uint32, q *wire.Fetch) error {
	p, err := s.node.find(q.Stream, q.Partition)
	if err != nil {
		return err
	}
	for _, f := range p.stream().Subjects {
		if err := s.authorize(auth.Read, f); err != nil {
			return err
		}
	}
	if waits := int64(s.backlog()) + s.coming; waits > s.node.config().backlog() {
		return &wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable, RetryAfter: 10 * time.Millisecond,
			Message: fmt.Sprintf("%d bytes are being read for this client or wait for it: take them before fetching more", waits)}
	}
	c := &cursor{session: s, part: p, corr: corr, start: q.Start}
	if err := c.locate(); err != nil {
		return s.node.readError(c, err)
	}
	r, err := s.begin(corr)
	if err != nil {
		return err
	}
	f := &fetch{request: *r, maxBytes: max(int(min(q.MaxBytes, uint32(s.frameLimit))), 1)}
	f.deadline = time.Now().Add(min(q.MaxWait, maxFetchWait))
	f.cursor, c.sink = c, f
	if s.node.tracer.Sample() {
		f.span = s.node.tracer.Fetch(p.stream().Name, p.number)
	}
	s.conversations[corr] = f // in place of the plain request
	if q.Read == wire.ReadMinOffset && uint64(p.raft.HighWatermark()) <= q.MinOffset {
		// Only a replica that lags behind an acknowledgement waits here; the leader has what it acknowledged.
		s.finish(corr)
		return &wire.Error{Code: wire.CodeOffsetRange, Bits: wire.ErrorRetriable, Value: uint64(p.raft.HighWatermark()),
			Message: fmt.Sprintf("offset %d was never acknowledged: the high watermark is %d", q.MinOffset, p.raft.HighWatermark())}
	}
	f.cursor.feed()
	return nil
}

// end implements conversation.
func (f *fetch) end() {
	f.request.end()
	f.cursor.end()
	f.span.Fetched(f.code, 0)
	f.span = nil
	if f.timer != nil {
		f.timer.Stop()
	}
}

// open implements sink.
func (f *fetch) open() bool { return true }

// room implements sink.
func (f *fetch) room() int { return f.maxBytes }

func (f *fetch) starved(*cursor) {} // never: it is always open
func (f *fetch) reserve(int)     {}
func (f *fetch) release(int)     {}
func (f *fetch) woken()          {}

// ready implements sink.
func (f *fetch) ready(*cursor, int) bool {
	f.session.finish(f.corr)
	return false
}

// caughtUp implements sink: wait, or answer that there is nothing.
func (f *fetch) caughtUp(c *cursor) bool {
	if wait := time.Until(f.deadline); wait > 0 && f.session.state != stateDraining {
		if f.timer == nil {
			f.timer = time.AfterFunc(wait, func() { f.session.loop.post(func() { f.cursor.contained(func(*cursor) { f.timeout() }) }) })
		}
		return true
	}
	f.empty()
	return false
}

func (f *fetch) timeout() {
	if s := f.session; s.state != stateClosed && s.conversations[f.corr] == conversation(f) && f.cursor.state == cursorWaiting {
		f.empty()
	}
}

// empty answers without records.
func (f *fetch) empty() {
	s, c := f.session, f.cursor
	s.finish(f.corr)
	out, at := wire.BeginRecords(s.output(), f.corr, &wire.RecordsHeader{
		Stream: c.part.stream().ID, Partition: c.part.number, LogStart: uint64(c.part.raft.LogStart()),
		HighWatermark: uint64(c.part.raft.HighWatermark()), First: c.next, Next: c.next,
	})
	s.out = wire.EndRecords(out, at)
}

// failed implements sink.
func (f *fetch) failed(c *cursor, err error, _ bool) bool {
	s := f.session
	we := s.node.readError(c, err)
	f.code = we.Code
	s.finish(f.corr)
	s.refuseRequest(f.corr, we)
	return false
}
