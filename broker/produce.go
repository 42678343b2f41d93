package broker

import (
	"fmt"
	"math"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/broker/telemetry"
	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
)

// producer is a Corr that OPEN bound to a partition. It lives on its session's loop.
type producer struct {
	session    *session
	corr       uint32
	part       *partition
	id         uint64 // 0: not idempotent
	epoch      uint16
	idempotent bool

	opened  bool
	closing bool // CLOSE came: OK follows the last answer
	waiting int  // batches not yet answered
	ack     wire.Ack
	gather  bool // ack holds a range not yet written

	subject []byte          // the last one found to be captured and allowed
	in      *cluster.Stream // as it was when that was found
}

// publication is one batch on its way. It belongs to Raft from Publish to Committed, then to the loop.
type publication struct {
	raft.Pending
	producer *producer
	bytes    int64
	span     *telemetry.Span // nil: not traced
}

// contained is done; a panic in it costs the producer's session and no other.
func (p *producer) contained(pub *publication) {
	defer p.session.contain()
	p.done(pub)
}

// done answers the batch, on the loop. Ranges that continue each other are gathered into one
// ACK, which is written when the round ends or a range does not continue.
func (p *producer) done(pub *publication) {
	s := p.session
	s.inFlight -= pub.bytes
	p.waiting--
	p.count(pub)
	if s.state != stateClosed && s.conversations[p.corr] == conversation(p) {
		if pub.Err != nil {
			p.flushAck()
			p.refuse(pub.Sequence, pub.Err)
		} else {
			p.acked(pub)
		}
	}
	*pub = publication{}
	s.node.publications.Put(pub)
	if p.closing && p.waiting == 0 {
		p.finish()
	}
}

// count counts the batch, and ends its span.
func (p *producer) count(pub *publication) {
	code := wire.Code(0)
	if pub.Err == nil {
		p.session.loop.count.Acknowledged(pub.Count, pub.bytes)
	} else {
		code = p.session.node.codeOf(pub.Err)
		p.session.loop.count.RefusedBatch(code, pub.bytes)
	}
	pub.span.Published(code, uint64(pub.Offset))
}

func (p *producer) acked(pub *publication) {
	a := &p.ack
	if p.gather && a.Sequence+a.Count == pub.Sequence && a.Offset+a.Count == uint64(pub.Offset) &&
		a.Epoch == uint64(pub.Term) && a.Quorum == pub.Quorum && a.Voters == pub.Voters {
		a.Count += uint64(pub.Count)
		return
	}
	p.flushAck()
	*a = wire.Ack{Quorum: pub.Quorum, Voters: pub.Voters, Sequence: pub.Sequence, Count: uint64(pub.Count),
		Offset: uint64(pub.Offset), Epoch: uint64(pub.Term)}
	p.gather = true
	p.session.gathered = append(p.session.gathered, p)
	p.session.touch()
}

// flushAck writes the gathered ACK, if there is one.
func (p *producer) flushAck() {
	if p.gather {
		p.gather = false
		p.session.out = p.ack.AppendTo(p.session.output(), p.corr)
	}
}

// refuse answers the batch that begins at sequence with an error. The producer stays open.
func (p *producer) refuse(sequence uint64, err error) {
	we := *p.session.node.wireError(err)
	we.Bits |= wire.ErrorOneBatch
	we.Sequence = sequence
	p.session.out = we.AppendTo(p.session.output(), p.corr)
}

// end implements conversation.
func (p *producer) end() {
	if p.opened {
		p.session.loop.count.Producers.Add(-1)
	}
	if p.session.last == p {
		p.session.last = nil
	}
}

// close serves CLOSE: OK comes after the answers to what is in flight.
func (p *producer) close() {
	p.closing = true
	if p.waiting == 0 {
		p.finish()
	}
}

func (p *producer) finish() {
	s := p.session
	if s.conversations[p.corr] != conversation(p) {
		return
	}
	p.flushAck()
	s.finish(p.corr)
	s.out = wire.AppendEmpty(s.output(), wire.OpOK, p.corr)
}

