package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
)

// removed is the JSON of rm.
type removed struct {
	Name   string `json:"name" doc:"of the stream"`
	Purged bool   `json:"purged" doc:"its data are removed too, for good"`
}

func (a *app) streamRmCommand() *cobra.Command {
	var purge bool
	var yes answer
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use:     "rm NAME",
		Aliases: []string{"delete"},
		Short:   "Delete a stream",
		Long: `Delete a stream. Its records cannot be read any more from then on; on disk they are
kept for 24 hours, in which stream undelete brings it back, and then removed. --purge
removes them now.`,
		Example: "  tidewire stream rm orders\n  tidewire stream rm orders --purge --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return cn.call(c.Context(), func(ctx context.Context, cl *client.Client) error {
				st, err := cl.Stream(ctx, args[0])
				if err != nil {
					return noStream("stream "+args[0]+" was not deleted", err)
				}
				if err := cn.confirm(c, st.Name, removeQuestion(&st, purge), yes); err != nil {
					return err
				}
				ctx, cancel := cn.request(c.Context()) // the question may have taken all of ctx's time
				defer cancel()
				if err := cl.DeleteStream(ctx, st.Name, purge); err != nil {
					return &problem{id: explain.StreamRequest, what: "stream " + st.Name + " was not deleted", err: err}
				}
				return a.sayRemoved(v, &st, purge)
			})
		},
	}
	cn = a.connection(c)
	c.Flags().BoolVar(&purge, "purge", false, "remove the data from disk now; nothing can bring them back")
	yes.flag(c)
	cn.completeStreams(c)
	v = a.view(c, removed{})
	return c
}

func removeQuestion(st *client.Stream, purge bool) string {
	how := "kept on disk for 24 hours"
	if purge {
		how = "removed now, for good"
	}
	return fmt.Sprintf("Delete stream %s? Its %s (%s) will be %s.", st.Name, plural(st.Records(), "record"), size(st.Bytes()), how)
}

func (a *app) sayRemoved(v *view, st *client.Stream, purge bool) error {
	return v.print(removed{st.Name, purge}, func() {
		if purge {
			fmt.Fprintf(a.out, "stream %s is deleted, and its data with it\n", st.Name)
			return
		}
		fmt.Fprintf(a.out, "stream %s is deleted; its data stay on disk for 24 hours: `tidewire stream undelete %s` brings it back\n", st.Name, st.Name)
	})
}
