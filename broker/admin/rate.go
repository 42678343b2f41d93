package admin

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
)

// A call costs far more than a publish, and also if it is taken back at once (CVE-2023-44487): all of them together get
// callRate a second, after a burst, and so do those of health, which nobody may be kept from by other calls. Above it the
// connections wait, each for its own next call and in the order they came, and whoever would wait longer than callPatience
// is refused.
const (
	callRate     = 500
	callBurst    = 100
	callPatience = 100 * time.Millisecond
)

// admit lets a call begin. gRPC calls it where it reads the connection: what waits here costs no goroutine, and nobody reads
// what that client sends meanwhile.
func (s *Server) admit(ctx context.Context, info *tap.Info) (context.Context, error) {
	began := time.Now()
	wait, cancel := context.WithTimeout(s.ending, callPatience)
	defer cancel()
	calls := s.calls
	if strings.HasPrefix(info.FullMethodName, "/"+healthpb.Health_ServiceDesc.ServiceName+"/") {
		calls = s.checks
	}
	if err := calls.Wait(wait); err != nil {
		if s.ending.Err() != nil {
			return ctx, nil // those who answer say that the node stops
		}
		id := explain.Wire(uint16(wire.CodeOverloaded))
		message := fmt.Sprintf("more than %d calls a second, over all clients of this node: call less often", callRate)
		err := build(codes.ResourceExhausted, message,
			&errdetails.ErrorInfo{Reason: wire.CodeOverloaded.String(), Domain: domain,
				Metadata: map[string]string{"id": id.String(), "limit": strconv.Itoa(callRate)}},
			&errdetails.RetryInfo{RetryDelay: durationpb.New(callPatience)}, help(id))
		s.observe(ctx, info.FullMethodName, began, err)
		return nil, err
	}
	return ctx, nil
}
