package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/tidewire/tidewire/bench"
	client "github.com/tidewire/tidewire/client/go"
)

// tidewire is one node, as it comes.
type tidewire struct {
	profiled bool // it serves profiles
}

func (tidewire) Name() string  { return "tidewire" }
func (tidewire) Fsync() string { return "before every ack" }

func (t tidewire) Command(dir, address string) (*exec.Cmd, error) {
	server, err := tool("tidewire")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(server, "server", "--data", filepath.Join(dir, "data"), "--listen", address)
	if t.profiled {
		cmd.Env = append(os.Environ(), "TIDEWIRE_TELEMETRY_PPROF=true")
	}
	return cmd, nil
}

func (tidewire) Ready(ctx context.Context, address string) error {
	c, err := client.Connect(ctx, address)
	if err != nil {
		return err
	}
	return c.Close()
}

func (tidewire) Prepare(ctx context.Context, address string, spec Spec) error {
	c, err := client.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range spec.Streams - 1 {
		if _, err := c.CreateStream(ctx, client.StreamConfig{Name: idleStream(i)}); err != nil {
			return err
		}
	}
	_, err = c.CreateStream(ctx, client.StreamConfig{Name: subject, Subjects: []string{spec.captured()}, Partitions: max(1, spec.Partitions), MaxBytes: spec.MaxBytes})
	return err
}

func (tidewire) Publisher(ctx context.Context, address string, spec Spec) (bench.Publisher, error) {
	options := []client.Option{client.WithMaxBatchRecords(spec.Batch)}
	if spec.Compress {
		options = append(options, client.WithCompression())
	}
	return client.Connect(ctx, address, options...)
}

func (tidewire) Replay(ctx context.Context, address string, spec Spec) (*bench.Result, error) {
	return bench.Replay(ctx, bench.ReplayConfig{Server: address, Filter: spec.filter(), Records: spec.selected()})
}

func (tidewire) Read(ctx context.Context, address string, spec Spec, each func(bytes int)) error {
	c, err := client.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, spec.captured(), client.FromFirst())
	if err != nil {
		return err
	}
	defer sub.Close()
	for r, err := range sub.All(ctx) {
		if err != nil {
			return err
		}
		each(len(r.Value))
	}
	return ctx.Err()
}

func (tidewire) Route(ctx context.Context, address string, spec Spec) (*bench.Route, error) {
	cfg := bench.RoundTripConfig{Server: address, Subject: subject}
	return cfg.Tidewire(ctx)
}
