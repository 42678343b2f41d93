package raft

import (
	"errors"
	"fmt"
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/storage"
)

// run is one instance of hashicorp/raft and the two goroutines beside it.
type run struct {
	raft     *hraft.Raft
	trans    *transport
	resolver *resolver
	notify   chan bool // raft tells each gain and loss, and waits until it is read
	barriers chan barrierResult
	stop     chan struct{} // closed when raft has shut down
	done     sync.WaitGroup

	closing bool // Group.mu; takes no more futures
}

// start begins a run. The caller holds restartMu.
func (g *Group) start() error {
	if err := g.logs.open(); err != nil {
		return err
	}
	boot, err := g.replay()
	if err != nil {
		return fmt.Errorf("raft: replaying the log of group %d: %w", g.cfg.ID, err)
	}
	g.logs.booting.Store(true)
	g.snaps.boot.Store(boot)
	r := &run{
		resolver: newResolver(),
		notify:   make(chan bool),
		barriers: make(chan barrierResult),
		stop:     make(chan struct{}),
	}
	r.trans = newTransport(g, func() {
		g.logs.booting.Store(false)
		g.snaps.boot.Store(nil)
	})
	if r.raft, err = g.newRaft(r); err != nil {
		return err
	}
	if err := g.Failed(); err != nil {
		r.raft.Shutdown().Error()
		return err
	}
	servers := r.raft.GetConfiguration().Configuration()
	g.configured(servers)
	g.mu.Lock()
	g.run = r
	g.mu.Unlock()
	r.done.Go(r.resolver.run)
	r.done.Go(func() { g.followLeadership(r) })
	if loneVoter(servers, g.cfg.Server) {
		if err := r.trans.timeoutNow(); err != nil {
			g.logger.Warn("the lone voter waits for its timer", zap.Error(err))
		}
	}
	return nil
}

// newRaft starts raft. It panics on a log it cannot read, and that must not take other groups with it.
func (g *Group) newRaft(r *run) (raft *hraft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			if cause, ok := p.(error); ok {
				err = fmt.Errorf("raft: starting group %d: %w", g.cfg.ID, cause)
			} else {
				err = fmt.Errorf("raft: starting group %d: %v", g.cfg.ID, p)
			}
		}
	}()
	conf := g.cfg.raftConfig(r.notify)
	return hraft.NewRaft(conf, g.fsm, g.logs, guardedStable{g.cfg.Stable, g}, g.snaps, r.trans)
}

// halt ends a run: no new futures, those under way resolved, raft shut down, the goroutines gone. The
// order matters, as raft never answers what it still holds when it shuts down (resolver).
func (g *Group) halt(r *run) {
	g.mu.Lock()
	r.closing = true
	g.mu.Unlock()
	r.resolver.drain()
	r.trans.close()
	r.raft.Shutdown().Error()
	close(r.stop)
	r.resolver.close()
	r.done.Wait()
	g.mu.Lock()
	g.run = nil
	g.mu.Unlock()
}

// restart replaces raft's instance, for reasons that only a new one cures (hashicorp/raft #696).
func (g *Group) restart(r *run) {
	g.restartMu.Lock()
	defer g.restartMu.Unlock()
	if g.current() != r || g.Failed() != nil {
		return
	}
	g.halt(r)
	if err := g.start(); err != nil {
		g.fail(fmt.Errorf("raft: restarting group %d: %w", g.cfg.ID, err))
	}
}

func loneVoter(c hraft.Configuration, me ServerID) bool {
	voters, mine := 0, false
	for _, s := range c.Servers {
		if s.Suffrage == hraft.Voter {
			voters++
			mine = mine || s.ID == hraft.ServerID(me)
		}
	}
	return voters == 1 && mine
}

// guardedStable ends the group when term or vote cannot be stored.
type guardedStable struct {
	*Stable
	group *Group
}

// SetUint64 stores a term. Raft panics if the current term cannot be stored, which would end the
// process without its own exit code. A failed group may take the new term for stored: from that
// moment nothing leaves it (transport.call, Deliver), it stores no entry (StoreLogs) and no vote.
func (s guardedStable) SetUint64(key []byte, v uint64) error {
	err := s.group.Failed()
	if err == nil {
		if err = s.Stable.SetUint64(key, v); err == nil {
			return nil
		}
		s.group.fail(err)
	}
	if string(key) == keyCurrentTerm {
		return nil
	}
	return err
}

// Set stores a vote.
func (s guardedStable) Set(key, value []byte) error {
	if err := s.group.Failed(); err != nil {
		return err
	}
	err := s.Stable.Set(key, value)
	if err != nil {
		s.group.fail(err)
	}
	return err
}

// barrierResult tells the leadership goroutine how the barrier of a gain ended.
type barrierResult struct {
	gain  uint64 // which gain it belongs to
	index uint64
	err   error
}

// barrier is the waiter of a leadership's barrier.
type barrier struct {
	run  *run
	gain uint64
}

func (b *barrier) resolved(f hraft.Future, err error) {
	res := barrierResult{gain: b.gain, err: err}
	if i, ok := f.(hraft.IndexFuture); ok && err == nil {
		res.index = i.Index()
	}
	select {
	case b.run.barriers <- res:
	case <-b.run.stop:
	}
}

// barrierRetry is how long to wait when a leadership transfer keeps raft from taking the barrier.
const barrierRetry = 10 * time.Millisecond

// followLeadership turns raft's gains and losses into ours: leading begins when the barrier is applied.
// Before that the machine may lack entries of earlier terms, and a resend of one would be taken for new.
func (g *Group) followLeadership(r *run) {
	var (
		term  storage.Term // in which the current gain was seen
		gain  uint64
		led   bool
		retry <-chan time.Time
	)
	ask := func() {
		if err := g.submitBarrier(&barrier{run: r, gain: gain}); err != nil {
			g.logger.Debug("no barrier", zap.Error(err))
		}
	}
	lose := func() {
		retry = nil
		if !led {
			return
		}
		led = false
		g.setLeading(false)
		g.cfg.Leadership(false, term)
	}
	defer lose()
	for {
		select {
		case leader := <-r.notify:
			gain++
			lose()
			if leader {
				term = storage.Term(r.raft.CurrentTerm())
				ask()
			}
		case res := <-r.barriers:
			switch {
			case res.gain != gain:
			case errors.Is(res.err, hraft.ErrLeadershipTransferInProgress):
				retry = time.After(barrierRetry)
			case res.err != nil || g.Failed() != nil:
			case g.termAt(res.index) == term:
				led = true
				g.cfg.Leadership(true, term) // first: who waits for Leading may publish at once
				g.setLeading(true)
			}
		case <-retry:
			retry = nil
			ask()
		case <-r.stop:
			return
		}
	}
}

// termAt is the term of an entry; 0 if it is no longer there.
func (g *Group) termAt(index uint64) storage.Term {
	h, err := g.cfg.Log.Header(storage.Index(index))
	if err != nil {
		return 0
	}
	return h.Term
}

func (g *Group) setLeading(leads bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leads = leads
	if leads {
		close(g.leading)
	} else {
		g.leading = make(chan struct{})
	}
}
