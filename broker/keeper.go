package broker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/raft"
)

// keep looks after retention and the purge of deleted streams until the node stops.
func (n *Node) keep() {
	tick := time.NewTicker(n.config().KeepInterval)
	defer tick.Stop()
	clock := newDeleteTime(n.config().Clock, n.log)
	noted, err := n.data.readClock()
	if err != nil {
		n.log.Warn("what this node knew of its clock cannot be read", zap.Error(err))
	}
	clock.note = n.data.writeClock
	clock.start(noted, n.config().DeleteGrace)
	var idle idleMemory
	for {
		n.startMissing()
		n.removePurged()
		now, settle := clock.look(), n.config().ClockSettle
		n.retain(now, clock.trusted(settle))
		if clock.trusted(max(settle, n.config().DeleteGrace)) {
			clock.settled()
			n.purgeDeleted(now)
		}
		idle.look()
		if !n.untilNext(tick) {
			return
		}
	}
}

// untilNext has partitions give up at once what no longer fits when they seal a segment, until it is time to look at all of them;
// false: the node stops.
func (n *Node) untilNext(tick *time.Ticker) bool {
	for {
		select {
		case p := <-n.sealed:
			if n.partitions.all()[partKey{p.stream().ID, p.number}] == p && n.mayGiveUp() { // not before it is open, nor afterwards
				n.retainIn(p, time.Time{})
			}
		case <-tick.C:
			return true
		case <-n.reconfigured:
			tick.Reset(n.config().KeepInterval)
			return true
		case <-n.ctx.Done():
			return false
		}
	}
}

// mostSealed is how many partitions may wait to be looked at by themselves; others are when all are.
const mostSealed = 256

// segmentSealed is told by the writer of a partition's log. It does not block.
func (n *Node) segmentSealed(p *partition) {
	select {
	case n.sealed <- p:
	default:
	}
}

// startMissing starts partitions of streams that could not be started when they were made.
func (n *Node) startMissing() {
	for _, st := range n.catalog.State().Living() {
		if n.serves(st) {
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, requestTimeout)
		err := n.startStream(ctx, st)
		cancel()
		if err != nil && n.ctx.Err() == nil && !errors.Is(err, cluster.ErrUnknownStream) {
			n.log.Error("a stream does not start", zap.String("stream", st.Name), zap.Error(err))
		}
	}
}

// removePurged removes what is left of purged streams: what could not be removed at once, or before the node was stopped or killed.
func (n *Node) removePurged() {
	for _, st := range n.catalog.State().Purged {
		if !n.partitions.busy(st.ID) {
			n.requests.Go(func() { n.stopStream(st, true) })
		}
	}
}

// coolAfter is how long nobody must have appended to a log.
const coolAfter = 10 * time.Second

// coolLogs has logs that nobody appends to leave the memory for hot tails to those that are in use, until the node stops.
func (n *Node) coolLogs() {
	tick := time.NewTicker(coolAfter)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		for _, p := range n.partitions.all() {
			p.raft.Cool()
		}
	}
}

// retain has each partition give up what its stream no longer keeps now; for its age only if that time is trusted.
func (n *Node) retain(now time.Time, trusted bool) {
	if !n.mayGiveUp() {
		return
	}
	if !trusted {
		now = time.Time{}
	}
	for _, p := range n.partitions.all() {
		n.retainIn(p, now)
	}
}

// retainIn is retain for one partition; without a time, of what it keeps by size and number.
func (n *Node) retainIn(p *partition, now time.Time) {
	r := p.stream().Retention
	keep := raft.Retention{Bytes: int64(min(r.MaxBytes, 1<<62)), Records: r.MaxRecords}
	if !now.IsZero() && r.MaxAge > 0 {
		keep.Since = now.Add(-r.MaxAge)
	}
	if keep == (raft.Retention{}) {
		return
	}
	_, err := p.raft.Retain(keep)
	if err != nil && n.ctx.Err() == nil && !errors.Is(err, raft.ErrClosed) {
		n.log.Warn("retention", zap.String("stream", p.stream().Name), zap.Uint32("partition", p.number), zap.Error(err))
	}
}

// purgeDeleted purges streams whose grace time is over now.
func (n *Node) purgeDeleted(now time.Time) {
	if !n.mayGiveUp() {
		return
	}
	for id, st := range n.catalog.State().Streams {
		if st.Deleted == 0 || now.UnixMilli()-st.Deleted < n.config().DeleteGrace.Milliseconds() {
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, requestTimeout)
		_, err := n.catalog.PurgeStream(ctx, id, cluster.WithETag(st.ETag())) // not if it was undeleted meanwhile
		cancel()
		if err != nil && n.ctx.Err() == nil {
			n.log.Warn("purge of a deleted stream", zap.String("stream", st.Name), zap.Error(err))
		}
	}
}

// streamChanged is called by the catalog's state machine, also for what it applies again at start, before there is anything
// to change. It must not block. A node that is closing stops everything anyway, and takes no more of this: what it has not
// purged by then it does at the next start.
func (n *Node) streamChanged(st *cluster.Stream, gone bool) {
	select {
	case <-n.catalogOpen:
	default:
		return
	}
	all := n.partitions.all()
	if st.Deleted == 0 {
		if len(all) > 0 {
			n.requests.Go(func() { n.streamUpdated(st) })
		}
		return
	}
	for i := range st.Partitions {
		if p := all[partKey{st.ID, uint32(i)}]; p != nil {
			p.gone.Store(true) // at once: nothing is taken behind the answer to STREAM_DELETE
		}
	}
	n.requests.Go(func() { n.stopStream(st, gone) })
}
