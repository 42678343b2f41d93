package broker

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// asks are so many requests for the topology in one piece.
func asks(count int) (b []byte) {
	for i := range count {
		b = (&wire.Metadata{}).AppendTo(b, uint32(i+1))
	}
	return b
}

// Who asks much at once has to wait; others on the same loop do not wait for it.
func TestManyAsks(t *testing.T) {
	const count = 10_000
	n := startNode(t, t.TempDir(), func(c *Config) { c.MaxRequests = count })
	var others []*peer
	for range 4 * len(n.loops) { // some on every loop
		others = append(others, connect(t, n))
	}
	p := connect(t, n)
	p.streamOf("orders")
	flood := asks(count)
	var answered atomic.Int64
	served := make(chan error, 1)
	go func() {
		for answered.Load() < count {
			f, err := p.read()
			if err == nil && f.Op != wire.OpTopology {
				err = fmt.Errorf("%s is no answer", f.Op)
			}
			if err != nil {
				served <- err
				return
			}
			answered.Add(1)
		}
		served <- nil
	}()
	p.send(flood) // all but what the socket buffers hold has been read by the node
	for _, o := range others {
		o.send(wire.Ping{Data: 1}.AppendTo(nil, wire.OpPing, 0))
	}
	for i, o := range others {
		o.recv(wire.OpPong)
		if got := answered.Load(); got >= count {
			t.Fatalf("%d others waited for all of %d answers", i+1, got)
		}
	}
	if err := <-served; err != nil {
		t.Errorf("after %d answers: %v", answered.Load(), err)
	}
}

// What comes above the number of requests that a connection may have waiting is refused, and all is answered.
func TestTooManyAsks(t *testing.T) {
	const limit, count = 16, 5_000
	n := startNode(t, t.TempDir(), func(c *Config) { c.MaxRequests = limit })
	p := connect(t, n)
	p.streamOf("orders")
	go func() { _, _ = p.conn.Write(asks(count)) }()
	answered, refused := 0, 0
	for answered+refused < count {
		f, err := p.read()
		if err != nil {
			t.Fatalf("after %d answers and %d refusals: %v", answered, refused, err)
		}
		switch f.Op {
		case wire.OpTopology:
			answered++
		case wire.OpError:
			var e wire.Error
			if err := e.Decode(f.Body); err != nil || e.Code != wire.CodeOverloaded || !e.Retriable() || e.Bits&wire.ErrorEndsCorr == 0 || e.Bits&wire.ErrorEndsConnection != 0 {
				t.Fatalf("%v, %v", &e, err)
			}
			refused++
		}
	}
	if answered < limit || refused == 0 {
		t.Errorf("%d answered, %d refused", answered, refused)
	}
	p.streamOf("orders")
}

// Who does not read the answers is given no more of them: making them is work, and others pay for it.
func TestUnreadAnswers(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	p.streamOf("orders")
	onSession(n, func(s *session) {
		unread := len(s.output())
		s.write(make([]byte, readAhead+1))
		err := s.metadata(1000, &wire.Metadata{})
		if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != wire.CodeOverloaded || !e.Retriable() || len(s.out) > unread+readAhead+1 {
			t.Errorf("%v", err)
		}
		s.out = s.out[:unread]
	})
	p.streamOf("orders")
}

