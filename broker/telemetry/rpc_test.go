package telemetry

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// patience bounds every wait: a test that reaches it has failed.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start")) // it lives as long as the process
}

// recordRPC serves one call, and one of a method that does not exist.
func recordRPC(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.StatsHandler(ServerHandler()))
	healthpb.RegisterHealthServer(srv, health.NewServer())
	go func() { _ = srv.Serve(l) }()
	defer srv.GracefulStop()
	cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{Service: "nothing"}); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	for _, invented := range []string{"/a/b", "/c/d"} {
		err := cc.Invoke(ctx, invented, &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{})
		if status.Code(err) != codes.Unimplemented {
			t.Fatalf("%s: %v", invented, err)
		}
	}
}

// Calls are measured by method and status, and invented methods make no series of their own.
func TestRPC(t *testing.T) {
	m := New(Config{State: func() State { return State{} }})
	before := rpcCounts(t, m)
	recordRPC(t)
	const check, missing = "grpc.health.v1.Health/Check OK", "grpc.health.v1.Health/Check NOT_FOUND"
	for deadline := time.Now().Add(patience); ; { // the last event of a call may follow its answer
		after := rpcCounts(t, m)
		if len(after) > 2 {
			t.Fatalf("series %v, want those of the one method that exists", after)
		}
		if after[check]-before[check] == 1 && after[missing]-before[missing] == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("want one call more; before %v, after %v", before, after)
		}
	}
}

func rpcCounts(t *testing.T, m *Metrics) map[string]uint64 {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]uint64)
	for _, f := range families {
		if f.GetName() != rpcSeconds.Name {
			continue
		}
		for _, s := range f.Metric {
			out[s.Label[0].GetValue()+" "+s.Label[1].GetValue()] = s.Histogram.GetSampleCount()
		}
	}
	return out
}
