package broker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/proto/wire"
)

// state is where a connection stands; docs/protocol.md has the table.
type state uint8

const (
	stateSniff    state = iota // its first bytes decide what it is
	stateHello                 // the magic was there; HELLO must come
	stateReady                 // WELCOME was sent
	stateDraining              // GOAWAY was sent: no new requests
	stateClosed
)

// conversation is what a Corr stands for: a *producer, a *subscription or a *request.
type conversation interface {
	// end lets go of everything, on the loop; the session forgets the Corr itself.
	end()
}

// session is one client connection. It lives on its loop; only that loop touches it.
type session struct {
	node  *Node
	loop  *loop
	conn  gnet.Conn
	log   *zap.Logger
	state state

	identity   auth.Identity
	frameLimit int // of the client: the largest Length it takes
	promised   promise

	conversations map[uint32]conversation
	requests      int       // of conversations, those that are requests
	last          *producer // of the last PUBLISH, found without the map
	lastCorr      uint32
	gathered      []*producer // have an ACK to write

	need         int       // bytes that must have arrived before decoding goes on
	costly       bool      // the last frame took longer than others
	asking       bool      // and little had to be sent for it, as for a request
	described    int       // answers to METADATA since nothing was left waiting
	describing   bool      // a long TOPOLOGY is being made
	gaveWay      bool      // resume will be called
	paced        bool      // and nothing is served before
	rests        time.Time // what comes before that waits for a turn: the last request took long
	out          []byte
	held         int  // bytes that gnet had not written yet when that was last looked at
	touched      bool // stands in loop.touched
	closing      bool // nothing more is served; close once out is written
	final        int  // bytes of out up to the end of an error that ends the connection; 0: there is none
	said         bool // the last words are written: what comes later would stand behind them
	lingers      bool // lastWords will be looked at again
	shut         bool // our direction has ended
	inFlight     int64
	credit       int64 // granted by this client and not yet used, over all subscriptions
	reading      int64 // bytes that reads under way, or read and waiting for credit, may hold
	coming       int64 // of these, about what comes without more credit
	parked       []*cursor
	loaded       []*cursor // parked too, with a frame
	parkedGone   int       // of both, have ended
	unparking    bool      // stands in loop.parked
	cursors      int       // of all subscriptions
	left         int       // partitions of deleted streams in which they remember where they stood
	accounted    int64     // bytes of this session in node.outbound
	partial      int64     // bytes of this session in node.inbound
	waits        int64     // of these in node.waiting
	ignored      int64     // bytes that came after our last words
	wire         bool      // counted as a connection of the wire protocol
	welcomed     bool      // counted as a session
	tardy        bool      // came when the node was stopping already
	since, heard time.Time
	progress     progress
	reads        bool  // takes what is sent, so that the kernel may keep more for it
	weight       int64 // of this session in node.weight
}

func newSession(l *loop, c gnet.Conn) *session {
	now := time.Now()
	s := &session{node: l.node, loop: l, conn: c, tardy: l.node.draining.Load(), since: now, heard: now, need: 1, frameLimit: wire.DefaultFrameLimit}
	if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok { // nil after close: kept from the start
		s.identity.Remote = netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), tcp.AddrPort().Port())
	}
	s.identity.Method = "none"
	s.log = l.node.log.WithLazy(zap.Stringer("client", s.identity.Remote))
	l.sessions[s] = struct{}{}
	l.sweepLater()
	return s
}

// peekBytes is how much of what has arrived is looked at together, where no frame is larger: gnet has to copy what wraps
// around the end of its buffer, and a turn may serve one frame of it.
const peekBytes = 64 << 10

// traffic takes what has arrived. It must leave nothing whole in the buffer, or give way: gnet does not tell
// twice of the same bytes.
func (s *session) traffic() {
	if s.closing {
		s.discard()
		return
	}
	s.heard = s.loop.began
	s.costly = false // of this turn no frame has been served: the first one is, however long it took to get here
	if s.heard.Before(s.rests) && s.mayRest() && !s.gaveWay {
		s.gaveWay, s.paced = true, true
		s.loop.pace(s.resume, s.rests.Sub(s.heard))
	}
	moved := false
	for !(s.paced && s.mayRest()) && s.state != stateClosed && !s.closing {
		has := s.conn.InboundBuffered()
		if has < s.need {
			break // spares gnet putting a large frame together at each of its pieces; resume may find nothing
		}
		buf, _ := s.conn.Peek(min(has, max(s.need, peekBytes)))
		used, over := s.serve(buf)
		if s.state == stateClosed {
			return // closed under us; gnet has let go of the bytes
		}
		if used > 0 { // gnet takes 0 for everything
			_, _ = s.conn.Discard(used)
			moved = true
		}
		if over {
			s.giveWay()
			break
		}
		if used == 0 && len(buf) == has {
			break
		}
	}
	if s.state == stateClosed {
		return
	}
	if s.closing {
		s.discard()
		return
	}
	s.progress.arrived(s.conn.InboundBuffered() > 0 && !s.gaveWay, moved, s.heard)
	s.countPartial()
	if !s.gaveWay {
		s.described = 0
	}
}

