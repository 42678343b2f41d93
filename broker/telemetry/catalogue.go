package telemetry

import (
	"fmt"
	"io"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Metric is one entry of the catalogue.
type Metric struct {
	Name   string
	Kind   string // counter, gauge or histogram
	Unit   string // bytes, seconds, or what is counted
	Labels []string
	Help   string

	desc *prometheus.Desc
}

const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
)

// catalogue is every metric there is, in the order of its definition.
var catalogue []*Metric

func define(name, kind, unit, help string, labels ...string) *Metric {
	m := &Metric{Name: name, Kind: kind, Unit: unit, Labels: labels, Help: help, desc: prometheus.NewDesc(name, help, labels, nil)}
	catalogue = append(catalogue, m)
	return m
}

// Catalogue gives every metric of Tidewire; those of the Go runtime and the process are not among them.
func Catalogue() []Metric {
	out := make([]Metric, 0, len(catalogue))
	for _, m := range catalogue {
		out = append(out, *m)
	}
	return out
}

// The catalogue. A counter counts from the start of the process.
var (
	buildInfo = define("tidewire_build_info", gauge, "1", "Always 1; the labels say which software this is.", "version", "commit", "go", "protocol")
	nodeInfo  = define("tidewire_node_info", gauge, "1", "Always 1; the labels say which node of which cluster this is.", "node", "cluster")
	ready     = define("tidewire_ready", gauge, "0 or 1", "Whether the node can serve: what /readyz answers, but for the event loops, which only a probe asks.")

	connections      = define("tidewire_connections", gauge, "connections", "Connections that are open, by what speaks on them; undecided until the first bytes have told.", "protocol")
	connectionsLimit = define("tidewire_connections_limit", gauge, "connections", "How many connections may be open; one more is refused.")
	connectionsTotal = define("tidewire_connections_accepted_total", counter, "connections", "Connections that were accepted by the client port, refused ones included.")
	sessions         = define("tidewire_sessions", gauge, "sessions", "Clients of the wire protocol that shook hands and are connected.")
	producers        = define("tidewire_producers", gauge, "producers", "Producers that clients have open.")
	subscriptions    = define("tidewire_subscriptions", gauge, "subscriptions", "Subscriptions that clients have open.")
	creditBytes      = define("tidewire_credit_bytes", gauge, "bytes", "Credit that subscribers have given and that is not used yet.")
	refusedConns     = define("tidewire_refused_connections_total", counter, "connections", "Connections the node ended with an error, by its code; FOREIGN spoke no protocol of this port.", "code")
	droppedConns     = define("tidewire_dropped_connections_total", counter, "connections", "Connections the node closed because the client was late, slow or gone, by reason.", "reason")
	refusedRequests  = define("tidewire_refused_requests_total", counter, "requests", "Requests, other than publishes, that were answered with an error, by its code.", "code")
	panics           = define("tidewire_panics_total", counter, "panics", "Panics while serving one connection, which was closed. Each is a bug.")

	publishBatches = define("tidewire_publish_batches_total", counter, "batches", "Batches that were answered, by the code of the answer; OK is durable and acknowledged.", "code")
	publishBytes   = define("tidewire_publish_bytes_total", counter, "bytes", "Bytes of the batches that were answered, as they travelled, by the code of the answer.", "code")
	publishRecords = define("tidewire_publish_records_total", counter, "records", "Records that were acknowledged, those sent again and found to be there included.")
	ackSeconds     = define("tidewire_publish_ack_seconds", histogram, "seconds",
		"How long Raft entries took, by stage: queue from the arrival of the first batch to Raft, fsync the write to stable storage, commit from there to the answer, total all of it. An entry holds all batches that came while the one before it was written.", "stage")
	entryBatches = define("tidewire_publish_entry_batches", histogram, "batches", "How many batches went to stable storage with one Raft entry.")
	entryBytes   = define("tidewire_publish_entry_bytes", histogram, "bytes", "How many bytes of batches went to stable storage with one Raft entry.")

	deliverBatches = define("tidewire_deliver_batches_total", counter, "batches", "Batches that were sent to readers, cut ones included.", "kind")
	deliverRecords = define("tidewire_deliver_records_total", counter, "records", "Records that were sent to readers.", "kind")
	deliverBytes   = define("tidewire_deliver_bytes_total", counter, "bytes", "Bytes of RECORDS frames that were sent to readers.", "kind")

	memoryUsed  = define("tidewire_memory_used_bytes", gauge, "bytes", "Memory in use of each budget: publish (batches queued and in flight), hot (recent entries for readers), outbound (not yet taken by clients), inbound (frames that have not arrived whole).", "budget")
	memoryLimit = define("tidewire_memory_limit_bytes", gauge, "bytes", "The limit of each budget of memory.", "budget")

	diskFree     = define("tidewire_disk_free_bytes", gauge, "bytes", "Bytes free for this process on the file system of the data directory.")
	diskTotal    = define("tidewire_disk_size_bytes", gauge, "bytes", "Size of the file system of the data directory.")
	diskFloor    = define("tidewire_disk_floor_bytes", gauge, "bytes", "Bytes of that file system that are kept free: publishes are refused before less is.")
	diskFull     = define("tidewire_disk_full", gauge, "0 or 1", "1 while publishes and new streams are refused, as the disk is almost full.")
	logBytes     = define("tidewire_log_bytes", gauge, "bytes", "Bytes in the segments of all partitions that are open here.")
	logSegments  = define("tidewire_log_segments", gauge, "segments", "Segments of all partitions that are open here.")
	poolBytes    = define("tidewire_pool_bytes", gauge, "bytes", "Bytes of recycled and spare segment files.")
	fsyncSeconds = define("tidewire_fsync_seconds", histogram, "seconds", "How long fdatasync of appended entries took, the catalog's included and the wait for its turn.")
	writtenBytes = define("tidewire_storage_written_bytes_total", counter, "bytes", "Bytes appended to logs and synced, the catalog's and frames included.")
	writtenItems = define("tidewire_storage_written_entries_total", counter, "entries", "Raft entries appended to logs and synced, the catalog's included.")
	writeAge     = define("tidewire_storage_write_age_seconds", gauge, "seconds", "How long the oldest write that is under way has been running; 0 if there is none. It grows while a disk hangs.")
	writeFailed  = define("tidewire_write_failed", gauge, "0 or 1", "1 when the node can serve no more, because a write failed or its disk was lost: the process is about to end.")
	damaged      = define("tidewire_damaged_ranges_total", counter, "ranges", "Damaged ranges of records that were met, by recovery at start or by a reader; one range may be met often.", "by")

	raftGroups    = define("tidewire_raft_groups", gauge, "groups", "Raft groups with a replica here, the catalog's included.")
	raftLeaders   = define("tidewire_raft_leaders", gauge, "groups", "Raft groups that this node leads.")
	raftChanges   = define("tidewire_raft_leadership_changes_total", counter, "changes", "Times this node began to lead a partition (won) or stopped (lost); closing a partition counts as lost.", "change")
	raftLag       = define("tidewire_raft_commit_lag_entries", gauge, "entries", "Entries in the log that are not known to be committed, in the partition with the most.")
	raftSnapshots = define("tidewire_raft_snapshots_total", counter, "snapshots", "Snapshots of partitions, by result.", "result")

	streams       = define("tidewire_streams", gauge, "streams", "Streams in the catalog, by state: deleted ones are kept until their grace time is over.", "state")
	partitions    = define("tidewire_partitions", gauge, "partitions", "Partitions of streams that live.")
	notServing    = define("tidewire_partitions_not_serving", gauge, "partitions", "Partitions of streams that live and take no publishes here. Anything above 0 for longer than a start is a fault.")
	streamBatches = define("tidewire_stream_published_batches_total", counter, "batches", "Batches that became durable, by stream; (other) is all that have no label of their own.", "stream")
	streamRecords = define("tidewire_stream_published_records_total", counter, "records", "Records that became durable, by stream.", "stream")
	streamBytes   = define("tidewire_stream_published_bytes_total", counter, "bytes", "Bytes of batches that became durable, by stream.", "stream")
	streamOut     = define("tidewire_stream_delivered_records_total", counter, "records", "Records that were sent to readers, by stream.", "stream")
	streamOutSize = define("tidewire_stream_delivered_bytes_total", counter, "bytes", "Bytes of RECORDS frames that were sent to readers, by stream.", "stream")
	streamLog     = define("tidewire_stream_log_bytes", gauge, "bytes", "Bytes in the segments of a stream's partitions.", "stream")
	streamHeld    = define("tidewire_stream_records", gauge, "records", "Records a stream holds: from the log start to the high watermark.", "stream")

	rpcCalls   = define("tidewire_rpc_calls_total", counter, "calls", "Calls of the gRPC services that ended, by method and code; unknown is every method that does not exist.", "method", "code")
	rpcPanics  = define("tidewire_rpc_panics_total", counter, "panics", "Panics in calls of the gRPC services, which failed. Each is a bug.")
	rpcSeconds = define("tidewire_rpc_seconds", histogram, "seconds", "How long calls of the gRPC services took, by method and status; methods that do not exist are not counted.", "method", "status")

	httpRequests = define("tidewire_http_requests_total", counter, "requests", "Requests over HTTP/1, by path and status; (other) is every path that does not exist.", "path", "code")

	traceDropped = define("tidewire_trace_export_failures_total", counter, "exports", "Exports of spans that failed; their spans are lost. 0 when no collector is configured.")
)

// WriteReference writes docs/reference/metrics.md.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Metrics

Made from the code (` + "`go generate ./broker/telemetry`" + `); a test fails when it is stale.

A node serves them at ` + "`/metrics`" + ` on its own port, as Prometheus text or OpenMetrics, beside ` + "`go_*` and `process_*`" + `
of the Go runtime and the process. Counters begin at 0 when the process starts. Units are base units: bytes and
seconds. How to watch them: [monitoring](../guides/monitoring.md).

| metric | type | unit | labels | meaning |
|---|---|---|---|---|
`)
	for _, m := range catalogue {
		labels := ""
		for i, l := range m.Labels {
			if i > 0 {
				labels += ", "
			}
			labels += "`" + l + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", m.Name, m.Kind, m.Unit, labels, m.Help)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
