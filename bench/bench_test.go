package bench

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/broker"
	client "github.com/tidewire/tidewire/client/go"
)

// gnet's package has a pool of goroutines that lasts as long as the process.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start"))
}

func startNode(t *testing.T) string {
	t.Helper()
	n, err := broker.Start(t.Context(), broker.Config{Address: "127.0.0.1:0", DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return n.Addr().String()
}

func TestHistogram(t *testing.T) {
	h, other := NewHistogram(), NewHistogram()
	if h.Latency() != nil {
		t.Error("an empty histogram has a latency")
	}
	for i := range 1000 {
		h.Record(time.Duration(i+1) * time.Microsecond)
	}
	other.Record(time.Hour) // counts as ten minutes
	other.Record(-time.Second)
	h.Add(other)
	l := h.Latency()
	near := func(got, want time.Duration) bool { return got >= want*99/100 && got <= want*101/100 }
	if l.Count != 1002 || !near(l.P50, 500*time.Microsecond) || !near(l.P90, 900*time.Microsecond) || !near(l.P99, 991*time.Microsecond) || !near(l.Max, longest) {
		t.Errorf("latency is %+v", l)
	}
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	var back Latency
	if err := json.Unmarshal(b, &back); err != nil || back != *l {
		t.Errorf("%s reads back as %+v, %v", b, back, err)
	}
}

// A record's time to be sent does not move when the ones before it are late.
func TestPacer(t *testing.T) {
	a, b := newPacer(1000, 0, 2), newPacer(1000, 1, 2)
	for i := range uint64(1000) {
		if got := a.due(i); got != int64(i)*2e6 {
			t.Fatalf("record %d of the first is due at %d", i, got)
		}
		if got := b.due(i); got != int64(i)*2e6+1e6 {
			t.Fatalf("record %d of the second is due at %d", i, got)
		}
	}
	if p := newPacer(0, 0, 1); p.interval != 0 {
		t.Error("flat out has an interval")
	}
}

// While nothing is acknowledged, what should have been sent meanwhile counts from when it was meant to be.
func TestLatencyCountsFromTheIntendedTime(t *testing.T) {
	cfg := PublishConfig{Rate: 1000, Connections: 1, Warmup: 5 * time.Millisecond}
	s := newSender(nil, &cfg, 0)
	s.clock = clock{time.Now().Add(-50 * time.Millisecond)} // 50 ms into the run, nothing was sent yet
	for i := range uint64(50) {
		began, measure, over := s.next(t.Context(), i, 0)
		if began != int64(i)*1e6 || measure != (i >= 5) || over {
			t.Fatalf("record %d began at %d, measured %t, over %t", i, began, measure, over)
		}
	}
	began, _, _ := s.next(t.Context(), 60, 0) // in the future: waited for
	if now := s.clock.now(); began != 60e6 || now < began {
		t.Errorf("at %d record 60, due at %d, was let go", now, began)
	}
}

func TestWindow(t *testing.T) {
	const places, calls = 7, 200_000
	w := newWindow(places)
	inFlight := atomic.Int64{}
	returned := make(chan *place, places)
	done := make(chan struct{})
	go func() {
		for p := range returned {
			inFlight.Add(-1)
			w.give(p)
		}
		close(done)
	}()
	for range calls {
		p := w.take(t.Context())
		if p == nil {
			t.Fatal("no place")
		}
		if n := inFlight.Add(1); n > places {
			t.Fatalf("%d in flight", n)
		}
		returned <- p
	}
	close(returned)
	if !w.drain(t.Context()) {
		t.Error("not drained")
	}
	<-done

	ctx, cancel := context.WithCancel(t.Context())
	w = newWindow(1)
	w.take(ctx)
	cancel()
	if w.take(ctx) != nil || w.drain(ctx) {
		t.Error("a place out of nothing")
	}
}

func TestPublishAndReplay(t *testing.T) {
	addr := startNode(t)
	var progress atomic.Uint64
	for _, cfg := range []PublishConfig{
		{Records: 10_000, Size: 16},
		{Records: 3_001, Connections: 3, InFlight: 64, Batch: 1},
		{Records: 20, InFlight: 1},
		{Duration: 50 * time.Millisecond, Rate: 2000, Connections: 2},
		{Records: 5_000, Rate: 100_000, Options: []client.Option{client.WithCompression()}},
	} {
		progress.Store(0)
		cfg.Server, cfg.Warmup, cfg.Progress = addr, -1, &progress
		r, err := Publish(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		want := cfg.Records
		if want == 0 {
			want = 100
		}
		if r.Records != want || r.Bytes != want*uint64(r.Size) || r.Latency.Count != int64(want) || progress.Load() != want ||
			r.Quorum != 1 || r.Voters != 1 || r.Took <= 0 || r.PerSecond() <= 0 || r.BytesPerSecond() < r.PerSecond() {
			t.Errorf("%+v gave %+v, latency %+v", cfg, r, r.Latency)
		}
		if cfg.Rate == 2000 && (r.Took < 45*time.Millisecond || r.PerSecond() > 2300) {
			t.Errorf("a rate of 2000 gave %v records/s in %v", r.PerSecond(), r.Took)
		}
	}
	const total = 10_000 + 3_001 + 20 + 100 + 5_000
	progress.Store(0)
	r, err := Replay(t.Context(), ReplayConfig{Server: addr, Progress: &progress})
	if err != nil || r.Records != total || r.Gaps != 0 || progress.Load() != total {
		t.Errorf("replay gave %+v, %v, progress %d", r, err, progress.Load())
	}
	if r, err := Replay(t.Context(), ReplayConfig{Server: addr, Filter: ">", Records: 100, Window: 64 << 10}); err != nil || r.Records != 100 {
		t.Errorf("replay of 100 gave %+v, %v", r, err)
	}
}

// stalling brings so many bytes and then nothing more, until it is closed.
type stalling struct {
	net.Conn
	left   int
	closed context.Context
	close  context.CancelFunc
}

func (s *stalling) Read(b []byte) (int, error) {
	if s.left <= 0 {
		<-s.closed.Done()
		return 0, net.ErrClosed
	}
	n, err := s.Conn.Read(b[:min(len(b), s.left)])
	s.left -= n
	return n, err
}

func (s *stalling) Close() error {
	s.close()
	return s.Conn.Close()
}

// A replay of which nothing comes any more ends.
func TestReplayTimeout(t *testing.T) {
	addr := startNode(t)
	if _, err := Publish(t.Context(), PublishConfig{Server: addr, Records: 20_000, Size: 100, Warmup: -1}); err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		s := &stalling{Conn: c, left: 1 << 20}
		s.closed, s.close = context.WithCancel(context.Background())
		return s, nil
	}
	r, err := Replay(t.Context(), ReplayConfig{Server: addr, Timeout: 100 * time.Millisecond, Options: []client.Option{client.WithDialer(dial)}})
	if !errors.Is(err, ErrNoAnswer) || r == nil || r.Records == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// Warm-up is sent and not counted.
func TestWarmup(t *testing.T) {
	addr := startNode(t)
	var progress atomic.Uint64
	r, err := Publish(t.Context(), PublishConfig{Server: addr, Rate: 1000, Warmup: 50 * time.Millisecond, Duration: 50 * time.Millisecond, Progress: &progress})
	if err != nil || r.Records != 50 || progress.Load() != 100 {
		t.Errorf("%+v, %v; %d acknowledged in all", r, err, progress.Load())
	}
}

func TestReplayPassesOverWhatIsNotSelected(t *testing.T) {
	addr := startNode(t)
	c, err := client.Connect(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.CreateStream(t.Context(), client.StreamConfig{Name: "s"}); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"s.a", "s.b", "s.b", "s.a", "s.a", "s.b", "s.b"} {
		if _, err := c.Publish(t.Context(), client.Message{Subject: subject}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Replay(t.Context(), ReplayConfig{Server: addr, Filter: "s.a"})
	if err != nil || r.Gaps != 2 || r.Records != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Replay(t.Context(), ReplayConfig{Server: addr, Filter: "s.c"}); err == nil || !strings.Contains(err.Error(), "no records are stored under s.c") {
		t.Errorf("a filter that selects nothing: %v", err)
	}
}

func TestRoundTrip(t *testing.T) {
	addr := startNode(t)
	for range 2 { // the second finds the first one's records, and passes over them
		r, err := RoundTrip(t.Context(), RoundTripConfig{Server: addr, Rate: 2000, Warmup: 25 * time.Millisecond, Duration: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Records != 200 || r.Latency.Count != 200 || r.Latency.P50 <= 0 || r.Quorum != 1 {
			t.Errorf("%+v, latency %+v", r, r.Latency)
		}
	}
}

func TestRefused(t *testing.T) {
	addr := startNode(t)
	for _, x := range []struct {
		cfg  PublishConfig
		want string
	}{
		{PublishConfig{Connections: -1}, "connections -1"},
		{PublishConfig{InFlight: 1 << 21}, "in flight 2097152"},
		{PublishConfig{Batch: 65536, Size: -1}, "size -1"},
		{PublishConfig{Rate: -1}, "rate -1"},
		{PublishConfig{Subject: "a b", Records: 1}, "space"},
		{PublishConfig{Size: 1 << 20, Records: 10, Warmup: -1}, "limit"},
	} {
		x.cfg.Server = addr
		if _, err := Publish(t.Context(), x.cfg); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%+v: %v", x.cfg, err)
		}
	}
	if _, err := Replay(t.Context(), ReplayConfig{Server: addr, Filter: "nothing.here"}); err == nil || !strings.Contains(err.Error(), "no records") {
		t.Errorf("replay of nothing: %v", err)
	}
	if _, err := Replay(t.Context(), ReplayConfig{Server: addr, Filter: "a..b"}); err == nil {
		t.Error("replay of a bad filter")
	}
	for _, cfg := range []RoundTripConfig{{Size: 8}, {Rate: -1}, {Rate: 2e6}, {Duration: -1}, {Duration: time.Nanosecond}} {
		cfg.Server, cfg.Warmup = addr, -1
		if _, err := RoundTrip(t.Context(), cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Publish(ctx, PublishConfig{Server: addr}); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func TestMeasureDisk(t *testing.T) {
	dir := t.TempDir()
	d, err := MeasureDisk(dir, 4<<10)
	if err != nil || d.Latency.Count < 10 || d.Latency.P50 <= 0 || d.Bytes != 4096 {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := MeasureDisk(dir+"/missing", 4<<10); err == nil {
		t.Error("a disk that is not there")
	}
}

func BenchmarkWindow(b *testing.B) {
	w := newWindow(1024)
	b.ReportAllocs()
	for b.Loop() {
		w.give(w.take(b.Context()))
	}
}

func BenchmarkHistogram(b *testing.B) {
	h := NewHistogram()
	b.ReportAllocs()
	d := time.Duration(0)
	for b.Loop() {
		h.Record(d)
		if d += 977; d > time.Second {
			d = 0
		}
	}
}

// What ends early, on Ctrl-C say, gives what it has measured.
func TestInterrupted(t *testing.T) {
	address := startNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	r, err := Publish(ctx, PublishConfig{Server: address, Warmup: -1, Duration: time.Minute})
	if !errors.Is(err, context.Canceled) || r == nil || r.Records == 0 || r.Took <= 0 || r.Latency == nil || r.Stream != "bench" {
		t.Errorf("pub: %+v, %v", r, err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	r, err = RoundTrip(ctx, RoundTripConfig{Server: address, Warmup: -1, Duration: time.Minute})
	if !errors.Is(err, context.Canceled) || r == nil || r.Records == 0 || r.Took <= 0 || r.Latency == nil {
		t.Errorf("rtt: %+v, %v", r, err)
	}
}

// steady is a broker that acknowledges a record each millisecond, however many are in flight.
type steady struct {
	Publisher
	queue chan func(client.Ack, error)
	done  sync.WaitGroup
}

func (s *steady) PublishAsync(_ context.Context, _ client.Message, done func(client.Ack, error)) error {
	s.done.Add(1)
	s.queue <- done
	return nil
}

func (s *steady) Flush(context.Context) error { s.done.Wait(); return nil }
func (s *steady) Close() error                { close(s.queue); return nil }

func (s *steady) run() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for done := range s.queue {
		<-tick.C
		done(client.Ack{}, nil)
		s.done.Done()
	}
}

// What a broker takes in a second is its rate, however much of the warm-up it still has before it, and however much is in
// flight at the end.
func TestRateIsThatOfTheBroker(t *testing.T) {
	for _, cfg := range []PublishConfig{
		{Duration: time.Second},
		{Records: 1000},
		{Duration: time.Second, Connections: 2}, // each with a broker of its own
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg.InFlight, cfg.Warmup = 500, 100*time.Millisecond
			cfg.Dial = func(context.Context) (Publisher, error) {
				s := &steady{queue: make(chan func(client.Ack, error), cfg.InFlight)}
				go s.run()
				return s, nil
			}
			r, err := Publish(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if want := 1000 * float64(max(1, cfg.Connections)); math.Abs(r.PerSecond()-want) > 2*want/1000 {
				t.Errorf("%d records in %v: %.0f a second, not %.0f", r.Records, r.Took, r.PerSecond(), want)
			}
		})
	}
}
