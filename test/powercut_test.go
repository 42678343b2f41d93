//go:build linux && faults

package test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/test/harness"
)

// TestPowerCut cuts the power of a node's disk again and again under load, several times for each
// file system, and reads everything back after each cut.
func TestPowerCut(t *testing.T) {
	cuts := harness.Count(t, "TIDEWIRE_POWER_CUTS", 50)
	const perImage = 5
	seed := harness.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 2))
	var acked, retired int
	began := time.Now()
	for done := 0; done < cuts && !t.Failed(); done += perImage {
		t.Run(fmt.Sprintf("from cut %d", done+1), func(t *testing.T) {
			a, r := cutImage(t, rng, min(perImage, cuts-done))
			acked, retired = acked+a, retired+r
		})
	}
	if t.Failed() {
		return
	}
	took := time.Since(began)
	harness.Report(t, "power cuts under load", "%d cuts, %d records acknowledged, 0 lost (%d given up by retention); %.2f s a cut",
		cuts, acked, retired, took.Seconds()/float64(cuts))
}

// cutImage cuts the power of one file system n times, under a stream that keeps everything and one
// that keeps little: its segments are recycled, and old frames in a recycled file must never pass
// for new ones.
func cutImage(t *testing.T, rng *rand.Rand, n int) (acked, retired int) {
	volume := harness.NewVolume(t, 1<<30)
	s := harness.NewServer(t, harness.Config{Dir: filepath.Join(volume.Dir(), "data")})
	long := harness.NewJournal(rng.Uint64(), "power", 3)
	brief := harness.NewJournal(rng.Uint64(), "brief", 2)
	brief.MaxBytes = 256 << 10
	journals := []*harness.Journal{long, brief}
	var pumps []*harness.Pump
	for _, j := range journals {
		j.NewStream(t, s.Address())
		for _, records := range []int{1, 64} {
			pumps = append(pumps, harness.StartPump(t, j, s.Address(), harness.PumpConfig{BatchRecords: records, InFlight: 256 << 10}))
		}
	}
	var streams []string // made by themselves, and acknowledged
	for i := range n {
		await(t, long, s, rng.Int64N(1<<rng.Uint64N(14))) // from right at the start to after thousands
		if rng.IntN(3) == 0 {
			streams = append(streams, makeStream(t, s, i))
		}
		cutPower(volume, s)
		if rng.IntN(3) == 0 { // and once more, while it recovers
			s.StartUntil(rng.Int64N(60))
			cutPower(volume, s)
		}
		s.Start()
		for _, j := range journals {
			v, err := j.Check(s.Address())
			if err == nil {
				err = v.Err()
			}
			if err != nil {
				t.Fatalf("after cut %d of this file system: %v", i+1, err)
			}
			t.Logf("cut %d, %s: %d acknowledged, %d read back, %d given up", i+1, j.Stream, v.Acked, v.Records, v.Retired)
		}
		haveStreams(t, s, streams)
	}
	for _, p := range pumps {
		p.Finish(t)
	}
	for _, j := range journals {
		v := j.MustCheck(t, s.Address())
		noFailures(t, j)
		acked, retired = acked+v.Acked, retired+v.Retired
	}
	s.Stop()
	volume.Unmount()
	return acked, retired
}

// makeStream makes a stream right before a cut: once that is acknowledged, it is there for good.
func makeStream(t *testing.T, s *harness.Server, i int) string {
	t.Helper()
	name := fmt.Sprintf("cut-%d", i)
	c := harness.Connect(t, s.Address())
	if _, err := c.CreateStream(harness.Context(t), client.StreamConfig{Name: name, Partitions: 2}); err != nil {
		t.Fatalf("create stream %s: %v", name, err)
	}
	_ = c.Close()
	return name
}

func haveStreams(t *testing.T, s *harness.Server, names []string) {
	t.Helper()
	c := harness.Connect(t, s.Address())
	for _, name := range names {
		if _, err := c.Stream(harness.Context(t), name); err != nil {
			t.Fatalf("a stream that was made is gone: %v", err)
		}
	}
	_ = c.Close()
}

// cutPower cuts the power, for the node and its disk at one moment, and gives power again.
func cutPower(volume *harness.Volume, s *harness.Server) {
	s.Freeze()
	volume.Cut()
	s.End()
	volume.Unmount()
	volume.Mount()
}

// TestPowerCutSelfCheck runs a node that never syncs through the same: unless that loses
// acknowledged records, and the check says so, TestPowerCut proves nothing.
func TestPowerCutSelfCheck(t *testing.T) {
	seed := harness.Seed(t)
	for attempt := range 5 {
		volume := harness.NewVolume(t, 1<<30)
		s := harness.NewServer(t, harness.Config{Variant: harness.NoSync, Dir: filepath.Join(volume.Dir(), "data")})
		j := harness.NewJournal(seed+uint64(attempt), "power", 3)
		j.NewStream(t, s.Address())
		volume.Sync() // so that the node and its stream survive, and what is lost is records
		p := harness.StartPump(t, j, s.Address(), harness.PumpConfig{BatchRecords: 16})
		await(t, j, s, 5000)
		s.Freeze()
		volume.Cut()
		p.Abandon() // it would wait for ever: what it was promised is gone
		s.End()
		volume.Unmount()
		volume.Mount()
		if err := s.TryStart(); err != nil {
			t.Logf("without syncs the node did not even start: %v", err)
			continue // loss of all, but not what this test is to see
		}
		v, err := j.Check(s.Address())
		if err != nil {
			t.Logf("without syncs: %v", err)
			continue
		}
		if v.Lost > 0 && v.Err() != nil {
			harness.Report(t, "power cut without syncs", "the check found %d of %d acknowledged records lost", v.Lost, v.Acked)
			return
		}
		t.Logf("cut %d: nothing lost of %d", attempt+1, v.Acked)
	}
	t.Fatal("five power cuts of a node that never syncs, and no acknowledged record was found lost: the test cannot fail")
}
