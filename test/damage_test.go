package test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/test/harness"
)

// TestDamage flips bytes in the segments of a stopped node. What is damaged is never served: a
// reader is told the exact range, everything outside it is there, and publishing goes on.
func TestDamage(t *testing.T) {
	seed := harness.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 7))
	s := harness.NewServer(t, harness.Config{})
	j := harness.NewJournal(seed, "damage", 1)
	j.NewStream(t, s.Address())
	p := harness.StartPump(t, j, s.Address(), harness.PumpConfig{BatchRecords: 20, InFlight: 512 << 10})
	await(t, j, s, 30_000)
	p.Finish(t)
	high := uint64(j.MustCheck(t, s.Address()).Records)
	s.Stop()

	segments, err := filepath.Glob(filepath.Join(s.Dir(), "partitions", "*", "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("no segments below %s: %v", s.Dir(), err)
	}
	flips := 0
	for _, name := range segments {
		flips += flip(t, rng, name)
	}
	s.Start()

	r, err := harness.DialReader(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	info, err := r.Stream(j.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Partitions[0]; got.HighWatermark != high || got.Start != 0 {
		t.Fatalf("after damage the partition holds offsets %d to %d, before it 0 to %d", got.Start, got.HighWatermark, high)
	}
	read, lost, ranges := uint64(0), uint64(0), 0
	for at := uint64(0); at < high; {
		err := r.Each(info.ID, 0, at, high, func(offset uint64, rec *wire.Record) error {
			at = offset + 1
			read++
			return j.Published(offset, 0, rec)
		})
		if err == nil {
			break
		}
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != wire.CodeDataLoss {
			t.Fatalf("after offset %d: %v", at, err)
		}
		if e.Value <= at || e.Value > high {
			t.Fatalf("the damage at offset %d is said to end at %d of %d", at, e.Value, high)
		}
		lost, ranges, at = lost+e.Value-at, ranges+1, e.Value
	}
	if read+lost != high {
		t.Errorf("%d records read, %d told lost, of %d", read, lost, high)
	}
	if ranges == 0 || ranges > flips || lost == high {
		t.Errorf("%d flipped bytes: %d ranges with %d of %d records told lost", flips, ranges, lost, high)
	}
	harness.Report(t, "damage on disk", "%d bytes flipped in %d segments: %d ranges with %d of %d records told lost, none served wrong",
		flips, len(segments), ranges, lost, high)

	more := harness.StartPump(t, j, s.Address(), harness.PumpConfig{})
	await(t, j, s, 1000)
	more.Finish(t)
	noFailures(t, j)
}

// flip changes some bytes in the written part of a segment, well before its end: damage at the very
// end cannot be told from a write that was cut off.
func flip(t *testing.T, rng *rand.Rand, name string) (flips int) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end := len(b)
	for end > 0 && b[end-1] == 0 { // segments are written into zeroes
		end--
	}
	if end < 128<<10 {
		return 0
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 {
		at := 8<<10 + rng.IntN(end-64<<10)
		if _, err := f.WriteAt([]byte{b[at] ^ byte(1<<rng.IntN(8))}, int64(at)); err != nil {
			t.Fatal(err)
		}
		flips++
	}
	return flips
}