// discard gives back what has arrived and is not served any more. Who goes on and on behind our last words is cut off.
func (s *session) discard() {
	n, _ := s.conn.Discard(-1)
	s.countPartial()
	if s.said {
		s.ignored += int64(n)
	}
	if s.ignored > s.mostIgnored() {
		s.drop(closedUnsent, "client does not hear that it was refused, closed")
	}
}

// mostIgnored is how many bytes may come behind our last words: what a producer may have had in flight, twice.
func (s *session) mostIgnored() int64 { return max(2*s.inFlightLimit(), 8<<20) }

// serve serves the frames in buf that are whole, and returns their bytes: all of them, or until its turn is over.
func (s *session) serve(buf []byte) (used int, over bool) {
	for s.state != stateClosed && !s.closing {
		if s.costly && (s.loop.over() || s.asking && s.loop.lasts(askTurn)) {
			switch {
			case used == len(buf) && used == s.conn.InboundBuffered(): // and not only all that was looked at
				if s.asking { // one request after the other must not get more of the loop than many at once
					s.rests = time.Now().Add(restAfter(time.Since(s.loop.began)))
				}
			case s.asking && s.crowds():
				s.fatal(&wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable, RetryAfter: time.Second, Value: uint64(s.node.config().InboundMemory / 2),
					Message: "too much waits in this node, and a large part is your requests, refused batches or batches that expand much: connect again and wait for answers before sending more"})
				return used, false
			case s.mayWait(), s.asking && s.mayRest():
				return used, true
			}
		}
		s.costly, s.asking = false, false
		n, err := s.step(buf[used:])
		if errors.Is(err, wire.ErrShort) {
			break
		}
		if err != nil {
			s.fatal(err)
			break
		}
		used += n
	}
	return used, false
}

// countPartial brings the node's count of bytes in unfinished frames up to date with this session's,
// and ends the session if that is too much and it has a large part in it.
func (s *session) countPartial() {
	now := int64(s.conn.InboundBuffered())
	total := s.node.inbound.Add(now - s.partial)
	s.partial = now
	waits := int64(0)
	if s.gaveWay {
		waits = now
	}
	s.node.waiting.Add(waits - s.waits)
	s.waits = waits
	if limit := s.node.config().InboundMemory; total > limit && now > s.node.config().smallPart() && !s.closing {
		s.fatal(&wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable, RetryAfter: time.Second, Value: uint64(limit),
			Message: fmt.Sprintf("%d bytes of frames that have not arrived whole wait in this node, limit %d: connect again and send them without pauses", total, limit)})
	}
}

// waitBytes is how much of a connection that publishes may wait for a turn.
const waitBytes = 1 << 20

// mayWait tells whether what has arrived may wait for another turn. gnet reads on whether or not we serve, so only a little
// may: a client is not slowed down by that, and must not be ended for it.
func (s *session) mayWait() bool { return s.conn.InboundBuffered() < waitBytes && s.mayRest() }

// mayRest tells the same of requests: they wait for as long as the node has memory for it, and then crowds ends who sent many.
// Frames that have not arrived whole are no part of that: pacing must not end because somebody holds such.
func (s *session) mayRest() bool { return s.node.waiting.Load() < s.node.config().InboundMemory/2 }

// crowds tells whether too much of this session waits: more than it may have in flight, or a large part where the node has too much
// waiting. Requests cannot be served as fast as they come then, or publishes would wait for them.
func (s *session) crowds() bool {
	c := s.node.config()
	own := int64(s.conn.InboundBuffered())
	most := s.inFlightLimit()*5/4 + 1<<20 // of batches, with what stands around and between them
	return own > max(most, c.InboundMemory/8) || !s.mayRest() && own > c.smallPart()
}

