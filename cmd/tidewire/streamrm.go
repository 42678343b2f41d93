package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

// removed is the JSON of rm.
type removed struct {
	Name    string     `json:"name" doc:"of the stream"`
	Purged  bool       `json:"purged" doc:"its data are removed too, for good"`
	PurgeAt *time.Time `json:"purge_at,omitempty" doc:"when its data will be removed"`
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
removes them now: space comes back only then.`,
		Example: "  tidewire stream rm orders\n  tidewire stream rm orders --purge --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return cn.call(c.Context(), func(ctx context.Context, cl *client.Client) error {
				st, err := cl.Stream(ctx, args[0])
				if err != nil {
					return cn.noStream(c.Context(), "stream "+args[0]+" was not deleted", args[0], err)
				}
				if err := cn.confirm(c, st.Name, removeQuestion(&st, purge), yes); err != nil {
					return err
				}
				gone, err := cn.remove(c.Context(), &st, purge)
				if err != nil {
					return err
				}
				return a.sayRemoved(v, gone)
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

// remove deletes a stream, that one and none that took its name meanwhile: softly, and then it tells until when the data are kept, or
// for good.
func (cn *connection) remove(ctx context.Context, st *client.Stream, purge bool) (removed, error) {
	what := "stream " + st.Name + " was not deleted"
	out, request, etag := removed{Name: st.Name, Purged: purge}, rand.Text(), ""
	err := cn.admin(ctx, what, func(ctx context.Context, s adminv1.StreamServiceClient) error {
		if purge {
			_, err := s.PurgeStream(ctx, &adminv1.PurgeStreamRequest{Id: st.ID, Force: true, RequestId: request})
			return err
		}
		if etag == "" { // it stays the same when the call is repeated
			got, err := s.GetStream(ctx, &adminv1.GetStreamRequest{Id: st.ID})
			if err != nil {
				return err
			}
			etag = got.Stream.Etag
		}
		got, err := s.DeleteStream(ctx, &adminv1.DeleteStreamRequest{Name: st.Name, Etag: etag, RequestId: request})
		if err == nil && got.Stream.GetPurgeTime() != nil {
			out.PurgeAt = timeOf(got.Stream.PurgeTime.AsTime())
		}
		return err
	})
	return out, err
}

func (a *app) sayRemoved(v *view, r removed) error {
	return v.print(r, func() {
		switch {
		case r.Purged:
			fmt.Fprintf(a.out, "stream %s is deleted, and its data with it\n", r.Name)
		case r.PurgeAt == nil:
			fmt.Fprintf(a.out, "stream %s is deleted\n", r.Name)
		default:
			fmt.Fprintf(a.out, "stream %s is deleted; `tidewire stream undelete %s` brings it back until %s\n"+
				"its data stay on disk until then: `tidewire stream purge %s` frees the space at once, for good\n",
				r.Name, r.Name, r.PurgeAt.Format(time.RFC3339), r.Name)
		}
	})
}
