package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/test/harness"
)

// million is how many lines of text go through; the race detector makes each ten times as dear.
func million(t *testing.T) int {
	usual := 1_000_000
	if harness.RaceDetector {
		usual = 100_000
	}
	return harness.Count(t, "TIDEWIRE_RECORDS", usual)
}

// longContext is for a step that moves a million records.
func longContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 4*harness.Patience)
	t.Cleanup(cancel)
	return ctx
}

// TestMillion publishes a million lines of real text to one partition, over segment rolls and a
// SIGKILL in the middle, and reads them back by subscribing and, after another restart, by fetching.
// Every line must come back byte for byte, in order, at the offset of its number.
func TestMillion(t *testing.T) {
	lines := harness.Lines(t, million(t))
	s := harness.NewServer(t, harness.Config{})
	c := harness.Connect(t, s.Address())
	size := 0
	for _, l := range lines {
		size += len(l)
	}

	began := time.Now()
	publishLines(t, c, "text.go", lines[:len(lines)/2], 0)
	s.Kill()
	s.Start()
	publishLines(t, c, "text.go", lines[len(lines)/2:], len(lines)/2)
	rate(t, "publish", len(lines), size, began)

	began = time.Now()
	readLines(t, c, "text.>", lines)
	rate(t, "subscribe", len(lines), size, began)

	s.Stop()
	s.Start()
	began = time.Now()
	fetchLines(t, c, "text", lines, 0)
	rate(t, "fetch after a restart", len(lines), size, began)
}

// publishLines publishes lines and waits for all acknowledgements: line i, counted from first, must
// get offset first+i.
func publishLines(t *testing.T, c *client.Client, subject string, lines [][]byte, first int) {
	t.Helper()
	ctx := longContext(t)
	var wrong atomic.Pointer[error]
	for i, line := range lines {
		err := c.PublishAsync(ctx, client.Message{Subject: subject, Value: line}, func(ack client.Ack, err error) {
			if err == nil && ack.Offset != uint64(first+i) {
				err = fmt.Errorf("line %d was acknowledged as %v", first+i, ack)
			}
			if err != nil {
				wrong.CompareAndSwap(nil, &err)
			}
		})
		if err != nil {
			t.Fatalf("line %d: %v", first+i, err)
		}
	}
	if err := c.Flush(ctx); err != nil {
		t.Fatalf("flush: %v", err)
	}
	if err := wrong.Load(); err != nil {
		t.Fatal(*err)
	}
}

// fetchLines fetches partition 0 of a stream from an offset to the end of lines.
func fetchLines(t *testing.T, c *client.Client, stream string, lines [][]byte, from int) {
	t.Helper()
	ctx := longContext(t)
	for at := from; at < len(lines); {
		f, err := c.Fetch(ctx, stream, 0, client.FromOffset(uint64(at)))
		if err != nil {
			t.Fatalf("fetch from %d: %v", at, err)
		}
		if len(f.Records) == 0 {
			t.Fatalf("fetch from %d: nothing, the high watermark is %d", at, f.HighWatermark)
		}
		for i := range f.Records {
			if err := sameLine(&f.Records[i], lines, at); err != nil {
				t.Fatalf("fetch: %v", err)
			}
			at++
		}
		if f.Next != uint64(at) {
			t.Fatalf("fetch: goes on at %d after record %d", f.Next, at-1)
		}
	}
}

// readLines subscribes from the first record and reads to the end of lines.
func readLines(t *testing.T, c *client.Client, filter string, lines [][]byte) {
	t.Helper()
	ctx := longContext(t)
	sub, err := c.Subscribe(ctx, filter, client.FromFirst())
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	n := 0
	for rec, err := range sub.All(ctx) {
		if err != nil {
			t.Fatalf("subscription, after %d records: %v", n, err)
		}
		if err := sameLine(&rec, lines, n); err != nil {
			t.Fatalf("subscription: %v", err)
		}
		if n++; n == len(lines) {
			return
		}
	}
}

func sameLine(rec *client.Record, lines [][]byte, n int) error {
	if rec.Offset != uint64(n) || n >= len(lines) {
		return fmt.Errorf("offset %d where %d of %d is next", rec.Offset, n, len(lines))
	}
	if !bytes.Equal(rec.Value, lines[n]) {
		return fmt.Errorf("line %d is %q, published as %q", n, rec.Value, lines[n])
	}
	return nil
}

func rate(t *testing.T, what string, records, size int, began time.Time) {
	t.Helper()
	took := time.Since(began)
	harness.Report(t, what, "%d lines of text, %d MiB, in %.2f s: %.0f records/s", records, size>>20, took.Seconds(), float64(records)/took.Seconds())
}

// TestRetention publishes more than a stream keeps: whole segments go from the front, never more
// than that, what stays is unharmed, and a restart does not move the log start back.
func TestRetention(t *testing.T) {
	lines := harness.Lines(t, million(t)/2)
	const keep = 4 << 20
	s := harness.NewServer(t, harness.Config{})
	c := harness.Connect(t, s.Address())
	ctx := longContext(t)
	if _, err := c.CreateStream(ctx, client.StreamConfig{Name: "brief", MaxBytes: keep}); err != nil {
		t.Fatal(err)
	}
	publishLines(t, c, "brief.go", lines, 0)
	start := awaitLogStart(t, c, len(lines))
	kept := 0
	for _, l := range lines[start:] {
		kept += len(l)
	}
	harness.Report(t, "retention", "of %d records the first %d are gone, %d KiB of text are kept of a stream bound to %d KiB", len(lines), start, kept>>10, keep>>10)
	if kept < keep/2 {
		t.Errorf("only %d bytes of text are left where %d may stay", kept, keep)
	}
	for _, step := range []string{"while running", "after a kill", "after a clean stop"} {
		switch step {
		case "after a kill":
			s.Kill()
			s.Start()
		case "after a clean stop":
			s.Stop()
			s.Start()
		}
		_, err := c.Fetch(ctx, "brief", 0, client.FromOffset(0))
		var e *client.Error
		if !errors.Is(err, client.ErrOffsetRange) || !errors.As(err, &e) || e.Value < uint64(start) {
			t.Fatalf("%s, fetch below the log start %d: %v", step, start, err)
		}
		start = int(e.Value)
		fetchLines(t, c, "brief", lines, start)
		st, err := c.Stream(ctx, "brief")
		if err != nil {
			t.Fatal(err)
		}
		if p := st.Partitions[0]; p.LogStart < uint64(start) || p.HighWatermark != uint64(len(lines)) {
			t.Fatalf("%s: partition %+v, log start was %d", step, p, start)
		}
	}
	ack, err := c.Publish(ctx, client.Message{Subject: "brief.go", Value: []byte("goes on")})
	if err != nil || ack.Offset != uint64(len(lines)) {
		t.Fatalf("after retention: %v, %v", ack, err)
	}
}

// awaitLogStart waits until retention has moved the log start, by asking for records that do not
// come: each answer tells where the log starts.
func awaitLogStart(t *testing.T, c *client.Client, end int) int {
	t.Helper()
	ctx := harness.Context(t)
	for {
		f, err := c.Fetch(ctx, "brief", 0, client.FromOffset(uint64(end)), client.MaxWait(time.Second))
		if err != nil {
			t.Fatalf("waiting for retention: %v", err)
		}
		if f.LogStart > 0 {
			return int(f.LogStart)
		}
	}
}
