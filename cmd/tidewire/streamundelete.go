package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

// byNameOrID is how a deleted stream is named: several may have had one name.
type byNameOrID struct {
	id   uint64
	name string
}

func (b *byNameOrID) flag(c *cobra.Command) {
	c.Flags().Uint64Var(&b.id, "id", 0, "number of the stream instead of its name, as ls --deleted shows it")
}

func (b *byNameOrID) take(c *cobra.Command, args []string) error {
	if (len(args) == 1) == (b.id != 0) {
		return usage(c, errors.New("name the stream, or give --id"))
	}
	if len(args) == 1 {
		b.name = args[0]
	}
	return nil
}

func (b *byNameOrID) String() string {
	if b.name != "" {
		return "stream " + b.name
	}
	return fmt.Sprintf("stream number %d", b.id)
}

func (a *app) streamUndeleteCommand() *cobra.Command {
	var which byNameOrID
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use:     "undelete [NAME]",
		Short:   "Bring back a deleted stream, with every record",
		Example: "  tidewire stream undelete orders\n  tidewire stream ls --deleted",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := which.take(c, args); err != nil {
				return err
			}
			request := rand.Text()
			var now *adminv1.Stream
			err := cn.admin(c.Context(), which.String()+" was not brought back", func(ctx context.Context, s adminv1.StreamServiceClient) error {
				got, err := s.UndeleteStream(ctx, &adminv1.UndeleteStreamRequest{Name: which.name, Id: which.id, RequestId: request})
				if err != nil {
					return err
				}
				now = withPartitions(ctx, s, got.Stream)
				return nil
			})
			if err != nil {
				return err
			}
			return v.print(adminJSON(now), func() { fmt.Fprintf(a.out, "stream %s is back\n", now.Name) })
		},
	}
	cn = a.connection(c)
	which.flag(c)
	cn.completeDeleted(c)
	v = a.view(c, streamJSON{})
	return c
}

// completeDeleted completes the first argument with the names of deleted streams.
func (cn *connection) completeDeleted(c *cobra.Command) {
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) (out []string, _ cobra.ShellCompDirective) {
		if len(args) > 0 || cn.check() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completePatience)
		defer cancel()
		_ = ask(ctx, hostPorts(cn.address())[0], func(ctx context.Context, s adminv1.StreamServiceClient) error { // an error is no completion
			streams, err := deletedStreams(ctx, s)
			for _, st := range streams {
				out = append(out, st.Name)
			}
			return err
		})
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
