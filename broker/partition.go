package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/tidewire/tidewire/broker/telemetry"
	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

// partition is this node's replica of one partition of a stream.
type partition struct {
	number  uint32
	group   uint64
	raft    *raft.Partition
	meta    atomic.Pointer[cluster.Stream]
	coming  atomic.Pointer[cluster.Stream] // the newest meta is about to become; nil: it never changed
	watches []*watch                       // one a loop, by the loop's index
	gone    atomic.Bool
	count   *telemetry.Stream
	damage  damage
}

func (p *partition) stream() *cluster.Stream { return p.meta.Load() }

// remembrance is what a producer keeps of a partition that is gone: enough to refuse batches, and nothing of its log.
func (p *partition) remembrance() *partition {
	r := &partition{number: p.number, group: p.group}
	r.meta.Store(p.stream())
	r.gone.Store(true)
	return r
}

// advanced tells the loops that wait for it that the high watermark moved: Raft calls it once
// per commit, on the state machine's goroutine.
func (p *partition) advanced() {
	for _, w := range p.watches {
		if w.waiting.Load() > 0 && w.posted.CompareAndSwap(false, true) {
			w.loop.postAdvanced(w)
		}
	}
}

// watch is what one loop has to do with one partition: its cursors that wait for the high watermark to move, and batches for Raft.
type watch struct {
	loop    *loop
	cursors []*cursor // loop only, as spare
	spare   []*cursor // for the next round
	waiting atomic.Int32
	posted  atomic.Bool
	filled  bool // loop only: stands in loop.filled
}

// add has the cursor wait. A watermark that moved before it was counted is seen by looking again.
func (w *watch) add(c *cursor) {
	c.seat = len(w.cursors)
	w.cursors = append(w.cursors, c)
	w.waiting.Store(int32(len(w.cursors)))
	if c.readable() && w.posted.CompareAndSwap(false, true) {
		w.loop.postAdvanced(w)
	}
}

func (w *watch) remove(c *cursor) {
	i, last := c.seat, len(w.cursors)-1
	if i > last || w.cursors[i] != c {
		return // feed has taken it out
	}
	w.cursors[i] = w.cursors[last]
	w.cursors[i].seat = i
	w.cursors[last] = nil
	w.cursors = w.cursors[:last]
	w.waiting.Store(int32(last))
}

// feed wakes every cursor that waits.
func (w *watch) feed() {
	cursors := w.cursors
	w.cursors, w.spare = w.spare, nil
	w.waiting.Store(0)
	for i, c := range cursors {
		if c.state == cursorWaiting { // not ended by one before it
			c.state = cursorIdle
			c.contained((*cursor).feed)
		}
		cursors[i] = nil
	}
	w.spare = cursors[:0]
}

// partitions is what this node serves. Readers take a snapshot. A stream is started or stopped by one at a time, which
// has its lock; what takes long, opening and closing, is done under that alone, so that no stream waits for another's.
type partitions struct {
	mu  sync.Mutex // guards replacing set, asked, fresh and locks; held for nothing that takes long
	set atomic.Pointer[map[partKey]*partition]

	asked   int                    // partitions of streams that are being made or undeleted
	fresh   map[uint64]int         // streams that are being started for the first time, by how many
	locks   map[uint64]*streamLock // by stream, while somebody has or wants it
	working sync.RWMutex           // held shared by who starts or stops streams; whole by close, which waits for them
	slots   chan struct{}          // one taken for each partition that is being started, stopped or removed
}

// streamLock is held by who starts or stops a stream.
type streamLock struct {
	held  chan struct{} // full while it is held
	users int           // those who have it or wait; guarded by partitions.mu
}

func (ps *partitions) init() {
	ps.set.Store(&map[partKey]*partition{})
	ps.fresh = make(map[uint64]int)
	ps.locks = make(map[uint64]*streamLock)
	ps.slots = make(chan struct{}, startParallel)
}

