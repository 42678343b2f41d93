package telemetry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	octrace "go.opencensus.io/trace"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/bridge/opencensus"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
)

// TraceConfig sets up a Tracer.
type TraceConfig struct {
	// Endpoint is the host:port of an OTLP collector that takes gRPC.
	Endpoint string
	// Insecure speaks to it without TLS.
	Insecure bool
	// Ratio of publishes, fetches and calls that are traced, 0 to 1.
	Ratio float64

	Version, Node, Cluster string
	Logger                 *zap.Logger
	Failed                 func() // an export failed
}

const (
	// spanQueue is how many spans wait to be sent; when it is full more are dropped, nobody waits.
	spanQueue = 4096
	// exportTimeout is how long one export may take.
	exportTimeout = 5 * time.Second
	// complainEvery is how often a collector that cannot be reached is worth a line in the log.
	complainEvery = time.Minute
)

// Tracer makes the spans of publishes and fetches, and has those of the admin API exported. A nil
// Tracer traces nothing and costs a comparison.
type Tracer struct {
	ratio    float64
	provider *sdktrace.TracerProvider
	stages   trace.Tracer
	bridge   octrace.Tracer
	before   octrace.Tracer
}

// The names of spans of our own. They are sampled before they are made.
const (
	spanPublish = "tidewire.publish"
	spanFetch   = "tidewire.fetch"
)

// NewTracer begins to export spans. OpenCensus has one tracer a process, which is replaced until Stop.
// It does not wait for the collector.
func NewTracer(cfg TraceConfig) (*Tracer, error) {
	opts := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(cfg.Endpoint), otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: false})} // the spans of an outage are not worth keeping
	if cfg.Insecure {
		opts = append(opts, otlptracegrpc.WithInsecure())
	}
	exporter, err := otlptracegrpc.New(context.Background(), opts...)
	if err != nil {
		return nil, fmt.Errorf("trace exporter for %s: %w", cfg.Endpoint, err)
	}
	t := &Tracer{ratio: cfg.Ratio}
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sampler{sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.Ratio))}),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "tidewire"), attribute.String("service.version", cfg.Version),
			attribute.String("service.instance.id", cfg.Node), attribute.String("tidewire.cluster", cfg.Cluster))),
		sdktrace.WithBatcher(&quietExporter{SpanExporter: exporter, cfg: cfg},
			sdktrace.WithMaxQueueSize(spanQueue), sdktrace.WithBatchTimeout(time.Second), sdktrace.WithExportTimeout(exportTimeout)))
	t.stages = t.provider.Tracer("github.com/tidewire/tidewire/broker")
	t.before = octrace.DefaultTracer
	opencensus.InstallTraceBridge(opencensus.WithTracerProvider(t.provider))
	t.bridge = statusTracer{octrace.DefaultTracer}
	octrace.DefaultTracer = t.bridge
	return t, nil
}

// Stop sends what is left, as long as ctx lets it.
func (t *Tracer) Stop(ctx context.Context) error {
	if t == nil {
		return nil
	}
	if octrace.DefaultTracer == t.bridge {
		octrace.DefaultTracer = t.before
	}
	return t.provider.Shutdown(ctx)
}

// Sample decides whether the next publish or fetch is traced.
func (t *Tracer) Sample() bool { return t != nil && (t.ratio >= 1 || rand.Float64() < t.ratio) }

// sampler takes every span of ours, as Sample has decided, and leaves the rest to another.
type sampler struct{ rest sdktrace.Sampler }

func (s sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Name == spanPublish || p.Name == spanFetch {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample, Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState()}
	}
	return s.rest.ShouldSample(p)
}

func (s sampler) Description() string { return "tidewire{" + s.rest.Description() + "}" }

// Span is one publish or fetch that is traced. A nil Span is one that is not.
type Span struct {
	// Times are to be filled in by Raft (raft.Pending), for a publish.
	Times raft.EntryTimes

	tracer *Tracer
	span   *octrace.Span
	began  time.Time
}

// Publish begins the span of a batch that has arrived.
func (t *Tracer) Publish(stream string, partition, records uint32, bytes int) *Span {
	s := t.begin(spanPublish, stream, partition)
	s.span.AddAttributes(octrace.Int64Attribute("tidewire.records", int64(records)), octrace.Int64Attribute("tidewire.bytes", int64(bytes)))
	return s
}

// Fetch begins the span of a FETCH that has arrived.
func (t *Tracer) Fetch(stream string, partition uint32) *Span {
	return t.begin(spanFetch, stream, partition)
}

func (t *Tracer) begin(name, stream string, partition uint32) *Span {
	s := &Span{tracer: t, began: time.Now()}
	_, s.span = t.bridge.StartSpan(context.Background(), name, octrace.WithSpanKind(octrace.SpanKindServer))
	s.span.AddAttributes(octrace.StringAttribute("tidewire.stream", stream), octrace.Int64Attribute("tidewire.partition", int64(partition)))
	return s
}

// Published ends the span of a publish that is being answered, with its stages: queue, fsync, commit, ack.
func (s *Span) Published(code wire.Code, offset uint64) {
	if s == nil {
		return
	}
	now := time.Now()
	if t := s.Times; !t.Committed.IsZero() {
		s.stage("tidewire.queue", s.began, t.Proposed)
		if !t.Stored.IsZero() {
			s.stage("tidewire.fsync", t.Storing, t.Stored)
			s.stage("tidewire.commit", t.Stored, t.Committed)
		}
		s.stage("tidewire.ack", t.Committed, now)
	}
	if code == 0 {
		s.span.AddAttributes(octrace.Int64Attribute("tidewire.offset", int64(offset)))
	}
	s.end(code)
}

// Fetched ends the span of a fetch that was answered.
func (s *Span) Fetched(code wire.Code, bytes int) {
	if s == nil {
		return
	}
	s.span.AddAttributes(octrace.Int64Attribute("tidewire.bytes", int64(bytes)))
	s.end(code)
}

func (s *Span) end(code wire.Code) {
	if code != 0 {
		s.span.SetStatus(octrace.Status{Code: octrace.StatusCodeUnknown, Message: code.String()})
	}
	s.span.End()
}

// stage is a child that began and ended before it was known.
func (s *Span) stage(name string, from, to time.Time) {
	parent := trace.ContextWithSpanContext(context.Background(), opencensus.OCSpanContextToOTel(s.span.SpanContext()))
	_, child := s.tracer.stages.Start(parent, name, trace.WithTimestamp(from))
	child.End(trace.WithTimestamp(to))
}

// quietExporter has failures counted, and told now and then.
type quietExporter struct {
	sdktrace.SpanExporter
	cfg  TraceConfig
	told atomic.Int64 // Unix nanoseconds
}

func (e *quietExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	e.cfg.Failed()
	now, told := time.Now(), e.told.Load()
	if now.Sub(time.Unix(0, told)) > complainEvery && e.told.CompareAndSwap(told, now.UnixNano()) {
		e.cfg.Logger.Warn("spans could not be exported and are lost; is the collector there?",
			zap.String("endpoint", e.cfg.Endpoint), zap.Int("spans", len(spans)), zap.Error(err))
	}
	return nil // told; OpenTelemetry's own handler need not
}
