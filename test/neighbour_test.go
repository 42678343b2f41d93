package test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/test/harness"
)

// neighbourRate is how many records a second the neighbour publishes.
const neighbourRate = 1000

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

	above []hostileCase // to be measured again
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

// How many times as many pairs decide where fewer are above the goal: by the disk alone the ratio of one pair varies between a third
// and three, and the median of 45 by a fifth.
var (
	firstRounds = []int{1, 5}
	againRounds = []int{1, 5, 17}
)

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// neighbourGoal is what the median of the ratios may be at most; 0: it is only reported.
func neighbourGoal(t *testing.T) (most float64) {
	t.Helper()
	if s := os.Getenv(goalVariable); s != "" {
		if _, err := fmt.Sscan(s, &most); err != nil || most <= 0 {
			t.Fatalf("%s=%q is no number above 0", goalVariable, s)
		}
	}
	return most
}

// goalVariable is the environment's name for what the median of the ratios may be at most.
const goalVariable = "TIDEWIRE_NEIGHBOUR_GOAL"

// phaseLength is how long the neighbour is watched at a time.
const phaseLength = 500 * time.Millisecond

// besides measures the neighbour's p99 beside an attack. Above the goal again measures it in another way, after all others. Both
// figures are reported.
func (n *neighbour) besides(t *testing.T, tc hostileCase) {
	t.Helper()
	if m, goal := n.measure(t, tc, ""), neighbourGoal(t); goal > 0 && m > goal {
		t.Logf("above %.2f: it will be measured again", goal)
		n.above = append(n.above, tc)
	}
}

// again measures what was above the goal against the same attack on another node of this machine. All of them share two cores
// here, whose other tenants come and go: where a neighbour of another node is disturbed as much, it is the machine that is too small for
// three, and no lack of the node's, which then passes.
func (n *neighbour) again(t *testing.T) {
	if len(n.above) == 0 {
		return
	}
	other := harness.NewServer(t, harness.Config{})
	for _, tc := range n.above {
		t.Run("again "+tc.name, func(t *testing.T) {
			if m, goal := n.measure(t, tc, other.Address()), neighbourGoal(t); m > goal {
				t.Errorf("the neighbour's p99 is %.2f times what it is while another node is attacked, goal %.2f", m, goal)
			}
		})
	}
}

// measure has an attack take turns with quiet, or with the same attack on another node, in pairs, and reports the median of the
// ratios of the neighbour's p99. The nightly run makes more pairs.
func (n *neighbour) measure(t *testing.T, tc hostileCase, other string) float64 {
	t.Helper()
	n.t = t
	beside, rounds := "quiet", firstRounds
	if other != "" {
		beside, rounds = "another node attacked", againRounds
	}
	a := startAttackers(t, tc.name, n.address, other)
	defer a.end()
	var ratios []float64
	var quiets []time.Duration
	goal := neighbourGoal(t)
	pairs := harness.Count(t, "TIDEWIRE_PAIRS", 1)
	for _, times := range rounds {
		for len(ratios) < times*pairs {
			a.behave()
			quiet := n.phase(phaseLength)
			a.rest()
			a.attack()
			attacked := n.phase(phaseLength)
			a.rest()
			ratios = append(ratios, float64(attacked)/float64(quiet))
			quiets = append(quiets, quiet)
		}
		if goal == 0 || median(ratios) <= goal {
			break
		}
	}
	slices.Sort(quiets)
	harness.Report(t, "neighbour's p99 attacked / "+beside+": "+tc.name, "%.2f (median of %d pairs, half of them %.2f to %.2f; %s %s)",
		median(ratios), len(ratios), ratios[len(ratios)/4], ratios[len(ratios)*3/4], beside, quiets[len(quiets)/2].Round(10*time.Microsecond))
	n.check()
	return median(ratios)
}
