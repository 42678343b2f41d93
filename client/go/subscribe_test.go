package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

func subscribed(t *testing.T, c *Client, p *peer, opts ...SubscribeOption) (*Subscription, error) {
	t.Helper()
	r := async(func() (*Subscription, error) {
		return c.Subscribe(t.Context(), "orders.>", append([]SubscribeOption{FromFirst()}, opts...)...)
	})
	p.subscribe()
	got := wait(t, r)
	return got.value, got.err
}

// subscription gives a client with a subscription to orders.> from first, on Corr corr.
func subscription(t *testing.T, opts ...SubscribeOption) (n *network, s *Subscription, p *peer, corr uint32) {
	t.Helper()
	n = newNetwork(t, "a:1")
	c := n.connect("a:1")
	c.topology.learn(topologyOf(orders(2)))
	p = n.accept("a:1")
	r := async(func() (*Subscription, error) {
		return c.Subscribe(t.Context(), "orders.>", append([]SubscribeOption{FromFirst()}, opts...)...)
	})
	corr, _ = p.subscribe()
	got := wait(t, r)
	if got.err != nil {
		t.Fatal(got.err)
	}
	return n, got.value, p, corr
}

// read iterates until it has n records or errors, and gives them as text.
func read(t *testing.T, s *Subscription, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	for rec, err := range s.All(ctx) {
		var e *Error
		switch {
		case errors.As(err, &e):
			got = append(got, fmt.Sprintf("%s %d", e.Code, e.Value))
		case err != nil:
			got = append(got, err.Error())
		default:
			got = append(got, fmt.Sprintf("%d/%d=%s", rec.Partition, rec.Offset, rec.Value))
		}
		if len(got) == n {
			break
		}
	}
	return got
}

func wantRecords(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func positionsOf(s *Subscription) string {
	var b strings.Builder
	for _, p := range s.Positions() {
		fmt.Fprintf(&b, "%s/%d@%d ", p.Stream, p.Partition, p.Offset)
	}
	return b.String()
}

func TestSubscribe(t *testing.T) {
	_, s, p, corr := subscription(t)
	var b wire.Builder
	b.Reset(nil, wire.MaxBatch)
	b.Append("orders.new", []byte("k"), []byte("v"), []wire.Header{{Name: []byte("a"), Value: []byte("1")}, {Name: []byte("b"), Value: []byte("2")}}, 1234)
	p.send(recordsFrame(corr, 1, 40, 41, b.Finish(0, false)))
	for rec, err := range s.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Stream != "orders" || rec.StreamID() != 7 || rec.Subject != "orders.new" || rec.Partition != 1 || rec.Offset != 40 || rec.Epoch != 3 ||
			string(rec.Key) != "k" || string(rec.Value) != "v" || rec.Time().UnixMilli() != 1234 || rec.Stored().UnixMilli() != 5000 {
			t.Errorf("%+v", rec)
		}
		clone := rec.Clone()
		mangleForTest(rec)
		for _, r := range []Record{clone, clone.Clone()} {
			var headers []string
			for name, value := range r.Headers() {
				headers = append(headers, name+"="+string(value))
			}
			v, ok := r.Header("b")
			_, none := r.Header("c")
			if fmt.Sprint(headers) != "[a=1 b=2]" || r.HeaderCount() != 2 || string(v) != "2" || !ok || none || string(r.Key) != "k" || string(r.Value) != "v" {
				t.Errorf("%v %s", headers, v)
			}
		}
		break
	}
}

// mangleForTest does to a record what the client does when the loan of its bytes ends.
func mangleForTest(r Record) {
	for _, b := range [][]byte{r.Key, r.Value} {
		for i := range b {
			b[i] = 0
		}
	}
	for _, value := range r.Headers() {
		for i := range value {
			value[i] = 0
		}
	}
}