// lock waits until nobody else starts or stops the stream, or until ctx ends.
func (ps *partitions) lock(ctx context.Context, stream uint64) (unlock func(), err error) {
	ps.mu.Lock()
	l := ps.locks[stream]
	if l == nil {
		l = &streamLock{held: make(chan struct{}, 1)}
		ps.locks[stream] = l
	}
	l.users++
	ps.mu.Unlock()
	leave := func() {
		ps.mu.Lock()
		defer ps.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(ps.locks, stream)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// starting has the stream count as one that is about to serve, until done is called.
func (ps *partitions) starting(stream uint64) (done func()) {
	add := func(n int) {
		ps.mu.Lock()
		defer ps.mu.Unlock()
		if ps.fresh[stream] += n; ps.fresh[stream] == 0 {
			delete(ps.fresh, stream)
		}
	}
	add(1)
	return func() { add(-1) }
}

// busy reports whether somebody starts or stops the stream.
func (ps *partitions) busy(stream uint64) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.locks[stream] != nil
}

// change replaces the set by what edit makes of a copy of it.
func (ps *partitions) change(edit func(map[partKey]*partition)) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	next := maps.Clone(ps.all())
	edit(next)
	ps.set.Store(&next)
}

// slot does work, which starts or stops one partition, when fewer than startParallel others do.
func (ps *partitions) slot(ctx context.Context, work func() error) error {
	select {
	case ps.slots <- struct{}{}:
		defer func() { <-ps.slots }()
		return work()
	case <-ctx.Done():
		return ctx.Err()
	}
}

type partKey struct {
	stream uint64
	number uint32
}

func (ps *partitions) all() map[partKey]*partition { return *ps.set.Load() }

// find gives a partition by its numbers.
func (n *Node) find(stream uint64, number uint32) (*partition, error) {
	all := n.partitions.all()
	if p := all[partKey{stream, number}]; p != nil && !p.gone.Load() {
		return p, nil
	}
	st := n.catalog.State().Streams[stream]
	switch {
	case st == nil || st.Deleted != 0:
		return nil, cluster.UnknownStream(fmt.Sprintf("#%d", stream), "does not exist: ask METADATA again")
	case int(number) >= len(st.Partitions):
		return nil, &wire.Error{Code: wire.CodeUnknownPart, Value: uint64(len(st.Partitions)),
			Message: fmt.Sprintf("stream %q has %d partitions, none numbered %d", st.Name, len(st.Partitions), number)}
	}
	return nil, &raft.NotLeaderError{Group: st.Partitions[number].Group} // it is starting
}

// serves reports whether every partition of the stream is open here.
func (n *Node) serves(st *cluster.Stream) bool {
	all := n.partitions.all()
	for i := range st.Partitions {
		if all[partKey{st.ID, uint32(i)}] == nil {
			return false
		}
	}
	return true
}

// createStream makes a stream and returns when its partitions take publishes.
func (n *Node) createStream(ctx context.Context, spec cluster.StreamSpec, options ...cluster.Option) (*cluster.Stream, error) {
	known, err := n.roomFor(spec)
	if err != nil {
		return nil, err
	}
	st, err := n.catalog.CreateStream(ctx, spec, options...)
	known()
	if err != nil {
		return nil, err
	}
	defer n.partitions.starting(st.ID)()
	// Not under ctx: whoever asked may go, the stream is there for all.
	return st, n.startStream(n.ctx, st)
}

// filesPerPartition is how many files a partition may have open at a time: its active segment, one
// that is being sealed or begun, and one that is read.
const filesPerPartition = 3

