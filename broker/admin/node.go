package admin

import (
	"context"
	"runtime"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidewire/tidewire/internal/explain"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

// GetNode implements adminv1.NodeServiceServer.
func (s *Server) GetNode(context.Context, *adminv1.GetNodeRequest) (*adminv1.GetNodeResponse, error) {
	i := s.cfg.Node.Info()
	n := &adminv1.Node{
		Id: i.ID, Incarnation: i.Incarnation, ClusterId: i.Cluster, Version: i.Version, GoVersion: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, StartTime: timestamppb.New(i.Began), Uptime: durationpb.New(time.Since(i.Began)),
		Addresses: i.Addresses, Draining: s.draining.Load(), Connections: uint64(max(i.Connections, 0)), Streams: uint64(i.Streams),
		Partitions: uint64(i.Partitions), Disk: &adminv1.Disk{TotalBytes: i.DiskTotal, FreeBytes: i.DiskFree},
	}
	for _, l := range i.Limits {
		n.Limits = append(n.Limits, &adminv1.Limit{Name: l.Name, Value: l.Value, Unit: l.Unit})
	}
	return &adminv1.GetNodeResponse{Node: n}, nil
}

func (s *Server) settings() (Settings, error) {
	if s.cfg.Settings == nil {
		return nil, &failure{explain.NoSettings, "NO_SETTINGS", codes.FailedPrecondition, "",
			"this node was started without a configuration to show or reload: start it with `tidewire server`"}
	}
	return s.cfg.Settings, nil
}

// GetConfig implements adminv1.ConfigServiceServer.
func (s *Server) GetConfig(_ context.Context, r *adminv1.GetConfigRequest) (*adminv1.GetConfigResponse, error) {
	from, err := s.settings()
	if err != nil {
		return nil, err
	}
	out := &adminv1.GetConfigResponse{}
	for _, c := range from.Settings() {
		if !strings.HasPrefix(c.Key, r.KeyPrefix) {
			continue
		}
		if c.Secret { // whoever made it may have forgotten
			c.Value, c.Default = "", ""
		}
		out.Settings = append(out.Settings, &adminv1.Setting{Key: c.Key, Value: c.Value, Origin: c.Origin, DefaultValue: c.Default,
			Doc: c.Doc, Reloadable: c.Reloadable, Secret: c.Secret})
	}
	return out, nil
}

// ReloadConfig implements adminv1.ConfigServiceServer.
func (s *Server) ReloadConfig(ctx context.Context, _ *adminv1.ReloadConfigRequest) (*adminv1.ReloadConfigResponse, error) {
	from, err := s.settings()
	if err != nil {
		return nil, err
	}
	changed, restart, err := from.Reload(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, &failure{explain.BadSettings, "BAD_SETTINGS", codes.FailedPrecondition, "", "nothing was taken over: " + err.Error()}
	}
	return &adminv1.ReloadConfigResponse{Changed: changed, RestartNeeded: restart}, nil
}
