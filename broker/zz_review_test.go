package broker

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
)

func zzFill(p *peer, st wire.StreamInfo, part uint32, n int) {
	v := strings.Repeat("v", 60<<10)
	corr, _ := p.open(st, wire.Open{Partition: part})
	for i := range n {
		p.send(wire.AppendPublish(nil, corr, batch(p.t, uint64(i), message{st.Name, "", v})))
		p.acks(corr, uint64(i), uint64(i)+1)
	}
}

// 1. RECORDS without credit
func TestZZCredit(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory = 1 })
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "a", Partitions: 4})
	for i := range 4 {
		zzFill(p, st, uint32(i), 20)
	}
	const credit = 300 << 10
	corr := p.next()
	p.send((&wire.Subscribe{Filter: "a", Credit: credit, Start: wire.Start{From: wire.FromFirst}}).AppendTo(nil, corr))
	p.recv(wire.OpOK)
	_ = p.conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	left := int64(credit)
	for {
		f, err := p.read()
		if err != nil {
			break
		}
		note := ""
		if left <= 0 {
			note = "   <-- WITHOUT CREDIT"
		}
		t.Logf("%s %d bytes, credit before %d%s", f.Op, len(f.Body), left, note)
		left -= int64(len(f.Body) + wire.HeaderBytes)
	}
}

// 2. PING without reading
func TestZZPing(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	var one []byte
	for range 1000 {
		one = wire.Ping{}.AppendTo(one, wire.OpPing, 0)
	}
	stop := time.Now().Add(6 * time.Second)
	sent := 0
	for time.Now().Before(stop) && n.outbound.Load() < 512<<20 {
		_ = p.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
		m, err := p.conn.Write(one)
		sent += m
		if err != nil {
			t.Log(err)
			break
		}
	}
	t.Logf("sent %d MiB of PING, outbound for this client %d MiB (limit OutboundMemory %d MiB)", sent>>20, n.outbound.Load()>>20, n.cfg.OutboundMemory>>20)
}

// 2b. METADATA amplification
func TestZZMeta(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	p.create(wire.CreateStream{Name: "a", Partitions: 64})
	var one []byte
	for i := range 20000 {
		one = (&wire.Metadata{Select: wire.SelectAll}).AppendTo(one, uint32(1000+i))
	}
	began := time.Now()
	p.send(one)
	time.Sleep(time.Second)
	done := make(chan struct{})
	for _, l := range n.loops {
		l.post(func() { done <- struct{}{} })
	}
	<-done
	t.Logf("%d bytes of METADATA -> outbound %d MiB after %v", len(one), n.outbound.Load()>>20, time.Since(began))
}

// 3. pinned segment after going hot
func TestZZPin(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.SegmentBytes = 1 << 20 })
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "a"})
	zzFill(p, st, 0, 150) // 9 MiB, hot tail 4 MiB
	p2 := connect(t, n)
	corr := p2.subscribe(wire.Subscribe{Filter: "a", Credit: 32 << 20, Start: wire.Start{From: wire.FromFirst}})
	p2.receive(corr, 150)
	time.Sleep(200 * time.Millisecond)
	done := make(chan string, 4)
	for _, l := range n.loops {
		if l.events == nil {
			continue
		}
		l.post(func() {
			for s := range l.sessions {
				for _, c := range s.conversations {
					if sub, ok := c.(*subscription); ok {
						for _, cu := range sub.cursors {
							done <- fmt.Sprintf("state %d next %d reader %+v", cu.state, cu.next, zzSeg(cu))
						}
					}
				}
			}
		})
	}
	t.Log(<-done)
}

// 4. create and delete in one go
func TestZZZombie(t *testing.T) {
	n := startNode(t, t.TempDir())
	for i := range 150 {
		p := connect(t, n)
		name := fmt.Sprintf("s%d", i)
		c, d := p.next(), p.next()
		other := connect(t, n)
		var fill []byte
		for k := range 8 {
			fill = (&wire.DeleteStream{Name: fmt.Sprintf("none%d", k)}).AppendTo(fill, other.next())
		}
		other.send(fill)
		p.send((&wire.CreateStream{Name: name}).AppendTo(nil, c))
		p.send((&wire.DeleteStream{Name: name, Purge: i%2 == 0}).AppendTo(nil, d))
		var st wire.StreamInfo
		deleted, created := false, false
		for range 2 {
			f, err := p.read()
			if err != nil {
				t.Fatal(err)
			}
			if f.Corr == c && f.Op == wire.OpTopology {
				var top wire.Topology
				_ = top.Decode(f.Body)
				st, created = top.Streams[0], true
			}
			deleted = deleted || f.Corr == d && f.Op == wire.OpOK
		}
		other.conn.Close()
		if !created || !deleted {
			p.conn.Close()
			continue
		}
		time.Sleep(30 * time.Millisecond)
		if _, there := n.partitions.all()[partKey{st.ID, 0}]; there {
			corr, _ := p.open(st, wire.Open{})
			p.send(wire.AppendPublish(nil, corr, batch(t, 0, message{name, "", "x"})))
			a := p.acks(corr, 0, 1)
			t.Logf("round %d: stream %d is purged in the catalog (%v) and yet served; a record was acknowledged at offset %d", i, st.ID, n.catalog.State().Stream(name) == nil, a[0].Offset)
			return
		}
		p.conn.Close()
	}
	t.Log("not hit")
}

