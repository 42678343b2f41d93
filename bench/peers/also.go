package main

// also are rows of one node that are measured beside r1: what users will ask of it.
var also = []Case{
	{Name: "batching", Spec: publishing(1, inFlight, perBatch, 0), Metric: throughput,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "fast"}, {System: "redis-always"}, {System: "redis-always", Client: "multi"}},
		Variants: []Variant{
			{Name: "16 B", Vary: func(s *Spec) { s.Size = 16 }},
			{Name: "128 B", Vary: func(s *Spec) { s.Size = 128 }},
			{Name: "1 KiB", Vary: func(s *Spec) { s.Size = 1 << 10 }},
			{Name: "64 KiB, 256 in flight", Vary: func(s *Spec) { s.Size, s.InFlight, s.Batch = 64<<10, 256, 64 }},
		}},
	{Name: "batching, 20,000 in flight in all", Spec: publishing(1, inFlight, perBatch, 128), Metric: throughput,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "raw"}, {System: "jetstream", Client: "fast"}},
		Variants: []Variant{
			{Name: "1 connection", Vary: func(*Spec) {}},
			{Name: "16 connections", Vary: func(s *Spec) { s.Connections, s.InFlight = 16, inFlight/16 }},
			{Name: "256 connections", Vary: func(s *Spec) { s.Connections, s.InFlight = 256, inFlight/256 }},
		}},
	{Name: "batching, 128,000 in flight in all", Spec: publishing(2, 256*perBatch/2, perBatch, 128), Metric: throughput,
		Entries: []Entry{{System: "tidewire"}},
		Variants: []Variant{
			{Name: "1 partition", Vary: func(s *Spec) { s.Partitions = 1 }},
			{Name: "16 partitions", Vary: func(s *Spec) { s.Partitions = 16 }},
			{Name: "256 partitions", Vary: func(s *Spec) { s.Partitions = 256 }, Goals: []Goal{{Beside: "1 partition", Reach: 0.7}}},
		}},
	{Name: "publishing 10,000/s, p99", Spec: Spec{Kind: publish, Connections: 1, InFlight: inFlight, Batch: perBatch, Size: 1 << 10, Rate: 10_000},
		Fill: 2_000_000, Metric: p99, Entries: []Entry{{System: "tidewire"}},
		Variants: []Variant{
			{Name: "alone", Vary: func(*Spec) {}},
			{Name: "beside a consumer of 100 MB/s", Vary: func(s *Spec) { s.Readers, s.ReadRate = 1, 100e6 }, Goals: []Goal{{Beside: "alone", Reach: 2}, {Of: &read, Reach: 95}}},
			{Name: "beside 10 consumers of 100 MB/s each", Vary: func(s *Spec) { s.Readers, s.ReadRate = 10, 100e6 }, Goals: []Goal{{Beside: "alone", Reach: 2}, {Of: &read, Reach: 95}}},
		}},
	{Name: "end to end, p50", Spec: Spec{Kind: roundTrip, Size: 128}, Metric: median,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "ordered"}, {System: "jetstream-always", Client: "ordered"}},
		Variants: []Variant{
			{Name: "100/s", Vary: func(s *Spec) { s.Rate = 100 }},
			{Name: "10,000/s", Vary: func(s *Spec) { s.Rate = 10_000 }},
		}},
	{Name: "replay of 1 of 1,000 subjects", Spec: Spec{Kind: replay, Size: 128, Subjects: 1000}, Fill: 2_000_000, Metric: took,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream", Client: "ordered"}}},
	{Name: "1 KiB that compresses to a quarter", Spec: func() Spec { s := publishing(1, inFlight, perBatch, 1<<10); s.Redundant = true; return s }(),
		Metric: throughput, Entries: []Entry{{System: "tidewire"}},
		Variants: []Variant{
			{Name: "as it is", Vary: func(*Spec) {}},
			{Name: "zstd", Vary: func(s *Spec) { s.Compress = true }},
		}},
	{Name: "replay, 1 KiB", Spec: Spec{Kind: replay, Size: 1 << 10}, Fill: 2_000_000, Metric: throughput,
		Entries: []Entry{{System: "tidewire"}},
		Variants: []Variant{
			{Name: "alone", Vary: func(*Spec) {}},
			{Name: "beside a consumer of 1 MB/s", Vary: func(s *Spec) { s.Readers, s.ReadRate = 1, 1e6 }, Goals: []Goal{{Beside: "alone", Reach: 0.9}, {Of: &read, Reach: 0.95}}},
		}},
	{Name: "bytes to the disk a byte, into fresh segments", Spec: publishing(1, inFlight, perBatch, 1<<10), Metric: device,
		Entries: []Entry{{System: "tidewire"}}, Goals: []Goal{{Reach: 2.1}}},
	{Name: "bytes to the disk a byte, into recycled segments", Spec: func() Spec { s := publishing(1, inFlight, perBatch, 1<<10); s.MaxBytes = 512 << 20; return s }(),
		Fill: 2_000_000, Metric: device, Entries: []Entry{{System: "tidewire"}}, Goals: []Goal{{Reach: 1.1}}},
	{Name: "1,000 idle streams", Spec: Spec{Kind: idle, Streams: 1000}, Metric: busy,
		Entries: []Entry{{System: "tidewire"}, {System: "jetstream"}}, Goals: []Goal{{Reach: 1}, {Of: &anonymous, Reach: 80}}},
	{Name: "50 GB under 2 GB of retention, 5 GB at a time", Loads: 10, Metric: throughput, Entries: []Entry{{System: "tidewire"}},
		Spec: func() Spec {
			s := publishing(1, inFlight, perBatch, 1<<10)
			s.MaxBytes, s.Records = 2e9, 5_000_000_000/(1<<10)
			return s
		}(),
		Goals: []Goal{{Of: &p99, Flat: true, Reach: 1.5}, {Of: &anonymous, Flat: true, Reach: 1.2}, {Of: &stored, Flat: true, Reach: 1.1},
			{Of: &kept, Reach: 2000}, {Of: &stored, Reach: 3500}}}, // and segments that wait to be used again
}
