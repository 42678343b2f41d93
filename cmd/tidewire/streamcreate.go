package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"

	client "github.com/tidewire/tidewire/client/go"
)

func (a *app) streamCreateCommand() *cobra.Command {
	var cfg client.StreamConfig
	var maxAge age
	var maxBytes byteCount
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a stream",
		Long: `Create a stream that captures the subjects NAME and NAME.>, or those given with --subject.
To create one that is there already, with the same configuration, is no error.

Without limits everything is kept. Whole segments go, oldest first: one with nothing in
it younger than --max-age, and one without which a partition still keeps at least the
newest --max-bytes or --max-records.`,
		Example: `  tidewire stream create orders
  tidewire stream create shop --subject 'orders.>' --subject 'returns.>' --partitions 4
  tidewire stream create logs --max-age 7d --max-bytes 10GiB`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("partitions") && cfg.Partitions < 1 {
				return usage(c, fmt.Errorf("--partitions %d is below 1", cfg.Partitions))
			}
			if err := wire.ValidStreamName(args[0]); err != nil {
				return usage(c, err)
			}
			for _, f := range cfg.Subjects {
				if err := wire.ValidFilter(f); err != nil {
					return usage(c, err)
				}
			}
			cfg.Name, cfg.MaxAge, cfg.MaxBytes = args[0], time.Duration(maxAge), uint64(maxBytes)
			return cn.call(c.Context(), func(ctx context.Context, cl *client.Client) error {
				_, missing := cl.Stream(ctx, cfg.Name)
				st, err := cl.CreateStream(ctx, cfg)
				if errors.Is(err, client.ErrStreamExists) {
					if there, showErr := cl.Stream(ctx, cfg.Name); showErr == nil {
						differs := differences(&cfg, &there)
						if len(differs) > 0 {
							return &problem{id: explain.Wire(21), what: "stream " + cfg.Name + " was not created",
								err:  fmt.Errorf("there is one of that name, and it is another: %s", strings.Join(differs, "; ")),
								todo: "choose another name, or look at it with `tidewire stream show " + cfg.Name + "`"}
						}
						st, err = there, nil
					}
				}
				if err != nil {
					return &problem{id: explain.StreamRequest, what: "stream " + cfg.Name + " was not created", err: cn.blamed(err)}
				}
				return v.print(toJSON(&st), func() {
					there := map[bool]string{true: "is there already: it "}[missing == nil]
					fmt.Fprintf(a.out, "stream %s %scaptures %s in %s and keeps %s\n", st.Name, there, strings.Join(st.Subjects, " and "),
						plural(len(st.Partitions), "partition"), keeps(&st))
				})
			})
		},
	}
	cn = a.connection(c)
	f := c.Flags()
	f.StringArrayVar(&cfg.Subjects, "subject", nil, "`FILTER` of the subjects it captures; repeatable (default NAME and NAME.>)")
	f.IntVar(&cfg.Partitions, "partitions", 1, "how many logs its records are spread over, by key")
	f.Var(&maxAge, "max-age", "how long records are kept: 36h, 7d, 2w (default for ever)")
	f.Var(&maxBytes, "max-bytes", "each partition keeps at least the newest `BYTES`: 500MB, 10GiB (default all)")
	f.Uint64Var(&cfg.MaxRecords, "max-records", 0, "each partition keeps at least the newest `N` records (default all)")
	v = a.view(c, streamJSON{})
	return c
}

// differences says in what the stream that exists is not the one wanted.
func differences(cfg *client.StreamConfig, st *client.Stream) []string {
	var out []string
	differ := func(what, has, wanted string) {
		if has != wanted {
			out = append(out, fmt.Sprintf("it %s %s, not %s", what, has, wanted))
		}
	}
	subjects := cfg.Subjects
	if len(subjects) == 0 {
		subjects = []string{cfg.Name, cfg.Name + ".>"}
	}
	differ("captures", strings.Join(st.Subjects, " and "), strings.Join(subjects, " and "))
	differ("has", plural(len(st.Partitions), "partition"), plural(cfg.Partitions, "partition"))
	wanted := client.Stream{MaxAge: cfg.MaxAge, MaxBytes: cfg.MaxBytes, MaxRecords: cfg.MaxRecords}
	if st.MaxAge != cfg.MaxAge || st.MaxBytes != cfg.MaxBytes || st.MaxRecords != cfg.MaxRecords {
		out = append(out, fmt.Sprintf("it keeps %s, not %s", keeps(st), keeps(&wanted)))
	}
	return out
}
