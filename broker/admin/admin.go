// Package admin is the gRPC services of a node: streams, the node itself, its configuration, health and
// reflection (proto/admin/v1, docs/reference/admin-api.md).
//
// Every call passes the same chain (intercept.go): it is counted and logged, a panic in it is contained, it
// gets a deadline, whoever calls is asked for leave (access.go), and an error becomes a status (errors.go).
package admin

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/broker/telemetry"
	"github.com/tidewire/tidewire/cluster"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
	"github.com/tidewire/tidewire/proto/wire"
)

// Limits of the API.
const (
	maxReceive       = 1 << 20          // bytes of one message to the node
	maxStreams       = 100              // calls at a time on one connection
	handshakeTimeout = 5 * time.Second  // from accept to the client's settings
	defaultDeadline  = 30 * time.Second // of a call that brings none
	readBuffer       = 4 << 10          // bytes read ahead of one connection: calls are small
)

// Node is what the API asks of the node it stands in. Its methods are safe for concurrent use; what changes
// a stream returns when this node serves it so, and with check it changes nothing.
type Node interface {
	State() *cluster.State
	// Replay gives what the request with that id gave, once this node serves it so; err also says that it does not.
	Replay(id, digest string) (st *cluster.Stream, found bool, err error)
	CreateStream(ctx context.Context, spec cluster.StreamSpec, check bool, options ...cluster.Option) (*cluster.Stream, error)
	UpdateStream(ctx context.Context, name string, update cluster.StreamUpdate, check bool, options ...cluster.Option) (*cluster.Stream, error)
	DeleteStream(ctx context.Context, name string, check bool, options ...cluster.Option) (*cluster.Stream, error)
	UndeleteStream(ctx context.Context, id uint64, check bool, options ...cluster.Option) (*cluster.Stream, error)
	PurgeStream(ctx context.Context, id uint64, check bool, options ...cluster.Option) (*cluster.Stream, error)
	Partitions(st *cluster.Stream) []wire.PartitionInfo
	DeletedBytes(st *cluster.Stream) uint64 // what a deleted stream's files take here; reads the disk
	DeleteGrace() time.Duration
	Info() Info
	Authorize(id *auth.Identity, action auth.Action, resource string) error
	WireError(err error) *wire.Error // logs what is internal in full
}

// Info is what the node tells of itself.
type Info struct {
	ID, Incarnation     uint64
	Cluster, Version    string
	Began               time.Time
	Addresses           []string
	Connections         int64
	Streams, Partitions int
	Limits              []Limit
	DiskTotal, DiskFree uint64 // bytes; 0: cannot be told
}

// Limit is one limit in force.
type Limit struct {
	Name  string
	Value int64
	Unit  string // "bytes", "ms" or "count"
}

// Settings is the configuration a node was started with.
type Settings interface {
	// Settings gives every setting, by key.
	Settings() []Setting
	// Reload reads the configuration again and takes over what can be, all of it or, with an error that
	// says what is wrong, nothing. It gives the keys that changed, and those that wait for a restart.
	Reload(ctx context.Context) (changed, needRestart []string, err error)
}

// Setting is one setting; see the message of that name in proto/admin/v1.
type Setting struct {
	Key, Value, Origin, Default, Doc string
	Reloadable, Secret               bool
}

// Config is what a Server needs.
type Config struct {
	Logger   *zap.Logger
	Node     Node
	Settings Settings // may be nil: a node that was not started from a configuration
	Metrics  Metrics
}

// Server serves gRPC. New makes one, Serve runs it, Stop ends it.
type Server struct {
	// Without these a server does not compile that lacks a method; the generated stubs would answer for it.
	adminv1.UnsafeStreamServiceServer
	adminv1.UnsafeNodeServiceServer
	adminv1.UnsafeConfigServiceServer

	cfg      Config
	grpc     *grpc.Server
	health   *health.Server
	draining atomic.Bool
	ending   context.Context // of what only watches
	end      context.CancelFunc
	calls    *rate.Limiter
	checks   *rate.Limiter // calls of health
}

// New makes a server that does not listen yet.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, health: health.NewServer(), calls: rate.NewLimiter(callRate, callBurst), checks: rate.NewLimiter(callRate, callBurst)}
	s.ending, s.end = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(
		grpc.Creds(callers{}),
		grpc.InTapHandle(s.admit),
		grpc.ReadBufferSize(readBuffer),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
		grpc.StatsHandler(connEnds{telemetry.ServerHandler()}),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxReceive),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(16<<10),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second, MaxConnectionIdle: 15 * time.Minute}),
	)
	for _, service := range []grpc.ServiceDesc{adminv1.StreamService_ServiceDesc, adminv1.NodeService_ServiceDesc, adminv1.ConfigService_ServiceDesc} {
		s.grpc.RegisterService(s.reads(service), s)
	}
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	return s
}

// Serve accepts from l until Stop.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Drain tells those who watch the health of the node that it stops. Calls are served until Stop.
func (s *Server) Drain() {
	s.draining.Store(true)
	s.health.Shutdown()
}

// Stop lets calls under way end, as long as ctx lets it; those that only watch are ended at once.
func (s *Server) Stop(ctx context.Context) {
	s.Drain()
	s.end()
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	s.grpc.GracefulStop()
}
