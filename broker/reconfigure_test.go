package broker

import (
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// Every name stands for a field that is there, so that a renamed one does not silently need a restart.
func TestReloadableFields(t *testing.T) {
	for name := range reloadable {
		if _, ok := reflect.TypeFor[Config]().FieldByName(name); !ok {
			t.Errorf("Config has no field %s", name)
		}
	}
}

func TestReconfigure(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	before := n.config()

	bad := *before
	bad.MaxRequests, bad.InFlightBytes, bad.MaxConnections = 7, 1, -1
	if changed, restart, err := n.Reconfigure(bad); err == nil || changed != nil || restart != nil ||
		!strings.Contains(err.Error(), "bytes in flight 1") || !strings.Contains(err.Error(), "connections -1") {
		t.Errorf("bad values: changed %v, restart %v, error %v", changed, restart, err)
	}
	if n.config() != before {
		t.Error("something of a refused configuration was taken over")
	}

	good := *before
	good.MaxConnections, good.IdleTimeout, good.KeepInterval, good.SegmentBytes, good.Logger = 1, time.Hour, time.Hour, 8<<20, nil
	changed, restart, err := n.Reconfigure(good)
	if want := []string{"MaxConnections", "IdleTimeout", "KeepInterval"}; err != nil || !slices.Equal(changed, want) {
		t.Errorf("changed %v, error %v; want %v", changed, err, want)
	}
	if !slices.Equal(restart, []string{"SegmentBytes"}) || n.config().SegmentBytes != before.SegmentBytes || n.config().Logger == nil {
		t.Errorf("restart %v, segment bytes %d", restart, n.config().SegmentBytes)
	}
	// The next connection is one too many; the one that is there is left alone.
	dial(t, n).recvError(wire.CodeOverloaded)
	p.streamOf("orders.new")
}

// What follows from a value that needs a restart waits for it too.
func TestReconfigureMemoryLimit(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.MemoryLimit = 1 << 30 })
	before := *n.config()
	for _, limit := range []int64{512 << 20, 2 << 30, 16 << 30} {
		cfg := before
		cfg.MemoryLimit = limit
		cfg.PublishMemory, cfg.HotMemory, cfg.OutboundMemory, cfg.InboundMemory, cfg.MaxConnections = 0, 0, 0, 0, 0
		changed, restart, err := n.Reconfigure(cfg)
		if err != nil || len(changed) > 0 || !slices.Equal(restart, []string{"MemoryLimit"}) {
			t.Errorf("%d: changed %v, restart %v, %v", limit, changed, restart, err)
		}
		if now := *n.config(); now.PublishMemory != before.PublishMemory || now.MaxConnections != before.MaxConnections || now.MemoryLimit != before.MemoryLimit {
			t.Errorf("%d: what holds has changed", limit)
		}
	}
}

// A client goes on with what WELCOME told it after a reload lowers it; the next one is told the new value.
func TestReconfigureKeepsPromises(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	old := n.config().Credit
	cfg := *n.config()
	cfg.Credit = 2 << 20
	if _, _, err := n.Reconfigure(cfg); err != nil {
		t.Fatal(err)
	}
	p.streamOf("orders.new")
	sub := p.subscribe(wire.Subscribe{Filter: "orders.>"})
	p.send(wire.Credit{Bytes: uint64(old) - (1 << 20)}.AppendTo(nil, sub))
	pub := connect(t, n)
	corr, _ := pub.open(pub.streamOf("orders.new"), idempotent)
	pub.send(wire.AppendPublish(nil, corr, batch(t, 0, values("orders.new", 1, "v%d")...)))
	p.receive(sub, 1)

	q := connect(t, n)
	sub = q.subscribe(wire.Subscribe{Filter: "nothing.>"})
	q.send(wire.Credit{Bytes: uint64(old)}.AppendTo(nil, sub))
	q.recvError(wire.CodeCredit)
}

// A thousand reloads beside publishers: each batch is acknowledged, in order.
func TestReconfigureUnderLoad(t *testing.T) {
	n := startNode(t, t.TempDir())
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	st := connect(t, n).streamOf("orders.new")
	for range 3 {
		p := connect(t, n)
		corr, _ := p.open(st, idempotent)
		publishing.Go(func() {
			for sequence := uint64(0); ; sequence += 4 {
				select {
				case <-stop:
					return
				default:
				}
				p.send(wire.AppendPublish(nil, corr, batch(t, sequence, values("orders.new", 4, "v%d")...)))
				p.acks(corr, sequence, sequence+4)
			}
		})
	}
	base := *n.config()
	for i := range 1000 {
		cfg := base
		cfg.KeepInterval = time.Duration(10+i%7) * time.Millisecond
		cfg.PublishMemory = int64(8+i%5) << 20
		cfg.HotMemory = int64(1 + i%3)
		cfg.InFlightBytes = int64(2+i%5) << 20
		cfg.MaxRequests = 8 + i%2
		if i%10 == 9 {
			cfg.InFlightBytes = 1
		}
		if _, _, err := n.Reconfigure(cfg); (err != nil) != (i%10 == 9) {
			t.Errorf("reload %d: %v", i, err)
		}
	}
	close(stop)
	publishing.Wait()
	if got := n.config().InFlightBytes; got != int64(2+998%5)<<20 {
		t.Errorf("bytes in flight %d are not the last good ones", got)
	}
}