// Little is read for who has not read anything, however much is asked for, and all of it once that is read.
func TestLittleAheadOfWhoDoesNotRead(t *testing.T) {
	n := startNode(t, t.TempDir())
	writer := connect(t, n)
	st := writer.streamOf("a")
	const entries, size = 16, 1 << 19
	for range entries {
		writer.fill(st, 0, []message{{"a", "", strings.Repeat("v", size)}})
	}
	part, err := n.find(st.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := connect(t, n)
	sub := p.subscribe(wire.Subscribe{Filter: "a", Credit: 64 << 20})
	for range 50 {
		p.send((&wire.Fetch{Stream: st.ID, MaxBytes: size}).AppendTo(nil, p.next()))
	}
	for range 20 { // each is fsynced: time enough to look again
		writer.streamOf("a")
		writer.fill(st, 0, []message{{"a", "", "v"}})
	}
	if sent := part.count.Delivered.Bytes.Load(); sent > 4*size {
		t.Errorf("%d bytes are read ahead", sent)
	}
	got := 0
	for got < entries*size {
		f, err := p.read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == wire.OpRecords && f.Corr == sub {
			got += len(f.Body)
		}
	}
}

// Compressed publishes as fast as they go, of more bytes than the node keeps for frames that have not arrived whole, end no
// connection: not that of who publishes, and not that of others.
func TestCompressedWindow(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.InboundMemory = 2 << 20; c.InFlightBytes = 16 << 20 })
	var publishing sync.WaitGroup
	for range 4 {
		p := connect(t, n)
		st := p.streamOf("orders")
		corr, _ := p.open(st, wire.Open{})
		publishing.Go(func() {
			value := make([]byte, 200<<10)
			for i := range value {
				value[i] = byte(rand.Uint32() % 16) // half its size, compressed
			}
			const batches = 130
			go func() {
				for i := range uint64(batches) {
					if i == 100 { // 10 MiB are in flight
						if _, err := p.conn.Write((&wire.Metadata{}).AppendTo(nil, 1<<20)); err != nil {
							t.Error(err)
						}
					}
					if _, err := p.conn.Write(wire.AppendPublish(nil, corr, encode(t, i, true, message{"orders", "", string(value)}))); err != nil {
						t.Error(err)
						return
					}
				}
			}()
			for acked := uint64(0); acked < batches; {
				f, err := p.read()
				if err != nil {
					t.Errorf("after %d acknowledgements: %v", acked, err)
					return
				}
				switch f.Op {
				case wire.OpAck:
					var a wire.Ack
					if err := a.Decode(f.Body); err != nil {
						t.Error(err)
						return
					}
					acked += a.Count
				case wire.OpError:
					var e wire.Error
					if err := e.Decode(f.Body); err != nil || e.Bits&wire.ErrorEndsConnection != 0 || e.Code != wire.CodeOverloaded && e.Code != wire.CodeInFlight {
						t.Errorf("%v, %v", &e, err)
						return
					}
					acked++ // sent no more: that is not what this is about
				}
			}
		})
	}
	publishing.Wait()
}

// A turn serves something, however late it is when it begins: or nothing would ever be served on a machine that is slow.
func TestLateTurn(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	waiting := func() (bytes int) {
		onSession(n, func(s *session) { bytes = s.conn.InboundBuffered() })
		return bytes
	}
	onSession(n, func(s *session) { s.paced = true }) // what arrives waits
	p.send(wire.Ping{Data: 1}.AppendTo(nil, wire.OpPing, 0))
	until(t, "the frame has arrived", func() bool { return waiting() > 0 })
	onSession(n, func(s *session) {
		s.paced, s.costly = false, true
		s.loop.began = time.Now().Add(-2 * turn)
		if s.traffic(); s.gaveWay {
			t.Error("it gave way at once")
		}
	})
	p.recv(wire.OpPong)
}

// Who asks for one long thing after the other waits as well: the loop is nobody's own.
func TestOneAskAfterTheOther(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	p.send(wire.Ping{Data: 1}.AppendTo(nil, wire.OpPing, 0))
	p.recv(wire.OpPong)
	onSession(n, func(s *session) {
		s.paced, s.loop.began = true, time.Now().Add(-time.Hour) // what arrives waits; a request took that long
		s.costly, s.asking = true, true
		if used, over := s.serve(nil); used != 0 || over || !time.Now().Before(s.rests) {
			t.Errorf("it may go on at once: %d, %v, %v", used, over, s.rests)
		}
		s.paced = false
	})
	p.send(wire.Ping{Data: 2}.AppendTo(nil, wire.OpPing, 0))
	until(t, "what came next waits", func() (waits bool) {
		onSession(n, func(s *session) { waits = s.paced && s.conn.InboundBuffered() > 0 || s.rests.IsZero() })
		return waits
	})
	p.recv(wire.OpPong)
}

