package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// defaultWindow is what a node may send ahead of the program.
const defaultWindow = 4 << 20

// Position is where reading goes on in one partition. Saved and given to FromPositions, it
// resumes there exactly.
type Position struct {
	Stream    string `json:"stream"`
	StreamID  uint64 `json:"stream_id"` // what counts: no later stream of that name has it
	Partition uint32 `json:"partition"`
	Offset    uint64 `json:"offset"` // of the next record
}

type partitionKey struct {
	stream    uint64
	partition uint32
}

// Subscription delivers the records of every stream and partition that its filter matches, also
// of those that come later. Records of one partition come in order, each once; there is no order
// between partitions.
//
// It survives lost connections: what is iterated goes on with the exact next record.
type Subscription struct {
	c      *Client
	filter string
	window int64

	mu       sync.Mutex
	start    wire.Start
	received map[partitionKey]uint64 // next offset to arrive, by partition
	queue    []item                  // arrived, not yet taken by the iterating goroutine
	held     int64                   // bytes arrived and not consumed
	owed     int64                   // bytes consumed whose credit is not given back
	granted  int64                   // the window of this session
	credit   int64                   // what the node may still send, as it knows it at best
	session  *subscriber
	opening  bool
	err      error       // final; comes after what is queued
	over     atomic.Bool // Close was called: what is queued is void
	wake     chan struct{}
	done     chan struct{} // closed with err

	reading sync.Mutex // held by the one that iterates
	cursor  cursor     // guarded by reading

	positions positions
}

// item is one RECORDS frame, or an error in its place.
type item struct {
	buf  *buffer
	body []byte // of the frame, in buf
	size int64  // of the frame: what it costs of the window
	err  error
}

