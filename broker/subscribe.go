package broker

import (
	"fmt"
	"slices"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
)

// subscription is a Corr that SUBSCRIBE made: a cursor in each partition of each stream its
// filter meets. It lives on its session's loop.
type subscription struct {
	session *session
	corr    uint32
	pattern string
	credit  int64 // bytes that may still be pushed; the last frame may overdraw it
	asked   int64 // bytes that reads under way were asked for
	cursors map[partKey]*cursor
	turn    []*cursor              // those that wait for credit, in the order they will be fed
	left    map[partKey]wire.Start // where it goes on in partitions of streams that were deleted: they may come back
}

// mostLeft bounds what one connection's subscriptions remember of deleted streams; what is beyond that begins at its first record.
const mostLeft = 4096

// subscribe serves SUBSCRIBE.
func (s *session) subscribe(corr uint32, q *wire.Subscribe) error {
	if err := wire.ValidFilter(q.Filter); err != nil {
		return err
	}
	if q.Consumer != "" {
		return &wire.Error{Code: wire.CodeUnsupported, Message: fmt.Sprintf("consumer %q: this node has no named consumers", q.Consumer)}
	}
	if err := s.authorize(auth.Read, q.Filter); err != nil {
		return err
	}
	if err := s.grant(q.Credit); err != nil {
		return err
	}
	sub := &subscription{session: s, corr: corr, pattern: q.Filter, credit: int64(q.Credit), cursors: make(map[partKey]*cursor)}
	if err := s.converse(corr, sub); err != nil {
		s.spend(sub.credit)
		return err
	}
	s.loop.count.Subscriptions.Add(1)
	type place struct {
		start  wire.Start
		filter string
	}
	resume := make(map[partKey]place) // for the partitions that the filter meets
	type state struct{ now, coming *cluster.Stream }
	type sight struct {
		meets  bool
		filter string
	}
	seen := make(map[state]sight) // looked at once: some streams have thousands of partitions and hundreds of subjects
	all := s.node.partitions.all()
	for key, p := range all {
		st := state{p.stream(), p.coming.Load()}
		of, known := seen[st]
		if !known {
			if of.meets = overlaps(st.now, q.Filter); of.meets {
				of.filter = sub.filterFor(st.now, st.coming)
			}
			seen[st] = of
		}
		if of.meets {
			resume[key] = place{q.Start, of.filter}
		}
	}
	if err := s.roomForCursors(q.Filter, len(resume)); err != nil {
		s.finish(corr)
		return err
	}
	given := make(map[partKey]struct{})
	for _, p := range q.Positions { // hundreds of thousands, perhaps: what the filter does not meet is kept within bounds
		key, start := partKey{p.Stream, p.Partition}, wire.Start{From: wire.FromOffset, Value: p.Offset}
		if at, met := resume[key]; met {
			resume[key], given[key] = place{start, at.filter}, struct{}{}
		} else { // deleted at present, perhaps
			sub.leave(key, start)
		}
	}
	if q.Start.From == wire.FromOffset && len(resume) > 1 && len(given) < len(resume) {
		s.finish(corr)
		return &wire.Error{Code: wire.CodeUnsupported,
			Message: fmt.Sprintf("filter %q meets %d partitions, and an offset belongs to one: give a position for each", q.Filter, len(resume))}
	}
	s.out = wire.AppendEmpty(s.output(), wire.OpOK, corr)
	for key, at := range resume {
		if sub.attach(key, all[key], at.filter, at.start); s.conversations[corr] != conversation(sub) {
			return nil // that place does not exist, and it has been told
		}
	}
	return nil
}

// roomForCursors refuses to read more partitions at a time than one connection may.
func (s *session) roomForCursors(filter string, more int) error {
	limit := s.node.config().MaxCursors
	if s.cursors+more <= limit {
		return nil
	}
	return &wire.Error{Code: wire.CodeLimit, Value: uint64(limit), Message: fmt.Sprintf(
		"filter %q meets %d partitions beside %d that this connection reads already, limit %d: use narrower filters, or more connections",
		filter, more, s.cursors, limit)}
}

// filterFor is what a cursor has to look for in a partition of a stream as it is now, and is about to be unless coming is nil;
// "" if it may see everything.
func (sub *subscription) filterFor(now, coming *cluster.Stream) string {
	if !covers(now, sub.pattern) || coming != nil && !covers(coming, sub.pattern) {
		return sub.pattern
	}
	return ""
}

