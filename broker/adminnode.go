package broker

import (
	"context"
	"path"
	"time"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/broker/admin"
	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
)

// adminConfig connects the admin API with the node.
func (n *Node) adminConfig() admin.Config {
	return admin.Config{Logger: n.log.Named("admin"), Node: &adminNode{n: n, began: time.Now()},
		Settings: n.config().Settings, Metrics: n.metrics}
}

// adminNode is the node as the admin API sees it (admin.Node).
type adminNode struct {
	n     *Node
	began time.Time
}

func (a *adminNode) State() *cluster.State { return a.n.catalog.State() }

// Replay implements admin.Node. The catalog remembers the change, not whether this node came to serve it: a change
// whose stream did not start was answered with an error, and its repetition is to say OK only once it has.
func (a *adminNode) Replay(id, digest string) (*cluster.Stream, bool, error) {
	st, found, err := a.n.catalog.Replay(id, digest)
	if err != nil || !found || st.Deleted != 0 {
		return st, found, err
	}
	if now := a.n.catalog.State().Streams[st.ID]; now != nil && now.Deleted == 0 {
		a.n.streamUpdated(now)
		err = a.n.revive(now)
	} // else it was deleted after the change, which was made all the same
	return st, true, err
}

// CreateStream implements admin.Node. With check it makes nothing.
func (a *adminNode) CreateStream(ctx context.Context, spec cluster.StreamSpec, check bool, options ...cluster.Option) (*cluster.Stream, error) {
	if check {
		known, err := a.n.roomFor(spec)
		if err != nil {
			return nil, err
		}
		defer known()
		return a.n.catalog.CreateStream(ctx, spec, append(options, cluster.CheckOnly())...)
	}
	return a.n.createStream(ctx, spec, options...)
}

// UpdateStream implements admin.Node.
func (a *adminNode) UpdateStream(ctx context.Context, name string, update cluster.StreamUpdate, check bool, options ...cluster.Option) (*cluster.Stream, error) {
	if check {
		return a.n.catalog.UpdateStream(ctx, name, update, append(options, cluster.CheckOnly())...)
	}
	return a.n.updateStream(ctx, name, update, options...)
}

// DeleteStream implements admin.Node.
func (a *adminNode) DeleteStream(ctx context.Context, name string, check bool, options ...cluster.Option) (*cluster.Stream, error) {
	if check {
		options = append(options, cluster.CheckOnly())
	}
	return a.n.catalog.DeleteStream(ctx, name, options...)
}

// UndeleteStream implements admin.Node.
func (a *adminNode) UndeleteStream(ctx context.Context, id uint64, check bool, options ...cluster.Option) (*cluster.Stream, error) {
	if check {
		return a.n.undeleteStream(ctx, id, append(options, cluster.CheckOnly())...)
	}
	st, err := a.n.undeleteStream(ctx, id, options...)
	if err != nil {
		return nil, err
	}
	return st, a.n.revive(st)
}

// PurgeStream implements admin.Node.
func (a *adminNode) PurgeStream(ctx context.Context, id uint64, check bool, options ...cluster.Option) (*cluster.Stream, error) {
	if check {
		options = append(options, cluster.CheckOnly())
	}
	return a.n.catalog.PurgeStream(ctx, id, options...)
}

// Partitions implements admin.Node.
func (a *adminNode) Partitions(st *cluster.Stream) []wire.PartitionInfo {
	return a.n.describe(st).Partitions
}

// DeletedBytes implements admin.Node. A file that goes meanwhile, by a purge say, counts as nothing.
func (a *adminNode) DeletedBytes(st *cluster.Stream) (total uint64) {
	for _, p := range st.Partitions {
		dir := partitionDir(p.Group)
		names, _ := a.n.data.fs.List(dir)
		for _, name := range names {
			if size, err := a.n.data.fs.Size(path.Join(dir, name)); err == nil {
				total += uint64(size)
			}
		}
	}
	return total
}

// DeleteGrace implements admin.Node.
func (a *adminNode) DeleteGrace() time.Duration { return a.n.config().DeleteGrace }

// Draining implements admin.Node.
func (a *adminNode) Draining() bool { return a.n.draining.Load() }

// Authorize implements admin.Node.
func (a *adminNode) Authorize(id *auth.Identity, action auth.Action, resource string) error {
	return a.n.config().Authorizer.Authorize(id, action, []byte(resource))
}

// WireError implements admin.Node.
func (a *adminNode) WireError(err error) *wire.Error { return a.n.wireError(err) }

// Info implements admin.Node.
func (a *adminNode) Info() admin.Info {
	n, cfg := a.n, a.n.config()
	disk := n.diskState()
	return admin.Info{
		ID: n.identity.Node, Incarnation: n.identity.Incarnation, Cluster: n.identity.ClusterHex, Version: Version,
		Began: a.began, Addresses: []string{n.addr.String()}, Connections: n.connections.Load(),
		Streams: len(n.catalog.State().Living()), Partitions: len(n.partitions.all()), DiskTotal: uint64(disk.Total), DiskFree: uint64(disk.Free),
		Limits: []admin.Limit{
			{Name: "max_connections", Value: int64(cfg.MaxConnections), Unit: "count"},
			{Name: "max_requests", Value: int64(cfg.MaxRequests), Unit: "count"},
			{Name: "max_conversations", Value: int64(cfg.MaxConversations), Unit: "count"},
			{Name: "max_cursors", Value: int64(cfg.MaxCursors), Unit: "count"},
			{Name: "publish_memory", Value: cfg.PublishMemory, Unit: "bytes"},
			{Name: "hot_memory", Value: cfg.HotMemory, Unit: "bytes"},
			{Name: "outbound_memory", Value: cfg.OutboundMemory, Unit: "bytes"},
			{Name: "inbound_memory", Value: cfg.InboundMemory, Unit: "bytes"},
			{Name: "in_flight_bytes", Value: cfg.InFlightBytes, Unit: "bytes"},
			{Name: "credit", Value: cfg.Credit, Unit: "bytes"},
			{Name: "idle_timeout", Value: cfg.IdleTimeout.Milliseconds(), Unit: "ms"},
			{Name: "delete_grace", Value: cfg.DeleteGrace.Milliseconds(), Unit: "ms"},
		},
	}
}