// publish serves PUBLISH. An error ends the connection; what is wrong with one batch is answered
// on the producer.
func (s *session) publish(f wire.Frame) error {
	p := s.last
	if p == nil || s.lastCorr != f.Corr {
		var ok bool
		if p, ok = s.conversations[f.Corr].(*producer); !ok || !p.opened {
			// Not the end of the connection: after an OPEN was refused, batches sent behind it arrive.
			s.misplaced(f.Corr, &wire.Error{Code: wire.CodeState, Bits: wire.ErrorEndsCorr,
				Message: fmt.Sprintf("PUBLISH on Corr %d, which is no opened producer", f.Corr)})
			return nil
		}
		s.last, s.lastCorr = p, f.Corr
	}
	b, err := wire.ParsePublish(f.Body)
	if err != nil {
		return err
	}
	if err := p.admit(&b); err != nil {
		code := s.node.codeOf(err)
		s.costly, s.asking = true, code != wire.CodeOverloaded && code != wire.CodeShutdown // what is the node's doing is not held against it
		s.loop.count.RefusedBatch(code, int64(len(b.Bytes)))
		p.flushAck() // answers keep the order of sequences
		p.refuse(b.Sequence, err)
		return nil
	}
	pub := s.node.publications.Get().(*publication)
	*pub = publication{Pending: raft.Pending{Producer: p.id, Epoch: p.epoch, Sequence: b.Sequence, Count: b.Count},
		producer: p, bytes: int64(len(b.Bytes))}
	pub.Owner = pub
	if s.node.tracer.Sample() {
		pub.span = s.node.tracer.Publish(p.part.stream().Name, p.part.number, b.Count, len(b.Bytes))
		pub.Times = &pub.span.Times
	}
	s.inFlight += pub.bytes
	p.waiting++
	s.loop.shared = true
	err = p.part.raft.Enqueue(&pub.Pending, b.Bytes)
	s.loop.shared = false
	if err != nil {
		pub.Err = err
		p.done(pub)
		return nil
	}
	s.node.space.took(pub.bytes) // behind the budget, which took it in Enqueue: a look counts it in one of them at least
	s.loop.enqueued(p.part)
	return nil
}

// admit decides whether the batch may go on. It runs once a batch, on the loop, and its only
// walk over the records is to see that they are what the header says.
func (p *producer) admit(b *wire.Batch) error {
	s := p.session
	switch {
	case p.closing:
		return &wire.Error{Code: wire.CodeState, Message: "PUBLISH after CLOSE"}
	case s.state == stateDraining:
		return errDraining
	case s.node.space.full.Load():
		return s.node.space.refusal()
	case p.part.gone.Load():
		return cluster.UnknownStream(p.part.stream().Name, "was deleted")
	case p.waiting >= wire.MaxInFlightBatches:
		return &wire.Error{Code: wire.CodeInFlight, Bits: wire.ErrorRetriable, Value: wire.MaxInFlightBatches,
			Message: fmt.Sprintf("%d batches of this producer in flight, limit %d: wait for an ACK", p.waiting, wire.MaxInFlightBatches)}
	case s.inFlight+int64(len(b.Bytes)) > s.inFlightLimit():
		return &wire.Error{Code: wire.CodeInFlight, Bits: wire.ErrorRetriable, Value: uint64(s.inFlightLimit()),
			Message: fmt.Sprintf("%d bytes of batches in flight on this connection, limit %d: wait for an ACK", s.inFlight, s.inFlightLimit())}
	}
	if err := b.Verify(); err != nil {
		return err
	}
	if !b.Mixed() {
		if err := p.allow(b.Subject); err != nil {
			return err
		}
	}
	// A compressed batch is stored as it came, but opened here once, at most MaxBatch of it: one
	// whose records do not decode would be every reader's trouble.
	s.costly = b.Compressed() || b.Mixed()
	if b.Compressed() {
		if s.loop.scratch == nil {
			s.loop.scratch = make([]byte, 0, wire.MaxBatch)
		}
	}
	raw, err := b.Raw(s.loop.scratch)
	if err != nil {
		return badBatch(err)
	}
	s.asking = len(raw) > muchExpanded*len(b.Bytes)
	if err := b.Check(raw); err != nil {
		return badBatch(err)
	}
	if b.Mixed() {
		return p.allowAll(b.Iterate(raw), len(b.Bytes))
	}
	return nil
}