// roomFor refuses a stream whose partitions could not all have their files open beside the
// connections: once the catalog says that they exist, every start needs them. They count as room that is taken until
// known is called: then the catalog has them, or never will.
func (n *Node) roomFor(spec cluster.StreamSpec) (known func(), err error) {
	if n.space.full.Load() {
		return nil, n.space.refusal()
	}
	files := openFileLimit()
	limit := (files - fileReserve(files) - n.config().MaxConnections) / filesPerPartition
	ps := &n.partitions
	ps.mu.Lock()
	defer ps.mu.Unlock()
	have, more := ps.asked, max(int(spec.Partitions), 1)
	for _, st := range n.catalog.State().Living() {
		have += len(st.Partitions)
	}
	if have+more > limit {
		return nil, &wire.Error{Code: wire.CodeLimit, Value: uint64(limit), Message: fmt.Sprintf(
			"stream %q with %d partitions beside %d would need more files than the process may have open (room for %d partitions): raise its limit of open files",
			spec.Name, more, have, limit)}
	}
	ps.asked += more
	return func() {
		ps.mu.Lock()
		ps.asked -= more
		ps.mu.Unlock()
	}, nil
}

// streamFor gives the stream that captures subject, creating the one called name if there is none.
func (n *Node) streamFor(ctx context.Context, subject, name string) (*cluster.Stream, error) {
	st := n.catalog.State().StreamOf(subject)
	if st != nil {
		return st, n.startStream(ctx, st)
	}
	st, err := n.createStream(ctx, cluster.StreamSpec{Name: name})
	if !errors.Is(err, cluster.ErrStreamExists) {
		return st, err
	}
	// Somebody was faster, or the stream of that name captures other subjects.
	if st := n.catalog.State().StreamOf(subject); st != nil {
		return st, n.startStream(ctx, st)
	}
	return nil, fmt.Errorf("%w; it does not capture %q", err, subject)
}

const (
	// startParallel is how many partitions of the node are started, stopped or removed at a time: each waits for a few
	// fsyncs.
	startParallel = 16
	// streamParallel is how many of them one stream's may be: a large one leaves room for others, which wait behind
	// a few of its partitions and not behind all.
	streamParallel = startParallel / 2
	// stopParallel is how many are closed at a time when the node stops: each is a thread while it waits for the disk, and a state in
	// memory.
	stopParallel = 64
)

