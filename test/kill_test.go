package test

import (
	"math/rand/v2"
	"slices"
	"testing"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/test/harness"
)

// inFlight is how many batches must be unacknowledged when a fault strikes, at least.
const inFlight = 64

// TestKill kills a node with SIGKILL again and again under load. The clients are never made anew:
// they find the node again, send again what was not acknowledged, and go on.
func TestKill(t *testing.T) {
	kills := harness.Count(t, "TIDEWIRE_KILLS", 20)
	seed := harness.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	s := harness.NewServer(t, harness.Config{})
	j := harness.NewJournal(seed, "kill", 3)
	j.NewStream(t, s.Address())
	observer := harness.StartObserver(t, j, s.Address())
	var pumps []*harness.Pump
	for i, records := range []int{1, 4, 16, 64} {
		cfg := harness.PumpConfig{BatchRecords: records, Tap: true}
		if i == 3 {
			cfg.Options = []client.Option{client.WithCompression()}
		}
		pumps = append(pumps, harness.StartPump(t, j, s.Address(), cfg))
	}

	var flying []int // batches in flight at each kill that counts
	for strikes := 0; len(flying) < kills; strikes++ {
		if strikes >= 3*kills {
			t.Fatalf("of %d kills only %d met %d batches in flight", strikes, len(flying), inFlight)
		}
		// Mostly well into the load; now and then among the first things a node does.
		after := 500 + rng.Int64N(8000)
		if rng.IntN(5) == 0 {
			after = 1 + rng.Int64N(50)
		}
		await(t, j, s, after)
		for total(pumps) < inFlight {
			await(t, j, s, 1)
		}
		s.Kill()
		n := 0
		for _, p := range pumps {
			m, err := p.Tap.AwaitDown(harness.Patience)
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		if n >= inFlight { // else the node answered between the decision and the signal
			flying = append(flying, n)
		}
		if rng.IntN(3) == 0 { // and once more, while it recovers
			s.StartUntil(rng.Int64N(60))
			s.End()
		}
		s.Start()
		if err := j.CheckLast(s.Address()); err != nil {
			t.Fatalf("after kill %d: %v", strikes+1, err)
		}
	}

	await(t, j, s, 1)
	for _, p := range pumps {
		p.Finish(t)
	}
	v := j.MustCheck(t, s.Address())
	seen, err := observer.AwaitAll(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.Start()
	j.MustCheck(t, s.Address())
	noFailures(t, j)
	slices.Sort(flying)
	harness.Report(t, "SIGKILL under load", "%d kills, %d to %d batches in flight (median %d), %d records acknowledged, 0 lost, %d more stored; a subscriber was given %d, each once",
		len(flying), flying[0], flying[len(flying)-1], flying[len(flying)/2], v.Acked, v.Unacked, seen)
}

// await waits for n more acknowledgements.
func await(t *testing.T, j *harness.Journal, s *harness.Server, n int64) {
	t.Helper()
	if err := j.AwaitAcks(j.Acks()+n, s.Exited(), harness.Patience); err != nil {
		t.Fatal(err)
	}
}

func total(pumps []*harness.Pump) (n int) {
	for _, p := range pumps {
		n += p.Tap.InFlight()
	}
	return n
}

// noFailures demands that every publish ended well.
func noFailures(t *testing.T, j *harness.Journal) {
	t.Helper()
	for _, err := range j.Failures() {
		t.Errorf("publish: %v", err)
	}
}
