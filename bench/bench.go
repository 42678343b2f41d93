// Package bench drives load against a running node and says what came of it.
//
// At a fixed rate every latency is counted from the moment the record was *meant* to be sent: when
// the node stalls, the records that could not be sent meanwhile count with all the time they
// waited (no "coordinated omission"). Flat out there is no such moment, and latency counts from
// the call that hands the record over; it is then mostly a statement about how much was in flight.
//
// A warm-up comes first. Flat out for a time, Publish counts the acks of that time, as much is in
// flight when it begins as when it ends, and times those of the records handed over in it. A number of
// records, or those of a fixed rate, it counts from the first handed over to the last ack; a number of
// them, flat out, begins when the warm-up is acknowledged. Replay counts from before it asks for the
// first to the last delivered. A workload whose context ends while it measures returns what it has,
// beside the context's error.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	client "github.com/tidewire/tidewire/client/go"
)

// Result is what a run measured, and the terms it was measured on.
type Result struct {
	Workload    string  `json:"workload" doc:"pub, sub or rtt"` // "pub", "sub", "rtt"
	Subject     string  `json:"subject" doc:"that was published to, or the filter"`
	Stream      string  `json:"stream,omitempty" doc:"that was published to"` // that was published to
	Partitions  int     `json:"partitions" doc:"of the stream"`
	Connections int     `json:"connections" doc:"to the node"`
	InFlight    int     `json:"in_flight,omitempty" doc:"calls without an answer, on each connection"` // API calls a connection
	Batch       int     `json:"batch,omitempty" doc:"most records in a batch"`                         // most records a batch
	Size        int     `json:"size_bytes,omitempty" doc:"of a value"`
	Rate        float64 `json:"rate_wanted,omitempty" doc:"records a second; missing: flat out"` // records/s; 0: flat out

	Records uint64        `json:"records" doc:"that were acknowledged or read while it was measured"`
	Bytes   uint64        `json:"bytes" doc:"of their values"` // of values
	Took    time.Duration `json:"took_ns" doc:"in nanoseconds"`
	Latency *Latency      `json:"latency,omitempty" doc:"distribution of times"`
	From    string        `json:"latency_from,omitempty" doc:"what latency counts from and to"` // what latency counts from and to

	Quorum int    `json:"quorum,omitempty" doc:"every ack: fsynced on so many replicas at least"` // every ack: fsynced on Quorum of Voters; the least seen
	Voters int    `json:"voters,omitempty" doc:"of so many"`
	Gaps   uint64 `json:"gaps,omitempty" doc:"offsets passed over, by a filter that does not select all"` // offsets passed over, by a filter that does not select all
}

// PerSecond is records a second.
func (r *Result) PerSecond() float64 { return float64(r.Records) / r.Took.Seconds() }

// BytesPerSecond is bytes of values a second.
func (r *Result) BytesPerSecond() float64 { return float64(r.Bytes) / r.Took.Seconds() }

// Latency is a distribution of times.
type Latency struct {
	Count                          int64
	Mean, P50, P90, P99, P999, Max time.Duration
}

// latencyJSON is a Latency in microseconds.
type latencyJSON struct {
	Count int64   `json:"count" doc:"times measured"`
	Mean  float64 `json:"mean_us" doc:"in microseconds"`
	P50   float64 `json:"p50_us" doc:"in microseconds"`
	P90   float64 `json:"p90_us" doc:"in microseconds"`
	P99   float64 `json:"p99_us" doc:"in microseconds"`
	P999  float64 `json:"p999_us" doc:"in microseconds"`
	Max   float64 `json:"max_us" doc:"in microseconds"`
}

// JSONShape is a value that has the fields MarshalJSON writes, with what they mean in the tag doc.
func (*Latency) JSONShape() any { return latencyJSON{} }

