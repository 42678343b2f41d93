package broker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/broker/telemetry"
)

// loop is what one event loop owns. Who holds own touches its fields and those of its sessions, and that is the loop itself
// but for a moment now and then: see deliverLocked. Only the loop itself calls gnet, in which each of its connections lives.
type loop struct {
	node      *Node
	index     int
	events    gnet.EventLoop // nil until its first connection, written under mu
	sessions  map[*session]struct{}
	touched   []*session            // have output to write
	parked    []*session            // have cursors that wait for outbound memory, or for their client
	unparked  []*session            // the slice of the last round, for the next
	unparking bool                  // they will be looked at
	free      [][]byte              // output buffers, for reuse
	freeSize  int                   // their bytes
	yielded   []func()              // those that gave way to others, in order
	resuming  bool                  // resume is on its way
	paced     []func()              // those that gave way and are to use a part of the loop only, in order
	pacing    bool                  // their turn will come
	began     time.Time             // when what the loop does now began: see over
	filled    []*partition          // have batches enqueued in this round
	scratch   []byte                // a batch decompressed to be checked
	subjects  map[string]struct{}   // of a mixed batch, those that are allowed
	sweeping  bool                  // a sweep is due, or goes on
	unswept   []*session            // that it has still to look at
	unsent    map[*session]struct{} // have something accounted as outbound memory
	count     *telemetry.Loop
	heart     heart
	shared    bool // inside what other loops share: a panic there ends the process

	own     sync.Mutex  // taken before mu, or not waited for
	wanted  atomic.Bool // the loop's goroutine waits for own: nobody else takes it before
	serving bool        // the loop's goroutine holds own; only that looks here
	lent    bool        // another goroutine holds own

	mu     sync.Mutex // guards mail, spare and waking; never held while anything blocks
	mail   mailbox
	waking bool    // an Execute is on its way
	spare  mailbox // the slices of the last round, for the next

	ending sync.RWMutex // held shared while gnet's loop is woken; guards ended
	ended  bool         // gnet's loop is about to end, and is not woken any more
}

func newLoop(n *Node, index int) *loop {
	return &loop{node: n, index: index, sessions: make(map[*session]struct{}), unsent: make(map[*session]struct{}), count: n.metrics.Loop(index)}
}

// mailbox is what other goroutines left for a loop.
type mailbox struct {
	done     []*publication // committed, refused or failed
	advanced []*watch       // partitions whose high watermark moved
	reads    []*cursor      // cursors whose read has ended
	calls    []func()       // anything rare
}

func (l *loop) postAdvanced(w *watch) {
	l.mu.Lock()
	l.mail.advanced = append(l.mail.advanced, w)
	l.deliverLocked()
}

func (l *loop) postRead(c *cursor) {
	l.mu.Lock()
	l.mail.reads = append(l.mail.reads, c)
	l.wakeLocked()
}

// post has the loop call f.
func (l *loop) post(f func()) {
	l.mu.Lock()
	l.mail.calls = append(l.mail.calls, f)
	l.wakeLocked()
}

// turn is for how long a loop serves one connection, or what was left in its mailbox, before others have their turn:
// time enough for a thousand small batches.
const turn = 250 * time.Microsecond

// askTurn is the same for what is paced, together: who publishes meanwhile waits for it.
const askTurn = turn / 3

// over tells whether this turn has lasted long enough. Who asks then yields with what is left. A turn that begins is not
// over, so that something is done in each.
func (l *loop) over() bool { return l.lasts(turn) }

// lasts tells whether this turn has lasted for longer than that.
func (l *loop) lasts(than time.Duration) bool { return time.Since(l.began) > than }

// yield has the loop call f when it has looked at its other connections. All that yield share a turn, however many
// they are.
func (l *loop) yield(f func()) { l.yielded = append(l.yielded, f) }

// resumeLater sees to it that those who yielded go on. It is the last that the loop does before it returns to gnet, and
// another goroutine posts: gnet runs all there is to execute, also what comes meanwhile, before it looks at sockets again.
func (l *loop) resumeLater() {
	if len(l.yielded) > 0 && !l.resuming {
		l.resuming = true
		go l.post(l.resume)
	}
}

func (l *loop) resume() {
	l.resuming = false
	l.take(&l.yielded, turn)
}

// pace is yield for what takes a loop long by little that was sent: together they get a turn in every pause. If nobody
// else waits, f is called after wait.
func (l *loop) pace(f func(), wait time.Duration) {
	l.paced = append(l.paced, f)
	if !l.pacing {
		l.pacing = true
		l.paceLater(wait)
	}
}

