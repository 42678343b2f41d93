package main

import (
	"slices"
	"time"
)

// Case is a row of the table: one load on several systems.
type Case struct {
	Name    string
	Spec    Spec
	Metric  Metric
	Entries []Entry
	Goals   []Goal

	Fill    uint64 // records, published before
	Restart bool   // the server is killed, and the time is to its first answers
	Loads   int    // one after the other on the same server, in place of rounds on fresh ones

	Extra bool // it is none of r1

	Variants []Variant // of the load, each a row, all measured in turn; none: the case is one row
	Then     []Case    // rows measured next on the same servers, with what these hold; their Entries are of the same systems
}

// Variant is a row of a Case that has several.
type Variant struct {
	Name  string
	Vary  func(*Spec)
	Goals []Goal
}

// rows are the case and what is measured then, or its variants as cases that have none.
func (c *Case) rows() []*Case {
	if len(c.Variants) == 0 {
		rows := []*Case{c}
		for _, then := range c.Then {
			then.Fill = c.Fill
			rows = append(rows, &then)
		}
		return rows
	}
	var rows []*Case
	for _, v := range c.Variants {
		row := *c
		row.Name, row.Variants, row.Goals = c.Name+", "+v.Name, nil, append(v.Goals, c.Goals...)
		v.Vary(&row.Spec)
		rows = append(rows, &row)
	}
	return rows
}

// cold reports whether a row of the case begins with an empty page cache.
func (c *Case) cold() bool {
	return slices.ContainsFunc(c.rows(), func(row *Case) bool { return row.Spec.Cold })
}

// weighsDisk reports whether a row of the case is of what the disk has written.
func (c *Case) weighsDisk() bool {
	return slices.ContainsFunc(c.rows(), func(row *Case) bool { return row.Metric.Name == device.Name })
}

// Entry is a system in a Case, with what it is known to do.
type Entry struct {
	System string
	Client string  // of the system; "" if it has one
	Known  float64 // of the metric, from measurements on other machines; 0: nothing is
}