// Every shape of batch, through one subscription: plain, mixed, compressed, filtered, several to a
// run and several runs to a frame, and a frame that leads on without records.
func TestBatchShapes(t *testing.T) {
	_, s, p, corr := subscription(t)
	mixed := func(zstd bool, values ...string) []byte {
		var b wire.Builder
		b.Reset(nil, wire.MaxBatch)
		for i, v := range values {
			b.Append(fmt.Sprintf("orders.%d", i), nil, []byte(v), nil, 1)
		}
		return b.Finish(0, zstd)
	}
	long := strings.Repeat("z", 1000)
	filtered := func(keep ...string) []byte {
		b, err := wire.ParseBatch(aBatch("a", "b", "c", "d", "e"))
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := b.Raw(nil)
		out, err := wire.AppendFiltered(nil, &b, raw, func(r *wire.Record) bool { return slices.Contains(keep, string(r.Value)) })
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	p.send(recordsFrame(corr, 0, 0, 7, aBatch("0", "1"), mixed(false, "2", "3"), mixed(true, long, long), aBatch("6")))
	p.send(recordsFrame(corr, 0, 7, 13, filtered("b", "d"), aBatch("12")))
	p.send(recordsFrame(corr, 0, 0, 20))
	p.send(recordsFrame(corr, 1, 5, 6, aBatch("x")))
	wantRecords(t, read(t, s, 11), "0/0=0", "0/1=1", "0/2=2", "0/3=3", "0/4="+long, "0/5="+long, "0/6=6", "0/8=b", "0/10=d", "0/12=12", "1/5=x")
	if got := positionsOf(s); got != "orders/0@20 orders/1@6 " {
		t.Error(got)
	}
}

// A batch that begins before the position asked for: its first records are passed over.
func TestMidBatch(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	c.topology.learn(topologyOf(orders(2)))
	p := n.accept("a:1")
	for _, tc := range []struct {
		name string
		opt  SubscribeOption
	}{
		{"offset", FromOffset(2)},
		{"positions", FromPositions([]Position{{StreamID: 7, Partition: 0, Offset: 2}})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := async(func() (*Subscription, error) { return c.Subscribe(t.Context(), "orders.>", tc.opt) })
			if tc.name == "offset" {
				p.metadata(orders(1))
			}
			corr, m := p.subscribe()
			s := wait(t, r).value
			if m.Start.From != wire.FromFirst || fmt.Sprint(m.Positions) != "[{7 0 2}]" {
				t.Errorf("SUBSCRIBE %+v", m)
			}
			p.send(recordsFrame(corr, 0, 0, 4, aBatch("0", "1", "2", "3")))
			wantRecords(t, read(t, s, 2), "0/2=2", "0/3=3")
			s.Close()
			p.next(wire.OpUnsub)
		})
	}
}

