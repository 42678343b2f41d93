package admin

import (
	"context"
	"net"
	"net/netip"

	"google.golang.org/grpc/peer"

	"github.com/tidewire/tidewire/auth"
)

// access is what a caller must be allowed for each method. One that does not stand here is refused, and
// a test says so before.
var access = map[string]auth.Action{
	"/tidewire.admin.v1.StreamService/CreateStream":   auth.CreateStream,
	"/tidewire.admin.v1.StreamService/GetStream":      auth.Describe,
	"/tidewire.admin.v1.StreamService/ListStreams":    auth.Describe,
	"/tidewire.admin.v1.StreamService/UpdateStream":   auth.UpdateStream,
	"/tidewire.admin.v1.StreamService/DeleteStream":   auth.DeleteStream,
	"/tidewire.admin.v1.StreamService/UndeleteStream": auth.CreateStream,
	"/tidewire.admin.v1.StreamService/PurgeStream":    auth.DeleteStream,

	"/tidewire.admin.v1.NodeService/GetNode": auth.DescribeNode,

	"/tidewire.admin.v1.ConfigService/GetConfig":    auth.DescribeConfig,
	"/tidewire.admin.v1.ConfigService/ReloadConfig": auth.ReloadConfig,

	"/grpc.health.v1.Health/Check": auth.DescribeNode,
	"/grpc.health.v1.Health/List":  auth.DescribeNode,
	"/grpc.health.v1.Health/Watch": auth.DescribeNode,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      auth.DescribeNode,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": auth.DescribeNode,
}

// authorize asks whether the caller may use the method on what the request names.
func (s *Server) authorize(ctx context.Context, method string, request any) error {
	id := auth.Identity{Method: "none"}
	if p, ok := peer.FromContext(ctx); ok {
		if tcp, ok := p.Addr.(*net.TCPAddr); ok {
			id.Remote = netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), tcp.AddrPort().Port())
		}
	}
	action, known := access[method]
	if !known {
		return &auth.DeniedError{Identity: id.String(), Action: "call", Resource: method}
	}
	return s.cfg.Node.Authorize(&id, action, s.resource(request))
}

// resource is the name of the stream a request is about, or empty.
func (s *Server) resource(request any) string {
	if r, ok := request.(interface{ GetId() uint64 }); ok && r.GetId() != 0 {
		if st := s.cfg.Node.State().Streams[r.GetId()]; st != nil {
			return st.Name
		}
	}
	return nameOf(request)
}