// pile sends what waits in the node, as the only connection, until its session is resumed.
func (p *peer) pile(n *Node, flood []byte) {
	p.t.Helper()
	onSession(n, func(s *session) { s.gaveWay, s.paced = true, true })
	p.send(flood)
	until(p.t, "it has arrived", func() (all bool) {
		onSession(n, func(s *session) { all = s.conn.InboundBuffered() == len(flood) })
		return all
	})
}

// However much of it waits, what costs more to answer than to send gets a part of the loop only.
func TestRefusalsArePaced(t *testing.T) {
	bad := encode(t, 0, false, message{"orders", "", ""})
	bad[len(bad)-1] ^= 1
	for name, frame := range map[string]func(corr uint32) []byte{
		"misplaced": func(uint32) []byte { return wire.AppendEmpty(nil, wire.OpClose, 1<<20) },
		"bad batch": func(corr uint32) []byte { return wire.AppendPublish(nil, corr, bad) },
		"request":   func(uint32) []byte { return (&wire.Metadata{}).AppendTo(nil, 1<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, t.TempDir())
			p := connect(t, n)
			corr, _ := p.open(p.streamOf("orders"), wire.Open{})
			frame := frame(corr)
			flood := bytes.Repeat(frame, 2*waitBytes/len(frame))
			p.pile(n, flood)
			onSession(n, func(s *session) {
				s.loop.began = time.Now()
				s.resume()
				if left := s.conn.InboundBuffered(); !s.paced || left == 0 || left == len(flood) {
					t.Errorf("%d of %d bytes are left after one turn; paced: %v", left, len(flood), s.paced)
				}
			})
		})
	}
}

// Frames that are larger than what is looked at together take turns as small ones do.
func TestLargeFramesTakeTurns(t *testing.T) {
	value := strings.Repeat("v", peekBytes)
	mixed := batch(t, 0, message{"orders", "", value}, message{"orders.x", "", value})
	bad := batch(t, 0, message{"orders", "", value + value})
	bad[len(bad)-1] ^= 1
	for name, b := range map[string][]byte{"mixed": mixed, "refused": bad} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, t.TempDir())
			p := connect(t, n)
			corr, _ := p.open(p.streamOf("orders"), wire.Open{})
			frame := wire.AppendPublish(nil, corr, b)
			flood := bytes.Repeat(frame, 3)
			p.pile(n, flood)
			onSession(n, func(s *session) {
				s.loop.began = time.Now().Add(-time.Hour) // the turn is over, and a frame is served all the same
				s.resume()
				if left := s.conn.InboundBuffered(); !s.gaveWay || left != 2*len(frame) {
					t.Errorf("%d of %d bytes are left after one turn; gave way: %v", left, len(flood), s.gaveWay)
				}
			})
		})
	}
}

// Nothing is written behind an error that ends the connection, also not what was answered before that error was sent.
func TestLastWordsAreLast(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	onSession(n, func(s *session) {
		s.fatal(&wire.Error{Code: wire.CodeState, Message: "enough"})
		s.write(wire.Ping{Data: 7}.AppendTo(nil, wire.OpPong, 0))
	})
	p.recv(wire.OpError)
	if f, err := p.read(); err == nil {
		t.Errorf("%s behind the last word", f.Op)
	}
}

// When much waits in the node, who has many requests waiting is sent away, and who asks for one thing is served.
func TestCrowdIsSentAway(t *testing.T) {
	n := startNode(t, t.TempDir())
	honest, p := connect(t, n), connect(t, n)
	half := n.config().InboundMemory / 2
	n.waiting.Add(half)
	defer n.waiting.Add(-half)
	var asks []byte
	for corr := range uint32(1 << 16) {
		asks = (&wire.Metadata{}).AppendTo(asks, 1+corr)
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { _, _ = p.conn.Write(asks) }) // it is cut off
	for sent := false; !sent; {
		f, err := p.read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == wire.OpError {
			var e wire.Error
			if err := e.Decode(f.Body); err != nil || e.Code != wire.CodeOverloaded {
				t.Fatalf("%v, %v", &e, err)
			}
			sent = e.Bits&wire.ErrorEndsConnection != 0
		}
	}
	alive(t, honest)
}

