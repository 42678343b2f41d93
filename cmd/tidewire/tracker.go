package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tidewire/tidewire/bench"
	client "github.com/tidewire/tidewire/client/go"
)

// tracker follows records from the hand-over to the ack.
type tracker struct {
	began time.Time
	spare []*inFlight // of the goroutine that hands over

	mu             sync.Mutex
	back           []*inFlight // returned by acks, taken over by spare as a whole
	latency        *bench.Histogram
	handed, acked  uint64 // records
	bytes          uint64 // of acknowledged values
	read           int64  // bytes of lines handed over
	quorum, voters int
	err            error
	last           time.Time

	// Lines that are not acknowledged; 0: none.
	failedFrom               int // the first one
	unknownFrom, unknownUpTo int // that may or may not be stored
	ackedUpTo                int // the last one that is
}

// inFlight is one record on its way. Its callback is made once and used again.
type inFlight struct {
	began time.Time
	line  int // of the input, from 1
	bytes int
	done  func(client.Ack, error)
}

func newTracker() *tracker {
	now := time.Now()
	return &tracker{began: now, last: now, latency: bench.NewHistogram()}
}

// handOver gives the callback for the next record. Its first failure ends everything through cancel.
func (t *tracker) handOver(line, n int, cancel context.CancelCauseFunc) func(client.Ack, error) {
	t.mu.Lock()
	t.handed++
	t.read += int64(n) + 1
	if len(t.spare) == 0 {
		t.spare, t.back = t.back, t.spare
	}
	t.mu.Unlock()
	var f *inFlight
	if n := len(t.spare); n > 0 {
		f, t.spare = t.spare[n-1], t.spare[:n-1]
	} else {
		f = new(inFlight)
		f.done = func(ack client.Ack, err error) { t.done(f, ack, err, cancel) }
	}
	f.began, f.line, f.bytes = time.Now(), line, n
	return f.done
}

// takeBack says that the record last handed over was not taken.
func (t *tracker) takeBack(line int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handed--
	t.failedLocked(line)
}

// refuse says that a line was never handed over.
func (t *tracker) refuse(line int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failedLocked(line)
}

// refused reports whether some line was not stored, or not even handed over.
func (t *tracker) refused() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failedFrom > 0
}

func (t *tracker) failedLocked(line int) {
	if t.failedFrom == 0 || line < t.failedFrom {
		t.failedFrom = line
	}
}

// fate is what became of the lines of an input that was not stored as a whole.
type fate struct {
	StoredLines *int   `json:"stored_lines,omitempty" doc:"of lines that were published: the first so many are stored"`
	NextLine    int    `json:"next_line,omitempty" doc:"go on from it; missing if lines may or may not be stored, as the text says"`
	text        string // the same for a person
}

// fate says which lines are stored, once every record is answered or given up.
func (t *tracker) fate() *fate {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.ackedUpTo + 1
	if t.failedFrom > 0 {
		next = min(next, t.failedFrom)
	}
	before := next - 1
	stored := "no line is stored"
	if before > 0 {
		stored = linesText(1, before) + " stored"
	}
	if t.ackedUpTo > next { // others came after one that failed
		stored += fmt.Sprintf(", and of the lines from %s to %s some", count(next+1), count(t.ackedUpTo))
	}
	if t.unknownFrom > 0 {
		unknown := linesText(t.unknownFrom, t.unknownUpTo)
		unknown = strings.TrimSuffix(strings.TrimSuffix(unknown, " is"), " are")
		return &fate{&before, 0, fmt.Sprintf("%s; %s may or may not be: look with `tidewire sub`, then go on behind what is there", stored, unknown)}
	}
	return &fate{&before, next, fmt.Sprintf("%s; go on from line %s", stored, count(next))}
}

func linesText(from, to int) string {
	if from == to {
		return fmt.Sprintf("line %s is", count(from))
	}
	return fmt.Sprintf("lines %s-%s are", count(from), count(to))
}

func (t *tracker) done(f *inFlight, ack client.Ack, err error, cancel context.CancelCauseFunc) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.failedLocked(f.line)
		if errors.Is(err, client.ErrUnknownOutcome) {
			if t.unknownFrom == 0 || f.line < t.unknownFrom {
				t.unknownFrom = f.line
			}
			t.unknownUpTo = max(t.unknownUpTo, f.line)
		}
		if t.err == nil {
			t.err = err
			cancel(err)
		}
		return
	}
	t.ackedUpTo = max(t.ackedUpTo, f.line)
	t.latency.Record(now.Sub(f.began))
	t.acked++
	t.bytes += uint64(f.bytes)
	t.last = now
	if t.voters == 0 || ack.Quorum < t.quorum {
		t.quorum, t.voters = ack.Quorum, ack.Voters
	}
	t.back = append(t.back, f)
}

func (t *tracker) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

func (t *tracker) progress() (done int64, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.read, fmt.Sprintf("%s acknowledged, %s", plural(t.acked, "record"), rate(float64(t.acked)/time.Since(t.began).Seconds()))
}

// watch ends everything when something is in flight and no ack has come for so long. The function it
// returns stops the watch.
func (t *tracker) watch(timeout time.Duration, cancel context.CancelCauseFunc) (stop func()) {
	return bench.Watch(timeout, func() (handed, acked uint64) {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.handed, t.acked
	}, func() { cancel(noAck(timeout)) })
}

// errNoAck is what unwraps to it that records are on their way, and no ack came.
var errNoAck = errors.New("no ack came")

func noAck(timeout time.Duration) error { return fmt.Errorf("%w for %s", errNoAck, span(timeout)) }

// pubSummary is what publishing came to.
type pubSummary struct {
	Records   uint64         `json:"records" doc:"that are acknowledged"`
	Bytes     uint64         `json:"bytes" doc:"of their values"`
	Took      time.Duration  `json:"took_ns" doc:"to the last ack, in nanoseconds"`
	PerSecond float64        `json:"records_per_s" doc:"throughput"`
	Latency   *bench.Latency `json:"ack_latency,omitempty" doc:"from the hand-over to the ack"`
	Quorum    int            `json:"quorum" doc:"every ack rests on at least so many"`
	Voters    int            `json:"voters" doc:"of so many"`
}

func (t *tracker) summary() pubSummary {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := pubSummary{Records: t.acked, Bytes: t.bytes, Took: t.last.Sub(t.began), Latency: t.latency.Latency(), Quorum: t.quorum, Voters: t.voters}
	if s.Took > 0 {
		s.PerSecond = float64(s.Records) / s.Took.Seconds()
	}
	return s
}

func (s pubSummary) String() string {
	if s.Records == 0 {
		return "nothing to publish: the input was empty"
	}
	return fmt.Sprintf("%s, %s in %s: %s, %s/s; ack p50 %s, p99 %s; every ack: %s",
		plural(s.Records, "record"), size(s.Bytes), span(s.Took), rate(s.PerSecond), size(uint64(float64(s.Bytes)/max(s.Took.Seconds(), 1e-9))),
		span(s.Latency.P50), span(s.Latency.P99), restsOn(s.Quorum, s.Voters))
}
