package raft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	hraft "github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/storage"
)

// Group is one Raft group on this node. Safe for concurrent use.
//
// It outlives the instances of hashicorp/raft inside it: installing a snapshot, and a leadership transfer
// that raft never ends, each stop one and start the next.
type Group struct {
	cfg    GroupConfig
	logs   *logStore
	snaps  *snapshotStore
	fsm    *fsm
	logger *zap.Logger

	failure atomic.Pointer[error]
	voters  atomic.Int32
	slots   chan struct{} // one for each proposal in raft's hands

	restartMu sync.Mutex // one start, stop or install at a time; before mu

	mu      sync.Mutex // guards what follows; taken under a partition's lock, so nothing is called under it
	run     *run       // nil while stopped
	stopped bool
	leads   bool
	leading chan struct{} // closed while it leads

	background sync.WaitGroup // snapshots
	snapshots  atomic.Int32   // snapshotSoon: 0 idle, 1 running, 2 running and asked for another
}

// StartGroup starts the group. On an empty log, unless cfg.Join says otherwise, it first becomes a
// group of one voter. A lone voter leads at once, without waiting for timers; see Leading.
//
// Errors: of cfg; ErrStable if term and vote are missing or older than the log; ErrLogLost if the log
// ends before its snapshot, or is empty though the group has voted; what the log returns.
func StartGroup(cfg GroupConfig) (*Group, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	g := &Group{
		cfg:     cfg,
		logger:  cfg.Logger.With(zap.Uint64("group", cfg.ID)),
		leading: make(chan struct{}),
		slots:   make(chan struct{}, cfg.MaxAppendEntries-reservedSlots),
	}
	g.logs = &logStore{
		log: cfg.Log, rule: cfg.rule, commit: g.commitIndex, rolled: g.snapshotSoon,
		applied: func() storage.Index { return storage.Index(g.fsm.applied.Load()) },
		failed:  g.Failed, fail: g.fail, logger: g.logger,
	}
	if cfg.alone() {
		g.logs.alone = g.loneConfiguration()
	}
	if cfg.Observer != nil {
		g.logs.writes = new(writeTimes)
	}
	g.fsm = &fsm{
		machine: cfg.Machine, header: g.logs.header, rule: cfg.rule,
		failed: g.Failed, fail: g.fail, configured: g.configured,
	}
	g.snaps = &snapshotStore{log: cfg.Log, fail: g.fail}
	if cfg.ready != nil {
		cfg.ready(g)
	}
	empty, err := g.checkState()
	if err != nil {
		return nil, err
	}
	if empty && !cfg.Join {
		if err := g.bootstrap(); err != nil {
			return nil, err
		}
	}
	g.restartMu.Lock()
	defer g.restartMu.Unlock()
	if err := g.start(); err != nil {
		return nil, err
	}
	return g, nil
}

// checkState compares log, snapshots and vote before raft is let near them.
func (g *Group) checkState() (empty bool, err error) {
	b := g.cfg.Log.Bounds()
	snaps := g.cfg.Log.Snapshots()
	vote, exists := g.cfg.Stable.state()
	hasEntries := b.Last >= b.First
	if !hasEntries && len(snaps) == 0 && b.First <= 1 {
		if (vote.term > 1 || vote.voteTerm > 0) && !g.cfg.Join {
			return false, &LogLostError{Group: g.cfg.ID}
		}
		return true, nil
	}
	lastTerm := storage.Term(0)
	if hasEntries {
		lastTerm = b.LastTerm
	}
	if len(snaps) > 0 {
		newest := snaps[len(snaps)-1]
		lastTerm = max(lastTerm, newest.Term)
		if newest.Index > b.Last && (hasEntries || b.First != newest.Index+1) {
			return false, &LogLostError{Group: g.cfg.ID, Last: b.Last, Expected: newest.Index}
		}
	} else if b.First > 1 {
		return false, &LogLostError{Group: g.cfg.ID, Last: b.Last, Expected: b.First - 1}
	}
	switch {
	case !exists:
		return false, &StableError{Group: g.cfg.ID, Reason: "missing, though the log has entries"}
	case storage.Term(vote.term) < lastTerm:
		return false, &StableError{Group: g.cfg.ID, Reason: fmt.Sprintf("term %d, though the log has entries of term %d", vote.term, lastTerm)}
	}
	return false, nil
}

// bootstrap makes this server the only voter: entry 1 of term 1 says so. It is what
// hraft.BootstrapCluster writes, but can be done again after a crash between its two writes.
func (g *Group) bootstrap() error {
	if err := g.logs.open(); err != nil {
		return err
	}
	if err := g.cfg.Stable.SetUint64([]byte(keyCurrentTerm), 1); err != nil {
		g.fail(err)
		return err
	}
	return g.logs.StoreLog(&hraft.Log{
		Index: 1, Term: 1, Type: hraft.LogConfiguration, Data: g.loneConfiguration(),
	})
}

