//go:build linux && nightly

package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/test/harness"
)

// TestRestart kills a node that holds 2 GiB and starts it again, with the page cache warm and cold:
// how long until the first record is read, and until the first is acknowledged? Both count from
// the start of the process.
func TestRestart(t *testing.T) {
	const (
		size  = 1 << 10
		total = 2 << 30
		bound = 5 * time.Second // the aim is a tenth of it; a machine may be slow
	)
	seed := harness.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 6))
	s := harness.NewServer(t, harness.Config{})
	c := harness.Connect(t, s.Address())
	ctx := longContext(t)
	value := make([]byte, size)
	for n := 0; n < total/size; n++ {
		for i := 0; i < size; i += 64 {
			value[i] = byte(rng.Uint32())
		}
		if err := c.PublishAsync(ctx, client.Message{Subject: "big", Value: value}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for _, cache := range []string{"warm", "cold"} {
		s.Kill()
		if cache == "cold" {
			dropCaches(t)
		}
		began := time.Now()
		s.Start()
		ready := time.Since(began)
		r, err := harness.DialReader(s.Address())
		if err != nil {
			t.Fatal(err)
		}
		info, err := r.Stream("big")
		if err != nil {
			t.Fatal(err)
		}
		at := rng.Uint64N(total / size)
		if err := r.Each(info.ID, 0, at, at+1, func(uint64, *wire.Record) error { return nil }); err != nil {
			t.Fatal(err)
		}
		read := time.Since(began)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := harness.Connect(t, s.Address()).Publish(ctx, client.Message{Subject: "big", Value: value}); err != nil {
			t.Fatal(err)
		}
		ack := time.Since(began)
		harness.Report(t, fmt.Sprintf("restart with 2 GiB after SIGKILL, %s", cache), "ready after %d ms, first read after %d ms, first ack after %d ms",
			ready.Milliseconds(), read.Milliseconds(), ack.Milliseconds())
		if ack > bound {
			t.Errorf("%s: %v to the first acknowledgement, more than %v", cache, ack, bound)
		}
	}
}

// dropCaches empties the page cache.
func dropCaches(t *testing.T) {
	t.Helper()
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatalf("a cold start needs root: %v", err)
	}
}

// TestIdle measures what a node with some streams and connections uses when nothing happens.
func TestIdle(t *testing.T) {
	s := harness.NewServer(t, harness.Config{})
	ctx := harness.Context(t)
	for i := range 10 {
		c := harness.Connect(t, s.Address())
		if _, err := c.Publish(ctx, client.Message{Subject: fmt.Sprintf("idle%d", i), Value: []byte("once")}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Subscribe(ctx, fmt.Sprintf("idle%d.>", i)); err != nil {
			t.Fatal(err)
		}
	}
	const span = 30 * time.Second // here time itself is what is measured
	before := s.Usage(t)
	<-time.After(span)
	after := s.Usage(t)
	share := 100 * (after.CPU - before.CPU).Seconds() / span.Seconds()
	harness.Report(t, "idle node, 10 streams, 10 clients", "%.2f %% of a core, %d MiB resident", share, after.Resident>>20)
	if share > 5 || after.Resident > 400<<20 {
		t.Errorf("an idle node uses %.2f %% of a core and %d MiB", share, after.Resident>>20)
	}
}
