package main

import "time"

// Case is a row of the table: one load on several systems.
type Case struct {
	Name    string
	Spec    Spec
	Metric  Metric
	Entries []Entry
	Goals   []Goal

	// Fill is published before a replay or a restart is measured.
	Fill    uint64
	Restart bool // the server is killed, and the time is to its first answers
}

// Entry is a system in a Case, with what it is known to do.
type Entry struct {
	System string
	Client string  // of the system; "" if it has one
	Known  float64 // of the metric, from other measurements of this machine's kind; 0: nothing is
}

// Goal is what the case is to show: the metric of tidewire over that of a peer, or alone.
type Goal struct {
	Than    string  // system, of several clients the best; "": the metric itself counts
	Reach   float64 // at least, or at most if less is better
	Stretch float64 // what would be better still; 0: nothing is said
}

// Metric says which figure of a Run counts.
type Metric struct {
	Name string
	Unit string
	Less bool // is better
	Of   func(*Run) float64
}

var (
	throughput = Metric{"throughput", "k records/s", false, func(r *Run) float64 { return r.Result.PerSecond() / 1e3 }}
	median     = Metric{"p50", "us", true, func(r *Run) float64 { return micro(r.Result.Latency.P50) }}
	serverCPU  = Metric{"server CPU", "us/record", true, func(r *Run) float64 { return r.ServerCPU }}
	took       = Metric{"time", "ms", true, func(r *Run) float64 { return r.Result.Took.Seconds() * 1e3 }}
)

const (
	inFlight = 20_000 // calls, where batches are made
	perBatch = 500
)

func publishing(connections, calls, batch, size int) Spec {
	return Spec{Kind: publish, Connections: connections, InFlight: calls, Batch: batch, Size: size}
}

// r1 are the rows of one node.
var r1 = []Case{
	{Name: "1 in flight, p50", Spec: publishing(1, 1, 1, 128), Metric: median,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "raw", 99}, {"jetstream-always", "raw", 384}, {"redis-always", "", 215}},
		Goals:   []Goal{{"redis-always", 1.3, 1.15}}},
	{Name: "64 in flight, a record a frame", Spec: publishing(1, 64, 1, 128), Metric: throughput,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "raw", 148}, {"jetstream-always", "raw", 4.8}, {"redis-always", "", 0}},
		Goals:   []Goal{{"jetstream", 0.75, 0.9}}},
	{Name: "1024 in flight", Spec: publishing(1, 1024, 1, 128), Metric: throughput,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "raw", 257}, {"jetstream", "async", 169}, {"jetstream-always", "raw", 4.8}, {"redis-always", "", 0}},
		Goals:   []Goal{{"jetstream", 2, 3}}},
	{Name: "batching, 1 connection", Spec: publishing(1, inFlight, perBatch, 128), Metric: throughput,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "fast", 323}, {"jetstream", "raw", 257}, {"jetstream-always", "fast", 4.8}, {"redis-always", "", 215}, {"redis-everysec", "", 302}},
		Goals:   []Goal{{"jetstream", 4, 6}, {"redis-always", 6, 9}}},
	{Name: "batching, 16 connections", Spec: publishing(16, inFlight/16, perBatch, 128), Metric: throughput,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "raw", 0}, {"jetstream", "fast", 0}, {"redis-always", "", 483}, {"redis-everysec", "", 520}},
		Goals:   []Goal{{"redis-always", 3, 4}}},
	{Name: "1 KiB, batching", Spec: publishing(1, inFlight, perBatch, 1024), Metric: throughput,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "fast", 224}, {"jetstream-always", "fast", 4.3}, {"redis-always", "", 48}, {"redis-everysec", "", 113}},
		Goals:   []Goal{{"jetstream", 2, 3}}},
	{Name: "end to end at 1,000/s, p50", Spec: Spec{Kind: roundTrip, Rate: 1000, Size: 128}, Metric: median,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "ordered", 210}, {"jetstream-always", "ordered", 520}},
		Goals:   []Goal{{"jetstream-always", 0.75, 0}}},
	{Name: "replay, one consumer", Spec: Spec{Kind: replay, Size: 128}, Fill: 2_000_000, Metric: throughput,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "ordered", 353}, {"jetstream", "fetch", 305}},
		Goals:   []Goal{{"jetstream", 6, 10}}},
	{Name: "replay, 1 KiB, warm", Spec: Spec{Kind: replay, Size: 1024}, Fill: 2_000_000, Metric: throughput,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "ordered", 298}},
		Goals:   []Goal{{"jetstream", 3, 5}}},
	{Name: "replay, 1 KiB, cold", Spec: Spec{Kind: replay, Size: 1024, Cold: true}, Fill: 2_000_000, Metric: throughput,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "ordered", 240}},
		Goals:   []Goal{{"jetstream", 3, 5}}},
	{Name: "server CPU per record, batched", Spec: publishing(1, inFlight, perBatch, 128), Metric: serverCPU,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "fast", 3.4}, {"jetstream-always", "fast", 84}, {"redis-always", "", 1.6}},
		Goals:   []Goal{{"", 0.6, 0.4}}},
	{Name: "restart after kill -9 with 2 GB, warm", Spec: Spec{Size: 1024}, Fill: 2_000_000, Restart: true, Metric: took,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "", 1140}},
		Goals:   []Goal{{"", 200, 100}}},
	{Name: "restart after kill -9 with 2 GB, cold", Spec: Spec{Size: 1024, Cold: true}, Fill: 2_000_000, Restart: true, Metric: took,
		Entries: []Entry{{"tidewire", "", 0}, {"jetstream", "", 3300}},
		Goals:   []Goal{{"", 500, 300}}},
}

// length is how long loads run: warm-up, and measured.
type length struct{ warmup, measured time.Duration }
