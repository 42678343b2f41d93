package admin

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
)

// A call costs far more than a publish, and also if it is taken back at once (CVE-2023-44487): all of them together get
// callRate a second, after a burst. Above it the connections wait, each for its own next call and in the order they came,
// and whoever would wait longer than callPatience is refused.
const (
	callRate     = 1000
	callBurst    = 200
	callPatience = time.Second
)

// admit lets a call begin. gRPC calls it where it reads the connection: what waits here costs no goroutine, and nobody reads
// what that client sends meanwhile.
func (s *Server) admit(ctx context.Context, info *tap.Info) (context.Context, error) {
	wait, cancel := context.WithTimeout(s.ending, callPatience)
	defer cancel()
	if err := s.calls.Wait(wait); err != nil {
		id := explain.Wire(uint16(wire.CodeOverloaded))
		message := fmt.Sprintf("more than %d calls a second, over all clients of this node: call less often", callRate)
		return nil, build(codes.ResourceExhausted, message,
			&errdetails.ErrorInfo{Reason: wire.CodeOverloaded.String(), Domain: domain,
				Metadata: map[string]string{"id": id.String(), "limit": strconv.Itoa(callRate)}},
			&errdetails.RetryInfo{RetryDelay: durationpb.New(callPatience)}, help(id))
	}
	return ctx, nil
}
