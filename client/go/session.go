package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// session is a producer's conversation on one connection, from OPEN on.
type session struct {
	p      *producer
	cn     *conn
	corr   uint32
	ready  bool       // OPENED came; only the reader goroutine looks
	result chan error // of OPEN; buffered
}

func (s *session) frame(cn *conn, f wire.Frame, _ *buffer) error {
	switch {
	case f.Op == wire.OpError:
		var e wire.Error
		if err := e.Decode(f.Body); err != nil {
			return err
		}
		return s.error(&e)
	case f.Op == wire.OpOpened && !s.ready:
		var o wire.Opened
		if err := o.Decode(f.Body); err != nil {
			return err
		}
		s.ready = true
		s.result <- s.p.opened(s, &o)
		return nil
	case f.Op == wire.OpAck && s.ready:
		var a wire.Ack
		if err := a.Decode(f.Body); err != nil {
			return err
		}
		return s.p.acked(s, &a)
	}
	return protocolError("%s to a producer", f.Op)
}

func (s *session) error(e *wire.Error) error {
	switch {
	case e.Bits&wire.ErrorEndsConnection != 0:
		if !s.ready {
			s.result <- fmt.Errorf("%w: %w", ErrDisconnected, fromWire(e))
			s.ready = true // lost has nothing to tell any more
		}
		return fromWire(e)
	case !s.ready:
		s.cn.end(s.corr)
		s.result <- s.redirected(e)
	case e.Bits&wire.ErrorOneBatch != 0:
		return s.p.refused(s, e)
	default:
		s.cn.end(s.corr)
		s.p.ended(s, e)
	}
	return nil
}

func (s *session) redirected(e *wire.Error) error {
	err := error(fromWire(e))
	if e.Leader != "" {
		err = &redirect{err, e.Leader}
	}
	return err
}

func (s *session) lost(_ *conn, err error) {
	if !s.ready {
		s.result <- err
		return
	}
	s.p.lost(s, err)
}

// ignored is a conversation nobody listens to any more; it lasts until the node ends it.
type ignored struct{ corr uint32 }

func (i ignored) frame(cn *conn, f wire.Frame, _ *buffer) error {
	switch f.Op {
	case wire.OpOK:
		cn.end(i.corr)
	case wire.OpError:
		var e wire.Error
		if err := e.Decode(f.Body); err != nil {
			return err
		}
		if e.Bits&wire.ErrorEndsCorr != 0 {
			cn.end(i.corr)
		}
	}
	return nil
}

func (ignored) lost(*conn, error) {}

// leave ends a conversation from this side with CLOSE or UNSUBSCRIBE.
func (cn *conn) leave(op wire.Op, corr uint32) {
	cn.mu.Lock()
	if _, there := cn.table[corr]; there {
		cn.table[corr] = ignored{corr}
	}
	cn.mu.Unlock()
	cn.out.add(wire.AppendEmpty(nil, op, corr))
	cn.out.kick()
}

// startLocked begins to open a session. false: the client is closed.
func (p *producer) startLocked() bool {
	return p.c.register(p) && p.establishLocked("", 0)
}

func (p *producer) establishLocked(hint string, delay time.Duration) bool {
	if p.opening {
		return true
	}
	p.opening = p.c.spawn(func() { p.establish(hint, delay) })
	return p.opening
}

// lost is told when the connection of a session is gone.
func (p *producer) lost(s *session, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session != s {
		return
	}
	p.unsureLocked(err)
	p.trouble = trouble{rounds: p.rounds}
	p.detachLocked(s)
	if p.queue.len() > 0 || p.building() {
		p.establishLocked("", 0)
	}
}

// unsureLocked marks what is in flight: nobody will say whether it is stored. Without idempotence
// it cannot be sent again either.
func (p *producer) unsureLocked(err error) {
	for i := range p.sent {
		if b := p.queue.at(i); !b.finished && !b.again {
			b.unsure = true
			if !p.c.cfg.idempotent {
				p.finishLocked(b, Ack{}, fmt.Errorf("%w: %w", ErrUnknownOutcome, err))
			}
		}
	}
}

// detachLocked takes the session off; batches keep their sequences.
func (p *producer) detachLocked(s *session) {
	s.cn.unacked.Add(-int64(p.bytes))
	p.session = nil
	p.held = false
	p.compactLocked()
}

// ended is told when the node ended the conversation.
func (p *producer) ended(s *session, e *wire.Error) {
	p.mu.Lock()
	defer s.cn.roomMade()
	defer p.mu.Unlock()
	if p.session != s {
		return
	}
	// The outbox may still know the bytes of what is in flight, and sending again changes them.
	for i := range p.sent {
		if b := p.queue.at(i); !b.finished && !b.again {
			b.buf = bytes.Clone(b.buf)
		}
	}
	p.unsureLocked(fromWire(e))
	p.trouble = trouble{rounds: p.rounds + 1}
	p.detachLocked(s)
	if delay, hint, ok := p.openFailedLocked(s.redirected(e)); ok && (p.queue.len() > 0 || p.building()) {
		p.establishLocked(hint, delay)
	}
}

// restartLocked leaves a session, on which nothing is in flight, for a new one.
func (p *producer) restartLocked(s *session, hint string, delay time.Duration) {
	p.detachLocked(s)
	s.cn.leave(wire.OpClose, s.corr)
	if p.queue.len() > 0 || p.building() {
		p.establishLocked(hint, delay)
	}
}

