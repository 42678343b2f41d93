package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/tidewire/tidewire/broker/admin"
	"github.com/tidewire/tidewire/broker/telemetry"
	"github.com/tidewire/tidewire/broker/web"
	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

// Version is the version of this software.
const Version = "0.1.0"

const (
	// concurrentSyncs is how many fdatasync run at once: more only make each slower.
	concurrentSyncs = 16
	// readerCount is how many goroutines read for cursors that left the hot tail.
	readerCount = 8
)

// Node is one broker. Start makes one; Stop ends it.
type Node struct {
	cfg          atomic.Pointer[Config] // replaced as a whole, never changed
	cfgMu        sync.Mutex             // one replacement at a time
	reconfigured chan struct{}          // the keeper's interval may have changed
	sealed       chan *partition        // have sealed a segment: for the keeper
	log          *zap.Logger
	data         *dataDir
	identity     identity
	server       raft.ServerID
	metrics      *telemetry.Metrics
	tracer       *telemetry.Tracer // nil: nothing is traced

	pool          *storage.Pool
	hot           *storage.Memory
	syncs         *storage.SyncLimit
	budget        *raft.Budget
	space         space
	toldFull      bool // the disk watch said last that the disk is almost full
	stable        *raft.StableStore
	catalogLog    *storage.Log
	catalogSeen   storage.Index // noted last; noteCatalog's, once that runs
	catalogOld    atomic.Bool   // older than the data, and nobody has said that it is right
	catalogStable *raft.CatalogStable
	catalog       *cluster.Catalog
	catalogOpen   chan struct{} // closed when there is a catalog
	partitions    partitions

	http1, http2 *handoff   // from the client port, or the admin port
	adminPort    *adminPort // nil: HTTP and gRPC come to the client port
	web          *web.Server
	admin        *admin.Server
	serving      sync.WaitGroup // web and admin

	accepting  *acceptor
	engine     *gnet.Client
	booted     bool
	addr       net.Addr
	address    string // the same in words
	loops      []*loop
	loopMu     sync.Mutex // guards binding loops to gnet's
	readers    *readers
	describing chan struct{} // held by who makes a long TOPOLOGY
	requests   tasks         // of clients and of the catalog
	keeping    sync.WaitGroup
	ctx        context.Context // ends when Stop begins to close things
	cancel     context.CancelFunc
	draining   atomic.Bool
	stopOnce   sync.Once
	stopErr    error
	stopped    chan struct{}
	failure    atomic.Pointer[error]
	failureCh  chan struct{}

	connections  atomic.Int64
	closures     closures
	outbound     atomic.Int64 // bytes that clients have not taken, and that reads for them may hold
	inbound      atomic.Int64 // bytes that have arrived and not been served: frames that are not whole, and
	waiting      atomic.Int64 // what waits for a turn
	weight       atomic.Int64 // bytes, about, of what conversations keep
	publications sync.Pool
}

