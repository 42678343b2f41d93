package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

func (a *app) streamPurgeCommand() *cobra.Command {
	var which byNameOrID
	var yes answer
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use:   "purge [NAME]",
		Short: "Remove the data of a deleted stream at once, for good",
		Long: `Remove the data of a deleted stream at once and for good, before its purge time. One that
is not deleted is left alone: tidewire stream rm NAME --purge does both. Also with --id it
is the stream's name that confirms, typed or as --yes=NAME.`,
		Example: "  tidewire stream purge orders\n  tidewire stream purge --id 7 --yes",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := which.take(c, args); err != nil {
				return err
			}
			failed := which.String() + " was not purged"
			var gone *adminv1.Stream
			err := cn.admin(c.Context(), failed, func(ctx context.Context, s adminv1.StreamServiceClient) (err error) {
				gone, err = which.find(ctx, s, c, failed)
				return err
			})
			if err != nil {
				return err
			}
			question := fmt.Sprintf("Purge stream %s, number %d, deleted %s? Its data (%s) will be removed now, for good.", gone.Name, gone.Id,
				gone.DeleteTime.AsTime().UTC().Format(time.RFC3339), size(gone.DeletedBytes))
			if err := cn.confirm(c, gone.Name, question, yes); err != nil {
				return err
			}
			request := rand.Text()
			err = cn.admin(c.Context(), failed, func(ctx context.Context, s adminv1.StreamServiceClient) error {
				_, err := s.PurgeStream(ctx, &adminv1.PurgeStreamRequest{Id: gone.Id, RequestId: request})
				return err
			})
			if err != nil {
				return err
			}
			return v.print(removed{Name: gone.Name, Purged: true}, func() { fmt.Fprintf(a.out, "stream %s is purged: its data are gone\n", gone.Name) })
		},
	}
	cn = a.connection(c)
	which.flag(c)
	yes.flag(c)
	cn.completeDeleted(c)
	v = a.view(c, removed{})
	return c
}