// muchExpanded is the compression from which a batch is paced as requests are: who sends a thousand bytes must not have
// the loop look through a million as fast as they come. What people have to say seldom compresses to a thirtieth.
const muchExpanded = 64

const (
	// mixedSubjects is how many subjects of a mixed batch are remembered, where they are compared with few filters: what comes again
	// beyond that is compared again.
	mixedSubjects = 1024
	// mostMatches is how many subjects times filters of the stream one mixed batch may have the loop compare, in 7 to 15 ms. With up to
	// 16 filters no batch has that many.
	mostMatches = 1 << 20
	// manyMatches is from how many on it is paced, unless it has as many bytes.
	manyMatches = 1 << 15
)

// allowAll decides for each record of a mixed batch, once for each subject: a few bytes can hold tens of thousands.
func (p *producer) allowAll(it wire.Iterator, bytes int) error {
	l := p.session.loop
	if l.subjects == nil {
		l.subjects = make(map[string]struct{})
	}
	filters, matches, remember := len(p.part.stream().Subjects), 0, mixedSubjects
	if filters*math.MaxUint16 > mostMatches {
		remember = mostMatches / filters // and so each is counted once
	}
	defer func() {
		p.session.asking = p.session.asking || matches > max(manyMatches, bytes)
		if len(l.subjects) > mixedSubjects {
			l.subjects = nil // it would stay as large
		}
	}()
	clear(l.subjects)
	for rec := (wire.Record{}); it.Next(&rec); {
		if _, known := l.subjects[string(rec.Subject)]; known {
			continue
		}
		if matches += filters; matches > mostMatches {
			return &wire.Error{Code: wire.CodeLimit, Value: uint64(mostMatches / filters),
				Message: fmt.Sprintf("more than %d subjects in one batch for a stream of %d filters: send smaller batches", mostMatches/filters, filters)}
		}
		if err := p.allow(rec.Subject); err != nil {
			return err
		}
		if len(l.subjects) < remember {
			l.subjects[string(rec.Subject)] = struct{}{}
		}
	}
	return nil
}

// allow decides whether a record of this subject may be published here.
func (p *producer) allow(subject []byte) error {
	st := p.part.stream()
	if p.in == st && string(p.subject) == string(subject) {
		return nil
	}
	name := string(subject)
	if err := wire.ValidSubject(name); err != nil {
		return err
	}
	if !st.Captures(name) {
		return &wire.Error{Code: wire.CodeSubjectMismatch,
			Message: fmt.Sprintf("subject %q is not captured by stream %q (%q): ask METADATA for its stream", name, st.Name, st.Subjects)}
	}
	if err := p.session.node.config().Authorizer.Authorize(&p.session.identity, auth.Publish, subject); err != nil {
		return err
	}
	p.subject, p.in = append(p.subject[:0], subject...), st
	return nil
}

func badBatch(err error) error {
	return &wire.Error{Code: wire.CodeBadBatch, Message: err.Error() + ": encode the batch again"}
}

// committed hands publications that are done to their loops: Raft calls it once per commit, on
// the state machine's goroutine.
func (n *Node) committed(done []*raft.Pending) {
	for i := 0; i < len(done); {
		// One lock for each run of the same loop. Owners are read before posting: afterwards
		// they belong to the loop.
		l := done[i].Owner.(*publication).producer.session.loop
		all := i == 0
		l.mu.Lock()
		for ; i < len(done); i++ {
			pub := done[i].Owner.(*publication)
			if pub.producer.session.loop != l {
				break
			}
			l.mail.done = append(l.mail.done, pub)
		}
		if all && i == len(done) {
			l.deliverLocked()
			return
		}
		l.mu.Unlock()
	}
	for _, l := range n.loops { // each is told once, of all that it has
		l.mu.Lock()
		if len(l.mail.done) > 0 {
			l.deliverLocked()
		} else {
			l.mu.Unlock()
		}
	}
}