// Start opens the data directory, recovers what is in it, and serves clients. It returns once
// every partition takes publishes, or with an error and nothing left running.
//
// Errors: of cfg, all at once; *DataDirError; storage's and raft's for data that are damaged,
// foreign or of a newer format; of the listener.
func Start(ctx context.Context, cfg Config) (_ *Node, err error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Node{
		log: cfg.Logger, syncs: storage.NewSyncLimit(concurrentSyncs), hot: storage.NewMemory(cfg.HotMemory),
		budget: raft.NewBudget(cfg.PublishMemory), catalogOpen: make(chan struct{}), stopped: make(chan struct{}), failureCh: make(chan struct{}), reconfigured: make(chan struct{}, 1), sealed: make(chan *partition, mostSealed), describing: make(chan struct{}, 1),
		publications: sync.Pool{New: func() any { return new(publication) }},
	}
	n.cfg.Store(&cfg)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.partitions.init()
	n.metrics = n.newMetrics(cores)
	for i := range cores {
		n.loops = append(n.loops, newLoop(n, i))
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	limitHeap(cfg.MemoryLimit)
	began := time.Now()
	if err := n.tryAddress(); err != nil {
		return nil, err
	}
	if err := n.open(ctx); err != nil {
		return nil, err
	}
	if err := n.startTracing(); err != nil {
		return nil, err
	}
	n.readers = newReaders(readerCount)
	n.http1, n.http2 = newHandoff(n.AdminAddr), newHandoff(n.AdminAddr)
	if err := n.listenAdmin(); err != nil {
		return nil, err
	}
	if err := n.listen(); err != nil {
		return nil, err
	}
	n.serveHTTP()
	if n.adminPort != nil {
		n.adminPort.done.Go(n.adminPort.run)
	}
	n.keeping.Go(n.keep)
	n.keeping.Go(n.watchDisk)
	n.keeping.Go(n.coolLogs)
	n.keeping.Go(n.noteCatalog)
	n.log.Info("ready", zap.Stringer("address", n.addr), zap.String("data", n.data.dir), zap.String("cluster", n.identity.ClusterHex),
		zap.Uint64("node", n.identity.Node), zap.Int("partitions", len(n.partitions.all())), zap.Bool("dev", cfg.Dev), zap.Duration("took", time.Since(began)))
	return n, nil
}

// open brings up everything below the listener.
func (n *Node) open(ctx context.Context) (err error) {
	if n.data, n.identity, err = openDataDir(n.config().DataDir); err != nil {
		return err
	}
	n.server = raft.ServerID(fmt.Sprintf("%d.%d", n.identity.Node, n.identity.Incarnation))
	if n.pool, err = storage.NewPool(n.data.fs, "pool", n.config().PoolBytes); err != nil {
		return fmt.Errorf("segment pool: %w", err)
	}
	if err := n.openSpace(); err != nil {
		return err
	}
	if n.stable, err = raft.OpenStable(n.data.path("stable.db")); err != nil {
		return err
	}
	if n.catalogStable, err = raft.OpenCatalogStable(n.data.path("catalog.db")); err != nil {
		return err
	}
	stable, err := n.catalogStable.Group(cluster.CatalogGroup)
	if err != nil {
		return err
	}
	if stable.Voted() && !n.data.exists("catalog") {
		return n.data.missing("catalog", "what streams there are")
	}
	log := n.log.Named("catalog")
	if n.catalogLog, err = n.openLog("catalog", cluster.CatalogGroup, log, nil); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	if err := n.compareCatalog(); err != nil {
		return err
	}
	// Each start raises the term, and the log has an entry of it.
	older := n.catalogOld.Load() || n.catalogLog.Bounds().LastTerm < storage.Term(stable.Term())
	n.catalog, err = cluster.OpenCatalog(ctx, cluster.CatalogConfig{Node: n.identity.Node, Server: n.server, Log: n.catalogLog,
		Stable: stable, Logger: log, Fatal: n.fatal, Clock: n.config().Clock, Changed: n.streamChanged})
	if err != nil {
		return err
	}
	close(n.catalogOpen)
	if err := n.startAll(ctx); err != nil {
		return err
	}
	return n.skipNumbers(ctx, older)
}

// serveHTTP starts the servers behind what the client port hands over.
func (n *Node) serveHTTP() {
	n.web = web.New(n.webConfig())
	n.admin = admin.New(n.adminConfig())
	serve := func(what string, serve func(net.Listener) error, l net.Listener) {
		n.serving.Go(func() {
			if err := serve(l); err != nil && !n.draining.Load() {
				n.log.Error("a server ended by itself", zap.String("server", what), zap.Error(err))
			}
		})
	}
	serve("web", n.web.Serve, n.http1)
	serve("admin", n.admin.Serve, n.http2)
}

// stopHTTP ends them, within ctx.
func (n *Node) stopHTTP(ctx context.Context) (err error) {
	if n.adminPort != nil {
		n.adminPort.close()
	}
	if n.web != nil {
		n.admin.Stop(ctx)
		err = n.web.Stop(ctx)
		n.serving.Wait()
	}
	return err
}

// config is what the node is set to at present.
func (n *Node) config() *Config { return n.cfg.Load() }

// Addr is the address the node listens on.
func (n *Node) Addr() net.Addr { return n.addr }

// Failed is closed when the node can serve no more and its process should end; Err says why.
func (n *Node) Failed() <-chan struct{} { return n.failureCh }

// Syncs is how many fdatasync of partitions ran at once, at most, since it was last called.
func (n *Node) Syncs() int { return n.syncs.Most() }

// Err is what failed, or nil.
func (n *Node) Err() error {
	if err := n.failure.Load(); err != nil {
		return *err
	}
	return nil
}

func (n *Node) fail(err error) {
	if n.failure.CompareAndSwap(nil, &err) {
		close(n.failureCh)
	}
}

// fatal is called with the first write that failed, with a disk that is no more what it was, or with a catalog
// that cannot be read. From here on nothing is acknowledged.
func (n *Node) fatal(err error) {
	id := ErrorID(err)
	e, _ := explain.Lookup(id)
	n.log.Error(e.Name+": the node ends. "+e.Remedy, zap.Stringer("id", id), zap.Error(err))
	n.fail(err)
	if n.config().Fatal != nil {
		n.config().Fatal(err)
	}
}

// loopOf is our side of one of gnet's loops.
func (n *Node) loopOf(events gnet.EventLoop) *loop {
	n.loopMu.Lock()
	defer n.loopMu.Unlock()
	for _, l := range n.loops {
		if l.events == events {
			return l
		}
		if l.events == nil {
			l.mu.Lock()
			l.events = events
			l.mu.Unlock()
			return l
		}
	}
	panic("broker: more event loops than asked for")
}

func (n *Node) eachLoop(f func(*loop)) {
	for _, l := range n.loops {
		l.post(func() { f(l) })
	}
}

// info is what the node tells clients of itself.
func (n *Node) info() wire.NodeInfo {
	i := wire.NodeInfo{ID: n.identity.Node, Address: n.address, Bits: wire.NodeSelf}
	if n.draining.Load() {
		i.Bits |= wire.NodeDraining
	}
	return i
}

// Stop drains and ends the node: clients are told to go, what is in flight is answered, and
// everything is closed. It waits at most until ctx ends, or Config.DrainTimeout, for clients.
func (n *Node) Stop(ctx context.Context) error {
	n.stopOnce.Do(func() {
		defer close(n.stopped)
		n.draining.Store(true)
		if n.admin != nil {
			n.admin.Drain()
		}
		n.log.Info("stopping", zap.Int64("connections", n.connections.Load()))
		n.eachLoop(func(l *loop) {
			for s := range l.sessions {
				if s.state == stateReady {
					s.goaway()
				}
			}
		})
		ctx, cancel := context.WithTimeout(ctx, n.config().DrainTimeout)
		defer cancel()
		n.drain(ctx)
		n.stopErr = n.close()
		n.log.Info("stopped")
	})
	<-n.stopped
	return n.stopErr
}

// drain waits until no client has anything in flight, unsent or still arriving.
func (n *Node) drain(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond) // gnet tells nobody when a client has read
	defer tick.Stop()
	for {
		busy := make(chan int, len(n.loops))
		asked := 0
		for _, l := range n.loops {
			l.mu.Lock()
			bound := l.events != nil
			l.mu.Unlock()
			if bound {
				asked++
				l.post(func() { busy <- l.busy() })
			}
		}
		total := 0
		for range asked {
			select {
			case b := <-busy:
				total += b
			case <-ctx.Done():
				n.log.Warn("clients have not taken all that was theirs; closing them")
				return
			}
		}
		if total == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// quiet is how long a client must have been silent before it counts as done with what it was
// sending when it was told to go: what is still in the sockets arrives sooner.
const quiet = 250 * time.Millisecond

// busy counts sessions with something in flight, unsent or still arriving. Nothing that matters arrives from who came
// when the node was stopping already: clients that connect again and again must not hold it.
func (l *loop) busy() (count int) {
	now := time.Now()
	for s := range l.sessions {
		if s.inFlight > 0 || s.requests > 0 || s.gaveWay || len(s.out) > 0 || s.unsent() > 0 || !s.tardy && now.Sub(s.heard) < quiet {
			count++
		}
	}
	return count
}

// close ends what open and listen started, in the opposite order. Fields that are nil were never reached.
func (n *Node) close() error {
	n.draining.Store(true)
	n.cancel()
	var errs []error
	stopping, stopped := context.WithTimeout(context.Background(), 2*time.Second)
	errs = append(errs, n.stopHTTP(stopping))
	stopped()
	errs = append(errs, n.unlisten())
	n.keeping.Wait()
	n.requests.end()
	if n.readers != nil {
		n.readers.stop()
	}
	n.partitions.working.Lock() // who comes later finds n.ctx ended
	var closing errgroup.Group
	closing.SetLimit(stopParallel)
	var mu sync.Mutex
	for _, p := range n.partitions.all() {
		closing.Go(func() error {
			err := p.close()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			return nil
		})
	}
	_ = closing.Wait()
	n.partitions.working.Unlock()
	n.stopTracing()
	if n.catalog != nil {
		n.catalog.Stop()
	}
	if n.catalogLog != nil {
		errs = append(errs, n.catalogLog.Close())
	}
	if n.catalogStable != nil {
		errs = append(errs, n.catalogStable.Close())
	}
	if n.stable != nil {
		errs = append(errs, n.stable.Close())
	}
	if n.pool != nil {
		errs = append(errs, n.pool.Close())
	}
	if n.data != nil {
		n.data.close()
	}
	return errors.Join(errs...)
}

// skipNumbers has the catalog give out no number that is in use already: one that was put back from a copy, or has lost its end, would
// give a new stream the log of another, and a new producer the id of another. older says that it does not reach to when it was
// last started; it may also show by what is in use. Partitions on disk that the catalog does not know are told of. They are never
// deleted: the catalog may be what is wrong.
func (n *Node) skipNumbers(ctx context.Context, older bool) error {
	names, err := n.data.fs.List("partitions")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	state := n.catalog.State()
	known := make(map[uint64]bool)
	for _, streams := range []map[uint64]*cluster.Stream{state.Streams, state.Purged} {
		for _, st := range streams {
			for _, p := range st.Partitions {
				known[p.Group] = true
			}
		}
	}
	group := uint64(cluster.CatalogGroup)
	for _, name := range names {
		g, err := strconv.ParseUint(name, 10, 63)
		if err == nil {
			group = max(group, g)
		}
		if err != nil || !known[g] {
			n.log.Warn("a partition on disk that the catalog does not know; it is left alone", zap.String("directory", "partitions/"+name))
		}
	}
	producer := uint64(0)
	for _, p := range n.partitions.all() {
		producer = max(producer, p.raft.HighestProducer())
	}
	if older { // of which something that is deleted now may tell
		producer = max(producer, state.NextProducer)
	}
	if group < state.NextGroup && producer < state.NextProducer {
		return nil
	}
	n.log.Warn("the catalog may be older than the data, as one that was put back from a copy: streams that were made since are not known, and numbers that may be in use are passed over",
		zap.Uint64("next_group", state.NextGroup), zap.Uint64("highest_group", group),
		zap.Uint64("next_producer", state.NextProducer), zap.Uint64("highest_producer", producer))
	return n.catalog.Skip(ctx, group, producer)
}