// attach begins reading a partition.
func (sub *subscription) attach(key partKey, p *partition, filter string, start wire.Start) {
	if _, ok := sub.cursors[key]; ok || sub.session.conversations[sub.corr] != conversation(sub) {
		return // or it ended at the partition before
	}
	c := &cursor{session: sub.session, part: p, sink: sub, corr: sub.corr, start: start, filter: filter}
	sub.cursors[key] = c
	sub.session.cursors++
	if err := c.locate(); err != nil {
		c.fail(err)
		return
	}
	c.feed()
}

// detach ends reading a partition. Call tidy when all that go have gone.
func (sub *subscription) detach(key partKey, c *cursor) {
	delete(sub.cursors, key)
	sub.session.cursors--
	c.end()
}

// tidy forgets those that have ended while they waited for credit.
func (sub *subscription) tidy() {
	sub.turn = slices.DeleteFunc(sub.turn, func(c *cursor) bool { return c.state == cursorEnded })
}

// end implements conversation.
func (sub *subscription) end() {
	if sub.credit > 0 {
		sub.session.spend(sub.credit)
	}
	sub.session.loop.count.Subscriptions.Add(-1)
	sub.session.left -= len(sub.left)
	sub.turn, sub.left = nil, nil
	for _, c := range sub.cursors {
		c.end()
	}
	sub.session.cursors -= len(sub.cursors)
	clear(sub.cursors)
}

// starved implements sink.
func (sub *subscription) starved(c *cursor) { sub.turn = append(sub.turn, c) }

// open implements sink.
func (sub *subscription) open() bool { return sub.credit > 0 }

// room implements sink.
func (sub *subscription) room() int { return int(max(sub.credit-sub.asked, 0)) }

// reserve implements sink.
func (sub *subscription) reserve(bytes int) { sub.asked += int64(bytes) }

// release implements sink.
func (sub *subscription) release(bytes int) { sub.asked -= int64(bytes) }

// woken implements sink.
func (sub *subscription) woken() {
	if sub.credit > 0 {
		sub.feed()
	}
}

// ready implements sink.
func (sub *subscription) ready(_ *cursor, size int) bool {
	used := min(int64(size), max(sub.credit, 0))
	sub.session.spend(used)
	sub.credit -= int64(size)
	return true
}

// caughtUp implements sink.
func (sub *subscription) caughtUp(*cursor) bool { return true }

// failed implements sink: the subscription is told and goes on behind what it cannot have,
// unless it asked for what never was.
func (sub *subscription) failed(c *cursor, err error, passed bool) bool {
	s := sub.session
	we := *s.node.readError(c, err)
	if !passed {
		s.finish(sub.corr)
		s.refuseRequest(sub.corr, &we)
		return false
	}
	s.out = we.AppendTo(s.output(), sub.corr)
	return true
}

// grant counts credit a client gives.
func (s *session) grant(bytes uint64) error {
	if limit := s.creditLimit(); bytes > uint64(limit) || s.credit+int64(bytes) > limit {
		return &wire.Error{Code: wire.CodeCredit, Value: uint64(limit),
			Message: fmt.Sprintf("%d bytes of credit on top of %d, limit %d on a connection", bytes, s.credit, limit)}
	}
	s.credit += int64(bytes)
	s.loop.count.Credit.Add(int64(bytes))
	return nil
}

// spend takes back credit that was used, or whose subscription has ended.
func (s *session) spend(bytes int64) {
	s.credit -= bytes
	s.loop.count.Credit.Add(-bytes)
}

// creditFrame serves CREDIT. An error ends the connection.
func (s *session) creditFrame(f wire.Frame) error {
	s.costly = true // it may have many cursors go on
	var cr wire.Credit
	if err := cr.Decode(f.Body); err != nil {
		return err
	}
	sub, ok := s.conversations[f.Corr].(*subscription)
	if !ok {
		return nil // it ended while the credit was on its way
	}
	// What was overdrawn is paid back first; it counts no more as outstanding.
	owed := uint64(max(-sub.credit, 0))
	if cr.Bytes > owed {
		if err := s.grant(cr.Bytes - owed); err != nil {
			return err
		}
	}
	sub.credit += int64(min(cr.Bytes, 1<<62))
	if sub.credit > 0 {
		sub.feed()
	}
	return nil
}

