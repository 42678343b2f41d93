package main

import (
	"context"
	"crypto/rand"
	"fmt"

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
is not deleted is left alone: tidewire stream rm NAME --purge does both.`,
		Example: "  tidewire stream purge orders\n  tidewire stream purge --id 7 --yes",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := which.take(c, args); err != nil {
				return err
			}
			name := which.name
			if name == "" {
				name = fmt.Sprint(which.id)
			}
			if err := cn.check(); err != nil {
				return err
			}
			if err := cn.confirm(c, name, fmt.Sprintf("Purge %s? Its data will be removed now, for good.", &which), yes); err != nil {
				return err
			}
			request := rand.Text()
			var gone *adminv1.Stream
			err := cn.admin(c.Context(), which.String()+" was not purged", func(ctx context.Context, s adminv1.StreamServiceClient) error {
				got, err := s.PurgeStream(ctx, &adminv1.PurgeStreamRequest{Name: which.name, Id: which.id, RequestId: request})
				gone = got.GetStream()
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