// Frames that others do not finish, however much of them, are no reason to send away who asks much.
func TestUnfinishedFramesAreNoCrowd(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.InboundMemory = 4 << 20 })
	big := wire.AppendPublish(nil, 1, make([]byte, wire.MaxBatch))
	for range 3 {
		connect(t, n).send(big[:len(big)-1])
	}
	until(t, "they have arrived", func() bool { return n.inbound.Load() > n.config().InboundMemory/2 })
	p := connect(t, n)
	const count = 5_000
	go func() { _, _ = p.conn.Write(asks(count)) }()
	for answers := 0; answers < count; answers++ {
		f, err := p.read()
		if err != nil {
			t.Fatalf("after %d answers: %v", answers, err)
		}
		if f.Op == wire.OpError {
			var e wire.Error
			if err := e.Decode(f.Body); err != nil || e.Bits&wire.ErrorEndsConnection != 0 {
				t.Fatalf("after %d answers: %v, %v", answers, &e, err)
			}
		}
	}
}

// Many partitions are described away from the loops, one list at a time, each in full.
func TestLongTopology(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	for i := range 3 {
		p.create(wire.CreateStream{Name: fmt.Sprintf("wide%d", i), Partitions: 200})
	}
	const times = 50
	var want []byte
	for i := range times {
		p.send((&wire.Metadata{}).AppendTo(nil, uint32(1000+i)))
		f := p.recv(wire.OpTopology)
		if want == nil {
			var top wire.Topology
			if err := top.Decode(f.Body); err != nil {
				t.Fatal(err)
			}
			for _, st := range top.Streams {
				if len(st.Partitions) != 200 || slices.ContainsFunc(st.Partitions, func(p wire.PartitionInfo) bool { return p.Leader != n.identity.Node }) {
					t.Errorf("%s: %+v", st.Name, st.Partitions)
				}
			}
			if len(top.Streams) != 3 {
				t.Errorf("%d streams", len(top.Streams))
			}
			want = f.Body
		} else if !bytes.Equal(f.Body, want) {
			t.Error("the same question has another answer")
		}
	}
	p.send((&wire.Metadata{Select: wire.SelectFilter, Name: "wide1.>"}).AppendTo(nil, p.next()))
	var top wire.Topology
	if f := p.recv(wire.OpTopology); top.Decode(f.Body) != nil || len(top.Streams) != 1 || top.Streams[0].Name != "wide1" {
		t.Errorf("%+v", top)
	}
}

// A connection that had much open is forgotten bit by bit, and wholly.
func TestManyConversationsEnd(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	const count = 5_000
	var all []byte
	for i := range count {
		all = (&wire.Subscribe{Filter: "nothing", Credit: 1}).AppendTo(all, uint32(i+1))
	}
	go func() { _, _ = p.conn.Write(all) }()
	for range count {
		p.recv(wire.OpOK)
	}
	subscriptions := func() (sum int64) {
		for _, l := range n.loops {
			sum += l.count.Subscriptions.Load()
		}
		return sum
	}
	if got := subscriptions(); got != count {
		t.Fatalf("%d subscriptions", got)
	}
	_ = p.conn.Close()
	until(t, "nothing of it is left", func() bool { return subscriptions() == 0 && n.weight.Load() == 0 })
}

// What gives way goes on in its order, and nothing is called by two turns.
func TestTurns(t *testing.T) {
	n := startNode(t, t.TempDir())
	connect(t, n) // its loop has begun
	l := n.loops[slices.IndexFunc(n.loops, func(l *loop) bool { l.mu.Lock(); defer l.mu.Unlock(); return l.events != nil })]
	for _, queue := range []func(func()){l.yield, func(f func()) { l.pace(f, 0) }} {
		var got []int
		done := make(chan struct{})
		l.post(func() {
			for i := range 100 {
				queue(func() {
					for began := time.Now(); time.Since(began) < turn/4; { // a few fit into a turn
					}
					if got = append(got, i); i%10 == 0 {
						queue(func() { got = append(got, 1000+i) })
					}
					if i == 99 {
						queue(func() { close(done) })
					}
				})
			}
		})
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("some were never called")
		}
		if want := 110; len(got) != want || !slices.IsSorted(got[:100]) || !slices.IsSorted(got[100:]) {
			t.Errorf("%d calls: %v", len(got), got)
		}
	}
}
