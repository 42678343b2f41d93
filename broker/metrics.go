package broker

import (
	"context"
	"runtime"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/broker/telemetry"
	"github.com/tidewire/tidewire/broker/web"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/storage"
)

// newMetrics makes the node's metrics. They can be collected once the node listens.
func (n *Node) newMetrics(loops int) *telemetry.Metrics {
	cfg := n.config()
	return telemetry.New(telemetry.Config{Version: Version, Commit: cfg.Commit, Go: runtime.Version(), Protocol: wire.Version,
		Streams: cfg.MetricStreams, Loops: loops, State: n.measure})
}

// webConfig is what the node says over HTTP.
func (n *Node) webConfig() web.Config {
	cfg := n.config()
	return web.Config{
		Version: struct {
			Version  string `json:"version"`
			Commit   string `json:"commit"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
			Protocol int    `json:"protocol"`
			Durable  bool   `json:"durable"` // false: a test build whose fsync does nothing
		}{Version, cfg.Commit, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, wire.Version, storage.Durable},
		Gatherer: n.metrics.Gatherer(), Live: n.liveChecks(), Ready: n.readyChecks(),
		Pprof: cfg.Pprof, Observe: n.metrics.HTTP, Logger: n.log.Named("web"),
	}
}

// measure looks up what is told when somebody collects. It waits for no loop and no disk, but for
// the file system's own figures.
func (n *Node) measure() telemetry.State {
	cfg := n.config()
	s := telemetry.State{
		Node: strconv.FormatUint(n.identity.Node, 10), Cluster: n.identity.ClusterHex,
		Connections: n.connections.Load(), HTTP1: n.http1.open.Load(), HTTP2: n.http2.open.Load(),
		ConnectionsLimit: int64(cfg.MaxConnections),
		Memory: []telemetry.Budget{
			{Name: "publish", Used: n.budget.Used(), Limit: n.budget.Limit()},
			{Name: "hot", Used: n.hot.Used(), Limit: n.hot.Limit()},
			{Name: "outbound", Used: n.outbound.Load(), Limit: cfg.OutboundMemory},
			{Name: "inbound", Used: n.inbound.Load(), Limit: cfg.InboundMemory},
		},
		PoolBytes: n.pool.Bytes(), WriteAge: n.writeAge(), Failed: n.Err() != nil,
		Groups: 1, CommitLag: n.catalog.CommitLag(), Held: make(map[string]telemetry.Held),
	}
	for why := range closeReasons {
		s.Dropped = append(s.Dropped, telemetry.Dropped{Reason: why.String(), Count: n.closures[why].Load()})
	}
	disk := n.diskState()
	s.DiskFree, s.DiskTotal, s.DiskFloor, s.DiskFull = disk.Free, disk.Total, disk.Floor, disk.Full
	if n.catalog.Leads() {
		s.Leaders++
	}
	for _, p := range n.partitions.all() {
		b := p.raft.Log().Bounds()
		s.Groups++
		s.LogBytes += b.Bytes
		s.LogSegments += b.Segments
		s.CommitLag = max(s.CommitLag, p.raft.Group().CommitLag())
		if p.raft.IsLeader() {
			s.Leaders++
		}
		h := s.Held[p.count.Label]
		h.Bytes += b.Bytes
		high, start := p.raft.HighWatermark(), p.raft.LogStart()
		h.Records += uint64(max(high, start) - start)
		s.Held[p.count.Label] = h
	}
	for _, st := range n.catalog.State().Streams {
		if st.Deleted != 0 {
			s.DeletedStreams++
		} else {
			s.Streams++
		}
	}
	n.eachPartition(func(_ string, _ int, p *partition) {
		s.Partitions++
		if p == nil || !p.raft.IsLeader() {
			s.NotServing++
		}
	})
	s.Ready = true
	for _, c := range n.readyChecks() {
		if c.Name != "loops" { // asking them takes time when one hangs
			s.Ready = s.Ready && c.Func() == nil
		}
	}
	return s
}

func (n *Node) leadershipChanged(leading bool, _ storage.Term) { n.metrics.Leadership(leading) }

// startTracing begins to trace if a collector is configured.
func (n *Node) startTracing() (err error) {
	cfg := n.config()
	if cfg.OTLPEndpoint == "" {
		return nil
	}
	n.tracer, err = telemetry.NewTracer(telemetry.TraceConfig{
		Endpoint: cfg.OTLPEndpoint, Insecure: cfg.OTLPInsecure, Ratio: cfg.TraceSampleRatio,
		Version: Version, Node: strconv.FormatUint(n.identity.Node, 10), Cluster: n.identity.ClusterHex,
		Logger: n.log.Named("trace"), Failed: n.metrics.ExportFailed,
	})
	return err
}

// flushTraces is how long the end of a node waits for spans to be taken.
const flushTraces = 2 * time.Second

func (n *Node) stopTracing() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTraces)
	defer cancel()
	if err := n.tracer.Stop(ctx); err != nil {
		n.log.Debug("the last spans were not taken", zap.Error(err))
	}
}
