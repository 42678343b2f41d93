// Package admin is the gRPC services of a node.
package admin

import (
	"context"
	"net"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Config is what a Server needs.
type Config struct {
	Logger *zap.Logger
}

// Server serves gRPC. New makes one, Serve runs it, Stop ends it.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
}

// New makes a server that does not listen yet.
func New(Config) *Server {
	s := &Server{grpc: grpc.NewServer(), health: health.NewServer()}
	healthpb.RegisterHealthServer(s.grpc, s.health)
	return s
}

// Serve accepts from l until Stop.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Stop lets calls under way end, as long as ctx lets it.
func (s *Server) Stop(ctx context.Context) {
	s.health.Shutdown()
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	s.grpc.GracefulStop()
}