// Breaking off and going on: nothing is lost or doubled, in the middle of a batch or a frame.
func TestIterateAgain(t *testing.T) {
	_, s, p, corr := subscription(t)
	p.send(recordsFrame(corr, 0, 0, 4, aBatch("0", "1", "2"), aBatch("3")))
	for i := range 4 {
		wantRecords(t, read(t, s, 1), fmt.Sprintf("0/%d=%d", i, i))
		if got, want := positionsOf(s), fmt.Sprintf("orders/0@%d ", i+1); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
}

// The default begins with what is published after the call, and keeps to that over a lost
// connection before anything came. So does an offset, which is meant for the partition there was.
func TestFromNextLastAndOffset(t *testing.T) {
	for _, tc := range []struct {
		opt        Start
		partitions int
		from       wire.From
		want       string
	}{
		{FromNext(), 2, wire.FromFirst, "[{7 0 10} {7 1 0}]"},
		{FromLast(), 2, wire.FromFirst, "[{7 0 9} {7 1 0}]"},
		{FromOffset(5), 1, wire.FromFirst, "[{7 0 5}]"},
		{FromOffset(5), 2, wire.FromOffset, "[]"}, // for the node to refuse
	} {
		n := newNetwork(t, "a:1")
		c := n.connect("a:1")
		p := n.accept("a:1")
		r := async(func() (*Subscription, error) { return c.Subscribe(t.Context(), "orders.>", tc.opt) })
		s := orders(tc.partitions)
		s.Partitions[0].HighWatermark = 10
		if m := p.metadata(s); m.Select != wire.SelectFilter || m.Name != "orders.>" || m.Create {
			t.Errorf("METADATA %+v", m)
		}
		for range 2 {
			_, m := p.subscribe()
			slices.SortFunc(m.Positions, func(a, b wire.Position) int { return int(a.Partition) - int(b.Partition) })
			if m.Start.From != tc.from || fmt.Sprint(m.Positions) != tc.want {
				t.Errorf("SUBSCRIBE %+v", m)
			}
			wait(t, r)
			r = closedChannel[result[*Subscription]]()
			p.hangUp()
			p = n.accept("a:1")
		}
		p.subscribe()
		c.Close()
	}
}

// Where there is no stream yet, all that will be published comes next.
func TestFromNextOfNoStream(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	r := async(func() (*Subscription, error) { return c.Subscribe(t.Context(), "orders.>", FromNext()) })
	p.fail(p.next(wire.OpMetadata).Corr, wire.Error{Code: wire.CodeUnknownStream, Bits: wire.ErrorEndsCorr, Message: "none"})
	if _, m := p.subscribe(); m.Start.From != wire.FromFirst || len(m.Positions) != 0 {
		t.Errorf("SUBSCRIBE %+v", m)
	}
	if got := wait(t, r); got.err != nil {
		t.Error(got.err)
	}
}

// Nobody knows what comes next in a partition that is not served yet: the subscription waits until somebody does.
func TestFromNextOfWhatIsNotServed(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	r := async(func() (*Subscription, error) { return c.Subscribe(t.Context(), "orders.>", FromNext()) })
	s := orders(1)
	s.Partitions[0].Leader = 0
	p.metadata(s)
	s.Partitions[0] = wire.PartitionInfo{Leader: 1, HighWatermark: 10}
	p.metadata(s)
	if _, m := p.subscribe(); len(m.Positions) != 1 || m.Positions[0].Offset != 10 {
		t.Errorf("SUBSCRIBE %+v", m)
	}
	if got := wait(t, r); got.err != nil {
		t.Error(got.err)
	}
}

func closedChannel[T any]() <-chan T {
	ch := make(chan T)
	close(ch)
	return ch
}

// A connection lost with frames delivered, waiting, and half read: the new subscription goes on behind
// what arrived, and the iteration sees every record once.
func TestResume(t *testing.T) {
	n, s, p, corr := subscription(t)
	p.send(recordsFrame(corr, 0, 0, 3, aBatch("0", "1", "2")))
	p.send(recordsFrame(corr, 1, 0, 2, aBatch("0", "1")))
	wantRecords(t, read(t, s, 2), "0/0=0", "0/1=1")
	arrived(t, s, 1, 2)
	p.hangUp()
	p = n.accept("a:1")
	corr, m := p.subscribe()
	slices.SortFunc(m.Positions, func(a, b wire.Position) int { return int(a.Partition) - int(b.Partition) })
	if fmt.Sprint(m.Positions) != "[{7 0 3} {7 1 2}]" {
		t.Fatalf("SUBSCRIBE %+v", m)
	}
	if m.Credit >= defaultWindow {
		t.Errorf("credit %d: what waits here is not counted", m.Credit)
	}
	p.send(recordsFrame(corr, 0, 2, 5, aBatch("2", "3", "4"))) // a batch that begins before
	wantRecords(t, read(t, s, 5), "0/2=2", "1/0=0", "1/1=1", "0/3=3", "0/4=4")
}

// arrived waits until everything below next has arrived from a partition.
func arrived(t *testing.T, s *Subscription, partition uint32, next uint64) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		s.mu.Lock()
		have := s.received[partitionKey{7, partition}]
		s.mu.Unlock()
		if have >= next {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("records below %d arrived, want %d", have, next)
		}
		runtime.Gosched()
	}
}

