package raft

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidewire/tidewire/storage"
)

// Retention says what a partition keeps. A zero field does not limit; what exceeds any limit may go.
type Retention struct {
	Bytes   int64     // of the log
	Records uint64    // of the partition
	Since   time.Time // by the broker time of a record
}

// Retain moves the start of the log as far as the policy allows, and returns where it is then. Only the leader
// does: it proposes the new start, and every replica that applies it gives the space back when it finds
// the time. Only whole sealed segments go, never anything at or above the high watermark.
//
// Retain waits for the commit. Errors: ErrNotLeader, ErrUnknownOutcome, ErrFailed, ErrClosed.
func (p *Partition) Retain(policy Retention) (storage.Offset, error) {
	if !p.IsLeader() {
		return p.LogStart(), p.group.notLeader()
	}
	olderThan := int64(0)
	if !policy.Since.IsZero() {
		olderThan = policy.Since.UnixMilli()
		if err := p.rollBefore(olderThan); err != nil {
			return p.LogStart(), err
		}
	}
	to := min(p.cfg.Log.RetentionPoint(policy.Bytes, policy.Records, olderThan), p.HighWatermark())
	if to <= p.LogStart() {
		return p.LogStart(), nil
	}
	if _, err := p.group.Propose(context.Background(), encodeLogStart(to)).Wait(); err != nil {
		return p.LogStart(), fmt.Errorf("raft: moving the log start of group %d to %d: %w", p.cfg.ID, to, err)
	}
	return p.LogStart(), nil
}

// rollBefore seals the active segment if it began before ms, so that age reaches also the records of
// a partition that is too quiet to fill one, and takes the snapshot without which Trim keeps a segment.
func (p *Partition) rollBefore(ms int64) error {
	since, ok := p.cfg.Log.ActiveSince()
	if !ok || since >= ms {
		return nil
	}
	if err := p.cfg.Log.Roll(); err != nil {
		if errors.Is(err, storage.ErrFailed) {
			p.group.fail(err)
		}
		return err
	}
	if r := p.group.current(); r != nil && p.group.Failed() == nil {
		p.group.takeSnapshot(r)
	}
	return nil
}

// applyLogStart takes a committed log start (FSM goroutine). It only ever moves forward, and never past what
// is applied.
func (p *Partition) applyLogStart(to storage.Offset) {
	to = min(to, p.state.end)
	if to <= p.state.logStart {
		return
	}
	p.mu.Lock()
	p.state.logStart = to
	p.mu.Unlock()
	p.startAt(to)
}

// startAt announces the start of the log and trims it, on a goroutine of its own: recycling files takes time that
// the FSM goroutine does not have.
func (p *Partition) startAt(to storage.Offset) {
	for {
		now := p.logStart.Load()
		if uint64(to) <= now {
			if to <= p.cfg.Log.Bounds().Start {
				return
			}
			break // announced before, but the node stopped before it trimmed
		}
		if p.logStart.CompareAndSwap(now, uint64(to)) {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trimming {
		return
	}
	p.trimming = true
	p.background.Go(p.trim)
}

// trim follows the announced start until it has caught up.
func (p *Partition) trim() {
	for {
		p.mu.Lock()
		to := p.LogStart()
		if to <= p.cfg.Log.Bounds().Start || p.to.Failed() != nil {
			p.trimming = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		if err := p.cfg.Log.Trim(to); err != nil {
			p.mu.Lock()
			p.trimming = false
			p.mu.Unlock()
			p.group.fail(fmt.Errorf("raft: trimming the log to offset %d: %w", to, err))
			return
		}
	}
}
