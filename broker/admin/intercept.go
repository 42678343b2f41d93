package admin

import (
	"context"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tidewire/tidewire/proto/wire"
)

// Metrics counts calls; telemetry.Metrics does.
type Metrics interface {
	// Call counts one that ended. method is one there is, or "unknown".
	Call(method string, code codes.Code)
	// CallPanicked counts one that failed by a bug.
	CallPanicked()
}

// observe counts and logs a call that has ended; never what it carried.
func (s *Server) observe(ctx context.Context, method string, began time.Time, err error) {
	took, code := time.Since(began), status.Code(err)
	label := method
	if _, known := access[method]; !known {
		label = "unknown"
	}
	s.cfg.Metrics.Call(label, code)
	from := ""
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		from = p.Addr.String()
	}
	fields := []zap.Field{zap.String("method", method), zap.Stringer("code", code), zap.Duration("took", took), zap.String("peer", from)}
	if code == codes.Internal || code == codes.DataLoss || code == codes.Unknown {
		s.cfg.Logger.Warn("admin call", fields...)
		return
	}
	s.cfg.Logger.Debug("admin call", fields...)
}

// contained runs a call; a panic in it fails the call alone.
func (s *Server) contained(method string, call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.cfg.Metrics.CallPanicked()
			ref := reference()
			s.cfg.Logger.Error("panic in an admin call", zap.String("reference", ref), zap.String("method", method),
				zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			err = internal(ref)
		}
	}()
	return call()
}

// watching is a stream whose context also ends with the server.
type watching struct {
	grpc.ServerStream
	ctx context.Context
}

func (w *watching) Context() context.Context { return w.ctx }

// errEnding is why a watcher is let go: its client looks again, and finds this node gone or back.
var errEnding = &wire.Error{Code: wire.CodeShutdown, Bits: wire.ErrorRetriable, Message: "the node is stopping: watch again elsewhere or later"}

func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	began := time.Now()
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultDeadline)
		defer cancel()
	}
	err = s.contained(info.FullMethod, func() (err error) {
		if err = s.authorize(ctx, info.FullMethod, request); err == nil {
			answer, err = handler(ctx, request)
		}
		return s.status(info.FullMethod, request, err)
	})
	s.observe(ctx, info.FullMethod, began, err)
	return answer, err
}

// stream has no deadline of ours: watching lasts, until Stop.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	began := time.Now()
	err := s.contained(info.FullMethod, func() error {
		if err := s.authorize(ss.Context(), info.FullMethod, nil); err != nil {
			return s.status(info.FullMethod, nil, err)
		}
		ctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(s.ending, cancel)()
		err := handler(srv, &watching{ss, ctx})
		if s.ending.Err() != nil && status.Code(err) == codes.Canceled && ss.Context().Err() == nil {
			err = errEnding
		}
		return s.status(info.FullMethod, nil, err)
	})
	s.observe(ss.Context(), info.FullMethod, began, err)
	return err
}