// feed wakes the cursors that wait for credit, in turn, so that no partition starves another.
func (sub *subscription) feed() {
	for sub.credit > 0 && len(sub.turn) > 0 {
		c := sub.turn[0]
		if c.state == cursorStarved && !c.pending && sub.room() == 0 {
			return // reads under way have been promised all of it, and end in woken
		}
		sub.turn = sub.turn[1:]
		if c.state == cursorStarved {
			c.state = cursorIdle
			c.feed()
		}
	}
}

// subscriptions yields those the session has open.
func (s *session) subscriptions(yield func(*subscription) bool) {
	for _, conv := range s.conversations {
		if sub, ok := conv.(*subscription); ok && !yield(sub) {
			return
		}
	}
}

// follow has subscriptions of this loop read partitions that have started.
func (l *loop) follow(started []*partition) {
	streams := make(map[uint64][]*partition)
	for _, p := range started {
		id := p.stream().ID
		streams[id] = append(streams[id], p)
	}
	for s := range l.sessions {
		for _, parts := range streams {
			s.contained(func(s *session) { s.follow(parts) })
		}
	}
}

// follow has the session's subscriptions read partitions of one stream that have started.
func (s *session) follow(parts []*partition) {
	for sub := range s.subscriptions {
		st := parts[0].stream()
		if !overlaps(st, sub.pattern) {
			continue
		}
		filter := sub.filterFor(st, parts[0].coming.Load()) // for all: subjects are only added, and all take over a stream together
		for _, p := range parts {
			key := partKey{st.ID, p.number}
			if _, ok := sub.cursors[key]; !ok {
				if err := s.roomForCursors(sub.pattern, 1); err != nil {
					s.refuse(sub.corr, err) // it goes on with what it has
					break
				}
				sub.attach(key, p, filter, sub.comesBack(key, p))
			}
		}
	}
}

// comesBack is where it begins in a partition that has started: where it stood, if the partition's stream was deleted meanwhile.
func (sub *subscription) comesBack(key partKey, p *partition) wire.Start {
	start, ok := sub.left[key]
	if !ok {
		return wire.Start{From: wire.FromFirst}
	}
	delete(sub.left, key)
	sub.session.left--
	if start.From == wire.FromOffset {
		start.Value = min(start.Value, uint64(p.raft.HighWatermark()))
	}
	return start
}

// leave remembers where it goes on in a partition that is not there now.
func (sub *subscription) leave(key partKey, start wire.Start) {
	if _, known := sub.left[key]; !known {
		if sub.session.left >= mostLeft {
			return
		}
		sub.session.left++
	}
	if sub.left == nil {
		sub.left = make(map[partKey]wire.Start)
	}
	sub.left[key] = start
}

// purged forgets a stream that does not come back.
func (l *loop) purged(stream uint64) {
	for s := range l.sessions {
		if s.left == 0 {
			continue
		}
		for sub := range s.subscriptions {
			for key := range sub.left {
				if key.stream == stream {
					delete(sub.left, key)
					s.left--
				}
			}
		}
	}
}

// forget ends the cursors in partitions that are going, and tells the client of each stream once.
// The subscription goes on with the others.
func (sub *subscription) forget(gone map[*partition]bool) {
	told := make(map[uint64]bool)
	for key, c := range sub.cursors {
		if !gone[c.part] {
			continue
		}
		sub.leave(key, c.place())
		sub.detach(key, c)
		if !told[key.stream] {
			told[key.stream] = true
			sub.session.refuse(sub.corr, cluster.UnknownStream(c.part.stream().Name, "was deleted; the subscription goes on with what else its filter meets"))
		}
	}
	sub.tidy()
}

// forget ends what reads from partitions that are going, and lets go of them where publishes come.
func (l *loop) forget(stopped []*partition) {
	gone := make(map[*partition]bool, len(stopped))
	for _, p := range stopped {
		gone[p] = true
	}
	for s := range l.sessions {
		s.contained(func(s *session) { s.forget(gone) })
	}
}

func (s *session) forget(gone map[*partition]bool) {
	for corr, conv := range s.conversations {
		switch conv := conv.(type) {
		case *subscription:
			conv.forget(gone)
		case *fetch:
			if gone[conv.cursor.part] {
				s.finish(corr)
				s.refuseRequest(corr, cluster.UnknownStream(conv.cursor.part.stream().Name, "was deleted"))
			}
		case *producer:
			if gone[conv.part] {
				conv.part = conv.part.remembrance() // its next batch is told
			}
		}
	}
}