// establish opens a session, as often as it takes.
func (p *producer) establish(hint string, delay time.Duration) {
	for attempt := 0; ; attempt++ {
		if delay > 0 || attempt > 0 && (hint == "" || attempt > 3) {
			if p.c.sleep(p.c.ctx, max(attempt-1, 0), delay) != nil {
				return
			}
		}
		if attempt > 0 && hint == "" {
			p.refresh()
		}
		cn, err := p.c.leader(p.c.ctx, p.stream, p.partition, hint)
		if err == nil {
			err = p.openOn(cn)
		}
		if err == nil || p.c.ctx.Err() != nil {
			return
		}
		p.c.cfg.logger.Debug("no session with the partition's leader", "stream", p.stream.name, "partition", p.partition, "error", err)
		p.mu.Lock()
		again := false
		if delay, hint, again = p.openFailedLocked(err); !again {
			p.opening = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// refresh asks again where the partition is.
func (p *producer) refresh() {
	ctx, cancel := context.WithTimeout(p.c.ctx, p.c.cfg.dialTimeout)
	defer cancel()
	_, err := p.c.metadata(ctx, wire.Metadata{Select: wire.SelectStream, Name: p.stream.name})
	if errors.Is(err, ErrUnknownStream) {
		p.c.topology.forget(p.stream.id)
	}
}

func (p *producer) openOn(cn *conn) error {
	s := &session{p: p, cn: cn, result: make(chan error, 1)}
	p.mu.Lock()
	id := p.identity
	p.mu.Unlock()
	if id.id == 0 {
		id = p.c.sharedIdentity()
	}
	mapVersion, _ := p.stream.where(p.partition)
	o := wire.Open{
		Stream:     p.stream.id,
		Partition:  p.partition,
		MapVersion: mapVersion,
		Idempotent: p.c.cfg.idempotent,
		Producer:   id.id,
		Epoch:      id.epoch,
	}
	cn.mu.Lock()
	corr, err := cn.openLocked(s)
	s.corr = corr // before the reader can meet it
	cn.mu.Unlock()
	if err != nil {
		return err
	}
	cn.out.add(o.AppendTo(nil, corr))
	cn.out.push()
	return <-s.result // always comes: an answer, or lost
}

var errExpired = &Error{Code: wire.CodeProducerExpired, Message: "the node does not remember what this producer published"}

// opened takes a session into use and sends everything that is not acknowledged.
func (p *producer) opened(s *session, o *wire.Opened) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return ErrClosed
	}
	if p.stream.gone.Load() { // and back, perhaps: then another producer of the same identity publishes to it
		s.cn.leave(wire.OpClose, s.corr)
		return errGone
	}
	if p.c.cfg.idempotent {
		got := identity{o.Producer, o.Epoch}
		if p.identity.id == got.id && got.id != 0 {
			if o.NextSequence < p.expected || o.NextSequence > p.next {
				s.cn.leave(wire.OpClose, s.corr)
				return errExpired
			}
		} else {
			p.restartSequenceLocked(o.NextSequence)
			p.c.shareIdentity(got)
		}
		p.identity = got
	}
	p.session = s
	p.opening = false
	p.trouble = trouble{rounds: p.rounds}
	p.compactLocked()
	p.resumeLocked()
	return nil
}

// openFailedLocked decides what follows when a session could not be opened, or ended: another attempt
// (after delay, at hint), or, with again false, failure of everything queued.
func (p *producer) openFailedLocked(err error) (delay time.Duration, hint string, again bool) {
	if p.closed != nil {
		return 0, "", false
	}
	if p.stream.gone.Load() {
		p.goneLocked(unknownStream("stream %s was deleted", p.stream.name))
		return 0, "", false
	}
	var e *Error
	if errors.Is(err, ErrDisconnected) || !errors.As(err, &e) {
		return 0, "", true // no connection
	}
	var r *redirect
	if errors.As(err, &r) {
		hint = r.leader
	}
	why := fmt.Errorf("stream %s, partition %d: %w", p.stream.name, p.partition, err)
	switch e.Code {
	case wire.CodeNotLeader, wire.CodeStaleMap:
		return e.RetryAfter, hint, true
	case wire.CodeProducerExpired, wire.CodeProducerFenced:
		p.expireLocked(e)
		return 0, "", true
	case wire.CodeUnknownStream:
		p.c.topology.forget(p.stream.id)
		p.goneLocked(why)
	default:
		if e.Retriable {
			return e.RetryAfter, "", true
		}
		p.failLocked(why)
	}
	return 0, "", false
}

// retire ends a producer whose stream is gone, if it has nothing to say any more. Otherwise the last answer does.
func (p *producer) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retireLocked()
}

func (p *producer) retireLocked() {
	if p.closed != nil || p.opening || p.queue.len() > 0 || p.building() {
		return
	}
	if s := p.session; s != nil {
		p.detachLocked(s)
		s.cn.leave(wire.OpClose, s.corr)
	}
	p.goneLocked(errGone)
}

// goneLocked ends the producer with its stream. Flush and Close know of it until all it has is answered.
func (p *producer) goneLocked(err error) {
	p.closed = errGone
	p.failLocked(err)
	p.c.mu.Lock()
	delete(p.c.producers, p)
	p.c.mu.Unlock()
}

// register makes a producer one that Flush and Close know of. false: the client is closed.
func (c *Client) register(p *producer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.producers == nil {
		return false
	}
	c.producers[p] = struct{}{}
	return true
}

func (c *Client) sharedIdentity() identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.producer
}

func (c *Client) shareIdentity(id identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.producer.id == 0 {
		c.producer = id
	}
}

func (c *Client) forgetIdentity(id identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.producer == id {
		c.producer = identity{}
	}
}
