package admin

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/broker/telemetry"
	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/internal/explain"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
	"github.com/tidewire/tidewire/proto/wire"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start")) // for the life of the process
}

// broken is a node whose methods go wrong.
type broken struct {
	Node // nil: what is not below panics
	info func() Info
}

func (b *broken) Authorize(*auth.Identity, auth.Action, string) error { return nil }
func (b *broken) State() *cluster.State                               { return &cluster.State{} }
func (b *broken) Info() Info                                          { return b.info() }
func (b *broken) WireError(err error) *wire.Error {
	var we *wire.Error
	if errors.As(err, &we) {
		return we
	}
	return &wire.Error{Code: wire.CodeInternal, Message: "internal"}
}

// serve runs a server on a port of its own, and gives a connection to it and its log.
func serve(t *testing.T, node Node, metrics Metrics, change ...func(*Server)) (*grpc.ClientConn, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	s := New(Config{Logger: zap.New(core), Node: node, Metrics: metrics})
	for _, f := range change {
		f(s)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Stop(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, logs
}

// A panic fails its call alone, is told in full to the log and plainly to the caller.
func TestPanicIsContained(t *testing.T) {
	node := &broken{info: func() Info { panic("the secret is melon") }}
	metrics := telemetry.New(telemetry.Config{State: func() telemetry.State { return telemetry.State{} }})
	conn, logs := serve(t, node, metrics)
	client := adminv1.NewNodeServiceClient(conn)
	_, err := client.GetNode(t.Context(), &adminv1.GetNodeRequest{})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "melon") {
		t.Fatal(err)
	}
	said := logs.FilterMessage("panic in an admin call").All()
	if len(said) != 1 {
		t.Fatal(logs.All())
	}
	fields := said[0].ContextMap()
	if !strings.Contains(err.Error(), fields["reference"].(string)) || !strings.Contains(fields["stack"].(string), "admin_test.go") {
		t.Errorf("%v: %v", err, fields)
	}
	node.info = func() Info { return Info{ID: 7} }
	if r, err := client.GetNode(t.Context(), &adminv1.GetNodeRequest{}); err != nil || r.Node.Id != 7 {
		t.Errorf("after it: %v, %v", r, err)
	}
	want := `
		# HELP tidewire_rpc_calls_total Calls of the gRPC services that ended, by method and code; unknown is every method that does not exist.
		# TYPE tidewire_rpc_calls_total counter
		tidewire_rpc_calls_total{code="Internal",method="/tidewire.admin.v1.NodeService/GetNode"} 1
		tidewire_rpc_calls_total{code="OK",method="/tidewire.admin.v1.NodeService/GetNode"} 1
		# HELP tidewire_rpc_panics_total Panics in calls of the gRPC services, which failed. Each is a bug.
		# TYPE tidewire_rpc_panics_total counter
		tidewire_rpc_panics_total 1
	`
	if err := testutil.GatherAndCompare(metrics.Gatherer(), strings.NewReader(want), "tidewire_rpc_calls_total", "tidewire_rpc_panics_total"); err != nil {
		t.Error(err)
	}
}

// Calls above the rate wait for their turn, or are told that there is none for them.
func TestCallRate(t *testing.T) {
	node := &broken{info: func() Info { return Info{ID: 7} }}
	metrics := telemetry.New(telemetry.Config{State: func() telemetry.State { return telemetry.State{} }})
	conn, _ := serve(t, node, metrics, func(s *Server) { s.calls = rate.NewLimiter(rate.Every(time.Hour), 2) })
	client := adminv1.NewNodeServiceClient(conn)
	for range 2 {
		if _, err := client.GetNode(t.Context(), &adminv1.GetNodeRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := client.GetNode(t.Context(), &adminv1.GetNodeRequest{})
	info, retry := new(errdetails.ErrorInfo), false
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d.RetryDelay.AsDuration() > 0
		}
	}
	if status.Code(err) != codes.ResourceExhausted || info.Reason != "OVERLOADED" || !retry {
		t.Errorf("%v %v, retry: %t", err, info, retry)
	}
	counted := `
		# HELP tidewire_rpc_calls_total Calls of the gRPC services that ended, by method and code; unknown is every method that does not exist.
		# TYPE tidewire_rpc_calls_total counter
		tidewire_rpc_calls_total{code="OK",method="/tidewire.admin.v1.NodeService/GetNode"} 2
		tidewire_rpc_calls_total{code="ResourceExhausted",method="/tidewire.admin.v1.NodeService/GetNode"} 1
	`
	if err := testutil.GatherAndCompare(metrics.Gatherer(), strings.NewReader(counted), "tidewire_rpc_calls_total"); err != nil {
		t.Error(err)
	}

	conn, _ = serve(t, node, metrics, func(s *Server) { s.calls = rate.NewLimiter(rate.Every(time.Millisecond), 1) })
	client = adminv1.NewNodeServiceClient(conn)
	for range 20 {
		if _, err := client.GetNode(t.Context(), &adminv1.GetNodeRequest{}); err != nil {
			t.Fatal(err)
		}
	}
}

// Refusing costs as well: who is refused again and again, and never admitted, is closed.
func TestRefusedIsClosed(t *testing.T) {
	node := &broken{info: func() Info { return Info{ID: 7} }}
	var calls *rate.Limiter
	conn, _ := serve(t, node, telemetry.New(telemetry.Config{}), func(s *Server) { calls = s.calls })
	client := adminv1.NewNodeServiceClient(conn)
	call := func(limit rate.Limit, want ...codes.Code) {
		t.Helper()
		calls.SetLimit(limit)
		if _, err := client.GetNode(t.Context(), &adminv1.GetNodeRequest{}); !slices.Contains(want, status.Code(err)) {
			t.Fatalf("%v, want %v", err, want)
		}
	}
	calls.SetBurst(0)
	for range 8 { // which allow for one more
		call(rate.Inf, codes.OK)
	}
	for range callRefusals {
		call(0, codes.ResourceExhausted)
	}
	if now := conn.GetState(); now != connectivity.Ready {
		t.Fatalf("the connection is %s", now)
	}
	call(0, codes.ResourceExhausted, codes.Unavailable) // it may not see the answer
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if !conn.WaitForStateChange(ctx, connectivity.Ready) {
		t.Error("the connection is still open")
	}
	call(rate.Inf, codes.OK) // by another one
}

// What a connection leaves behind, contexts of refused calls with far deadlines too, ends with it.
func TestConnEnds(t *testing.T) {
	var h stats.Handler = connEnds{telemetry.ServerHandler()}
	ctx := h.TagConn(t.Context(), &stats.ConnTagInfo{})
	call, cancel := context.WithTimeout(h.TagRPC(ctx, &stats.RPCTagInfo{}), time.Hour)
	defer cancel()
	h.HandleConn(ctx, &stats.ConnBegin{})
	if call.Err() != nil {
		t.Fatal("a call has ended before its connection")
	}
	h.HandleConn(ctx, &stats.ConnEnd{})
	if call.Err() == nil {
		t.Error("a call outlives its connection")
	}
}

// Who only watches does not hold up the end, and is told that the node stops.
func TestStopEndsWatchers(t *testing.T) {
	s := New(Config{Logger: zap.NewNop(), Node: &broken{}, Metrics: telemetry.New(telemetry.Config{})})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var watches []grpc.ServerStreamingClient[healthpb.HealthCheckResponse]
	for range 3 {
		w, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := w.Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
			t.Fatal(r, err)
		}
		watches = append(watches, w)
	}
	s.Stop(context.Background()) // which bounds nothing: it would wait for as long as they watch
	if err := <-served; err != nil {
		t.Error(err)
	}
	for _, w := range watches {
		var err error
		for err == nil { // NOT_SERVING may come first
			_, err = w.Recv()
		}
		if st := status.Convert(err); st.Code() != codes.Unavailable || len(st.Details()) == 0 || st.Details()[0].(*errdetails.ErrorInfo).Reason != "SHUTDOWN" {
			t.Error(err)
		}
	}
}

