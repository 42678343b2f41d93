package telemetry

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	octrace "go.opencensus.io/trace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"

	"github.com/tidewire/tidewire/proto/wire"
)

// receiver is an OTLP collector that keeps what it gets.
type receiver struct {
	collectorpb.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]*tracepb.Span // by name; calls that failed also by name and message
	names map[string]string        // of the resource's attributes
}

func (r *receiver) Export(_ context.Context, q *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range q.ResourceSpans {
		for _, a := range rs.Resource.Attributes {
			r.names[a.Key] = a.Value.GetStringValue()
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				r.spans[s.Name] = s
				if m := s.Status.GetMessage(); m != "" {
					r.spans[s.Name+": "+m] = s
				}
			}
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func collect(t *testing.T) (*receiver, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{spans: make(map[string]*tracepb.Span), names: make(map[string]string)}
	srv := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(srv, r)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return r, l.Addr().String()
}

func tracer(t *testing.T, cfg TraceConfig) *Tracer {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Failed == nil {
		cfg.Failed = func() { t.Error("an export failed") }
	}
	cfg.Insecure = true
	tr, err := NewTracer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func stop(t *testing.T, tr *Tracer, patience time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return tr.Stop(ctx)
}

// A publish becomes a span with its stages as children, at their times; a call of the API one too;
// Stop sends them all.
func TestSpansReachACollector(t *testing.T) {
	r, addr := collect(t)
	before := octrace.DefaultTracer
	tr := tracer(t, TraceConfig{Endpoint: addr, Ratio: 1, Version: "1.2.3", Node: "7", Cluster: "c0ffee"})
	if !tr.Sample() {
		t.Fatal("a ratio of 1 does not sample")
	}
	s := tr.Publish("orders", 3, 5, 640)
	at := func(ms int) time.Time { return s.began.Add(time.Duration(ms) * time.Millisecond) }
	s.Times.Proposed, s.Times.Storing, s.Times.Stored, s.Times.Committed = at(1), at(2), at(7), at(8)
	s.Published(0, 42)
	tr.Fetch("orders", 3).Fetched(wire.CodeOffsetRange, 0)
	recordRPC(t)
	if err := stop(t, tr, patience); err != nil {
		t.Fatal(err)
	}
	if octrace.DefaultTracer != before {
		t.Error("Stop did not put OpenCensus's tracer back")
	}

	publish := r.spans["tidewire.publish"]
	if publish == nil {
		t.Fatalf("no span of the publish among %d", len(r.spans))
	}
	for name, want := range map[string]struct{ from, to int }{"tidewire.queue": {0, 1}, "tidewire.fsync": {2, 7}, "tidewire.commit": {7, 8}} {
		stage := r.spans[name]
		if stage == nil || string(stage.ParentSpanId) != string(publish.SpanId) || string(stage.TraceId) != string(publish.TraceId) {
			t.Errorf("%s is no child of the publish: %v", name, stage)
			continue
		}
		if from, to := at(want.from).UnixNano(), at(want.to).UnixNano(); int64(stage.StartTimeUnixNano) != from || int64(stage.EndTimeUnixNano) != to {
			t.Errorf("%s from %d to %d, want %d to %d", name, stage.StartTimeUnixNano, stage.EndTimeUnixNano, from, to)
		}
	}
	attributes := make(map[string]any)
	for _, a := range publish.Attributes {
		if s := a.Value.GetStringValue(); s != "" {
			attributes[a.Key] = s
		} else {
			attributes[a.Key] = a.Value.GetIntValue()
		}
	}
	for key, want := range map[string]any{"tidewire.stream": "orders", "tidewire.partition": int64(3), "tidewire.records": int64(5), "tidewire.bytes": int64(640), "tidewire.offset": int64(42)} {
		if attributes[key] != want {
			t.Errorf("%s is %v, want %v", key, attributes[key], want)
		}
	}
	if f := r.spans["tidewire.fetch"]; f == nil || f.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR || f.Status.Message != "OFFSET_RANGE" {
		t.Errorf("span of the fetch: %v", f)
	}
	if rpc := r.spans["grpc.health.v1.Health.Check"]; rpc == nil || rpc.Kind != tracepb.Span_SPAN_KIND_SERVER {
		t.Errorf("span of the call: %v", rpc)
	}
	if rpc := r.spans["grpc.health.v1.Health.Check: unknown service"]; rpc.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("span of the call that failed: %v", rpc)
	}
	for key, want := range map[string]string{"service.name": "tidewire", "service.version": "1.2.3", "service.instance.id": "7", "tidewire.cluster": "c0ffee"} {
		if r.names[key] != want {
			t.Errorf("resource: %s is %q, want %q", key, r.names[key], want)
		}
	}
}

// A collector that is not there costs spans and one line of the log, and Stop is bounded.
func TestUnreachableCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	core, logs := observer.New(zap.WarnLevel)
	failed := make(chan struct{}, 100)
	tr := tracer(t, TraceConfig{Endpoint: addr, Ratio: 1, Logger: zap.New(core), Failed: func() { failed <- struct{}{} }})
	for range 2 {
		tr.Publish("s", 0, 1, 1).Published(0, 0)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_ = tr.provider.ForceFlush(ctx)
		cancel()
		select {
		case <-failed:
		default:
			t.Fatal("a failed export is not counted")
		}
	}
	if n := logs.Len(); n != 1 {
		t.Errorf("%d lines in the log for 2 failed exports, want 1", n)
	}
	for range 3 * spanQueue { // nobody waits for a queue that is full
		tr.Publish("s", 0, 1, 1).Published(0, 0)
	}
	_ = stop(t, tr, time.Second) // its error says what was lost; that it ends is the test
}

// Nothing is traced, and nothing crashes, without a collector.
func TestNoTracer(t *testing.T) {
	var tr *Tracer
	var s *Span
	if tr.Sample() {
		t.Error("a nil tracer samples")
	}
	s.Published(0, 0)
	s.Fetched(0, 0)
	if err := tr.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}