func TestCredit(t *testing.T) {
	frame := recordsFrame(0, 0, 0, 2, aBatch("0", "1"))
	size := len(frame)
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	c.topology.learn(topologyOf(orders(1)))
	p := n.accept("a:1")
	r := async(func() (*Subscription, error) {
		return c.Subscribe(t.Context(), "orders.>", FromFirst(), Window(4*size))
	})
	corr, m := p.subscribe()
	if m.Credit != uint64(4*size) {
		t.Fatalf("credit %d, want %d", m.Credit, 4*size)
	}
	s := wait(t, r).value
	for i := range uint64(4) {
		p.send(recordsFrame(corr, 0, 2*i, 2*i+2, aBatch("0", "1")))
	}
	// A frame is consumed when the iteration goes past its last record.
	read(t, s, 5)
	credit := func() uint64 {
		var m wire.Credit
		if err := m.Decode(p.next(wire.OpCredit).Body); err != nil {
			t.Fatal(err)
		}
		return m.Bytes
	}
	if got := credit(); got != uint64(2*size) {
		t.Fatalf("CREDIT %d, want %d", got, 2*size)
	}
	read(t, s, 3)
	p.send(recordsFrame(corr, 0, 8, 10, aBatch("0", "1")))
	read(t, s, 1)
	if got := credit(); got != uint64(2*size) {
		t.Fatalf("CREDIT %d, want %d", got, 2*size)
	}
	// A node that sends without credit is broken: hang up.
	for i := range uint64(5) {
		p.send(recordsFrame(corr, 0, 10+2*i, 12+2*i, aBatch("0", "1")))
	}
	<-p.gone
}

// All subscriptions of a connection share the node's limit.
func TestCreditLimit(t *testing.T) {
	n := newNetwork(t, "a:1")
	n.nodes["a:1"].welcome.CreditLimit = 1000
	c := n.connect("a:1")
	p := n.accept("a:1")
	r := async(func() (*Subscription, error) { return c.Subscribe(t.Context(), "a", FromFirst(), Window(600)) })
	if _, m := p.subscribe(); m.Credit != 600 {
		t.Error(m.Credit)
	}
	first := wait(t, r).value
	r = async(func() (*Subscription, error) { return c.Subscribe(t.Context(), "b", FromFirst(), Window(600)) })
	if _, m := p.subscribe(); m.Credit != 400 {
		t.Error(m.Credit)
	}
	wait(t, r)
	if _, err := c.Subscribe(t.Context(), "c", FromFirst()); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "1000 bytes") {
		t.Fatal(err)
	}
	first.Close()
	p.next(wire.OpUnsub)
	r = async(func() (*Subscription, error) { return c.Subscribe(t.Context(), "c", FromFirst()) })
	if _, m := p.subscribe(); m.Credit != 600 {
		t.Error(m.Credit)
	}
	wait(t, r)
}

// Errors that do not end the subscription come in their place among the records.
func TestErrorsBetweenRecords(t *testing.T) {
	_, s, p, corr := subscription(t)
	p.send(recordsFrame(corr, 0, 0, 1, aBatch("0")))
	p.fail(corr, wire.Error{Code: wire.CodeOffsetRange, Value: 5})
	p.send(recordsFrame(corr, 0, 5, 6, aBatch("5")))
	p.fail(corr, wire.Error{Code: wire.CodeDataLoss, Value: 9})
	p.send(recordsFrame(corr, 0, 9, 10, aBatch("9")))
	wantRecords(t, read(t, s, 5), "0/0=0", "OFFSET_RANGE 5", "0/5=5", "DATA_LOSS 9", "0/9=9")
	p.fail(corr, wire.Error{Code: wire.CodeOffsetRange, Value: 3, Bits: wire.ErrorEndsCorr})
	wantRecords(t, read(t, s, 2), "OFFSET_RANGE 3")
	wantRecords(t, read(t, s, 2), "OFFSET_RANGE 3")
}