// restAfter is how long those that are paced wait when they had the loop for so long: as long as nine turns at least, and nineteen
// times as long as they had it, so that they get a thirtieth of it, or a twentieth with what takes long by itself. With a fifth the
// p99 of a neighbour grew by a third where one client made and ended cursors without an end. The bound is for a machine that stands
// still.
func restAfter(took time.Duration) time.Duration {
	return min(max(9*turn, 19*took), 100*time.Millisecond)
}

func (l *loop) paceLater(wait time.Duration) {
	time.AfterFunc(wait, func() {
		l.post(func() {
			began := time.Now()
			l.take(&l.paced, askTurn)
			if l.pacing = len(l.paced) > 0; l.pacing {
				l.paceLater(restAfter(time.Since(began)))
			}
		})
	})
}

// take calls those in the queue for so long. They may queue again.
func (l *loop) take(queue *[]func(), turn time.Duration) {
	l.began = time.Now()
	for len(*queue) > 0 && !l.lasts(turn) {
		f := (*queue)[0]
		(*queue)[0] = nil
		if *queue = (*queue)[1:]; len(*queue) == 0 {
			*queue = nil
		}
		f()
	}
}

// wakeLocked releases mu, and wakes the loop unless it has been woken for this mail already.
func (l *loop) wakeLocked() {
	if l.events == nil { // no session, so nobody to do it for
		l.mail = mailbox{}
		l.mu.Unlock()
		return
	}
	wake := !l.waking
	l.waking = true
	events := l.events
	l.mu.Unlock()
	if wake {
		l.wake(events)
	}
}

// wake has gnet call Run, unless the loop is about to end: its sessions are closed then and nobody waits. gnet would write
// to a descriptor that it closes when it ends, and whose number may be a segment's by now.
func (l *loop) wake(events gnet.EventLoop) {
	l.ending.RLock()
	defer l.ending.RUnlock()
	if l.ended {
		return
	}
	if err := events.Execute(context.Background(), l); err != nil {
		l.node.log.Error("an event loop cannot be woken", zap.Error(err))
	}
}

// end has nobody wake the loop any more.
func (l *loop) end() {
	l.ending.Lock()
	l.ended = true
	l.ending.Unlock()
}

// serve does what gnet has the loop do. gnet calls OnClose out of other calls too.
func (l *loop) serve(do func()) {
	if l.serving {
		do()
		return
	}
	if !l.own.TryLock() {
		l.wanted.Store(true)
		l.own.Lock()
		l.wanted.Store(false)
	}
	l.serving = true
	defer func() {
		l.serving = false
		l.own.Unlock()
	}()
	do()
	l.resumeLater()
}

// Run empties the mailbox, on the loop. It implements gnet.Runnable.
func (l *loop) Run(context.Context) error {
	l.serve(l.empty)
	return nil
}

func (l *loop) empty() {
	l.mu.Lock()
	mail := l.takeMailLocked()
	l.waking = false
	l.mu.Unlock()
	l.began = time.Now()
	l.news(&mail)
	for i, c := range mail.reads {
		c.contained((*cursor).readDone)
		mail.reads[i] = nil
	}
	for i, f := range mail.calls {
		f()
		mail.calls[i] = nil
	}
	l.flush()
	l.emptied(&mail)
}

func (l *loop) takeMailLocked() mailbox {
	mail := l.mail
	l.mail, l.spare = l.spare, mailbox{}
	return mail
}

// emptied takes back what takeMailLocked gave.
func (l *loop) emptied(m *mailbox) {
	l.mu.Lock()
	l.spare = mailbox{m.done[:0], m.advanced[:0], m.reads[:0], m.calls[:0]}
	l.mu.Unlock()
}

// news tells sessions what was committed.
func (l *loop) news(m *mailbox) {
	for i, p := range m.done {
		p.producer.contained(p)
		m.done[i] = nil
	}
	for i, w := range m.advanced {
		w.posted.Store(false) // before the cursors look at the watermark, so that no later move is missed
		w.feed()
		m.advanced[i] = nil
	}
}

// enqueued has the partition's batches go to Raft when this round ends, all in one entry.
func (l *loop) enqueued(p *partition) {
	if w := p.watches[l.index]; !w.filled {
		w.filled = true
		l.filled = append(l.filled, p)
	}
}

// flush sends on what this round enqueued, and writes what its sessions have to say, one write each.
func (l *loop) flush() {
	for i, p := range l.filled {
		p.watches[l.index].filled = false
		p.raft.Flush()
		l.filled[i] = nil
	}
	l.filled = l.filled[:0]
	for i := 0; i < len(l.touched); i++ { // a write that fails closes a session, which may touch others
		l.touched[i].contained((*session).flush)
		l.touched[i] = nil
	}
	l.touched = l.touched[:0]
}

// freeBytes bounds the output buffers a loop keeps for reuse.
const freeBytes = 8 << 20