// Goal is what the case is to show: the metric of tidewire over that of a peer, over its own in another variant, or alone.
type Goal struct {
	Than    string  `json:"than,omitempty"`    // system, of several clients the best
	Beside  string  `json:"beside,omitempty"`  // variant of the same case: over what tidewire reaches there
	Reach   float64 `json:"reach"`             // at least, or at most if less is better
	Stretch float64 `json:"stretch,omitempty"` // what would be better still; 0: nothing is said

	Of   *Metric `json:"-"`              // another figure than the row's
	Flat bool    `json:"flat,omitempty"` // Of must not grow over the loads of the case: that of the last over that of the second, at most Reach
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
	p99        = Metric{"p99", "us", true, func(r *Run) float64 { return micro(r.Result.Latency.P99) }}
	device     = Metric{"written to the disk", "bytes/byte", true, func(r *Run) float64 { return r.Device }}
	busy       = Metric{"CPU", "% of a core", true, func(r *Run) float64 { return 100 * r.Busy }}
	anonymous  = Metric{"memory", "MB", true, func(r *Run) float64 { return float64(r.Anonymous) / 1e6 }}
	stored     = Metric{"disk", "MB", true, func(r *Run) float64 { return float64(r.Stored) / 1e6 }}
	kept       = Metric{"what the log holds", "MB", false, func(r *Run) float64 { return float64(r.Kept) / 1e6 }}
	read       = Metric{"what each consumer reads", "MB/s", false, func(r *Run) float64 { return r.Read / 1e6 }}
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
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "raw", Known: 99}, {System: "jetstream-always", Client: "raw", Known: 384}, {System: "redis-always", Known: 215}},
		Goals:   []Goal{{Than: "redis-always", Reach: 1.3, Stretch: 1.15}}},
	{Name: "64 in flight, a record a frame", Spec: publishing(1, 64, 1, 128), Metric: throughput,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "raw", Known: 148}, {System: "jetstream-always", Client: "raw", Known: 4.8}, {System: "redis-always"}},
		Goals:   []Goal{{Than: "jetstream", Reach: 0.75, Stretch: 0.9}}},
	{Name: "1024 in flight", Spec: publishing(1, 1024, perBatch, 128), Metric: throughput,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "raw", Known: 257}, {System: "jetstream", Client: "async", Known: 169}, {System: "jetstream", Client: "fast"}, {System: "jetstream-always", Client: "raw", Known: 4.8}, {System: "jetstream-always", Client: "atomic"}, {System: "redis-always"}, {System: "redis-always", Client: "multi"}},
		Goals:   []Goal{{Than: "jetstream", Reach: 2, Stretch: 3}}},
	{Name: "batching, 1 connection", Spec: publishing(1, inFlight, perBatch, 128), Metric: throughput,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "fast", Known: 323}, {System: "jetstream", Client: "raw", Known: 257}, {System: "jetstream-always", Client: "atomic"}, {System: "redis-always", Known: 215}, {System: "redis-always", Client: "multi"}, {System: "redis-everysec", Known: 302}, {System: "redis-everysec", Client: "multi"}},
		Goals:   []Goal{{Than: "jetstream", Reach: 4, Stretch: 6}, {Than: "redis-always", Reach: 6, Stretch: 9}}},
	{Name: "batching, 16 connections", Spec: publishing(16, inFlight/16, perBatch, 128), Metric: throughput,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "raw"}, {System: "jetstream", Client: "fast"}, {System: "jetstream-always", Client: "atomic"}, {System: "redis-always", Known: 483}, {System: "redis-always", Client: "multi"}, {System: "redis-everysec", Known: 520}, {System: "redis-everysec", Client: "multi"}},
		Goals:   []Goal{{Than: "redis-always", Reach: 3, Stretch: 4}}},
	{Name: "1 KiB, batching", Spec: publishing(1, inFlight, perBatch, 1024), Metric: throughput,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "fast", Known: 224}, {System: "jetstream-always", Client: "atomic"}, {System: "redis-always", Known: 48}, {System: "redis-always", Client: "multi"}, {System: "redis-everysec", Known: 113}, {System: "redis-everysec", Client: "multi"}},
		Goals:   []Goal{{Than: "jetstream", Reach: 2, Stretch: 3}}},
	{Name: "end to end at 1,000/s, p50", Spec: Spec{Kind: roundTrip, Rate: 1000, Size: 128}, Metric: median,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "ordered", Known: 210}, {System: "jetstream-always", Client: "ordered", Known: 520}},
		Goals:   []Goal{{Than: "jetstream-always", Reach: 0.75}}},
	{Name: "replay, one consumer", Spec: Spec{Kind: replay, Size: 128}, Fill: 2_000_000, Metric: throughput,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "ordered", Known: 353}, {System: "jetstream", Client: "fetch", Known: 305}},
		Goals:   []Goal{{Than: "jetstream", Reach: 6, Stretch: 10}}},
	{Name: "replay, 1 KiB, warm", Spec: Spec{Kind: replay, Size: 1024}, Fill: 2_000_000, Metric: throughput,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "ordered", Known: 298}},
		Goals:   []Goal{{Than: "jetstream", Reach: 3, Stretch: 5}},
		Then: []Case{
			{Name: "replay, 1 KiB, cold", Spec: Spec{Kind: replay, Size: 1024, Cold: true}, Metric: throughput,
				Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "ordered", Known: 240}},
				Goals:   []Goal{{Than: "jetstream", Reach: 3, Stretch: 5}}},
			{Name: "restart after kill -9 with 2 GB, warm", Spec: Spec{Size: 1024}, Restart: true, Metric: took,
				Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Known: 1140}},
				Goals:   []Goal{{Reach: 200, Stretch: 100}}},
			{Name: "restart after kill -9 with 2 GB, cold", Spec: Spec{Size: 1024, Cold: true}, Restart: true, Metric: took,
				Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Known: 3300}},
				Goals:   []Goal{{Reach: 500, Stretch: 300}}},
		}},
	{Name: "server CPU per record, batched", Spec: publishing(1, inFlight, perBatch, 128), Metric: serverCPU,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "fast", Known: 3.4}, {System: "jetstream-always", Client: "atomic"}, {System: "redis-always", Known: 1.6}, {System: "redis-always", Client: "multi"}},
		Goals:   []Goal{{Reach: 0.6, Stretch: 0.4}}},
}

// length is how long loads run: on a fresh server before anything else, before what is measured, and measured.
type length struct{ warming, warmup, measured time.Duration }
