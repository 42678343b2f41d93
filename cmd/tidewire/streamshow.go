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
	var asJSON bool
	var cn *connection
	c := &cobra.Command{
		Use:     "show NAME",
		Aliases: []string{"info"},
		Short:   "Show a stream and its partitions",
		Example: "  tidewire stream show orders\n  tidewire stream show orders --json | jq .records",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(c *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
			return cn.streamNames(c, args, s)
		},
		RunE: func(c *cobra.Command, args []string) error {
			return cn.call(c.Context(), func(ctx context.Context, cl *client.Client) error {
				st, err := cl.Stream(ctx, args[0])
				if err != nil {
					return noStream("cannot show stream "+args[0], err)
				}
				if asJSON {
					return writeJSON(a.out, toJSON(&st))
				}
				a.showStream(&st)
				return nil
			})
		},
	}
	cn = a.connection(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a *app) showStream(st *client.Stream) {
	name := st.Name
	if st.Deleted {
		name += " (deleted; its data are kept for a grace time)"
	}
	table(a.out, [][]string{
		{"name", name},
		{"captures", strings.Join(st.Subjects, " ")},
		{"created", st.Created.UTC().Format(time.RFC3339)},
		{"keeps", keeps(st)},
		{"records", count(st.Records())},
		{"on disk", size(st.Bytes())},
		{"acks", fmt.Sprintf("after fsync on %d of %d", st.Replicas/2+1, max(st.Replicas, 1))},
	})
	rows := [][]string{{"PARTITION", "FIRST OFFSET", "NEXT OFFSET", "RECORDS", "ON DISK", "LEADER"}}
	for _, p := range st.Partitions {
		leader := "none known"
		if p.Leader != 0 {
			leader = fmt.Sprintf("node %d %s", p.Leader, p.LeaderAddress)
		}
		rows = append(rows, []string{strconv.Itoa(int(p.Number)), count(p.LogStart), count(p.HighWatermark), count(p.HighWatermark - p.LogStart),
			size(p.Bytes), strings.TrimSpace(leader)})
	}
	fmt.Fprintln(a.out)
	table(a.out, rows)
}
