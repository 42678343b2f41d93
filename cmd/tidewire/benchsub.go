package main

import (
	"context"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/bench"
	"github.com/tidewire/tidewire/proto/wire"
)

func (a *app) benchSubCommand() *cobra.Command {
	var cfg bench.ReplayConfig
	var window byteCount
	var r *benchRun
	c := &cobra.Command{
		Use:     "sub",
		Short:   "Replay what is stored, checking every CRC and offset",
		Example: "  tidewire bench pub --records 5000000 && tidewire bench sub\n  tidewire bench sub --subject 'orders.>'",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := wire.ValidFilter(cfg.Filter); err != nil {
				return usage(c, err)
			}
			cfg.Server, cfg.Window = r.address(), int(min(window, 1<<30))
			return r.run(c, byCount(cfg.Records), func(ctx context.Context, done *atomic.Uint64) (*bench.Result, error) {
				cfg.Progress, cfg.Timeout = done, r.timeout
				return bench.Replay(ctx, cfg)
			})
		},
	}
	r = a.benchRun(c)
	f := c.Flags()
	f.StringVar(&cfg.Filter, "subject", "bench", "`FILTER` of what to replay")
	f.Uint64Var(&cfg.Records, "records", 0, "end after `N` records (default all that are stored)")
	f.Var(&window, "window", "how much the node may send ahead (default 4MiB)")
	f.DurationVar(&cfg.Warmup, "warmup", 0, "what arrives so early is checked but not counted")
	return c
}