// loneConfiguration has this server as the only voter.
func (g *Group) loneConfiguration() []byte {
	return hraft.EncodeConfiguration(hraft.Configuration{Servers: []hraft.Server{{
		Suffrage: hraft.Voter,
		ID:       hraft.ServerID(g.cfg.Server),
		Address:  hraft.ServerAddress(g.cfg.Server),
	}}})
}

// Stop ends the group: what is in flight is answered, a snapshot is taken if raft has applied anything since
// the last, so that the next start replays nothing, and raft is shut down. It waits for all
// of it, as long as the disk takes. The log stays open.
func (g *Group) Stop() {
	g.restartMu.Lock()
	g.mu.Lock()
	r := g.run
	g.stopped = true
	g.mu.Unlock()
	if r != nil {
		r.resolver.drain()
		if g.Failed() == nil {
			g.takeSnapshot(r)
		}
		g.halt(r)
	}
	g.restartMu.Unlock()
	g.background.Wait()
}

// ID is the group's number.
func (g *Group) ID() uint64 { return g.cfg.ID }

// Failed returns the error that ended the group, wrapped in ErrFailed; nil while it is sound.
func (g *Group) Failed() error {
	if p := g.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// fail ends the group. The first caller's error goes to Fatal.
func (g *Group) fail(err error) {
	wrapped := fmt.Errorf("%w: %w", ErrFailed, err)
	if g.failure.CompareAndSwap(nil, &wrapped) {
		g.logger.Error("the group stops: what is on disk is unknown", zap.Error(err))
		g.cfg.Fatal(err)
	}
}

// Applied is the index of the last entry applied here.
func (g *Group) Applied() storage.Index { return storage.Index(g.fsm.applied.Load()) }

// IsLeader reports whether this node leads and has applied everything committed before it led.
func (g *Group) IsLeader() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.leads
}

// Leading returns a channel that is closed while this node leads, as IsLeader tells it. Once
// leadership is lost a new call returns a new channel.
func (g *Group) Leading() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.leading
}

// Leader names the leader, "" when none is known.
func (g *Group) Leader() ServerID {
	if r := g.current(); r != nil {
		_, id := r.raft.LeaderWithID()
		return ServerID(id)
	}
	return ""
}

// Term is the current term, which an election may already have raised.
func (g *Group) Term() storage.Term {
	if r := g.current(); r != nil {
		return storage.Term(r.raft.CurrentTerm())
	}
	b, _ := g.cfg.Stable.state()
	return storage.Term(b.term)
}

// Quorum returns how many voters make a majority, and how many there are.
func (g *Group) Quorum() (quorum, voters uint8) {
	n := g.voters.Load()
	return uint8(n/2 + 1), uint8(n)
}

// Propose replicates data and applies it everywhere. data belongs to the group from now on and must not
// be changed; it must not be empty. Propose waits while too many proposals are under way, at most until ctx ends, so it
// is not for event loops.
func (g *Group) Propose(ctx context.Context, data []byte) Future {
	if len(data) == 0 || len(data) > storage.MaxPayloadBytes {
		return failedProposal(fmt.Errorf("%w: a proposal of %d bytes", ErrTooLarge, len(data)))
	}
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return failedProposal(ctx.Err())
	}
	p := &proposal{group: g, done: make(chan struct{})}
	if err := g.submit(data, p); err != nil {
		<-g.slots
		return failedProposal(err)
	}
	return p
}

