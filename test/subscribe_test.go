package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/test/harness"
)

// place is one partition.
type place struct {
	stream    string
	partition uint32
}

// stored is one acknowledged record as a subscriber must see it.
type stored struct {
	offset  uint64
	subject string
	value   string
}

// shelf is what was acknowledged, by partition; the order is that of the offsets.
type shelf struct {
	mu      sync.Mutex
	records map[place]map[uint64]stored
	err     error
}

func newShelf() *shelf { return &shelf{records: make(map[place]map[uint64]stored)} }

func (s *shelf) publish(ctx context.Context, c *client.Client, subject, key, value string) error {
	return c.PublishAsync(ctx, client.Message{Subject: subject, Key: []byte(key), Value: []byte(value)}, func(ack client.Ack, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		p := place{ack.Stream, ack.Partition}
		switch _, taken := s.records[p][ack.Offset]; {
		case err != nil:
			s.err = err
		case taken:
			s.err = fmt.Errorf("two records were acknowledged as %v", ack)
		case s.records[p] == nil:
			s.records[p] = make(map[uint64]stored)
			fallthrough
		default:
			s.records[p][ack.Offset] = stored{ack.Offset, subject, value}
		}
	})
}

// matching is what a subscription to filter must be given of each partition, in order.
func (s *shelf) matching(t *testing.T, filter string) (by map[place][]stored, total int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		t.Fatal(s.err)
	}
	by = make(map[place][]stored)
	for p, records := range s.records {
		for offset := range uint64(len(records)) {
			r, ok := records[offset]
			if !ok {
				t.Fatalf("%v: no record was acknowledged at offset %d of %d", p, offset, len(records))
			}
			if matches(filter, r.subject) {
				by[p] = append(by[p], r)
				total++
			}
		}
	}
	return by, total
}

// matches is the rule of docs/protocol.md written a second time: * is one token, > one or more.
func matches(filter, subject string) bool {
	f, s := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, token := range f {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s) || token != "*" && token != s[i]:
			return false
		}
	}
	return len(f) == len(s)
}

