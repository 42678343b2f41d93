package telemetry

import (
	"fmt"
	"runtime/debug"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// collector tells what is counted by loops and streams and what is looked up.
type collector Metrics

// own are the metrics that others collect.
var own = map[*Metric]bool{rpcSeconds: true, rpcCalls: true, rpcPanics: true, httpRequests: true}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range catalogue {
		if !own[m] {
			out <- m.desc
		}
	}
}

// Collect implements prometheus.Collector. The registry calls it on a goroutine of its own, where a panic would end the node:
// it fails this scrape instead.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	defer func() {
		if r := recover(); r != nil {
			out <- prometheus.NewInvalidMetric(ready.desc, fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
		}
	}()
	s := c.cfg.State()
	tell := func(m *Metric, v float64, labels ...string) {
		kind := prometheus.GaugeValue
		if m.Kind == counter {
			kind = prometheus.CounterValue
		}
		out <- prometheus.MustNewConstMetric(m.desc, kind, v, labels...)
	}
	tell(buildInfo, 1, c.cfg.Version, c.cfg.Commit, c.cfg.Go, strconv.Itoa(c.cfg.Protocol))
	tell(nodeInfo, 1, s.Node, s.Cluster)
	tell(ready, oneIf(s.Ready))
	c.collectLoops(tell, &s)
	c.collectState(tell, &s)

	out <- c.queue.tell(ackSeconds, "queue")
	out <- c.fsync.tell(ackSeconds, "fsync")
	out <- c.commit.tell(ackSeconds, "commit")
	out <- c.total.tell(ackSeconds, "total")
	out <- c.batches.tell(entryBatches)
	out <- c.bytes.tell(entryBytes)
	out <- c.synced.tell(fsyncSeconds)
	tell(writtenBytes, count(&c.writtenBytes))
	tell(writtenItems, count(&c.writtenEntries))
	tell(damaged, count(&c.damagedRecovery), "recovery")
	tell(damaged, count(&c.damagedReader), "reader")
	tell(raftChanges, count(&c.won), "won")
	tell(raftChanges, count(&c.lost), "lost")
	tell(raftSnapshots, count(&c.snapshots), "ok")
	tell(raftSnapshots, count(&c.snapshotFails), "failed")
	tell(traceDropped, count(&c.exportFailures))

	c.streams.each(func(st *Stream) {
		tell(streamBatches, count(&st.Published.Batches), st.Label)
		tell(streamRecords, count(&st.Published.Records), st.Label)
		tell(streamBytes, count(&st.Published.Bytes), st.Label)
		tell(streamOut, count(&st.Delivered.Records), st.Label)
		tell(streamOutSize, count(&st.Delivered.Bytes), st.Label)
		h := s.Held[st.Label]
		tell(streamLog, float64(h.Bytes), st.Label)
		tell(streamHeld, float64(h.Records), st.Label)
	})
}

type teller func(m *Metric, v float64, labels ...string)

// collectLoops sums what the loops count.
func (c *collector) collectLoops(tell teller, s *State) {
	sum := func(of func(*Loop) *atomic.Uint64) float64 {
		total := uint64(0)
		for i := range c.loops {
			total += of(&c.loops[i]).Load()
		}
		return float64(total)
	}
	level := func(of func(*Loop) *atomic.Int64) float64 {
		total := int64(0)
		for i := range c.loops {
			total += of(&c.loops[i]).Load()
		}
		return float64(total)
	}
	byCode := func(m *Metric, always bool, of func(*Loop) *Codes) {
		for code := range codeCount {
			if n := sum(func(l *Loop) *atomic.Uint64 { return &of(l)[code] }); n > 0 || code == 0 && always {
				tell(m, n, codeName(code))
			}
		}
	}
	speak := level(func(l *Loop) *atomic.Int64 { return &l.Wire })
	tell(connections, speak, "tidewire")
	tell(connections, float64(s.HTTP1), "http1")
	tell(connections, float64(s.HTTP2), "http2")
	tell(connections, max(float64(s.Connections-s.HTTP1-s.HTTP2)-speak, 0), "undecided")
	tell(connectionsLimit, float64(s.ConnectionsLimit))
	tell(connectionsTotal, sum(func(l *Loop) *atomic.Uint64 { return &l.Accepted }))
	tell(sessions, level(func(l *Loop) *atomic.Int64 { return &l.Sessions }))
	tell(producers, level(func(l *Loop) *atomic.Int64 { return &l.Producers }))
	tell(subscriptions, level(func(l *Loop) *atomic.Int64 { return &l.Subscriptions }))
	tell(creditBytes, level(func(l *Loop) *atomic.Int64 { return &l.Credit }))
	byCode(refusedConns, false, func(l *Loop) *Codes { return &l.Refused })
	tell(refusedConns, sum(func(l *Loop) *atomic.Uint64 { return &l.Foreign }), "FOREIGN")
	byCode(refusedRequests, false, func(l *Loop) *Codes { return &l.RefusedRequests })
	tell(panics, sum(func(l *Loop) *atomic.Uint64 { return &l.Panics }))

	byCode(publishBatches, true, func(l *Loop) *Codes { return &l.Published })
	byCode(publishBytes, true, func(l *Loop) *Codes { return &l.PublishedBytes })
	tell(publishRecords, sum(func(l *Loop) *atomic.Uint64 { return &l.Records }))

	for _, kind := range []struct {
		name string
		of   func(*Loop) *Flow
	}{{"subscribe", func(l *Loop) *Flow { return &l.Pushed }}, {"fetch", func(l *Loop) *Flow { return &l.Fetched }}} {
		tell(deliverBatches, sum(func(l *Loop) *atomic.Uint64 { return &kind.of(l).Batches }), kind.name)
		tell(deliverRecords, sum(func(l *Loop) *atomic.Uint64 { return &kind.of(l).Records }), kind.name)
		tell(deliverBytes, sum(func(l *Loop) *atomic.Uint64 { return &kind.of(l).Bytes }), kind.name)
	}
}

// collectState tells what was looked up.
func (c *collector) collectState(tell teller, s *State) {
	for _, d := range s.Dropped {
		tell(droppedConns, float64(d.Count), d.Reason)
	}
	for _, b := range s.Memory {
		tell(memoryUsed, float64(b.Used), b.Name)
		tell(memoryLimit, float64(b.Limit), b.Name)
	}
	tell(diskFree, float64(s.DiskFree))
	tell(diskTotal, float64(s.DiskTotal))
	tell(diskFloor, float64(s.DiskFloor))
	tell(diskFull, oneIf(s.DiskFull))
	tell(logBytes, float64(s.LogBytes))
	tell(logSegments, float64(s.LogSegments))
	tell(poolBytes, float64(s.PoolBytes))
	tell(writeAge, s.WriteAge.Seconds())
	tell(writeFailed, oneIf(s.Failed))
	tell(raftGroups, float64(s.Groups))
	tell(raftLeaders, float64(s.Leaders))
	tell(raftLag, float64(s.CommitLag))
	tell(streams, float64(s.Streams), "live")
	tell(streams, float64(s.DeletedStreams), "deleted")
	tell(partitions, float64(s.Partitions))
	tell(notServing, float64(s.NotServing))
}

func count(c *atomic.Uint64) float64 { return float64(c.Load()) }

func oneIf(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
