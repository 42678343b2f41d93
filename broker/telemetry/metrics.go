package telemetry

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"

	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

// Config sets up a node's metrics.
type Config struct {
	Version, Commit, Go string
	Protocol            int
	// Streams is how many streams have a label of their own.
	Streams int
	// Loops is how many event loops there are.
	Loops int
	// State tells what is looked up when somebody collects. It may be called by several at a time.
	State func() State
}

// State is what a node is found to be in when somebody collects.
type State struct {
	Node, Cluster string
	Ready         bool

	Connections, HTTP1, HTTP2, ConnectionsLimit int64
	Dropped                                     []Dropped
	Memory                                      []Budget

	DiskFree, DiskTotal, DiskFloor int64
	DiskFull                       bool
	LogBytes, PoolBytes            int64
	LogSegments                    int
	WriteAge                       time.Duration
	Failed                         bool

	Groups, Leaders int
	CommitLag       uint64

	Streams, DeletedStreams int
	Partitions, NotServing  int
	Held                    map[string]Held // by label
}

// Dropped is how many connections were closed for a reason.
type Dropped struct {
	Reason string
	Count  int64
}

// Budget is a budget of memory, in bytes.
type Budget struct {
	Name        string
	Used, Limit int64
}

// Held is what the partitions of a stream, or of those without a label, hold here.
type Held struct {
	Bytes   int64
	Records uint64
}

// Metrics is what one node measures. Its methods may be called by anybody.
type Metrics struct {
	registry *prometheus.Registry
	cfg      Config
	loops    []Loop
	streams  streamSet

	queue, fsync, commit, total meter
	batches, bytes, synced      meter
	http, calls                 *prometheus.CounterVec
	callPanics                  prometheus.Counter

	writtenBytes, writtenEntries        atomic.Uint64
	damagedRecovery, damagedReader      atomic.Uint64
	won, lost, snapshots, snapshotFails atomic.Uint64
	exportFailures                      atomic.Uint64
}

// latency is a meter of 50 µs to 13 s.
func latency() meter { return meter{unit: 50_000, scale: 1e9, last: 19} }

// New makes the metrics of a node, with a registry of their own.
func New(cfg Config) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), cfg: cfg, loops: make([]Loop, max(cfg.Loops, 1)),
		streams: streamSet{limit: cfg.Streams, named: make(map[string]*Stream), other: Stream{Label: OtherStreams}},
		queue:   latency(), fsync: latency(), commit: latency(), total: latency(), synced: latency(),
		batches: meter{unit: 1, scale: 1, last: 15}, bytes: meter{unit: 256, scale: 1, last: 14}}
	m.http = prometheus.NewCounterVec(prometheus.CounterOpts{Name: httpRequests.Name, Help: httpRequests.Help}, httpRequests.Labels)
	m.calls = prometheus.NewCounterVec(prometheus.CounterOpts{Name: rpcCalls.Name, Help: rpcCalls.Help}, rpcCalls.Labels)
	m.callPanics = prometheus.NewCounter(prometheus.CounterOpts{Name: rpcPanics.Name, Help: rpcPanics.Help})
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m.http, m.calls, m.callPanics, (*collector)(m), rpcCollector{})
	return m
}

// Gatherer gives the metrics to who serves them.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Loop is the counters of one event loop.
func (m *Metrics) Loop(i int) *Loop { return &m.loops[i] }

// Stream gives the counters of a stream, one for each of its partitions; Release gives them back.
func (m *Metrics) Stream(name string) *Stream { return m.streams.take(name) }

// Release gives back what Stream gave.
func (m *Metrics) Release(s *Stream) { m.streams.release(s) }

// DamagedAtStart counts ranges that recovery found.
func (m *Metrics) DamagedAtStart(ranges int) { m.damagedRecovery.Add(uint64(ranges)) }

// DamagedForReader counts a range that a reader met.
func (m *Metrics) DamagedForReader() { m.damagedReader.Add(1) }

// Leadership counts a change.
func (m *Metrics) Leadership(leading bool) {
	if leading {
		m.won.Add(1)
	} else {
		m.lost.Add(1)
	}
}

// ExportFailed counts an export of spans that failed.
func (m *Metrics) ExportFailed() { m.exportFailures.Add(1) }

// HTTP counts a request; path is one of a few.
func (m *Metrics) HTTP(path string, code int) {
	if http.StatusText(code) == "" {
		code = 0
	}
	m.http.WithLabelValues(path, strconv.Itoa(code)).Inc()
}

// Call counts a call of a gRPC service; method is one of a few.
func (m *Metrics) Call(method string, code codes.Code) {
	m.calls.WithLabelValues(method, code.String()).Inc()
}

// CallPanicked counts a panic in one.
func (m *Metrics) CallPanicked() { m.callPanics.Inc() }

// Storage observes logs.
func (m *Metrics) Storage() storage.Observer { return (*storageObserver)(m) }

type storageObserver Metrics

// Appended implements storage.Observer.
func (o *storageObserver) Appended(entries int, bytes int64, sync time.Duration) {
	o.writtenBytes.Add(uint64(bytes))
	o.writtenEntries.Add(uint64(entries))
	o.synced.observe(int64(sync))
}

// Grew implements storage.Observer.
func (o *storageObserver) Grew(int64) {}

// Partition observes one partition of a stream.
func (m *Metrics) Partition(s *Stream) raft.Observer { return &partitionObserver{m, s} }

type partitionObserver struct {
	*Metrics
	stream *Stream
}

// Entry implements raft.Observer.
func (o *partitionObserver) Entry(t raft.EntryTimes) {
	o.stream.Published.Add(uint64(t.Batches), t.Records, uint64(t.Bytes))
	o.batches.observe(int64(t.Batches))
	o.bytes.observe(int64(t.Bytes))
	o.queue.observe(int64(t.Proposed.Sub(t.Queued)))
	if !t.Stored.IsZero() {
		o.fsync.observe(int64(t.Stored.Sub(t.Storing)))
		o.commit.observe(int64(t.Committed.Sub(t.Stored)))
	}
	o.total.observe(int64(t.Committed.Sub(t.Queued)))
}

// Snapshot implements raft.Observer.
func (o *partitionObserver) Snapshot(_ time.Duration, err error) {
	if err != nil {
		o.snapshotFails.Add(1)
		return
	}
	o.snapshots.Add(1)
}
