package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/bench"
	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
)

const benchLong = `Measure a node from outside, as a client sees it.

pub  publishes, at a fixed --rate or as fast as it goes, and times the acks
sub  replays what is stored under a filter and checks every CRC and every offset
rtt  publishes at a fixed rate and times each record until a consumer has it

At a fixed rate latency counts from the time a record was meant to be sent, so that a
stalled node cannot hide what it did to the records that had to wait. What happens in the
warm-up is in none of the figures. Client and node share this machine if the node runs on it.`

func (a *app) benchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast a node is",
		Long:  benchLong,
		Example: `  tidewire bench pub --disk ./tidewire-data
  tidewire bench sub
  tidewire bench rtt --rate 1000`,
	}
	c.AddCommand(a.benchPubCommand(), a.benchSubCommand(), a.benchRttCommand())
	return c
}

// benchRun is what the three workloads have in common.
type benchRun struct {
	*connection
	disk string
	view *view
}

func (a *app) benchRun(c *cobra.Command) *benchRun {
	r := &benchRun{connection: a.connection(c)}
	c.Flags().StringVar(&r.disk, "disk", "", "first measure 4 KiB write+fdatasync in `DIR`, the node's data directory say")
	a.progressFlags(c)
	r.view = a.view(c, benchJSON{})
	return r
}

// benchJSON is what bench shows.
type benchJSON struct {
	*bench.Result
	PerSecond    float64     `json:"records_per_s" doc:"throughput"`
	MiBPerSecond float64     `json:"mib_per_s" doc:"throughput"`
	Durability   string      `json:"durability" doc:"what every ack rests on; empty for sub"`
	Disk         *bench.Disk `json:"disk,omitempty" doc:"with --disk"`
	Node         string      `json:"node" doc:"its address"`
	CPUs         int         `json:"cpus" doc:"of the machine of the client"`
	Go           string      `json:"go" doc:"version of Go"`
	Platform     string      `json:"platform" doc:"operating system and processor"`
	Version      string      `json:"version" doc:"of this program"`
}

// run measures the disk if asked to, runs a workload and prints the result.
func (r *benchRun) run(c *cobra.Command, expected func(done uint64, took time.Duration) (total int64), work func(context.Context, *atomic.Uint64) (*bench.Result, error)) error {
	ctx, stop := interruptible(c.Context())
	defer stop()
	if err := r.reachable(ctx); err != nil {
		return err
	}
	var disk *bench.Disk
	if r.disk != "" {
		var err error
		if disk, err = bench.MeasureDisk(r.disk, 4<<10); err != nil {
			return &problem{id: explain.DiskNotMeasured, what: "the disk could not be measured", err: err, todo: "give --disk a directory that you may write to"}
		}
	}
	var done atomic.Uint64
	began := time.Now()
	bar := r.app.progress(c.Name(), expected(0, 0), func() (int64, string) {
		n := done.Load()
		return expected(n, time.Since(began)), fmt.Sprintf("%s, %s", plural(n, "record"), rate(float64(n)/time.Since(began).Seconds()))
	})
	res, err := work(ctx, &done)
	bar.stop()
	interrupted := ctx.Err() != nil
	switch {
	case interrupted && (res == nil || res.Records == 0):
		return r.nothing(done.Load(), time.Since(began))
	case interrupted:
		fmt.Fprintln(r.app.err, "interrupted; this is what was measured until then")
	case err != nil:
		return &problem{id: explain.BenchUnfinished, what: "the benchmark did not finish", err: r.blamed(err)}
	}
	v := currentVersion()
	return r.view.print(benchJSON{Result: res, PerSecond: res.PerSecond(), MiBPerSecond: res.BytesPerSecond() / (1 << 20),
		Durability: durability(res), Disk: disk, Node: r.address(), CPUs: runtime.NumCPU(), Go: v.Go, Platform: v.Platform, Version: v.Version},
		func() { r.print(res, disk) })
}

// benchOptions are of every client of a benchmark: what is to be acknowledged is, before it is closed, or was waited for.
var benchOptions = []client.Option{client.WithCloseTimeout(100 * time.Millisecond)}

