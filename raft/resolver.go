package raft

import (
	"errors"
	"fmt"
	"sync"

	hraft "github.com/hashicorp/raft"
)

// waiter is told how a future ended, on the resolver's goroutine.
type waiter interface {
	resolved(f hraft.Future, err error)
}

// resolver waits for the futures of one run of raft, one after the other in the order in which they were
// submitted. Nobody else waits: a future that raft still holds when it shuts down is never answered, so
// a run is only shut down after its resolver is idle.
type resolver struct {
	mu      sync.Mutex
	queue   []resolution
	waiting bool // for a future that was taken off the queue
	closed  bool
	idle    *sync.Cond    // mu; the queue is empty and nothing is waited for
	wake    chan struct{} // one slot
}

type resolution struct {
	future hraft.Future
	waiter waiter
}

func newResolver() *resolver {
	r := &resolver{wake: make(chan struct{}, 1)}
	r.idle = sync.NewCond(&r.mu)
	return r
}

// add never blocks.
func (r *resolver) add(f hraft.Future, w waiter) {
	r.mu.Lock()
	r.queue = append(r.queue, resolution{f, w})
	r.mu.Unlock()
	r.poke()
}

func (r *resolver) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run resolves until close.
func (r *resolver) run() {
	var taken []resolution
	for range r.wake {
		for {
			r.mu.Lock()
			taken, r.queue = r.queue, taken[:0]
			r.waiting = len(taken) > 0
			if !r.waiting {
				r.idle.Broadcast()
			}
			closed := r.closed
			r.mu.Unlock()
			if len(taken) == 0 {
				if closed {
					return
				}
				break
			}
			for _, t := range taken {
				t.waiter.resolved(t.future, t.future.Error())
			}
			clear(taken)
		}
	}
}

// drain waits until every future added so far, and by their waiters, is resolved.
func (r *resolver) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 || r.waiting {
		r.idle.Wait()
	}
}

// close ends run once the queue is empty.
func (r *resolver) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.poke()
}

// notAppended reports whether err proves that raft never put the entry into its log: it is answered
// before dispatchLogs in every place where raft 1.7.3 returns these.
func notAppended(err error) bool {
	return errors.Is(err, hraft.ErrNotLeader) ||
		errors.Is(err, hraft.ErrLeadershipTransferInProgress) ||
		errors.Is(err, hraft.ErrEnqueueTimeout)
}

// outcome turns a future's error into ours.
func (g *Group) outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case notAppended(err):
		return g.notLeader()
	case errors.Is(err, hraft.ErrLeadershipLost):
		return ErrUnknownOutcome
	default: // a failed write, or a shutdown between commit and apply
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
}

// Future is an entry on its way.
type Future interface {
	// Wait returns what the machine's Apply returned, once the entry is committed and applied here.
	//
	// Errors: ErrNotLeader (never written), ErrUnknownOutcome, ErrFailed, ErrClosed.
	Wait() (any, error)
	// Done is closed when Wait does not block any more.
	Done() <-chan struct{}
}

// proposal is the Future of Propose.
type proposal struct {
	group *Group
	done  chan struct{}
	value any
	err   error
}

func (p *proposal) Wait() (any, error) {
	<-p.done
	return p.value, p.err
}

func (p *proposal) Done() <-chan struct{} { return p.done }

func (p *proposal) resolved(f hraft.Future, err error) {
	p.err = p.group.outcome(err)
	if p.err == nil {
		// Committed, but after a failure nothing is acknowledged: it was not applied here.
		p.err = p.group.Failed()
	}
	if apply, ok := f.(hraft.ApplyFuture); ok && p.err == nil {
		p.value = apply.Response()
	}
	<-p.group.slots
	close(p.done)
}

// failedProposal is a Future that never started.
func failedProposal(err error) Future {
	p := &proposal{done: make(chan struct{}), err: err}
	close(p.done)
	return p
}