// Subscribe begins to receive the records whose subject filter matches: a subject in which a token
// may be *, which stands for any one token, and the last may be >, which stands for one or more.
// Without an option it begins with what is published from now on.
//
// Records flow at once, up to the window, and wait for All or Each. Errors: ErrBadName,
// ErrLimit (the node's bound on windows is used up), ErrClosed, ctx's.
func (c *Client) Subscribe(ctx context.Context, filter string, opts ...SubscribeOption) (*Subscription, error) {
	if err := wire.ValidFilter(filter); err != nil {
		return nil, refused(err)
	}
	cfg := subscribeConfig{start: wire.Start{From: wire.FromNext}, window: defaultWindow}
	for _, o := range opts {
		o.subscribe(&cfg)
	}
	if cfg.window < 1 {
		return nil, fmt.Errorf("tidewire: Window: %d bytes is not above 0", cfg.window)
	}
	s := &Subscription{
		c:        c,
		filter:   filter,
		window:   int64(cfg.window),
		start:    cfg.start,
		received: make(map[partitionKey]uint64),
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
	s.cursor.s = s
	s.positions.m = make(map[partitionKey]*position)
	for _, p := range cfg.positions {
		s.beginAt(partitionKey{p.StreamID, p.Partition}, p.Stream, p.Offset)
	}
	switch cfg.start.From {
	case wire.FromNext, wire.FromLast, wire.FromOffset:
		for attempt := 0; ; attempt++ {
			err := s.resolve(ctx)
			if err == nil {
				break
			}
			if err = c.retry(ctx, attempt, false, err); err != nil {
				return nil, err
			}
		}
	}
	c.mu.Lock()
	if c.subs == nil || c.closing {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	c.subs[s] = struct{}{}
	c.mu.Unlock()
	for attempt := 0; ; attempt++ {
		err := s.openOnce(ctx)
		if err == nil {
			return s, nil
		}
		if err = c.retry(ctx, attempt, false, err); err != nil {
			s.Close()
			return nil, err
		}
	}
}

func (s *Subscription) beginAt(key partitionKey, stream string, offset uint64) {
	s.received[key] = offset
	s.positions.add(key, stream, offset)
}

// resolve turns FromNext, FromLast and FromOffset into offsets, once: a subscription that begins again after
// a lost connection must not begin with what is next by then, and an offset is meant for the one partition
// there is now. Partitions that come later are then read from their first record.
func (s *Subscription) resolve(ctx context.Context) error {
	top, err := s.c.metadata(ctx, wire.Metadata{Select: wire.SelectFilter, Name: s.filter})
	if errors.Is(err, ErrUnknownStream) {
		top, err = new(wire.Topology), nil // none yet: what comes is read from its first record
	}
	if err != nil {
		return err
	}
	start := s.start
	type place struct {
		key    partitionKey
		stream string
		offset uint64
	}
	var begin []place // in those that no position was given for
	partitions := 0
	for i := range top.Streams {
		info := &top.Streams[i]
		if info.Bits&wire.StreamDeleted != 0 {
			continue
		}
		partitions += len(info.Partitions)
		for n, p := range info.Partitions {
			key := partitionKey{info.ID, uint32(n)}
			if _, given := s.received[key]; given {
				continue
			}
			offset := p.HighWatermark
			switch {
			case start.From == wire.FromOffset:
				offset = start.Value
			case p.Leader == 0: // nobody knows where it ends
				return &Error{Code: wire.CodeNotLeader, Retriable: true,
					Message: fmt.Sprintf("stream %s, partition %d is not served at present", info.Name, n)}
			case start.From == wire.FromLast && offset > p.Start:
				offset--
			}
			begin = append(begin, place{key, info.Name, offset})
		}
	}
	if start.From == wire.FromOffset && partitions > 1 && len(begin) > 0 {
		return nil // an offset belongs to one: the node says so
	}
	s.start = wire.Start{From: wire.FromFirst}
	for _, p := range begin {
		s.beginAt(p.key, p.stream, p.offset)
	}
	return nil
}

// subscriber is a subscription's conversation on one connection.
type subscriber struct {
	s      *Subscription
	cn     *conn
	corr   uint32
	ready  bool       // OK came; only the reader goroutine looks
	result chan error // of SUBSCRIBE; buffered
}

// openOnce sends SUBSCRIBE on the current connection and waits for its answer.
func (s *Subscription) openOnce(ctx context.Context) error {
	cn, err := s.c.main(ctx)
	if err != nil {
		return err
	}
	sub := &subscriber{s: s, cn: cn, result: make(chan error, 1)}
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return s.err
	}
	cn.mu.Lock()
	granted := s.window
	if limit := int64(min(cn.welcome.CreditLimit, 1<<62)); cn.credit+granted > limit {
		granted = limit - cn.credit
	}
	var corr uint32
	if granted < 1 {
		err = &Error{
			Code:    wire.CodeLimit,
			Message: fmt.Sprintf("the other subscriptions use up the %d bytes the node sends ahead on one connection: give them a smaller Window, or another client", cn.welcome.CreditLimit),
			Value:   cn.welcome.CreditLimit,
		}
	} else if corr, err = cn.openLocked(sub); err == nil {
		cn.credit += granted
		sub.corr = corr
	}
	cn.mu.Unlock()
	if err != nil {
		s.mu.Unlock()
		if errors.Is(err, ErrDisconnected) {
			err = &notSent{err}
		}
		return err
	}
	s.session = sub
	s.granted = granted
	m := wire.Subscribe{
		Filter: s.filter,
		Start:  s.start,
		Credit: uint64(max(1, granted-s.held)),
	}
	for key, next := range s.received {
		m.Positions = append(m.Positions, wire.Position{Stream: key.stream, Partition: key.partition, Offset: next})
	}
	s.credit = int64(m.Credit)
	s.owed = granted - s.held - s.credit // below 0 if more had arrived than this window holds
	cn.out.add(m.AppendTo(nil, corr))    // under the lock: leaveLocked must come behind it
	s.mu.Unlock()
	cn.out.push()
	select {
	case err := <-sub.result:
		return err
	case <-ctx.Done():
		s.abandon(sub)
		return context.Cause(ctx)
	case <-s.done:
		return s.err
	}
}

// abandon leaves a session.
func (s *Subscription) abandon(sub *subscriber) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == sub {
		s.leaveLocked()
	}
}

func (s *Subscription) leaveLocked() {
	if sub := s.session; sub != nil {
		s.session = nil
		sub.cn.leave(wire.OpUnsub, sub.corr)
		sub.cn.ungrant(s.granted) // behind it: who takes the credit must come later at the node
		sub.answer(errLeft)
	}
}

// answer tells openOnce, which waits for one answer and may have left with another.
func (b *subscriber) answer(err error) {
	select {
	case b.result <- err:
	default:
	}
}

// errLeft ends the wait for the answer to a SUBSCRIBE that is no longer wanted.
var errLeft = fmt.Errorf("%w: subscribing again", ErrDisconnected)

func (cn *conn) ungrant(n int64) {
	cn.mu.Lock()
	cn.credit -= n
	cn.mu.Unlock()
}

func (b *subscriber) frame(cn *conn, f wire.Frame, own *buffer) error {
	switch {
	case f.Op == wire.OpRecords && b.ready:
		return b.s.records(b, f, own)
	case f.Op == wire.OpOK && !b.ready:
		b.ready = true
		b.answer(nil)
		return nil
	case f.Op == wire.OpError:
		var e wire.Error
		if err := e.Decode(f.Body); err != nil {
			return err
		}
		return b.error(&e)
	}
	return protocolError("%s to a subscription", f.Op)
}

func (b *subscriber) error(e *wire.Error) error {
	err := fromWire(e)
	if e.Bits&wire.ErrorEndsConnection != 0 {
		return err // lost tells the rest
	}
	if b.ready && e.Bits&wire.ErrorEndsCorr == 0 {
		return b.s.add(b, item{err: err})
	}
	b.cn.end(b.corr)
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if b.s.session == b {
		b.s.session = nil
		b.cn.ungrant(b.s.granted)
		if b.ready {
			b.s.endedLocked(err)
		}
	}
	if !b.ready {
		b.answer(err)
	}
	return nil
}

