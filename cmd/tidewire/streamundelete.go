package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/internal/explain"
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
			failed := which.String() + " was not brought back"
			err := cn.admin(c.Context(), failed, func(ctx context.Context, s adminv1.StreamServiceClient) error {
				st, err := which.find(ctx, s, c, failed)
				if err != nil {
					return err
				}
				got, err := s.UndeleteStream(ctx, &adminv1.UndeleteStreamRequest{Id: st.Id, RequestId: request})
				if err != nil {
					return notUndeleted(err, failed, st)
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

// notUndeleted adds what to do about a name or subjects that another stream has by now.
func notUndeleted(err error, failed string, st *adminv1.Stream) error {
	err = adminProblem(explain.StreamRequest, failed, err)
	if p, ok := errors.AsType[*problem](err); ok && (p.id == explain.Wire(21) || p.id == explain.Wire(22)) {
		p.todo = "another stream has its name or subjects by now (`tidewire stream ls`): delete that one first with `tidewire stream rm NAME`, or leave this one until it is purged"
		if st.PurgeTime != nil {
			p.todo += ", at " + st.PurgeTime.AsTime().UTC().Format(time.RFC3339)
		}
	}
	return err
}

// find gives the deleted stream that is meant. If there is none, or more than one, its error says what to do, for the verb c.
func (b *byNameOrID) find(ctx context.Context, s adminv1.StreamServiceClient, c *cobra.Command, failed string) (*adminv1.Stream, error) {
	if b.id != 0 {
		got, err := s.GetStream(ctx, &adminv1.GetStreamRequest{Id: b.id})
		switch {
		case err != nil:
			return nil, noneDeleted(adminProblem(explain.StreamRequest, failed, err))
		case got.Stream.DeleteTime == nil:
			return nil, notDeleted(c, failed, got.Stream.Name)
		}
		return got.Stream, nil
	}
	all, err := deletedStreams(ctx, s)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(st *adminv1.Stream) bool { return st.Name != b.name })
	switch len(all) {
	case 1:
		return all[0], nil
	case 0:
		_, err := s.GetStream(ctx, &adminv1.GetStreamRequest{Name: b.name})
		if err == nil {
			return nil, notDeleted(c, failed, b.name)
		}
		return nil, noneDeleted(adminProblem(explain.StreamRequest, failed, err))
	}
	var which, ids []string
	for _, st := range all {
		which = append(which, fmt.Sprintf("number %d, deleted %s", st.Id, st.DeleteTime.AsTime().UTC().Format(time.RFC3339)))
		ids = append(ids, fmt.Sprintf("`%s --id %d`", c.CommandPath(), st.Id))
	}
	return nil, &problem{id: explain.BadRequest, what: failed, err: fmt.Errorf("%d deleted streams had that name: %s", len(all), strings.Join(which, "; ")),
		todo: "say which: " + strings.Join(ids, " or ") + "; `tidewire stream ls --deleted` tells more of them", code: exitUsage}
}

// notDeleted says that a stream lives, to a verb that is for those that do not.
func notDeleted(c *cobra.Command, failed, name string) error {
	p := &problem{id: explain.NotDeleted, what: failed, err: fmt.Errorf("stream %s is not deleted", name), todo: "nothing: it is there, `tidewire stream show " + name + "` shows it"}
	if c.Name() == "purge" {
		p.todo = "to delete it and remove its data at once, give `tidewire stream rm " + name + " --purge`"
	}
	return p
}

// noneDeleted adds to the error of a stream that is not there where to look for one that is deleted.
func noneDeleted(err error) error {
	if p, ok := errors.AsType[*problem](err); ok && p.id == explain.Wire(20) {
		p.err = errors.New("no deleted stream is that one: it may have been purged, which nothing undoes")
		p.todo = "see which there are with `tidewire stream ls --deleted`"
	}
	return err
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
