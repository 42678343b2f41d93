package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
)

func (a *app) streamShowCommand() *cobra.Command {
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use:     "show NAME",
		Aliases: []string{"info"},
		Short:   "Show a stream and its partitions",
		Example: "  tidewire stream show orders\n  tidewire stream show orders --json | jq .records",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return cn.call(c.Context(), func(ctx context.Context, cl *client.Client) error {
				st, err := cl.Stream(ctx, args[0])
				if err != nil {
					return cn.noStream(c.Context(), "cannot show stream "+args[0], args[0], err)
				}
				return v.print(toJSON(&st), func() { a.showStream(&st, v.wide()) })
			})
		},
	}
	cn = a.connection(c)
	cn.completeStreams(c)
	v = a.view(c, streamJSON{})
	return c
}

func (a *app) showStream(st *client.Stream, wide bool) {
	name := st.Name
	if st.Deleted {
		name += " (deleted; its data are kept for a grace time)"
	}
	a.details([][]string{
		{"name", name},
		{"captures", strings.Join(st.Subjects, " ")},
		{"created", st.Created.UTC().Format(time.RFC3339)},
		{"keeps", keeps(st)},
		{"records", count(st.Records())},
		{"on disk", size(st.Bytes())},
		{"acks", fmt.Sprintf("after fsync on %d of %d", st.Replicas/2+1, max(st.Replicas, 1))},
	})
	rows := [][]string{{"PARTITION", "FIRST OFFSET", "NEXT OFFSET", "RECORDS", "ON DISK", "LEADER"}}
	if wide {
		rows[0] = append(rows[0], "EPOCH")
	}
	for _, p := range st.Partitions {
		leader := "none known"
		if p.Leader != 0 {
			leader = fmt.Sprintf("node %d %s", p.Leader, p.LeaderAddress)
		}
		row := []string{strconv.Itoa(int(p.Number)), count(p.LogStart), count(p.HighWatermark), count(p.HighWatermark - p.LogStart),
			size(p.Bytes), strings.TrimSpace(leader)}
		if wide {
			row = append(row, strconv.FormatUint(p.Epoch, 10))
		}
		rows = append(rows, row)
	}
	fmt.Fprintln(a.out)
	a.headed(rows)
}