// A retriable end is a reason to subscribe again.
func TestSubscriptionEndedForNow(t *testing.T) {
	_, s, p, corr := subscription(t)
	p.send(recordsFrame(corr, 0, 0, 1, aBatch("0")))
	p.fail(corr, wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorEndsCorr | wire.ErrorRetriable, RetryAfter: time.Millisecond})
	corr, m := p.subscribe()
	if fmt.Sprint(m.Positions) != "[{7 0 1}]" {
		t.Fatalf("SUBSCRIBE %+v", m)
	}
	p.send(recordsFrame(corr, 0, 1, 2, aBatch("1")))
	wantRecords(t, read(t, s, 2), "0/0=0", "0/1=1")
}

// Every bit flipped in a batch is noticed; what is damaged is asked for again, and the second time told.
func TestDamage(t *testing.T) {
	_, s, p, corr := subscription(t)
	good := aBatch("2", "3")
	bad := slices.Clone(good)
	bad[len(bad)-1] ^= 1
	p.send(recordsFrame(corr, 0, 0, 4, aBatch("0", "1"), bad))
	p.send(recordsFrame(corr, 0, 4, 5, aBatch("4")))
	got := async(func() ([]string, error) { return read(t, s, 6), nil })
	for i := range 3 {
		p.next(wire.OpUnsub)
		var m wire.Subscribe
		corr, m = p.subscribe()
		if fmt.Sprint(m.Positions) != "[{7 0 2}]" {
			t.Fatalf("SUBSCRIBE %+v", m)
		}
		if i < 2 {
			p.send(recordsFrame(corr, 0, 0, 4, aBatch("0", "1"), bad))
		} else {
			p.send(recordsFrame(corr, 0, 0, 4, aBatch("0", "1"), good))
		}
	}
	p.send(recordsFrame(corr, 0, 4, 5, aBatch("4")))
	wantRecords(t, wait(t, got).value, "0/0=0", "0/1=1", "BAD_CHECKSUM 0", "BAD_CHECKSUM 0", "0/2=2", "0/3=3")
	wantRecords(t, read(t, s, 1), "0/4=4")
}

// A batch whose checksum holds and whose records do not decode is its producer's fault: told, and passed over.
func TestUnreadableBatch(t *testing.T) {
	_, s, p, corr := subscription(t)
	b := &batch{buf: append(make([]byte, wire.HeaderBytes), aBatch("1", "2", "3")...)}
	b.buf[len(b.buf)-5] = 0x7f // the length of the last record
	b.renumber(1)              // seals it again
	p.send(recordsFrame(corr, 0, 0, 5, aBatch("0"), b.buf[wire.HeaderBytes:], aBatch("4")))
	wantRecords(t, read(t, s, 5), "0/0=0", "0/1=1", "0/2=2", "MALFORMED 0", "0/4=4")
}

func TestSubscriptionEnds(t *testing.T) {
	_, s, p, corr := subscription(t)
	p.send(recordsFrame(corr, 0, 0, 3, aBatch("0", "1", "2")))
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var got []string
	for rec, err := range s.All(ctx) {
		if err != nil {
			got = append(got, err.Error())
			continue
		}
		got = append(got, string(rec.Value))
		if rec.Offset == 1 {
			for _, err := range s.All(ctx) {
				got = append(got, err.Error())
			}
		}
		if rec.Offset == 2 {
			cancel(errors.New("enough"))
		}
	}
	wantRecords(t, got, "0", "1", errIterating.Error(), "2", "enough")
	stop := errors.New("stop")
	p.send(recordsFrame(corr, 0, 3, 5, aBatch("3", "4")))
	if err := s.Each(t.Context(), func(Record) error { return stop }); err != stop {
		t.Fatal(err)
	}
	for _, err := range s.All(t.Context()) {
		if s.Close(); err != nil && !errors.Is(err, ErrSubscriptionClosed) {
			t.Fatal(err)
		}
	}
	p.next(wire.OpUnsub)
	if err := s.Each(t.Context(), func(Record) error { return nil }); !errors.Is(err, ErrSubscriptionClosed) {
		t.Fatal(err)
	}
	if got := positionsOf(s); got != "orders/0@5 " {
		t.Error(got)
	}
}

