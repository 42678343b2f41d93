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
	_, err = c.CreateStream(ctx, client.StreamConfig{Name: subject, Subjects: []string{subject}, Partitions: max(1, spec.Partitions)})
	return err
}

func (tidewire) Publisher(ctx context.Context, address string, spec Spec) (bench.Publisher, error) {
	return client.Connect(ctx, address, client.WithMaxBatchRecords(spec.Batch))
}

func (tidewire) Replay(ctx context.Context, address string, spec Spec) (*bench.Result, error) {
	return bench.Replay(ctx, bench.ReplayConfig{Server: address, Filter: subject, Records: spec.Records})
}

func (tidewire) Route(ctx context.Context, address string, spec Spec) (*bench.Route, error) {
	cfg := bench.RoundTripConfig{Server: address, Subject: subject}
	return cfg.Tidewire(ctx)
}