// startStream opens the stream's partitions that are not open, and returns when all take publishes.
func (n *Node) startStream(ctx context.Context, st *cluster.Stream) error {
	n.partitions.working.RLock()
	defer n.partitions.working.RUnlock()
	unlock, err := n.partitions.lock(ctx, st.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if n.ctx.Err() != nil {
		return errDraining // close has closed what there was
	}
	// It may have been deleted meanwhile. stopStream comes after the catalog has said so, and
	// waits for the lock: so either it is seen here, or what is started here is stopped there.
	if now := n.catalog.State().Streams[st.ID]; now == nil || now.Deleted != 0 {
		return cluster.UnknownStream(st.Name, "was deleted meanwhile")
	}
	return n.startPartitions(ctx, streamParallel, st)
}

// startAll opens the partitions of every stream that lives, before there are clients.
func (n *Node) startAll(ctx context.Context) error {
	n.partitions.working.RLock()
	defer n.partitions.working.RUnlock()
	living := n.catalog.State().Living()
	for _, st := range living { // beside stopStream, which holds one at a time
		unlock, err := n.partitions.lock(ctx, st.ID)
		if err != nil {
			return err
		}
		defer unlock()
	}
	return n.startPartitions(ctx, startParallel, living...)
}

// startPartitions opens what is not open of streams, so many at a time. The caller has their locks.
func (n *Node) startPartitions(ctx context.Context, parallel int, streams ...*cluster.Stream) error {
	var mu sync.Mutex
	started := make(map[partKey]*partition)
	all := n.partitions.all()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, st := range streams {
		for i, meta := range st.Partitions {
			key := partKey{st.ID, uint32(i)}
			if all[key] != nil {
				continue
			}
			g.Go(func() error {
				return n.partitions.slot(gctx, func() error {
					p, err := n.startPartition(gctx, st, key.number, meta.Group)
					if err != nil {
						return fmt.Errorf("stream %q partition %d: %w", st.Name, key.number, err)
					}
					mu.Lock()
					started[key] = p
					mu.Unlock()
					return nil
				})
			})
		}
	}
	err := g.Wait()
	if len(started) == 0 {
		return err
	}
	n.partitions.change(func(next map[partKey]*partition) { maps.Copy(next, started) }) // also after an error: those that started are kept
	parts := slices.Collect(maps.Values(started))
	for _, p := range parts { // an update that did not find them yet
		if now := n.catalog.State().Streams[p.stream().ID]; now != nil && now.Revision > p.stream().Revision {
			n.streamUpdated(now) // loops never wait for a stream's lock
		}
	}
	n.eachLoop(func(l *loop) { l.follow(parts) })
	return err
}

// partitionDir is where a partition's log lives: by number, never by a name somebody chose.
func partitionDir(group uint64) string { return fmt.Sprintf("partitions/%d", group) }

// startPartition opens one log and its group, and returns when it leads.
func (n *Node) startPartition(ctx context.Context, st *cluster.Stream, number uint32, group uint64) (*partition, error) {
	p := &partition{number: number, group: group}
	p.meta.Store(st)
	for _, l := range n.loops {
		p.watches = append(p.watches, &watch{loop: l})
	}
	log := n.log.With(zap.String("stream", st.Name), zap.Uint32("partition", number)) // the group's number is added by raft
	stable, err := n.stable.Group(group)
	if err != nil {
		return nil, err
	}
	if stable.Voted() && !n.data.exists(partitionDir(group)) {
		return nil, n.data.missing(partitionDir(group), fmt.Sprintf("stream %q, partition %d", st.Name, number))
	}
	data, err := n.openLog(partitionDir(group), group, log.With(zap.Uint64("group", group)), func() { n.segmentSealed(p) })
	if err != nil {
		return nil, err
	}
	for _, found := range data.Recovered().Damaged {
		p.damage.add(found)
	}
	p.count = n.metrics.Stream(st.Name)
	p.raft, err = raft.StartPartition(raft.PartitionConfig{
		ID: group, Server: n.server, Log: data, Stable: stable, Logger: log,
		Fatal: n.fatal, Committed: n.committed, Advanced: p.advanced, Budget: n.budget, Clock: n.config().Clock,
		Observer: n.metrics.Partition(p.count), Leadership: n.leadershipChanged,
	})
	if err != nil {
		n.metrics.Release(p.count)
		return nil, errors.Join(err, data.Close())
	}
	select {
	case <-p.raft.Leading():
		return p, nil
	case <-n.failureCh:
		err = n.Err()
	case <-ctx.Done():
		err = ctx.Err()
	}
	n.metrics.Release(p.count)
	return nil, errors.Join(err, p.close())
}

// close ends the group and closes its log.
func (p *partition) close() error {
	p.raft.Close()
	return p.raft.Log().Close()
}

// stopStream closes the stream's partitions here; remove also gives their files back.
func (n *Node) stopStream(st *cluster.Stream, remove bool) {
	n.partitions.working.RLock()
	defer n.partitions.working.RUnlock()
	unlock, err := n.partitions.lock(n.ctx, st.ID)
	if err != nil {
		return // a node that is closing stops everything anyway
	}
	defer unlock()
	if n.ctx.Err() != nil || remove && n.catalog.State().Purged[st.ID] == nil { // which another has done meanwhile
		return
	}
	now := n.catalog.State().Streams[st.ID]
	lives := now != nil && now.Deleted == 0 // undeleted meanwhile: what runs may be what that started
	var stopped []*partition
	n.partitions.change(func(next map[partKey]*partition) {
		for i := range st.Partitions {
			key := partKey{st.ID, uint32(i)}
			if p := next[key]; p != nil && (!lives || p.gone.Load()) {
				delete(next, key)
				p.meta.Store(st)
				p.gone.Store(true)
				stopped = append(stopped, p)
			}
		}
	})
	if len(stopped) > 0 {
		n.eachLoop(func(l *loop) { l.forget(stopped) })
	}
	n.parallel(len(stopped), func(i int) {
		p := stopped[i]
		n.metrics.Release(p.count)
		if err := p.close(); err != nil {
			n.log.Error("closing a partition of a deleted stream", zap.String("stream", st.Name), zap.Uint32("partition", p.number), zap.Error(err))
		}
	})
	if !remove {
		return
	}
	n.eachLoop(func(l *loop) { l.purged(st.ID) })
	var left atomic.Bool
	n.parallel(len(st.Partitions), func(i int) {
		group := st.Partitions[i].Group
		if err := n.removeLog(partitionDir(group), group); err != nil {
			left.Store(true)
			n.log.Error("removing the data of a purged stream, which is tried again",
				zap.String("stream", st.Name), zap.Int("partition", i), zap.Uint64("group", group), zap.Error(err))
		}
	})
	if left.Load() {
		return
	}
	if err := n.catalog.StreamRemoved(n.ctx, st.ID); err != nil && n.ctx.Err() == nil {
		n.log.Warn("a purged stream is removed, and looked at again", zap.String("stream", st.Name), zap.Error(err))
	}
}

// parallel calls work with 0 to count-1, streamParallel at a time and within the node's slots, and waits for all.
func (n *Node) parallel(count int, work func(i int)) {
	var g errgroup.Group
	g.SetLimit(streamParallel)
	for i := range count {
		g.Go(func() error { // not under a context: what was taken out of the set has to be closed
			return n.partitions.slot(context.Background(), func() error { work(i); return nil })
		})
	}
	_ = g.Wait()
}

// describe is what the node tells clients of a stream.
func (n *Node) describe(st *cluster.Stream) wire.StreamInfo {
	info := wire.StreamInfo{ID: st.ID, Name: st.Name, MapVersion: st.MapVersion, Created: uint64(st.Created),
		Replicas: st.Replicas, Retention: st.Retention, Subjects: st.Subjects}
	if st.Deleted != 0 {
		info.Bits |= wire.StreamDeleted
	}
	all := n.partitions.all()
	info.Partitions = make([]wire.PartitionInfo, 0, len(st.Partitions))
	for i := range st.Partitions {
		var pi wire.PartitionInfo
		if p := all[partKey{st.ID, uint32(i)}]; p != nil {
			b := p.raft.Log().Bounds()
			pi = wire.PartitionInfo{Leader: n.identity.Node, Epoch: uint64(p.raft.Group().Term()), Start: uint64(b.Start),
				HighWatermark: uint64(p.raft.HighWatermark()), Bytes: uint64(b.Bytes)}
		}
		info.Partitions = append(info.Partitions, pi)
	}
	return info
}

// openLog opens a log below the data directory and reports what its recovery found. sealed is called when it has sealed a segment; nil:
// nobody wants to know.
func (n *Node) openLog(dir string, group uint64, log *zap.Logger, sealed func()) (*storage.Log, error) {
	l, err := storage.Open(storage.Config{
		FS: n.data.fs, Dir: dir, Cluster: n.identity.Cluster, Partition: group, SegmentBytes: n.config().SegmentBytes,
		Memory: n.hot, Pool: n.pool, Syncs: n.syncs, OnRoll: sealed, Observer: diskObserver{n.metrics.Storage(), &n.space},
	})
	if err != nil {
		return nil, err
	}
	reportRecovery(log, l.Recovered())
	n.metrics.DamagedAtStart(len(l.Recovered().Damaged))
	return l, nil
}

// removeLog gives the files of a log back; one that is not there was removed before.
func (n *Node) removeLog(dir string, group uint64) error {
	if !n.data.exists(dir) {
		return n.stable.Forget(group) // in case the node was killed between the two
	}
	l, err := storage.Open(storage.Config{FS: n.data.fs, Dir: dir, Cluster: n.identity.Cluster, Partition: group, Pool: n.pool})
	if err == nil {
		err = l.Remove()
	}
	if err != nil && !errors.Is(err, storage.ErrRemoved) { // a removal that a crash interrupted was finished by Open
		return err
	}
	return n.stable.Forget(group)
}
