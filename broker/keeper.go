package broker

import (
	"context"
	"errors"
	"io/fs"
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
	clock.note = n.noteDoubt
	clock.start(n.newest(), n.config().DeleteGrace, n.clockDoubted())
	for first := true; ; first = false {
		n.startMissing()
		clock.look()
		settle := n.config().ClockSettle
		n.retain(clock.trusted(settle))
		if clock.trusted(max(settle, n.config().DeleteGrace)) {
			clock.settled()
			n.purgeDeleted()
		}
		select {
		case <-tick.C:
			if first { // by now purges that a crash had interrupted are done
				n.reportStrays()
			}
		case <-n.reconfigured:
			tick.Reset(n.config().KeepInterval)
		case <-n.ctx.Done():
			return
		}
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

// newest is the broker time of the newest record on this node, or of the last creation or deletion of a stream, Unix ms: deleted
// streams are not open, and theirs may be all the records there are.
func (n *Node) newest() (ms int64) {
	for _, st := range n.catalog.State().Streams {
		ms = max(ms, st.Created, st.Deleted)
	}
	for _, p := range n.partitions.all() {
		ms = max(ms, p.raft.Newest())
	}
	return ms
}

// retain has each partition give up what its stream no longer keeps; for its age only if the clock is trusted.
func (n *Node) retain(trusted bool) {
	for _, p := range n.partitions.all() {
		r := p.stream().Retention
		if !trusted {
			r.MaxAge = 0
		}
		if r.MaxAge == 0 && r.MaxBytes == 0 && r.MaxRecords == 0 {
			continue
		}
		_, err := p.raft.Retain(raft.Retention{Age: r.MaxAge, Bytes: int64(min(r.MaxBytes, 1<<62)), Records: r.MaxRecords})
		if err != nil && n.ctx.Err() == nil && !errors.Is(err, raft.ErrClosed) {
			n.log.Warn("retention", zap.String("stream", p.stream().Name), zap.Uint32("partition", p.number), zap.Error(err))
		}
	}
}

// purgeDeleted purges streams whose grace time is over.
func (n *Node) purgeDeleted() {
	now := n.config().Clock().UnixMilli()
	for id, st := range n.catalog.State().Streams {
		if st.Deleted == 0 || now-st.Deleted < n.config().DeleteGrace.Milliseconds() {
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

// streamChanged is called by the catalog's state machine, also for what it applies again at
// start. It must not block. A node that is closing stops everything anyway, and takes no more of this.
func (n *Node) streamChanged(st *cluster.Stream, gone bool) {
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

// exists reports whether a directory is there.
func (d *dataDir) exists(dir string) bool {
	_, err := d.fs.List(dir)
	return !errors.Is(err, fs.ErrNotExist)
}