// giveWay lets the others of the loop have their turn; what has arrived is looked at again then. Requests are paced,
// publishes only yield.
func (s *session) giveWay() {
	switch {
	case s.gaveWay:
	case s.asking:
		s.gaveWay, s.paced = true, true
		s.loop.pace(s.resume, restAfter(time.Since(s.loop.began)))
	default:
		s.gaveWay = true
		s.loop.yield(s.resume)
	}
}

// resume goes on with what traffic left.
func (s *session) resume() {
	defer s.contain()
	s.gaveWay, s.paced, s.rests = false, false, time.Time{}
	if s.state != stateClosed {
		s.need = 1
		s.traffic()
	}
}

// step takes one unit off b: the magic, or a frame.
func (s *session) step(b []byte) (n int, err error) {
	if s.state == stateSniff {
		return s.sniff(b)
	}
	limit := wire.MaxHelloFrame
	if s.state != stateHello {
		limit = wire.DefaultFrameLimit
	}
	f, n, err := wire.Decode(b, limit)
	if err != nil {
		s.need = 1
		if errors.Is(err, wire.ErrShort) {
			s.need = frameSize(b)
		}
		return 0, err
	}
	s.need = 1
	if s.state == stateHello {
		return n, s.hello(f)
	}
	return n, s.frame(f)
}

// frameSize is how many bytes the frame that begins in b needs, as far as b tells.
func frameSize(b []byte) int {
	if len(b) < 4 {
		return 4 // enough to refuse a length
	}
	return 4 + int(uint32(b[0])|uint32(b[1])<<8|uint32(b[2])<<16|uint32(b[3])<<24)
}

// sniff decides what speaks on this connection. What is not ours leaves the loop.
func (s *session) sniff(b []byte) (int, error) {
	switch sniff(b) {
	case protoUndecided:
		return 0, wire.ErrShort
	case protoWire:
		s.state = stateHello
		s.wire = true
		s.loop.count.Wire.Add(1)
		return len(wire.Magic), nil
	case protoHTTP1, protoHTTP2:
		switch p := sniff(b); {
		case s.node.adminPort != nil:
			s.elsewhere(p)
		case p == protoHTTP1:
			s.handOver(s.node.http1)
		default:
			s.handOver(s.node.http2)
		}
	default:
		s.log.Info("neither a Tidewire client nor HTTP", zap.String("first", printable(b)), zap.Int("bytes", len(b)))
		s.loop.count.Foreign.Add(1)
		s.closing = true
		s.touch()
	}
	return len(b), nil
}

// hello answers HELLO, the only frame before WELCOME.
func (s *session) hello(f wire.Frame) error {
	if f.Op != wire.OpHello {
		return &wire.Error{Code: wire.CodeState, Message: fmt.Sprintf("%s before HELLO: the first frame is HELLO", f.Op)}
	}
	var h wire.Hello
	if err := h.Decode(f.Body); err != nil {
		return err
	}
	n := s.node
	switch {
	case f.Corr != 0:
		return &wire.Error{Code: wire.CodeState, Message: "HELLO has a Corr: it belongs to the connection, Corr 0"}
	case h.MinVersion > wire.Version:
		return &wire.Error{Code: wire.CodeUnsupported, Value: wire.Version,
			Message: fmt.Sprintf("protocol versions %d to %d, this node speaks %d", h.MinVersion, h.MaxVersion, wire.Version)}
	case h.Cluster != [16]byte{} && h.Cluster != n.identity.Cluster:
		return &wire.Error{Code: wire.CodeWrongCluster, Message: fmt.Sprintf("this is cluster %x, not %x", n.identity.Cluster, h.Cluster)}
	case h.Mechanism != "":
		return &wire.Error{Code: wire.CodeAuth, Message: fmt.Sprintf("authentication mechanism %q: this node knows none", h.Mechanism)}
	}
	if h.Role == wire.RolePeer {
		if err := n.config().Authorizer.Authorize(&s.identity, auth.Peer, nil); err != nil {
			return err
		}
		return &wire.Error{Code: wire.CodeUnsupported, Message: "this node is a cluster of its own and has no peers"}
	}
	s.frameLimit = int(h.FrameLimit)
	s.conversations = make(map[uint32]conversation)
	w := wire.Welcome{
		Version: wire.Version, Cluster: n.identity.Cluster, Node: n.identity.Node,
		FrameLimit: wire.DefaultFrameLimit, BatchLimit: wire.MaxBatch, InFlightBatches: wire.MaxInFlightBatches,
		InFlightBytes: uint64(n.config().InFlightBytes), CreditLimit: uint64(n.config().Credit), Idle: n.config().IdleTimeout,
		Server: "tidewire/" + Version,
	}
	s.promised = promise{int64(w.InFlightBytes), int64(w.CreditLimit), w.Idle}
	s.out = w.AppendTo(s.output(), f.Corr)
	s.state = stateReady
	s.welcomed = true
	s.loop.count.Sessions.Add(1)
	s.log.Debug("client connected", zap.String("software", h.Client))
	if n.draining.Load() {
		s.goaway()
	}
	return nil
}

