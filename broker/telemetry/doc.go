// Package telemetry is the one place for what a node measures: metrics, as Prometheus collects
// them, and traces, as OTLP takes them.
//
// # Metrics
//
// Every metric of Tidewire stands in the catalogue (catalogue.go), from which
// docs/reference/metrics.md is made. Names begin with tidewire_, units are base units, and the
// values of every label are bounded: a stream has its own label only while there is room
// (Config.Streams), and no label is ever a subject, a producer or an address of a client.
//
// What is counted for each batch is counted with atomic additions to counters of the event loop
// (Loop), which no other loop writes; they are summed when somebody collects. Latencies are
// observed once for a Raft entry, whatever number of batches it holds, after the batches have
// been answered.
//
// # Traces
//
// Spans are made with go.opencensus.io, for each call of the admin API (ServerHandler) and for a
// sample of publishes and fetches (Tracer), never for a record. The OpenTelemetry bridge carries
// them to OTLP. OpenCensus gives no span a time that has passed, which the stages of a publish
// need, as they are known when it is answered: those children are made with OpenTelemetry's own API.
package telemetry
