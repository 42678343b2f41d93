package broker

import (
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/proto/wire"
)

// Why a connection was closed by the node although the client would have kept it. The rules, looked at once
// a second for each connection:
//
//	handshake   no HELLO within HandshakeTimeout of connecting, however much came
//	idle        nothing came for IdleTimeout
//	frame       a frame that has begun to arrive stands still for FrameTimeout, or is older than that and came
//	            slower than slowestFrame; where half of InboundMemory waits, an eighth of that time, and eight times as fast
//	consumer    bytes wait for the client, and within SlowConsumerTimeout, an eighth of it while more than OutboundMemory
//	            waits for all, it took neither all of them nor leastTaken.
//	            One that gives no credit is not slow: nothing is written for it, so nothing waits
//	unsent      more than twice Config.backlog waits: answers to what it goes on asking and does not read; less
//	            ends it when the node holds more than OutboundMemory for all, see Config.mostUnsent
//	vanished    what was sent to it is unacknowledged by its kernel, and nothing was heard of that for vanishedAfter;
//	            where nothing is unacknowledged, TCP keepalive finds out in the same time
//
// The first three are told to the client as IDLE; one that does not read cannot be told anything.
type closeReason uint8

const (
	closedHandshake closeReason = iota
	closedIdle
	closedFrame
	closedConsumer
	closedUnsent
	closedVanished
	closeReasons
)

var closeReasonNames = [closeReasons]string{"handshake", "idle", "frame", "consumer", "unsent", "vanished"}

func (r closeReason) String() string { return closeReasonNames[r] }

// closures counts connections that the node closed, by reason: each once, for what came first. One that was refused for
// what it sent is counted as that, whatever ends it then.
type closures [closeReasons]atomic.Int64

const (
	// slowestFrame is how fast a frame has to arrive once it is older than FrameTimeout, in bytes a second: a byte
	// now and then is no progress.
	slowestFrame = 4 << 10
	// leastTaken is what a client with bytes waiting has to take within SlowConsumerTimeout.
	leastTaken = 64 << 10
	// vanishedAfter is how long a client's kernel may leave what was sent unacknowledged while it is sent again.
	vanishedAfter = 10 * time.Second
	// vanishedEvery is how often that is looked at, where nothing is heard: it is a system call.
	vanishedEvery = 3 * time.Second
)

// progress is what checkDeadlines remembers of a session.
type progress struct {
	frameBegan time.Time // the frame that is arriving; zero if none is
	written    int64     // bytes ever given to gnet
	taken      int64     // of them, what the client had taken at takenAt
	takenAt    time.Time // zero while nothing waits
	seen       int64     // of them, what the client had taken when that was last looked at
	asked      time.Time // the kernel, about what is unacknowledged
}

// arrived notes whether a frame has begun to arrive. consumed tells that one came to its end.
func (p *progress) arrived(partial, consumed bool, now time.Time) {
	switch {
	case !partial:
		p.frameBegan = time.Time{}
	case consumed || p.frameBegan.IsZero():
		p.frameBegan = now
	}
}

func (s *session) checkDeadlines(now time.Time) {
	cfg := s.node.config()
	silent := now.Sub(s.heard)
	switch {
	case s.shut && silent > lingering, s.closing && silent > cfg.DrainTimeout:
		s.hangUp()
	case s.vanished(now, silent):
		s.drop(closedVanished, "client vanished, closed")
	case s.stuck(now, cfg.SlowConsumerTimeout):
		s.drop(closedConsumer, "client does not read what is sent to it, closed")
	case s.idles() && s.leavesMuch():
		s.drop(closedUnsent, "client does not read its answers, closed")
	case s.closing:
	case s.state < stateReady:
		if now.Sub(s.since) > cfg.HandshakeTimeout {
			s.late(closedHandshake, "no HELLO within %s", cfg.HandshakeTimeout)
		}
	case silent > s.idleTimeout():
		s.late(closedIdle, "nothing heard for %s: send PING when there is nothing else", s.idleTimeout())
	case s.frameLate(now, silent, cfg.FrameTimeout):
		s.late(closedFrame, "a frame has not arrived whole within %s: send it without pauses", cfg.FrameTimeout)
	}
}

func (s *session) frameLate(now time.Time, silent, limit time.Duration) bool {
	if s.progress.frameBegan.IsZero() {
		return false
	}
	age, slowest := now.Sub(s.progress.frameBegan), float64(slowestFrame)
	if s.node.inbound.Load() > s.node.config().InboundMemory/2 { // others need the room
		limit, slowest = limit/8, slowest*8
	}
	return silent > limit || age > limit && float64(s.conn.InboundBuffered()) < slowest*age.Seconds()
}

// stuck reports whether the client has left what waits for it. What waits in the kernel counts too: gnet hears of a client that
// reads slowly only when the kernel has room for much.
func (s *session) stuck(now time.Time, limit time.Duration) bool {
	p := &s.progress
	unsent := int64(s.unsent())
	if unsent == 0 {
		p.takenAt = time.Time{}
		return false
	}
	if s.node.outbound.Load() > s.node.config().OutboundMemory { // others need the room
		limit /= 8
	}
	if taken := p.written - unsent - unacknowledged(s.conn.Fd()); taken-p.taken >= leastTaken || p.takenAt.IsZero() {
		p.taken, p.takenAt = taken, now
	}
	return now.Sub(p.takenAt) > limit
}

// idles reports whether the client has taken nothing since that was last asked.
func (s *session) idles() bool {
	taken := s.progress.written - int64(s.unsent())
	idles := taken == s.progress.seen
	s.progress.seen = taken
	return idles
}

// vanished asks the kernel, now and then, whether a silent client's still answers.
func (s *session) vanished(now time.Time, silent time.Duration) bool {
	if silent < vanishedAfter || now.Sub(s.progress.asked) < vanishedEvery {
		return false
	}
	s.progress.asked = now
	return unanswered(s.conn.Fd()) > vanishedAfter
}

// late ends the connection with an error the client can read.
func (s *session) late(why closeReason, format string, args ...any) {
	s.blame(why)
	s.fatal(&wire.Error{Code: wire.CodeIdle, Bits: wire.ErrorRetriable, Message: fmt.Sprintf(format, args...)})
}

// drop ends the connection without a word: nobody reads.
func (s *session) drop(why closeReason, say string) {
	s.blame(why)
	s.log.Warn(say, zap.Stringer("reason", why), zap.Int("unsent", s.unsent()))
	s.hangUp()
}

// hangUp closes the connection, within the turn in which that is decided.
func (s *session) hangUp() {
	began := s.loop.began
	_ = s.loop.events.Close(s.conn) // calls OnClose
	s.loop.began = began
}

// blame counts the closure, unless the session is ending already.
func (s *session) blame(why closeReason) {
	if !s.closing {
		s.node.closures[why].Add(1)
	}
}