// frame serves one frame of a client that was welcomed. An error it returns ends the connection.
func (s *session) frame(f wire.Frame) error {
	if f.Version != 0 || !f.Op.Known() {
		s.misplaced(f.Corr, &wire.Error{Code: wire.CodeUnsupported, Bits: wire.ErrorEndsCorr,
			Message: fmt.Sprintf("%s version %d is not served by protocol version %d", f.Op, f.Version, wire.Version)})
		return nil
	}
	if f.Flags != 0 {
		return &wire.Error{Code: wire.CodeMalformed, Message: fmt.Sprintf("%s with flags %#x: a client sends none", f.Op, uint8(f.Flags))}
	}
	switch f.Op { // what belongs to the connection, or to a conversation that exists
	case wire.OpPublish:
		return s.publish(f)
	case wire.OpCredit:
		return s.creditFrame(f)
	case wire.OpPing:
		s.costly, s.asking = true, true // thousands are nobody's need
		var p wire.Ping
		if err := p.Decode(f.Body); err != nil {
			return err
		}
		s.out = p.AppendTo(s.output(), wire.OpPong, f.Corr)
		return nil
	case wire.OpPong:
		return new(wire.Ping).Decode(f.Body)
	case wire.OpClose, wire.OpUnsub:
		return s.endConversation(f)
	case wire.OpMetadata, wire.OpCreate, wire.OpDelete, wire.OpOpen, wire.OpFetch, wire.OpSub:
		return s.request(f)
	case wire.OpConsumed:
		s.misplaced(f.Corr, &wire.Error{Code: wire.CodeUnsupported, Bits: wire.ErrorEndsCorr, Message: "CONSUMED: this node has no named consumers"})
		return nil
	}
	return &wire.Error{Code: wire.CodeState, Message: fmt.Sprintf("%s is not for a client to send here", f.Op)}
}

// output is the session's output, to append to.
func (s *session) output() []byte {
	if s.out == nil {
		s.out = s.loop.buffer()
	}
	s.touch()
	return s.out
}

func (s *session) write(b []byte) { s.out = append(s.output(), b...) }

func (s *session) touch() {
	if !s.touched {
		s.touched = true
		s.loop.touched = append(s.loop.touched, s)
	}
}

// flushAcks writes the ranges of acks that producers have gathered.
func (s *session) flushAcks() {
	for i, p := range s.gathered {
		p.flushAck()
		s.gathered[i] = nil
	}
	s.gathered = s.gathered[:0]
}

// flush writes the output with one write. gnet keeps what the client does not take.
func (s *session) flush() {
	if s.state == stateClosed {
		return
	}
	s.flushAcks()
	s.touched = false // flushAck touches
	if s.final > 0 {  // an answer that came between is not heard any more
		s.out, s.final = s.out[:s.final], 0
	}
	if s.said && len(s.out) > 0 { // an ACK, say, of what was in flight: a write behind the end would reset the connection
		s.loop.release(s.out)
		s.out = nil
	}
	if len(s.out) > 0 {
		out := s.out
		s.out = nil
		s.progress.written += int64(len(out))
		_, err := s.conn.Write(out) // may close the session before it returns
		s.loop.release(out)
		if err != nil || s.state == stateClosed {
			return
		}
		s.account()
		if !s.reads && s.ahead() == readAhead {
			s.reads = true
			keepMore(s.conn.Fd())
		}
		if s.leavesMuch() {
			s.drop(closedUnsent, "client does not read its answers, closed")
			return
		}
	}
	if s.closing {
		s.said = true
		s.discard()
		if !s.shut && s.state != stateClosed {
			s.lastWords()
		}
	}
}

