package test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/test/harness"
)

// neighbourRate is how many records a second the neighbour publishes.
const neighbourRate = 500

// neighbour is a client that did nothing wrong. It publishes at a fixed rate while others attack,
// and notes how long each record took, from the moment it was due to its acknowledgement: what the
// node keeps it waiting before it can even send counts too.
type neighbour struct {
	t       *testing.T
	journal *harness.Journal
	writer  *harness.Writer
	client  *client.Client
	address string

	mu        sync.Mutex
	latencies []time.Duration
}

func newNeighbour(t *testing.T, address string) *neighbour {
	t.Helper()
	n := &neighbour{t: t, address: address, journal: harness.NewJournal(harness.Seed(t), "neighbour", 1)}
	n.journal.NewStream(t, address)
	n.writer = n.journal.Writer()
	n.client = harness.Connect(t, address, client.WithMaxBatchRecords(1))
	return n
}

// phase publishes for about so long, waits for every acknowledgement, and returns the p99.
func (n *neighbour) phase(length time.Duration) time.Duration {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience) // all of it: nobody may starve
	defer cancel()
	n.latencies = n.latencies[:0]
	began := time.Now()
	ticks := time.NewTicker(time.Millisecond)
	defer ticks.Stop()
	for i := 0; i < int(length.Seconds()*neighbourRate); i++ {
		due := began.Add(time.Duration(i) * time.Second / neighbourRate)
		for time.Until(due) > 0 {
			<-ticks.C
		}
		sequence, m := n.writer.Next()
		err := n.client.PublishAsync(ctx, m, func(ack client.Ack, err error) {
			took := time.Since(due)
			n.writer.Told(sequence, ack, err)
			n.mu.Lock()
			n.latencies = append(n.latencies, took)
			n.mu.Unlock()
		})
		if err != nil {
			n.t.Fatalf("the neighbour's record %d was not taken: %v", sequence, err)
		}
	}
	if err := n.client.Flush(ctx); err != nil {
		n.t.Fatalf("the neighbour's records were not acknowledged: %v", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	slices.Sort(n.latencies)
	return n.latencies[len(n.latencies)*99/100]
}

// check reads back all the neighbour ever published.
func (n *neighbour) check() {
	n.t.Helper()
	n.journal.MustCheck(n.t, n.address)
	noFailures(n.t, n.journal)
}

// phaseLength is how long the neighbour is watched at a time.
const phaseLength = 300 * time.Millisecond

// attackPace is how often each attacker attacks. Faster ones would use up the cores that they
// share with the node and the neighbour here, and the ratio would tell of that alone.
const attackPace = 25 * time.Millisecond

// besides runs attack in turns with quiet, in pairs, and reports the median of the ratios of the
// neighbour's p99. attack is called again and again by some goroutines while its phase lasts; what it
// does must be bounded in time. The nightly run makes more pairs.
func (n *neighbour) besides(t *testing.T, workers int, attack func(*enemies)) {
	t.Helper()
	n.t = t
	var ratios []float64
	for range harness.Count(t, "TIDEWIRE_PAIRS", 1) {
		quiet := n.phase(phaseLength)
		e := &enemies{t: t, address: n.address, stop: make(chan struct{})}
		var attacking sync.WaitGroup
		for range workers {
			attacking.Go(func() {
				pace := time.NewTicker(attackPace)
				defer pace.Stop()
				for over := false; !over && !t.Failed(); {
					attack(e)
					select {
					case <-e.stop:
					case <-pace.C:
					}
					select {
					case <-e.stop:
						over = true
					default:
					}
				}
			})
		}
		attacked := n.phase(phaseLength)
		close(e.stop)
		attacking.Wait()
		e.closeAll()
		ratios = append(ratios, float64(attacked)/float64(quiet))
	}
	slices.Sort(ratios)
	median := ratios[len(ratios)/2]
	_, name, _ := strings.Cut(t.Name(), "/")
	harness.Report(t, strings.TrimRight("neighbour's p99 attacked / quiet: "+name, ": "), "%.2f (median of %d pairs, %.2f to %.2f)", median, len(ratios), ratios[0], ratios[len(ratios)-1])
	if goal := os.Getenv("TIDEWIRE_NEIGHBOUR_GOAL"); goal != "" {
		var most float64
		if _, err := fmt.Sscan(goal, &most); err != nil {
			t.Fatalf("TIDEWIRE_NEIGHBOUR_GOAL: %v", err)
		}
		if median > most {
			t.Errorf("the neighbour's p99 is %.2f times what it is without the attack, goal %.2f", median, most)
		}
	}
	n.check()
}