// MarshalJSON writes microseconds.
func (l *Latency) MarshalJSON() ([]byte, error) {
	us := func(d time.Duration) float64 { return float64(d) / 1e3 }
	return json.Marshal(latencyJSON{l.Count, us(l.Mean), us(l.P50), us(l.P90), us(l.P99), us(l.P999), us(l.Max)})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (l *Latency) UnmarshalJSON(b []byte) error {
	var j latencyJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	d := func(us float64) time.Duration { return time.Duration(math.Round(us * 1e3)) }
	*l = Latency{j.Count, d(j.Mean), d(j.P50), d(j.P90), d(j.P99), d(j.P999), d(j.Max)}
	return nil
}

// Histogram gathers times, to three digits. Not safe for concurrent use.
type Histogram struct{ h *hdrhistogram.Histogram }

const longest = 10 * time.Minute

// NewHistogram makes an empty one.
func NewHistogram() *Histogram {
	return &Histogram{hdrhistogram.New(100, int64(longest), 3)}
}

// Record adds one time; longer than ten minutes counts as that.
func (h *Histogram) Record(d time.Duration) {
	_ = h.h.RecordValue(int64(min(max(d, 0), longest))) // in range by now
}

// Add takes in the times of o.
func (h *Histogram) Add(o *Histogram) { h.h.Merge(o.h) }

// Latency sums up; nil if nothing was recorded.
func (h *Histogram) Latency() *Latency {
	if h.h.TotalCount() == 0 {
		return nil
	}
	at := func(q float64) time.Duration { return time.Duration(h.h.ValueAtQuantile(q)) }
	return &Latency{Count: h.h.TotalCount(), Mean: time.Duration(h.h.Mean()),
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: time.Duration(h.h.Max())}
}

// stream finds the stream that captures subject, or makes one named after its first token.
// partitions 0 takes what is there, or 1.
func stream(ctx context.Context, c *client.Client, subject string, partitions int) (client.Stream, error) {
	st, err := c.StreamOf(ctx, subject)
	if errors.Is(err, client.ErrUnknownStream) {
		name, _, _ := strings.Cut(subject, ".")
		st, err = c.CreateStream(ctx, client.StreamConfig{Name: name, Partitions: max(1, partitions)})
	}
	if err != nil {
		return st, err
	}
	if partitions != 0 && partitions != len(st.Partitions) {
		return st, fmt.Errorf("stream %s, which captures %s, has %d partitions, not %d: give another subject, or delete the stream",
			st.Name, subject, len(st.Partitions), partitions)
	}
	return st, nil
}

// values gives values that do not compress, cut from one buffer at changing places.
type values struct {
	buf  []byte
	size int
	at   int
}

const valueBytes = 1 << 20

// newValues makes values of size bytes that do not compress, or, redundant, to about a quarter: every fourth byte is drawn.
func newValues(size int, seed uint64, redundant bool) *values {
	v := &values{buf: make([]byte, valueBytes+size), size: size}
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = src.Read(v.buf) // never fails
	if redundant {
		for i := range v.buf {
			if i%16 >= 4 {
				v.buf[i] = 'a' + byte(i%16)
			}
		}
	}
	return v
}

func (v *values) next() []byte {
	b := v.buf[v.at : v.at+v.size]
	if v.at += v.size; v.at >= valueBytes {
		v.at -= valueBytes
	}
	return b
}

// subjects are n names below subject, or subject itself.
func subjects(subject string, n int) []string {
	if n < 2 {
		return []string{subject}
	}
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s.%d", subject, i)
	}
	return names
}

// keys spreads records over partitions; nil, which is no key, for one partition.
func keys(partitions int) [][]byte {
	if partitions < 2 {
		return [][]byte{nil}
	}
	out := make([][]byte, 64*partitions)
	for i := range out {
		out[i] = fmt.Appendf(nil, "%05x", i)
	}
	return out
}

// warmup is what a workload's Warmup means: 0 a second, below 0 none.
func warmup(d time.Duration) time.Duration {
	if d == 0 {
		return time.Second
	}
	return max(d, 0)
}
