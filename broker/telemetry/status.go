package telemetry

import (
	"context"

	octrace "go.opencensus.io/trace"
)

// statusTracer is the bridge's tracer with statuses that arrive. The bridge (v1.45.0) takes
// OpenCensus's codes, which are gRPC's, for OpenTelemetry's three: UNKNOWN (2) becomes OK, and
// everything above it is lost.
type statusTracer struct{ octrace.Tracer }

// StartSpan implements octrace.Tracer.
func (t statusTracer) StartSpan(ctx context.Context, name string, o ...octrace.StartOption) (context.Context, *octrace.Span) {
	ctx, s := t.Tracer.StartSpan(ctx, name, o...)
	return ctx, withStatus(s)
}

// StartSpanWithRemoteParent implements octrace.Tracer.
func (t statusTracer) StartSpanWithRemoteParent(ctx context.Context, name string, parent octrace.SpanContext, o ...octrace.StartOption) (context.Context, *octrace.Span) {
	ctx, s := t.Tracer.StartSpanWithRemoteParent(ctx, name, parent, o...)
	return ctx, withStatus(s)
}

// FromContext implements octrace.Tracer.
func (t statusTracer) FromContext(ctx context.Context) *octrace.Span {
	return withStatus(t.Tracer.FromContext(ctx))
}

// NewContext implements octrace.Tracer.
func (t statusTracer) NewContext(parent context.Context, s *octrace.Span) context.Context {
	if ours, ok := s.Internal().(*statusSpan); ok {
		s = ours.bridged
	}
	return t.Tracer.NewContext(parent, s)
}

func withStatus(s *octrace.Span) *octrace.Span {
	return octrace.NewSpan(&statusSpan{SpanInterface: s.Internal(), bridged: s})
}

type statusSpan struct {
	octrace.SpanInterface
	bridged *octrace.Span
}

// statusError is what the bridge takes for OpenTelemetry's Error.
const statusError = 1

// SetStatus implements octrace.SpanInterface. The code itself becomes an attribute.
func (s *statusSpan) SetStatus(status octrace.Status) {
	if status.Code == octrace.StatusCodeOK {
		return // no error, which is what a span says that says nothing
	}
	s.AddAttributes(octrace.Int64Attribute("rpc.grpc.status_code", int64(status.Code)))
	status.Code = statusError
	s.SpanInterface.SetStatus(status)
}