// Barrier waits until everything committed so far is applied here. Only on the leader.
func (g *Group) Barrier(ctx context.Context) error {
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	p := &proposal{group: g, done: make(chan struct{})}
	if err := g.submitBarrier(p); err != nil {
		<-g.slots
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// submit gives data to raft and w to the resolver. It never blocks, and so may be called on an event loop
// and under a lock that the machine takes.
//
// Proof, from raft 1.7.3. ApplyLog sends to applyCh in a select without timeout; with BatchApplyCh that
// channel has MaxAppendEntries places (NewRaft). A place is taken by a future that raft's main goroutine
// has not received, and such a future is not resolved. Unresolved futures are: at most
// MaxAppendEntries-reservedSlots of Propose and Barrier (g.slots, given back when resolved), at most
// MaxInFlight of a partition (a slot is free again when its entry was applied or its future failed), and the
// barriers of leadership, one at a time. That is less than MaxAppendEntries, so a place is free. The rest
// of ApplyLog counts a metric.
func (g *Group) submit(data []byte, w waiter) error {
	return g.hand(w, func(r *hraft.Raft) hraft.Future { return r.ApplyLog(hraft.Log{Data: data}, 0) })
}

func (g *Group) submitBarrier(w waiter) error {
	return g.hand(w, func(r *hraft.Raft) hraft.Future { return r.Barrier(0) })
}

// hand keeps the order: futures reach the resolver as entries reach raft.
func (g *Group) hand(w waiter, to func(*hraft.Raft) hraft.Future) error {
	if err := g.Failed(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return ErrClosed
	}
	if g.run == nil || g.run.closing {
		return &NotLeaderError{Group: g.cfg.ID}
	}
	g.run.resolver.add(to(g.run.raft), w)
	return nil
}

// Deliver hands a request that came from a peer to raft and returns the answer, after whatever writes it
// asks for. Entries' payload is kept for ever.
//
// Errors: ErrRefused for a snapshot, which goes to Install: raft's own installSnapshot leaves the group with
// a stale last entry, and it then grants votes it must refuse (hashicorp/raft #697). ErrFailed and ErrClosed
// mean that no answer may be sent at all.
func (g *Group) Deliver(request any) (any, error) {
	switch request.(type) {
	case *hraft.AppendEntriesRequest, *hraft.RequestVoteRequest, *hraft.RequestPreVoteRequest, *hraft.TimeoutNowRequest:
	default:
		return nil, fmt.Errorf("%w: %T", ErrRefused, request)
	}
	if err := g.Failed(); err != nil {
		return nil, err
	}
	r := g.current()
	if r == nil {
		return nil, ErrClosed
	}
	response, err := r.trans.deliver(request)
	if failed := g.Failed(); failed != nil {
		return nil, failed // the answer may speak of a term or vote that is not durable
	}
	return response, err
}

func (g *Group) current() *run {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.run
}

func (g *Group) notLeader() error { return &NotLeaderError{Group: g.cfg.ID, Leader: g.Leader()} }

// CommitLag is how many entries of this replica's log are not known to be committed.
func (g *Group) CommitLag() uint64 {
	commit := g.commitIndex() // first: the log only grows meanwhile
	return uint64(max(g.cfg.Log.Bounds().Last, commit) - commit)
}

// commitIndex is the hint that goes into the log beside each entry.
func (g *Group) commitIndex() storage.Index {
	applied := g.fsm.applied.Load()
	if r := g.current(); r != nil {
		return storage.Index(max(applied, r.raft.CommitIndex()))
	}
	return storage.Index(applied)
}

// writeAge is how long the write or sync under way has been running.
func (g *Group) writeAge() time.Duration { return g.cfg.Log.WriteAge() }

// configured learns how many voters there are.
func (g *Group) configured(c hraft.Configuration) {
	n := int32(0)
	for _, s := range c.Servers {
		if s.Suffrage == hraft.Voter {
			n++
		}
	}
	g.voters.Store(n)
}

// snapshotSoon takes a snapshot on a goroutine of its own; requests meanwhile become one more. Called by
// raft's main goroutine when a segment is full.
func (g *Group) snapshotSoon() {
	for {
		switch n := g.snapshots.Load(); {
		case n == 2:
			return
		case n == 1:
			if g.snapshots.CompareAndSwap(1, 2) {
				return
			}
		case g.snapshots.CompareAndSwap(0, 1):
			g.background.Add(1)
			go func() {
				defer g.background.Done()
				for again := true; again; again = !g.snapshots.CompareAndSwap(1, 0) {
					g.snapshots.Store(1)
					if r := g.current(); r != nil && g.Failed() == nil {
						g.takeSnapshot(r)
					}
				}
			}()
			return
		}
	}
}

// takeSnapshot saves the machine's state beside the log. That it is refused now and then is no harm: the
// next segment brings the next, and until then a restart replays more.
func (g *Group) takeSnapshot(r *run) {
	before := g.cfg.Log.Snapshots()
	began := time.Now()
	err := r.raft.Snapshot().Error()
	if g.cfg.Observer != nil && !errors.Is(err, hraft.ErrNothingNewToSnapshot) && !errors.Is(err, hraft.ErrRaftShutdown) {
		g.cfg.Observer.Snapshot(time.Since(began), err)
	}
	if err != nil && !errors.Is(err, hraft.ErrNothingNewToSnapshot) && !errors.Is(err, hraft.ErrRaftShutdown) {
		g.logger.Warn("no snapshot was taken", zap.Error(err))
	}
	if err != nil || !g.cfg.Compact || len(before) == 0 {
		return
	}
	if err := g.cfg.Log.Trim(before[len(before)-1].Offset); err != nil {
		g.fail(fmt.Errorf("raft: trimming the log: %w", err))
	}
}
