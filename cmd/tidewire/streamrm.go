package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
)

// removed is the JSON of rm.
type removed struct {
	Name   string `json:"name"`
	Purged bool   `json:"purged"`
}

func (a *app) streamRmCommand() *cobra.Command {
	var purge, yes, asJSON bool
	var cn *connection
	c := &cobra.Command{
		Use:     "rm NAME",
		Aliases: []string{"delete"},
		Short:   "Delete a stream",
		Long: `Delete a stream. Its records cannot be read any more from then on; on disk they are
kept for 24 hours, and then removed. --purge removes them now.`,
		Example: "  tidewire stream rm orders\n  tidewire stream rm orders --purge --yes",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(c *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
			return cn.streamNames(c, args, s)
		},
		RunE: func(c *cobra.Command, args []string) error {
			return cn.call(c.Context(), func(ctx context.Context, cl *client.Client) error {
				st, err := cl.Stream(ctx, args[0])
				if err != nil {
					return noStream("stream "+args[0]+" was not deleted", err)
				}
				if !yes {
					if err := a.confirm(c, &st, purge); err != nil {
						return err
					}
				}
				ctx, cancel := cn.request(c.Context()) // the question may have taken all of ctx's time
				defer cancel()
				if err := cl.DeleteStream(ctx, st.Name, purge); err != nil {
					return &problem{what: "stream " + st.Name + " was not deleted", err: err}
				}
				return a.sayRemoved(&st, purge, asJSON)
			})
		},
	}
	cn = a.connection(c)
	c.Flags().BoolVar(&purge, "purge", false, "remove the data from disk now; nothing can bring them back")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a *app) sayRemoved(st *client.Stream, purge, asJSON bool) error {
	switch {
	case asJSON:
		return writeJSON(a.out, removed{st.Name, purge})
	case purge:
		fmt.Fprintf(a.out, "stream %s is deleted, and its data with it\n", st.Name)
	default:
		fmt.Fprintf(a.out, "stream %s is deleted; its data stay on disk for 24 hours (--purge removes them at once)\n", st.Name)
	}
	return nil
}

// confirm asks whether to delete; without a terminal there is nobody to ask.
func (a *app) confirm(c *cobra.Command, st *client.Stream, purge bool) error {
	if !a.typed {
		return usage(c, errors.New("there is no terminal to ask on: give --yes to delete without a question"))
	}
	how := "kept on disk for 24 hours"
	if purge {
		how = "removed now, for good"
	}
	fmt.Fprintf(a.err, "Delete stream %s? Its %s (%s) will be %s. [y/N] ", st.Name, plural(st.Records(), "record"), size(st.Bytes()), how)
	line, _ := bufio.NewReader(a.in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return &problem{what: "stream " + st.Name + " was not deleted: the answer was not yes", todo: "nothing; or answer y"}
	}
	return nil
}
