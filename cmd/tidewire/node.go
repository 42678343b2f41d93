package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/tidewire/tidewire/internal/explain"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

func (a *app) nodeCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "node", Short: "Show what a node is and the limits it has",
		Long:    "Show what a node is, where it listens, and the limits it has.\n\nWhether it can serve, `tidewire health` says.",
		Example: "  tidewire node show\n  tidewire node show --server 127.0.0.1:7420 -o json | jq .disk",
	}
	c.AddCommand(a.nodeShowCommand())
	return c
}

// nodeJSON is a node as it is shown.
type nodeJSON struct {
	ID          uint64      `json:"id" doc:"its number in the cluster"`
	Incarnation uint64      `json:"incarnation" doc:"counts how often it came with an empty disk"`
	Cluster     string      `json:"cluster" doc:"the cluster it belongs to, 32 hexadecimal digits"`
	Version     string      `json:"version" doc:"of the software"`
	Go          string      `json:"go" doc:"version of Go"`
	Platform    string      `json:"platform" doc:"operating system and processor"`
	Addresses   []string    `json:"addresses" doc:"where it listens"`
	Started     time.Time   `json:"started" doc:"when it began to serve"`
	Uptime      float64     `json:"uptime_s" doc:"how long it has served, in seconds"`
	Draining    bool        `json:"draining" doc:"it is stopping and takes no new work"`
	Connections uint64      `json:"connections" doc:"of clients, HTTP and gRPC"`
	Streams     uint64      `json:"streams" doc:"that are not deleted"`
	Partitions  uint64      `json:"partitions" doc:"open on it"`
	Disk        diskJSON    `json:"disk" doc:"the file system of its data directory"`
	Limits      []limitJSON `json:"limits" doc:"in force"`
}

type diskJSON struct {
	Total uint64 `json:"total_bytes" doc:"its size; 0 if it cannot be told"`
	Free  uint64 `json:"free_bytes" doc:"what the node may still write"`
}

type limitJSON struct {
	Name  string `json:"name" doc:"its name"`
	Value int64  `json:"value" doc:"its value, in units"`
	Unit  string `json:"unit" doc:"bytes, ms or count"`
}

func (l limitJSON) text() string {
	switch l.Unit {
	case "bytes":
		return size(l.Value)
	case "ms":
		return ageText(time.Duration(l.Value) * time.Millisecond)
	}
	return count(l.Value)
}

func (a *app) nodeShowCommand() *cobra.Command {
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use: "show", Aliases: []string{"info"}, Short: "Show a node",
		Long:    "Show what a node is. Of several addresses the first that answers is asked.",
		Example: "  tidewire node show\n  tidewire node show -o yaml", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var n *adminv1.Node
			err := cn.adminCall(c.Context(), explain.NodeRequest, "the node cannot be shown", func(ctx context.Context, conn *grpc.ClientConn) error {
				got, err := adminv1.NewNodeServiceClient(conn).GetNode(ctx, &adminv1.GetNodeRequest{})
				n = got.GetNode()
				return err
			})
			if err != nil {
				return err
			}
			j := toNodeJSON(n)
			return v.print(j, func() { a.showNode(&j) })
		},
	}
	cn = a.connection(c)
	v = a.view(c, nodeJSON{})
	return c
}

func toNodeJSON(n *adminv1.Node) nodeJSON {
	j := nodeJSON{ID: n.GetId(), Incarnation: n.GetIncarnation(), Cluster: n.GetClusterId(), Version: n.GetVersion(), Go: n.GetGoVersion(),
		Platform: n.GetPlatform(), Addresses: append([]string{}, n.GetAddresses()...), Started: *timeOf(n.GetStartTime().AsTime()),
		Uptime: n.GetUptime().AsDuration().Round(time.Millisecond).Seconds(), Draining: n.GetDraining(), Connections: n.GetConnections(),
		Streams: n.GetStreams(), Partitions: n.GetPartitions(), Disk: diskJSON{n.GetDisk().GetTotalBytes(), n.GetDisk().GetFreeBytes()}, Limits: []limitJSON{}}
	for _, l := range n.GetLimits() {
		j.Limits = append(j.Limits, limitJSON{l.Name, l.Value, l.Unit})
	}
	return j
}

func (a *app) showNode(j *nodeJSON) {
	state := "serving"
	if j.Draining {
		state = "draining: it takes no new work"
	}
	disk := "not known"
	if j.Disk.Total > 0 {
		disk = fmt.Sprintf("%s free of %s", size(j.Disk.Free), size(j.Disk.Total))
	}
	up := time.Duration(j.Uptime * float64(time.Second)).Truncate(time.Second)
	a.details([][]string{
		{"node", strconv.FormatUint(j.ID, 10) + " of cluster " + j.Cluster},
		{"incarnation", strconv.FormatUint(j.Incarnation, 10)},
		{"version", j.Version + ", " + j.Go + ", " + j.Platform},
		{"listens", strings.Join(j.Addresses, " ")},
		{"state", state},
		{"up", fmt.Sprintf("%v, since %s", up, j.Started.Format(time.RFC3339))},
		{"connections", count(j.Connections)},
		{"streams", fmt.Sprintf("%s, %s", count(j.Streams), plural(j.Partitions, "partition"))},
		{"disk", disk},
	})
	rows := [][]string{{"LIMIT", "VALUE"}}
	for _, l := range j.Limits {
		rows = append(rows, []string{l.Name, l.text()})
	}
	fmt.Fprintln(a.out)
	a.headed(rows)
}
