package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
)

// A call costs far more than a publish, and also if it is taken back at once (CVE-2023-44487): all of them together get
// callRate a second, after a burst, and so do those of health, which nobody may be kept from by other calls. Above it the
// connections wait, each for its own next call and in the order they came, and whoever would wait longer than callPatience
// is refused. To refuse costs as well: a connection is closed, and its calls under way end, when callRefusals of its calls
// were refused beyond an eighth of those that were admitted.
const (
	callRate     = 500
	callBurst    = 100
	callPatience = 100 * time.Millisecond
	callRefusals = 8
)

// errOverloaded is what a call above the rate is refused with.
var errOverloaded = func() error {
	id := explain.Wire(uint16(wire.CodeOverloaded))
	return build(codes.ResourceExhausted, fmt.Sprintf("more than %d calls a second, over all clients of this node: call less often", callRate),
		&errdetails.ErrorInfo{Reason: wire.CodeOverloaded.String(), Domain: domain,
			Metadata: map[string]string{"id": id.String(), "limit": strconv.Itoa(callRate)}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(callPatience)}, help(id))
}()

// admit lets a call begin. gRPC calls it where it reads the connection: what waits here costs no goroutine, and nobody reads
// what that client sends meanwhile.
func (s *Server) admit(ctx context.Context, info *tap.Info) (context.Context, error) {
	began := time.Now()
	from := callerOf(ctx)
	if from.closed() { // and this had been read of it already
		return nil, errOverloaded
	}
	wait, cancel := context.WithTimeout(s.ending, callPatience)
	defer cancel()
	calls := s.calls
	if strings.HasPrefix(info.FullMethodName, "/"+healthpb.Health_ServiceDesc.ServiceName+"/") {
		calls = s.checks
	}
	if calls.Wait(wait) == nil || s.ending.Err() != nil { // in the end, those who answer say that the node stops
		from.admitted++
		return ctx, nil
	}
	s.observe(ctx, info.FullMethodName, began, errOverloaded)
	if from.refused++; from.closed() {
		_ = from.conn.Close()
	}
	return nil, errOverloaded
}

// caller is a connection, as its calls find it in their context. Only who reads the connection touches it.
type caller struct {
	conn              net.Conn
	refused, admitted int // calls
}

func (*caller) AuthType() string { return "none" }

func (c *caller) closed() bool { return c.refused >= callRefusals+c.admitted/8 }

// callerOf is who calls, of any context that gRPC gives.
func callerOf(ctx context.Context) *caller {
	p, _ := peer.FromContext(ctx)
	return p.AuthInfo.(*caller)
}

// callers makes a caller of each connection. Nothing is agreed on with it.
type callers struct{}

func (callers) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, &caller{conn: c}, nil
}

func (callers) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are a server's")
}

func (callers) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "none"}
}
func (c callers) Clone() credentials.TransportCredentials { return c }
func (callers) OverrideServerName(string) error           { return nil }

// connEnds ends every context of a connection with it. gRPC (1.85.0) does not end that of a call which the tap handle
// refuses, and a client may give it a deadline in a thousand years.
type connEnds struct{ stats.Handler }

type connEnd struct{}

// TagConn implements stats.Handler.
func (h connEnds) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	ctx, end := context.WithCancel(h.Handler.TagConn(ctx, info))
	return context.WithValue(ctx, connEnd{}, end)
}

// HandleConn implements stats.Handler.
func (h connEnds) HandleConn(ctx context.Context, s stats.ConnStats) {
	h.Handler.HandleConn(ctx, s)
	if _, ends := s.(*stats.ConnEnd); ends {
		ctx.Value(connEnd{}).(context.CancelFunc)()
	}
}