// unsent is how many bytes gnet keeps that the client has not taken. Only the loop may ask gnet; another goroutine has to take
// what it found last.
func (s *session) unsent() int {
	if !s.loop.lent {
		s.held = s.conn.OutboundBuffered()
	}
	return s.held
}

// lastWords ends our direction once everything is sent, and leaves closing to the client, or to
// the sweep: a close while its bytes are still arriving would reset the connection, and with it
// the error it has not read yet.
func (s *session) lastWords() {
	switch {
	case s.unsent() == 0:
	case s.lingers:
		return
	default: // gnet does not tell when all is sent
		s.lingers = true
		time.AfterFunc(parkRetry, func() {
			s.loop.post(func() {
				s.lingers = false
				s.touch()
			})
		})
		return
	}
	s.shut = true
	s.heard = time.Now()
	shutdownWrite(s.conn.Fd())
}

// lingering is how long a client may take to close after our last words.
const lingering = 2 * time.Second

// largeUnsent is how many unsent bytes end a connection when all clients together have left half more than
// OutboundMemory.
const largeUnsent = 256 << 10

// mostUnsent is how many unsent bytes end a connection that makes more, when clients have left total in all. Twice
// Config.backlog ends it always: that is more than what is read for it ever makes, so that only answers to what it keeps
// asking come there. The fuller the node, the less: first those go that have much, and at twice OutboundMemory who
// has more than its share of half of that, so that many with a little each cannot make the node hold more than 2.5 times
// OutboundMemory.
func (c *Config) mostUnsent(total int64) int64 {
	switch {
	case total > 2*c.OutboundMemory:
		return min(max(c.OutboundMemory/2/int64(c.MaxConnections), 4<<10), largeUnsent)
	case total > c.OutboundMemory*3/2: // what is read for those who have nothing unsent does not make that: see mayRead
		return largeUnsent
	}
	return 2 * c.backlog()
}

// leavesMuch reports whether the client has left more than it may.
func (s *session) leavesMuch() bool {
	return int64(s.unsent()) > s.node.config().mostUnsent(s.node.outbound.Load())
}

// account brings the node's count of unsent bytes up to date with this session's.
func (s *session) account() {
	if s.state == stateClosed {
		return
	}
	s.charge(int64(s.backlog()) + s.reading)
}

// charge has node.outbound count so many bytes for this session.
func (s *session) charge(now int64) {
	switch {
	case now == s.accounted:
		return
	case now == 0:
		delete(s.loop.unsent, s)
	case s.accounted == 0:
		s.loop.unsent[s] = struct{}{}
	}
	s.node.outbound.Add(now - s.accounted)
	s.accounted = now
}

// refuse answers with an error.
func (s *session) refuse(corr uint32, err error) {
	we := s.node.wireError(err)
	s.loop.count.RefusedRequests.Add(we.Code, 1)
	s.out = we.AppendTo(s.output(), corr)
}

// misplaced answers a frame that its Corr has no use for with an error that ends the Corr, and ends
// what is open there: the client is told that it is over, and may use the number again.
func (s *session) misplaced(corr uint32, err error) {
	s.costly, s.asking = true, true
	s.finish(corr)
	s.refuse(corr, err)
}

// fatal answers with an error that ends the connection.
func (s *session) fatal(err error) {
	we := *s.node.wireError(err)
	we.Bits |= wire.ErrorEndsConnection
	s.loop.count.Refused.Add(we.Code, 1)
	s.log.Info("connection refused", zap.Stringer("code", we.Code), zap.String("reason", we.Message))
	for _, p := range s.gathered {
		p.flushAck() // before the last word
	}
	s.out = we.AppendTo(s.output(), 0)
	s.closing, s.final = true, len(s.out)
}

// goaway tells the client that the node stops. Who waits for records that may come is told that there are none.
func (s *session) goaway() {
	for _, conv := range s.conversations {
		if f, ok := conv.(*fetch); ok {
			f.timeout()
		}
	}
	g := wire.Goaway{Code: wire.CodeShutdown, Drain: s.node.config().DrainTimeout,
		Message: "the node is stopping: what is in flight is answered, connect again elsewhere or later"}
	s.out = g.AppendTo(s.output(), 0)
	s.state = stateDraining
}

// closed lets go of everything; gnet has closed the connection.
func (s *session) closed(err error) {
	s.state = stateClosed
	s.out = nil
	delete(s.loop.sessions, s)
	s.uncount()
	s.charge(0)
	s.node.inbound.Add(-s.partial)
	s.node.waiting.Add(-s.waits)
	s.letGo()
	if err != nil {
		s.log.Debug("client gone", zap.Error(err))
	}
}