// nothing says why an interrupted run has nothing to show, though records may have been answered.
func (r *benchRun) nothing(answered uint64, took time.Duration) error {
	p := &problem{id: explain.BenchInterrupted, what: fmt.Sprintf("interrupted after %s: nothing was measured", span(took))}
	if answered > 0 {
		p.err = fmt.Errorf("%s came back, all of the warm-up", plural(answered, "record"))
		return p
	}
	p.err, p.todo = errors.New("nothing was acknowledged or read"), "if it was longer than --warmup, see with `tidewire health` what keeps the node from it"
	if full := r.diskFull(); full != nil {
		p.err, p.todo = fmt.Errorf("nothing was acknowledged: %w", full), ""
	}
	return p
}

// reachable finds out in --timeout whether there is a node at all.
func (r *benchRun) reachable(ctx context.Context) error {
	cl, err := r.connect(ctx)
	if err != nil {
		return err
	}
	return cl.Close()
}

func durability(r *bench.Result) string {
	if r.Voters == 0 {
		return ""
	}
	return "every ack: " + restsOn(r.Quorum, r.Voters)
}

func (r *benchRun) print(res *bench.Result, disk *bench.Disk) {
	shape := fmt.Sprintf("%s of %s on %s, %s", plural(res.Records, "record"), size(res.Bytes/res.Records), res.Subject, plural(res.Partitions, "partition"))
	load := plural(res.Connections, "connection")
	if res.InFlight > 0 {
		load += fmt.Sprintf(", %s in flight on each", count(res.InFlight))
	}
	switch {
	case res.Batch == 1:
		load += ", a record a batch"
	case res.Batch == 65535:
		load += ", batches of what has queued"
	case res.Batch > 0:
		load += fmt.Sprintf(", batches of up to %s records", count(res.Batch))
	}
	if res.Rate > 0 {
		load += ", at " + rate(res.Rate)
	} else if res.Workload == "pub" {
		load += ", flat out"
	}
	rows := [][]string{{"workload", shape}, {"", load}}
	if d := durability(res); d != "" {
		rows = append(rows, []string{"durability", d})
	} else {
		gaps := "none"
		if res.Gaps > 0 {
			gaps = plural(res.Gaps, "offset") + " passed over by the filter"
		}
		rows = append(rows, []string{"checked", "CRC of every batch, offset of every record; gaps: " + gaps})
	}
	rows = append(rows, []string{"throughput", fmt.Sprintf("%s, %s/s, in %s", rate(res.PerSecond()), size(uint64(res.BytesPerSecond())), span(res.Took))})
	if l := res.Latency; l != nil {
		rows = append(rows, []string{"latency", "p50 " + span(l.P50) + "  p90 " + span(l.P90) + "  p99 " + span(l.P99) + "  p99.9 " + span(l.P999) + "  max " + span(l.Max)},
			[]string{"", "from " + res.From})
	}
	if disk != nil {
		rows = append(rows, []string{"disk", fmt.Sprintf("4 KiB write+fdatasync p50 %s  p99 %s  in %s, just before", span(disk.Latency.P50), span(disk.Latency.P99), disk.Dir)})
	}
	host, _ := os.Hostname()
	rows = append(rows, []string{"machine", fmt.Sprintf("%s, %s, %s, node %s", orDash(host), plural(runtime.NumCPU(), "CPU"), runtime.Version(), r.address())})
	if res.Stream != "" {
		rows = append(rows, []string{"cleanup", fmt.Sprintf("stream %s keeps what was published; `tidewire stream rm %s --purge` removes the stream", res.Stream, res.Stream)})
	}
	r.app.details(rows)
}

// byTime is the progress of a run that lasts so long, in milliseconds.
func byTime(total time.Duration) func(uint64, time.Duration) int64 {
	return func(_ uint64, took time.Duration) int64 {
		if took == 0 {
			return total.Milliseconds()
		}
		return min(took, total).Milliseconds()
	}
}

// byCount is the progress of a run over so many records; 0: nobody knows.
func byCount(total uint64) func(uint64, time.Duration) int64 {
	return func(done uint64, took time.Duration) int64 {
		if took == 0 {
			return int64(total)
		}
		return int64(done)
	}
}