func (l *loop) buffer() []byte {
	n := len(l.free)
	if n == 0 {
		return make([]byte, 0, 4<<10)
	}
	b := l.free[n-1]
	l.free[n-1] = nil
	l.free = l.free[:n-1]
	l.freeSize -= cap(b)
	return b
}

func (l *loop) release(b []byte) {
	if l.freeSize+cap(b) <= int(min(freeBytes, l.node.config().OutboundMemory/8)) {
		l.free = append(l.free, b[:0])
		l.freeSize += cap(b)
	}
}

// parkRetry is how soon a parked cursor is looked at again: gnet says nothing when a client has read.
const parkRetry = 5 * time.Millisecond

// park has the session's parked cursors looked at again.
func (l *loop) park(s *session) {
	l.parked = append(l.parked, s)
	if !l.unparking {
		l.unparking = true
		l.unparkLater()
	}
}

func (l *loop) unparkLater() { time.AfterFunc(parkRetry, func() { l.post(l.unpark) }) }

// unpark looks at all sessions that have parked cursors.
func (l *loop) unpark() {
	for s := range l.unsent {
		s.account()
	}
	parked := l.parked
	l.parked, l.unparked = l.unparked, nil
	l.began = time.Now() // a turn of their own, however long it took to get here
	for i, s := range parked {
		if l.over() {
			l.parked = slices.Insert(l.parked, 0, parked[i:]...) // the first of the next round
			clear(parked[i:])
			break
		}
		s.unparking = false
		s.contained((*session).unpark)
		if len(s.parked)+len(s.loaded) > 0 && !s.unparking {
			s.unparking = true
			l.parked = append(l.parked, s)
		}
		parked[i] = nil
	}
	l.unparked = parked[:0]
	if l.unparking = len(l.parked) > 0; l.unparking {
		l.unparkLater()
	}
}

// park has the cursor wait until its client has taken something, or the node has memory again.
func (s *session) park(c *cursor) {
	if c.pending {
		s.loaded = append(s.loaded, c)
	} else {
		s.parked = append(s.parked, c)
	}
	if !s.unparking {
		s.unparking = true
		s.loop.park(s)
	}
}

// unpark feeds the session's parked cursors, each once at most, as long as they may go on: first those that have a frame.
func (s *session) unpark() {
	if s.state == stateClosed {
		s.parked, s.loaded = nil, nil
		return
	}
	s.feedParked(&s.loaded, func() bool { return true })
	s.feedParked(&s.parked, func() bool { return s.mayRead(hotExtra) })
}

func (s *session) feedParked(queue *[]*cursor, may func() bool) {
	for range len(*queue) {
		if len(*queue) == 0 || s.closing || s.state == stateClosed || s.full() || s.loop.over() || !may() {
			return
		}
		c := (*queue)[0]
		(*queue)[0] = nil
		if *queue = (*queue)[1:]; len(*queue) == 0 {
			*queue = nil
		}
		if c.state != cursorParked {
			s.parkedGone--
			continue
		}
		c.state = cursorIdle
		c.feed()
	}
}

// unparked notes that a parked cursor has ended. Those are forgotten when they are many: a client that takes nothing may end
// one after the other.
func (s *session) unparked() {
	if s.parkedGone++; s.parkedGone < max(64, (len(s.parked)+len(s.loaded))/2) {
		return
	}
	gone := func(c *cursor) bool { return c.state != cursorParked }
	s.parked, s.loaded, s.parkedGone = slices.DeleteFunc(s.parked, gone), slices.DeleteFunc(s.loaded, gone), 0
}

// sweepInterval is how long after one look at the deadlines of all connections the next begins.
const sweepInterval = time.Second

func (l *loop) sweepLater() {
	if !l.sweeping && len(l.sessions) > 0 {
		l.sweeping = true
		time.AfterFunc(sweepInterval, func() { l.post(l.sweep) })
	}
}

// sweep closes connections that are late with their handshake or silent for too long.
func (l *loop) sweep() {
	for s := range l.sessions {
		l.unswept = append(l.unswept, s)
	}
	l.sweepOn()
}

// sweepOn looks at those that are left, for a turn: there may be thousands.
func (l *loop) sweepOn() {
	now := time.Now()
	for len(l.unswept) > 0 {
		if l.over() {
			l.yield(l.sweepOn)
			return
		}
		last := len(l.unswept) - 1
		s := l.unswept[last]
		l.unswept[last] = nil
		l.unswept = l.unswept[:last]
		if s.state != stateClosed {
			s.contained(func(s *session) {
				s.account() // gnet sends on by itself, and tells nobody
				s.relieve()
				s.weigh()
				s.checkDeadlines(now)
			})
		}
	}
	l.sweeping = false
	l.sweepLater()
}