func TestSubscribeRefused(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	for _, filter := range []string{"", "a..b", "a.>.b", "a b"} {
		if _, err := c.Subscribe(t.Context(), filter); !errors.Is(err, ErrBadName) {
			t.Errorf("%q: %v", filter, err)
		}
	}
	if _, err := c.Subscribe(t.Context(), "a", Window(0)); err == nil {
		t.Error("a window of 0")
	}
	r := async(func() (*Subscription, error) { return c.Subscribe(t.Context(), "a", FromFirst()) })
	f := p.next(wire.OpSub)
	p.fail(f.Corr, wire.Error{Code: wire.CodeDenied, Bits: wire.ErrorEndsCorr})
	if got := wait(t, r); !errors.Is(got.err, ErrDenied) {
		t.Fatal(got.err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r = async(func() (*Subscription, error) { return c.Subscribe(ctx, "a", FromFirst()) })
	p.next(wire.OpSub)
	cancel()
	if got := wait(t, r); !errors.Is(got.err, context.Canceled) {
		t.Fatal(got.err)
	}
	p.next(wire.OpUnsub)
}

// keeper is a conversation that keeps the buffers it is handed, and gives them back at once.
type keeper struct {
	next chan *buffer // what the pool gives afterwards
}

func (k keeper) frame(cn *conn, f wire.Frame, own *buffer) error {
	cn.kept = true
	size := len(own.b)
	own.free()
	k.next <- getBuffer(size)
	return nil
}

func (keeper) lost(*conn, error) {}

// A buffer belongs to who keeps it, and when that one gives it back to who gets it next: never to two.
func TestKeptBuffersAreGivenBackOnce(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	cn, err := c.main(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k := keeper{make(chan *buffer, 64)}
	cn.mu.Lock()
	corr, err := cn.openLocked(k)
	cn.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	frame := recordsFrame(corr, 0, 0, 1, aBatch(strings.Repeat("x", 100_000)))
	have := map[*buffer]bool{}
	for range cap(k.next) {
		p.send(frame)
		own := wait(t, k.next)
		if have[own] {
			t.Fatal("two have the same buffer")
		}
		have[own] = true
	}
}

func TestPositionsAsJSON(t *testing.T) {
	in := []Position{{"orders", 7, 1, 41}}
	b, err := json.Marshal(in)
	if err != nil || string(b) != `[{"stream":"orders","stream_id":7,"partition":1,"offset":41}]` {
		t.Fatal(string(b), err)
	}
}

// The stream's name is asked for if records of an unknown one come.
func TestStreamNameIsAskedFor(t *testing.T) {
	n := newNetwork(t, "a:1")
	c := n.connect("a:1")
	p := n.accept("a:1")
	r := async(func() (*Subscription, error) { return c.Subscribe(t.Context(), ">", FromFirst()) })
	corr, _ := p.subscribe()
	s := wait(t, r).value
	p.send(recordsFrame(corr, 0, 0, 1, aBatch("0")))
	got := async(func() ([]string, error) { return read(t, s, 1), nil })
	p.metadata(orders(1))
	wait(t, got)
	if got := positionsOf(s); got != "orders/0@1 " {
		t.Error(got)
	}
}
