//go:build linux && faults

package test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/test/harness"
)

// TestFailedWrite lets every sync, or every write, of the log fail from a moment on at which nothing
// is in flight. What is published after that moment must not be acknowledged, not once, and the node
// must say so with its exit code. Trying again is no way out: the kernel marks pages clean whose
// write failed, and the second fdatasync succeeds (Rebello et al., USENIX ATC 2020).
func TestFailedWrite(t *testing.T) {
	for _, fault := range []struct{ call, errno string }{
		{"fdatasync", "EIO"},
		{"fdatasync", "ENOSPC"},
		{"pwritev", "EIO"},
		{"pwritev", "ENOSPC"},
	} {
		t.Run(fault.call+" "+fault.errno, func(t *testing.T) { failedWrite(t, fault.call, fault.errno) })
	}
}

func failedWrite(t *testing.T, call, errno string) {
	s := harness.NewServer(t, harness.Config{})
	c := harness.Connect(t, s.Address())
	ctx := harness.Context(t)
	before, err := c.Publish(ctx, client.Message{Subject: "sync.before", Value: []byte("on disk")})
	if err != nil {
		t.Fatal(err)
	}

	faults := harness.Inject(t, s.Pid(), call, errno)
	told := make(chan error, 100)
	for range cap(told) {
		err := c.PublishAsync(ctx, client.Message{Subject: "sync.after", Value: []byte("never on disk, as far as anyone knows")},
			func(_ client.Ack, err error) {
				if err == nil {
					err = errAcked
				}
				told <- err
			})
		if err != nil {
			t.Fatal(err)
		}
	}
	if code := s.ExitCode(); code != harness.ExitFailedWrite {
		t.Errorf("exit code %d after %s failed, want %d", code, call, harness.ExitFailedWrite)
	}
	_ = c.Close() // ends what is unacknowledged, and waits for the callbacks
	for range cap(told) {
		if err := <-told; errors.Is(err, errAcked) {
			t.Fatalf("a record was acknowledged after %s had failed", call)
		}
	}
	if n := faults.Count(t); n == 0 {
		t.Fatalf("the node ended, but no %s was made to fail", call)
	}

	s.Start()
	c = harness.Connect(t, s.Address())
	records, err := c.Fetch(ctx, before.Stream, before.Partition, client.FromOffset(before.Offset))
	if err != nil {
		t.Fatal(err)
	}
	if len(records.Records) == 0 || string(records.Records[0].Value) != "on disk" {
		t.Fatal("the record acknowledged before the fault is not there")
	}
	if _, err := c.Publish(ctx, client.Message{Subject: "sync.before", Value: []byte("again")}); err != nil {
		t.Errorf("after the fault is gone: %v", err)
	}
}

var errAcked = errors.New("acknowledged")

// TestFailedSyncUnderLoad lets every fdatasync fail under load, and when the node has ended cuts the
// power: what only looked written is gone then, so an acknowledgement that rested on it shows.
func TestFailedSyncUnderLoad(t *testing.T) {
	seed := harness.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 3))
	volume := harness.NewVolume(t, 768<<20)
	s := harness.NewServer(t, harness.Config{Dir: filepath.Join(volume.Dir(), "data")})
	j := harness.NewJournal(seed, "failing", 3)
	j.NewStream(t, s.Address())
	var pumps []*harness.Pump
	for _, records := range []int{1, 16} {
		pumps = append(pumps, harness.StartPump(t, j, s.Address(), harness.PumpConfig{BatchRecords: records}))
	}
	for range 3 {
		await(t, j, s, 1+rng.Int64N(5000))
		faults := harness.Inject(t, s.Pid(), "fdatasync", "EIO")
		if code := s.ExitCode(); code != harness.ExitFailedWrite {
			t.Fatalf("exit code %d after a failed sync, want %d", code, harness.ExitFailedWrite)
		}
		if faults.Count(t) == 0 {
			t.Fatal("the node ended, but no call was made to fail")
		}
		cutPower(volume, s)
		s.Start()
		v := j.MustCheck(t, s.Address())
		t.Logf("%d acknowledged, %d read back", v.Acked, v.Records)
	}
	await(t, j, s, 1)
	for _, p := range pumps {
		p.Finish(t)
	}
	j.MustCheck(t, s.Address())
	noFailures(t, j)
}

// TestDiskFull fills the disk under load. The node may stop, with its exit code, or refuse what it
// has no room for; when there is room again everything acknowledged is there and the clients go on.
func TestDiskFull(t *testing.T) {
	seed := harness.Seed(t)
	volume := harness.NewVolume(t, 160<<20)
	ballast := filepath.Join(volume.Dir(), "ballast")
	b, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(b.Fd()), 0, 0, 64<<20); err != nil {
		t.Fatalf("fallocate: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	s := harness.NewServer(t, harness.Config{Dir: filepath.Join(volume.Dir(), "data")})
	j := harness.NewJournal(seed, "full", 2)
	j.NewStream(t, s.Address())
	p := harness.StartPump(t, j, s.Address(), harness.PumpConfig{BatchRecords: 64})

	const stalled = 5 * time.Second // of no acknowledgement at all: the node refuses
	for err = nil; err == nil; {
		err = j.AwaitAcks(j.Acks()+1000, s.Exited(), stalled)
	}
	acked := j.Acks()
	t.Logf("%d bytes free: %v", volume.Free(), err)
	select {
	case <-s.Exited():
		if code := s.ExitCode(); code != harness.ExitFailedWrite {
			t.Fatalf("exit code %d on a full disk, want %d", code, harness.ExitFailedWrite)
		}
		// Still full: it may start, to be read from, or refuse; it may not harm anything.
		if err := s.TryStart(); err != nil {
			t.Logf("on the full disk it does not start: %v", err)
		}
		s.End()
	default:
		s.Kill()
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	s.Start()
	j.MustCheck(t, s.Address())
	await(t, j, s, 10_000)
	p.Finish(t)
	v := j.MustCheck(t, s.Address())
	noFailures(t, j)
	harness.Report(t, "disk full", "after %d acknowledged records: %v; with room again %d, 0 lost", acked, err, v.Acked)
}