// letGo ends what the client had open; there may be tens of thousands. Who waits for that at the end of the node gets
// all of it at once.
func (s *session) letGo() {
	defer s.contain()
	defer func() {
		if r := recover(); r != nil {
			s.letGoLater() // the rest of it
			panic(r)
		}
	}()
	for corr, c := range s.conversations {
		if s.loop.over() && !s.node.draining.Load() {
			s.letGoLater()
			return
		}
		delete(s.conversations, corr)
		c.end()
	}
	s.weigh()
}

// letGoLater is paced: nobody is in a hurry for it.
func (s *session) letGoLater() { s.loop.pace(s.letGo, restAfter(time.Since(s.loop.began))) }

// converse registers a conversation under corr, unless that is taken or too many are open.
func (s *session) converse(corr uint32, c conversation) error {
	if err := s.free(corr); err != nil {
		return err
	}
	if len(s.conversations) >= s.node.config().MaxConversations {
		return &wire.Error{Code: wire.CodeLimit, Bits: wire.ErrorEndsCorr, Value: uint64(s.node.config().MaxConversations),
			Message: fmt.Sprintf("%d conversations on this connection, limit %d: end some", len(s.conversations), s.node.config().MaxConversations)}
	}
	if limit := s.node.config().MemoryLimit / stateShare; s.node.weight.Load() > limit && len(s.conversations) >= freeConversations {
		return &wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable | wire.ErrorEndsCorr, RetryAfter: time.Second, Value: uint64(limit),
			Message: "this node keeps as many conversations as its memory allows: end some, or try again"}
	}
	s.conversations[corr] = c
	s.weigh()
	return nil
}

// free refuses a Corr that no conversation can begin on.
func (s *session) free(corr uint32) error {
	if corr == 0 {
		return &wire.Error{Code: wire.CodeState, Message: "a request needs a Corr of its own, 1 or above"}
	}
	if _, taken := s.conversations[corr]; taken {
		return &wire.Error{Code: wire.CodeState, Message: fmt.Sprintf("Corr %d is in use: its conversation has not ended", corr)}
	}
	return nil
}

// finish forgets the conversation.
func (s *session) finish(corr uint32) {
	if c, ok := s.conversations[corr]; ok {
		delete(s.conversations, corr)
		c.end()
		s.weigh()
	}
}

// endConversation serves CLOSE and UNSUBSCRIBE.
func (s *session) endConversation(f wire.Frame) error {
	s.costly = true // it may have many cursors
	if err := wire.DecodeEmpty(f); err != nil {
		return err
	}
	switch c := s.conversations[f.Corr].(type) {
	case *producer:
		if f.Op == wire.OpClose {
			c.close()
			return nil
		}
	case *subscription:
		if f.Op == wire.OpUnsub {
			s.finish(f.Corr)
			s.out = wire.AppendEmpty(s.output(), wire.OpOK, f.Corr)
			return nil
		}
	}
	s.misplaced(f.Corr, &wire.Error{Code: wire.CodeState, Bits: wire.ErrorEndsCorr,
		Message: fmt.Sprintf("%s on Corr %d, where there is nothing of that kind", f.Op, f.Corr)})
	return nil
}

// uncount takes the session out of the gauges.
func (s *session) uncount() {
	if s.wire {
		s.loop.count.Wire.Add(-1)
	}
	if s.welcomed {
		s.loop.count.Sessions.Add(-1)
	}
}

// contained does something for the session; a panic in it costs this one and no other.
func (s *session) contained(do func(*session)) {
	defer s.contain()
	do(s)
}

// contain keeps a panic in serving one connection from ending the process, and its neighbours. It does not contain one
// in what all partitions' clients share: see loop.shared.
func (s *session) contain() {
	r := recover()
	if r != nil && s.loop.shared {
		panic(r) // others would go on with what was half changed
	}
	if r != nil && s.state == stateClosed {
		s.loop.count.Panics.Add(1)
		s.log.Error("panic serving a connection that has gone", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
	} else if r != nil {
		s.loop.count.Panics.Add(1)
		s.log.Error("panic serving a connection, which is closed", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
		s.fatal(&wire.Error{Code: wire.CodeInternal, Message: "the node failed on this connection; its log says more"})
	}
}
