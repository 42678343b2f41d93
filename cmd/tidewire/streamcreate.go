package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
)

func (a *app) streamCreateCommand() *cobra.Command {
	var cfg client.StreamConfig
	var maxAge age
	var maxBytes byteCount
	var asJSON bool
	var cn *connection
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a stream",
		Long: `Create a stream that captures the subjects NAME and NAME.>, or those given with --subject.
To create one that is there already, with the same configuration, is no error.

What is older than --max-age, or above the limits, is removed, oldest first and a
segment at a time; without limits everything is kept.`,
		Example: `  tidewire stream create orders
  tidewire stream create shop --subject 'orders.>' --subject 'returns.>' --partitions 4
  tidewire stream create logs --max-age 7d --max-bytes 10GiB`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("partitions") && cfg.Partitions < 1 {
				return usage(c, fmt.Errorf("--partitions %d is below 1", cfg.Partitions))
			}
			cfg.Name, cfg.MaxAge, cfg.MaxBytes = args[0], time.Duration(maxAge), uint64(maxBytes)
			return cn.call(c.Context(), func(ctx context.Context, cl *client.Client) error {
				st, err := cl.CreateStream(ctx, cfg)
				if errors.Is(err, client.ErrStreamExists) && isThere(ctx, cl, &cfg, &st) {
					err = nil
				}
				if err != nil {
					return &problem{what: "stream " + cfg.Name + " was not created", err: err}
				}
				if asJSON {
					return writeJSON(a.out, toJSON(&st))
				}
				fmt.Fprintf(a.out, "stream %s captures %s in %s and keeps %s\n", st.Name, strings.Join(st.Subjects, " and "),
					plural(len(st.Partitions), "partition"), keeps(&st))
				return nil
			})
		},
	}
	cn = a.connection(c)
	f := c.Flags()
	f.StringArrayVar(&cfg.Subjects, "subject", nil, "`FILTER` of the subjects it captures; repeatable (default NAME and NAME.>)")
	f.IntVar(&cfg.Partitions, "partitions", 1, "how many logs its records are spread over, by key")
	f.Var(&maxAge, "max-age", "how long records are kept: 36h, 7d, 2w (default for ever)")
	f.Var(&maxBytes, "max-bytes", "how much each partition keeps: 500MB, 10GiB (default no limit)")
	f.Uint64Var(&cfg.MaxRecords, "max-records", 0, "how many records each partition keeps (default no limit)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// isThere reports whether the stream that exists is the very one wanted, and puts it in st.
func isThere(ctx context.Context, cl *client.Client, cfg *client.StreamConfig, st *client.Stream) bool {
	there, err := cl.Stream(ctx, cfg.Name)
	if err != nil {
		return false
	}
	*st = there
	subjects := cfg.Subjects
	if len(subjects) == 0 {
		subjects = []string{cfg.Name, cfg.Name + ".>"}
	}
	return slices.Equal(subjects, st.Subjects) && cfg.Partitions == len(st.Partitions) && cfg.MaxAge == st.MaxAge &&
		cfg.MaxBytes == st.MaxBytes && cfg.MaxRecords == st.MaxRecords
}