// TestFilters subscribes with many filters, and publishes to several streams and partitions, with
// batches that mix subjects, while new streams appear. Each subscription must be given exactly what
// its filter matches, in the order of each partition.
func TestFilters(t *testing.T) {
	seed := harness.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 4))
	s := harness.NewServer(t, harness.Config{})
	c := harness.Connect(t, s.Address(), client.WithMaxBatchRecords(50))
	ctx := harness.Context(t)
	for _, cfg := range []client.StreamConfig{
		{Name: "orders", Partitions: 3},
		{Name: "audit", Subjects: []string{"audit.*.log", "trail.>"}, Partitions: 2},
	} {
		if _, err := c.CreateStream(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	subjects := []string{"orders", "orders.new", "orders.paid", "orders.eu.new", "orders.eu.paid.late",
		"audit.orders.log", "audit.users.log", "trail.a", "trail.a.b.c",
		"late", "late.new", "later.eu.new"} // these streams appear with their first record
	filters := []string{">", "*", "*.new", "orders", "orders.>", "orders.*", "orders.*.new", "*.eu.>", "*.*.*.*",
		"audit.*.log", "trail.>", "late.>", "orders.eu.paid.late", "nothing.here"}

	subs := make([]*client.Subscription, len(filters))
	for i, f := range filters {
		var err error
		if subs[i], err = c.Subscribe(ctx, f, client.FromFirst()); err != nil {
			t.Fatalf("subscribe %s: %v", f, err)
		}
	}
	const records = 30_000
	all := newShelf()
	for i := range records {
		subject := subjects[rng.IntN(min(len(subjects), 5+i*len(subjects)/(records/2)))]
		key := ""
		if rng.IntN(2) == 0 {
			key = fmt.Sprint(rng.IntN(20))
		}
		if err := all.publish(ctx, c, subject, key, fmt.Sprintf("%d %s", i, subject)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for i, f := range filters {
		expect(t, subs[i], f, all)
	}
	// And once more from the first record, all of it old now, on a node that was killed.
	s.Kill()
	s.Start()
	for _, f := range filters {
		sub, err := c.Subscribe(ctx, f, client.FromFirst())
		if err != nil {
			t.Fatalf("subscribe %s: %v", f, err)
		}
		expect(t, sub, f, all)
	}
}

// expect iterates until the subscription has given as many records as its filter matches, and
// compares them, partition by partition.
func expect(t *testing.T, sub *client.Subscription, filter string, all *shelf) {
	t.Helper()
	want, total := all.matching(t, filter)
	got := 0
	ctx := harness.Context(t)
	if total == 0 {
		if err := sub.Close(); err != nil {
			t.Error(err)
		}
		for rec, err := range sub.All(ctx) {
			if err == nil {
				t.Fatalf("%s: given %s, which it does not match", filter, rec.Subject)
			}
		}
		return
	}
	for rec, err := range sub.All(ctx) {
		if err != nil {
			t.Fatalf("%s, after %d of %d records: %v", filter, got, total, err)
		}
		p := place{rec.Stream, rec.Partition}
		r := stored{rec.Offset, rec.Subject, string(rec.Value)}
		if len(want[p]) == 0 || want[p][0] != r {
			t.Fatalf("%s, %v: given %v, next is %v", filter, p, r, want[p][:min(1, len(want[p]))])
		}
		want[p] = want[p][1:]
		if got++; got == total {
			break
		}
	}
	if err := sub.Close(); err != nil {
		t.Error(err)
	}
}

// TestResume leaves a subscription and goes on from its positions in another client, over and
// over, with kills of the node in between: every record once, in order.
func TestResume(t *testing.T) {
	seed := harness.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 5))
	s := harness.NewServer(t, harness.Config{})
	c := harness.Connect(t, s.Address())
	ctx := harness.Context(t)
	if _, err := c.CreateStream(ctx, client.StreamConfig{Name: "resume", Partitions: 3}); err != nil {
		t.Fatal(err)
	}
	all := newShelf()
	const records = 5000
	for i := range records {
		if err := all.publish(ctx, c, "resume."+fmt.Sprint(i%7), "", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	want, total := all.matching(t, "resume.>")
	var positions []client.Position
	for sittings := 0; total > 0; sittings++ {
		if sittings%4 == 3 {
			s.Kill()
			s.Start()
		}
		reader := harness.Connect(t, s.Address())
		sub, err := reader.Subscribe(ctx, "resume.>", client.FromFirst(), client.FromPositions(positions), client.Window(64<<10))
		if err != nil {
			t.Fatal(err)
		}
		sitting := min(total, 1+rng.IntN(400))
		for rec, err := range sub.All(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			p := place{rec.Stream, rec.Partition}
			if r := (stored{rec.Offset, rec.Subject, string(rec.Value)}); len(want[p]) == 0 || want[p][0] != r {
				t.Fatalf("sitting %d, %v: given %v, next is %v", sittings, p, r, want[p][:min(1, len(want[p]))])
			}
			want[p] = want[p][1:]
			total--
			if sitting--; sitting == 0 {
				break
			}
		}
		positions = sub.Positions()
		if err := reader.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSlowReaders has three subscribers beside one another: one that reads, one that does not ask
// for more, and one that asks for much and does not read its socket. The first must not notice, and the
// node must not hold for the others more than it said it would.
func TestSlowReaders(t *testing.T) {
	seed := harness.Seed(t)
	s := harness.NewServer(t, harness.Config{})
	j := harness.NewJournal(seed, "slow", 2)
	j.NewStream(t, s.Address())

	const credit = 32 << 20
	stuck, err := harness.DialReader(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	if err := stuck.Subscribe("slow.>", credit); err != nil {
		t.Fatal(err)
	}
	slow, err := harness.Connect(t, s.Address()).Subscribe(harness.Context(t), "slow.>", client.FromFirst(), client.Window(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	observer := harness.StartObserver(t, j, s.Address())
	pump := harness.StartPump(t, j, s.Address(), harness.PumpConfig{BatchRecords: 100})

	records := int64(300_000) // well over credit and windows
	if harness.RaceDetector {
		records = 150_000
	}
	began := time.Now()
	await(t, j, s, records)
	pump.Finish(t)
	if _, err := observer.AwaitAll(s.Address()); err != nil {
		t.Fatalf("the fast reader: %v", err)
	}
	took := time.Since(began)
	seen, _ := observer.Seen()
	memory := s.Usage(t)
	harness.Report(t, "a fast reader beside slow ones", "%d records in %.2f s (%.0f/s); node at most %d MiB", seen, took.Seconds(), float64(seen)/took.Seconds(), memory.Peak>>20)
	if bound := int64(1 << 30); memory.Peak > bound {
		t.Errorf("the node took %d MiB of memory, more than %d", memory.Peak>>20, bound>>20)
	}

	// Now the others read, and have missed nothing.
	if _, err := stuck.Drain(credit); err != nil {
		t.Errorf("the reader that did not read its socket: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*harness.Patience)
	defer cancel()
	next := make(map[uint32]uint64)
	n := 0
	for rec, err := range slow.All(ctx) {
		if err != nil {
			t.Fatalf("the slow reader, after %d records: %v", n, err)
		}
		if rec.Offset != next[rec.Partition] {
			t.Fatalf("the slow reader: partition %d, offset %d where %d is next", rec.Partition, rec.Offset, next[rec.Partition])
		}
		next[rec.Partition]++
		if n++; n == seen {
			break
		}
	}
	if err := errors.Join(slow.Close(), ctx.Err()); err != nil {
		t.Error(err)
	}
	j.MustCheck(t, s.Address())
	noFailures(t, j)
}