// Each method there is has its action, and no action is for a method that is not there.
func TestEachMethodAsksForLeave(t *testing.T) {
	s := New(Config{Logger: zap.NewNop(), Node: &broken{}, Metrics: telemetry.New(telemetry.Config{})})
	defer s.grpc.Stop()
	var there []string
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			method := "/" + service + "/" + m.Name
			there = append(there, method)
			if access[method] == "" {
				t.Errorf("%s asks nobody for leave: give it an action in access.go", method)
			}
		}
	}
	for method := range access {
		if !slices.Contains(there, method) {
			t.Errorf("%s is not served", method)
		}
	}
	if err := s.authorize(t.Context(), "/x.Y/Z", nil); !errors.Is(err, auth.ErrDenied) {
		t.Errorf("a method without an action: %v", err)
	}
}

// A call without a deadline gets one, and a shorter one is kept.
func TestDeadlines(t *testing.T) {
	s := New(Config{Logger: zap.NewNop(), Node: &broken{}, Metrics: telemetry.New(telemetry.Config{})})
	defer s.grpc.Stop()
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for _, tc := range []struct {
		ctx   context.Context
		limit time.Duration
	}{{t.Context(), defaultDeadline}, {short, time.Second}} {
		_, err := s.unary(tc.ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/grpc.health.v1.Health/Check"}, func(ctx context.Context, _ any) (any, error) {
			if at, ok := ctx.Deadline(); !ok || time.Until(at) > tc.limit {
				t.Errorf("deadline %v, %v", at, ok)
			}
			return nil, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// What is not meant for callers stays in the log; the word they are told finds it.
func TestErrors(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	s := New(Config{Logger: zap.New(core), Node: &broken{}, Metrics: telemetry.New(telemetry.Config{})})
	defer s.grpc.Stop()
	err := s.status("/m", nil, errors.New("open /var/lib/secret: no such file"))
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	if said := logs.FilterField(zap.String("method", "/m")).All(); len(said) != 1 || !strings.Contains(err.Error(), said[0].ContextMap()["reference"].(string)) {
		t.Errorf("%v: %v", err, logs.All())
	}
	busy := s.status("/m", nil, &wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable, RetryAfter: 70 * time.Millisecond, Value: 12, Message: "full"})
	if st := status.Convert(busy); st.Code() != codes.ResourceExhausted || len(st.Details()) != 3 || st.Details()[2].(*errdetails.RetryInfo).RetryDelay.AsDuration() != 70*time.Millisecond ||
		st.Details()[0].(*errdetails.ErrorInfo).Metadata["limit"] != "12" {
		t.Error(st.Proto())
	}
	for _, id := range []explain.ID{explain.BadRequest, explain.ETagMismatch, explain.RequestIDReused, explain.NotDeleted, explain.NoSettings, explain.BadSettings} {
		if _, ok := explain.Lookup(id); !ok {
			t.Errorf("%s is not explained", id)
		}
	}
}