// 4b same, by hand
func TestZZZombieByHand(t *testing.T) {
	n := startNode(t, t.TempDir())
	ctx := context.Background()
	st, _ := n.catalog.CreateStream(ctx, cluster.StreamSpec{Name: "z"})
	_, _ = n.catalog.DeleteStream(ctx, "z")
	time.Sleep(50 * time.Millisecond)
	err := n.startStream(ctx, st)
	t.Log(err, n.partitions.all()[partKey{st.ID, 0}] != nil)
}

// 7. create, then hang up
func TestZZHangup(t *testing.T) {
	n := startNode(t, t.TempDir())
	for i := range 30 {
		p := connect(t, n)
		name := fmt.Sprintf("s%d", i)
		p.send((&wire.CreateStream{Name: name, Partitions: 16}).AppendTo(nil, p.next()))
		time.Sleep(time.Duration(i%10) * time.Millisecond)
		p.conn.Close()
		time.Sleep(300 * time.Millisecond)
		st := n.catalog.State().Stream(name)
		if st != nil && !n.serves(st) {
			q := connect(t, n)
			q.send((&wire.Fetch{Stream: st.ID, MaxBytes: 1}).AppendTo(nil, q.next()))
			f, _ := q.read()
			var e wire.Error
			_ = e.Decode(f.Body)
			time.Sleep(time.Second)
			t.Logf("round %d: stream exists, not served after 1.3 s: %v; FETCH: %v", i, !n.serves(st), &e)
			return
		}
	}
	t.Log("not hit")
}

// 5. stale accounting on another loop
func TestZZStale(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.OutboundMemory = 1 << 20 })
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "a"})
	zzFill(p, st, 0, 60)
	var b []byte
	for range 100 {
		b = (&wire.Fetch{Stream: st.ID, MaxBytes: 1 << 20, Start: wire.Start{From: wire.FromOffset, Value: 50}}).AppendTo(b, p.next())
	}
	p.send(b)
	time.Sleep(500 * time.Millisecond)
	t.Logf("outbound while not reading: %d KiB", n.outbound.Load()>>10)
	for range 100 {
		p.recv(wire.OpRecords)
	}
	time.Sleep(1500 * time.Millisecond)
	t.Logf("outbound after everything was read: %d KiB", n.outbound.Load()>>10)
	for try := range 3 {
		q := connect(t, n)
		_ = q.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		q.send((&wire.Fetch{Stream: st.ID, MaxBytes: 1}).AppendTo(nil, q.next()))
		f, err := q.read()
		t.Logf("another client's fetch %d: %v %v", try, f.Op, err)
	}
}

// 6. FromNext after OK
func TestZZNext(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.HotMemory = 1 })
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "a"})
	zzFill(p, st, 0, 3)
	corr, _ := p.open(st, wire.Open{})
	missed := 0
	for i := range 200 {
		q := connect(t, n)
		// Eight reads keep the readers busy: another client's.
		var b []byte
		for range 64 {
			b = (&wire.Fetch{Stream: st.ID, MaxBytes: 1, Start: wire.Start{From: wire.FromTime, Value: 1}}).AppendTo(b, q.next())
		}
		sub := q.next()
		b = (&wire.Subscribe{Filter: "a", Credit: 1 << 20, Start: wire.Start{From: wire.FromNext}}).AppendTo(b, sub)
		q.send(b)
		for {
			f, err := q.read()
			if err != nil {
				t.Fatal(err)
			}
			if f.Op == wire.OpOK {
				break
			}
		}
		p.send(wire.AppendPublish(nil, corr, batch(t, uint64(i), message{"a", "", "x"})))
		p.acks(corr, uint64(i), uint64(i)+1)
		_ = q.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		got := false
		for !got {
			f, err := q.read()
			if err != nil {
				break
			}
			got = f.Op == wire.OpRecords && f.Corr == sub
		}
		if !got {
			missed++
		}
		q.conn.Close()
		if missed > 2 {
			t.Logf("missed %d of %d records published after OK", missed, i+1)
			return
		}
	}
	t.Logf("missed %d", missed)
}

var _ net.Conn

func zzSeg(c *cursor) string { return c.reader.ZZ() }
