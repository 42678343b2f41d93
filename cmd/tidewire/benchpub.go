package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/bench"
	"github.com/tidewire/tidewire/proto/wire"
)

func (a *app) benchPubCommand() *cobra.Command {
	var cfg bench.PublishConfig
	var r *benchRun
	c := &cobra.Command{
		Use:   "pub",
		Short: "Publish and time the acks",
		Example: `  tidewire bench pub                                     # flat out, 500 records a batch
  tidewire bench pub --batch 1 --in-flight 64            # a record a frame
  tidewire bench pub --in-flight 1                       # one after the other: what a single ack takes
  tidewire bench pub --rate 50000 --duration 30s         # latency at a fixed rate
  tidewire bench pub --connections 16 --size 1024 --disk ./tidewire-data`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f := c.Flags()
			for _, name := range []string{"connections", "in-flight", "batch", "size"} {
				if n, err := f.GetInt(name); err == nil && n < 1 {
					return usage(c, fmt.Errorf("--%s %d is below 1", name, n))
				}
			}
			if f.Changed("records") && cfg.Records == 0 {
				return usage(c, errors.New("--records 0 measures nothing: give 1 or more, or --duration"))
			}
			if f.Changed("records") && !f.Changed("duration") {
				cfg.Duration = 0
			}
			if cfg.Warmup == 0 {
				cfg.Warmup = -1
			}
			if err := cfg.Validate(); err != nil {
				return usage(c, err)
			}
			if err := wire.ValidSubject(cfg.Subject); err != nil {
				return usage(c, err)
			}
			cfg.Server = r.address()
			expected := byTime(cfg.Duration + max(cfg.Warmup, 0))
			if cfg.Duration == 0 {
				expected = byCount(cfg.Records)
			}
			return r.run(c, expected, func(ctx context.Context, done *atomic.Uint64) (*bench.Result, error) {
				cfg.Progress, cfg.Timeout, cfg.Options = done, r.timeout, benchOptions
				return bench.Publish(ctx, cfg)
			})
		},
	}
	r = a.benchRun(c)
	f := c.Flags()
	f.StringVar(&cfg.Subject, "subject", "bench", "`SUBJECT` to publish to; a stream is made if none captures it, and stays")
	f.IntVar(&cfg.Partitions, "partitions", 0, "of that stream (default as it is, or 1)")
	f.IntVar(&cfg.Connections, "connections", 1, "each sends from a goroutine of its own")
	f.IntVar(&cfg.InFlight, "in-flight", 20_000, "calls without an answer, on each connection; 1 waits for each ack")
	f.IntVar(&cfg.Batch, "batch", 500, "most records in a batch; 1 sends each in a frame of its own")
	f.IntVar(&cfg.Size, "size", 128, "`BYTES` of a value")
	f.Uint64Var(&cfg.Records, "records", 0, "measure `N` records instead of a time")
	f.DurationVar(&cfg.Duration, "duration", 10*time.Second, "how long to measure")
	f.DurationVar(&cfg.Warmup, "warmup", time.Second, "how long to run before that")
	f.Float64Var(&cfg.Rate, "rate", 0, "records a second, over all connections (default flat out)")
	return c
}
