package admin

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// A request that cannot be read is the caller's mistake. gRPC calls it INTERNAL, as if the node had failed, tells the caller
// so by itself and asks no interceptor. So it is given nothing to fail at: requests of our services are taken as bytes, and
// read by reads.

// body is a request as it came.
type body []byte

// codec is protobuf's, and takes bodies.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if b, ok := v.(*body); ok {
		*b = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// reads is the service, whose requests we read.
func (s *Server) reads(service grpc.ServiceDesc) *grpc.ServiceDesc {
	service.Methods = slices.Clone(service.Methods)
	for i := range service.Methods {
		m := &service.Methods[i]
		handle, method := m.Handler, "/"+service.ServiceName+"/"+m.MethodName
		m.Handler = func(srv any, ctx context.Context, take func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			return handle(srv, ctx, func(request any) error {
				began := time.Now()
				var b body
				if err := take(&b); err != nil {
					return err
				}
				err := proto.Unmarshal(b, request.(proto.Message))
				if err != nil { // a name in it, say, is not UTF-8
					err = s.status(method, nil, badField("request", "cannot be read: %v", err))
					s.observe(ctx, method, began, err)
				}
				return err
			}, interceptor)
		}
	}
	return &service
}