func (b *subscriber) lost(cn *conn, err error) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	current := b.s.session == b
	if current {
		b.s.session = nil
	}
	if !b.ready {
		b.answer(err)
	} else if current {
		b.s.reopenLocked(0)
	}
}

// endedLocked decides what follows when the node ended the conversation.
func (s *Subscription) endedLocked(err *Error) {
	switch {
	case err.Retriable || err.Code == wire.CodeNotLeader || err.Code == wire.CodeStaleMap:
		s.reopenLocked(err.RetryAfter)
	default:
		s.endLocked(err)
	}
}

// reopenLocked subscribes again in the background.
func (s *Subscription) reopenLocked(delay time.Duration) {
	if s.opening || s.err != nil {
		return
	}
	s.opening = s.c.spawn(func() {
		err := error(nil)
		if delay > 0 {
			err = s.c.sleep(s.c.ctx, 0, delay)
		}
		for attempt := 0; err == nil; attempt++ {
			if err = s.openOnce(s.c.ctx); err == nil {
				break
			}
			err = s.c.retry(s.c.ctx, attempt, false, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.opening = false
		switch {
		case err != nil && s.c.ctx.Err() != nil:
			s.endLocked(ErrClosed)
		case err != nil:
			s.endLocked(err)
		case s.session == nil: // lost again before we came to say so
			s.reopenLocked(0)
		}
	})
}

// records takes one RECORDS frame, on the reader goroutine.
func (s *Subscription) records(b *subscriber, f wire.Frame, own *buffer) error {
	var h wire.RecordsHeader
	if _, err := h.Decode(f.Body); err != nil {
		return err
	}
	it := item{size: int64(wire.HeaderBytes + len(f.Body))}
	if own != nil {
		b.cn.kept = true
		it.buf, it.body = own, f.Body
	} else {
		it.buf = getBuffer(len(f.Body))
		copy(it.buf.b, f.Body)
		it.body = it.buf.b
	}
	s.mu.Lock()
	if s.session != b || s.err != nil {
		s.mu.Unlock()
		it.buf.free()
		return nil
	}
	if s.credit <= 0 {
		s.mu.Unlock()
		it.buf.free()
		return protocolError("RECORDS without credit: the window is %d bytes", s.granted)
	}
	s.credit -= it.size
	key := partitionKey{h.Stream, h.Partition}
	s.received[key] = max(s.received[key], h.Next)
	s.addLocked(it)
	s.mu.Unlock()
	return nil
}

func (s *Subscription) add(b *subscriber, it item) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == b && s.err == nil {
		s.addLocked(it)
	}
	return nil
}

func (s *Subscription) addLocked(it item) {
	s.held += it.size
	s.queue = append(s.queue, it)
	if len(s.queue) == 1 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// consumed gives the node credit for a frame the program is done with, half a window at a time.
func (s *Subscription) consumed(size int64) {
	s.mu.Lock()
	s.held -= size
	s.owed += size
	sub := s.session
	if sub == nil || s.owed*2 < s.granted {
		s.mu.Unlock()
		return
	}
	give := s.owed
	s.owed = 0
	s.credit += give
	s.mu.Unlock()
	sub.cn.out.add(wire.Credit{Bytes: uint64(give)}.AppendTo(nil, sub.corr))
	sub.cn.out.push()
}

// end ends the subscription with an error, after what has arrived is delivered.
func (s *Subscription) end(err error) {
	s.mu.Lock()
	s.endLocked(err)
	s.mu.Unlock()
}

func (s *Subscription) endLocked(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	close(s.done)
	s.leaveLocked()
}

// Close ends the subscription: an iteration ends with ErrSubscriptionClosed, and what has arrived
// is dropped. Positions still tells where it stood.
func (s *Subscription) Close() error {
	s.over.Store(true)
	s.mu.Lock()
	s.endLocked(ErrSubscriptionClosed)
	s.clearLocked()
	s.mu.Unlock()
	s.c.mu.Lock()
	delete(s.c.subs, s)
	s.c.mu.Unlock()
	return nil
}

// clearLocked drops what has arrived and was not taken.
func (s *Subscription) clearLocked() {
	for _, it := range s.queue {
		s.held -= it.size
		it.buf.free()
	}
	clear(s.queue)
	s.queue = s.queue[:0]
}

// restart subscribes anew behind what was delivered. The iterating goroutine calls it.
func (s *Subscription) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clearLocked()
	clear(s.received)
	for _, p := range s.Positions() {
		s.received[partitionKey{p.StreamID, p.Partition}] = p.Offset
	}
	s.leaveLocked()
	s.reopenLocked(s.c.cfg.backoff(0))
}
