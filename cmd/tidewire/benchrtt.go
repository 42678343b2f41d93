package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/bench"
	"github.com/tidewire/tidewire/proto/wire"
)

func (a *app) benchRttCommand() *cobra.Command {
	var cfg bench.RoundTripConfig
	var r *benchRun
	c := &cobra.Command{
		Use:     "rtt",
		Short:   "Publish at a fixed rate and time each record until a consumer has it",
		Example: "  tidewire bench rtt\n  tidewire bench rtt --rate 20000 --duration 30s",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if cfg.Rate <= 0 {
				return usage(c, fmt.Errorf("--rate %v is not above 0: a round trip is timed at a fixed rate", cfg.Rate))
			}
			if cfg.Warmup == 0 {
				cfg.Warmup = -1
			}
			if err := wire.ValidSubject(cfg.Subject); err != nil {
				return usage(c, err)
			}
			cfg.Server = r.address()
			return r.run(c, byTime(cfg.Duration+max(cfg.Warmup, 0)), func(ctx context.Context, done *atomic.Uint64) (*bench.Result, error) {
				cfg.Progress, cfg.Timeout, cfg.Options = done, r.timeout, benchOptions
				return bench.RoundTrip(ctx, cfg)
			})
		},
	}
	r = a.benchRun(c)
	f := c.Flags()
	f.StringVar(&cfg.Subject, "subject", "bench-rtt", "`SUBJECT` to use; a stream is made if none captures it, and stays")
	f.IntVar(&cfg.Size, "size", 128, "`BYTES` of a value, at least 16")
	f.Float64Var(&cfg.Rate, "rate", 1000, "records a second")
	f.DurationVar(&cfg.Duration, "duration", 10*time.Second, "how long to measure")
	f.DurationVar(&cfg.Warmup, "warmup", time.Second, "how long to run before that")
	return c
}
