package broker

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// What does not fit goes when a segment is sealed: a fast publisher brings gigabytes before somebody looks at all streams.
func TestRetentionFollowsSegments(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.KeepInterval = time.Hour })
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "a", Retention: wire.Retention{MaxBytes: 1 << 20}})
	corr, _ := p.open(st, wire.Open{})
	value := strings.Repeat("x", 100_000)
	published := uint64(0)
	until(t, "the first records go", func() bool {
		for range 10 {
			p.send(wire.AppendPublish(nil, corr, batch(t, published, message{"a", "", value})))
			p.acks(corr, published, published+1)
			published++
		}
		h, _ := p.fetch(wire.Fetch{Stream: st.ID, MaxBytes: 1 << 20, Start: wire.Start{From: wire.FromFirst}})
		return h.LogStart > 0
	})
}

// Age reaches also what is too little to fill a segment.
func TestQuietStreamsExpire(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixMilli())
	n := startNode(t, t.TempDir(), func(c *Config) {
		c.KeepInterval = 10 * time.Millisecond
		c.ClockSettle = time.Millisecond
		c.Clock = func() time.Time { return time.UnixMilli(now.Load()) }
	})
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "a", Retention: wire.Retention{MaxAge: time.Hour}})
	p.fill(st, 0, values("a", 5, "old%d"))
	now.Add(2 * time.Hour.Milliseconds())
	for deadline := time.Now().Add(patience); ; {
		h, _ := p.fetch(wire.Fetch{Stream: st.ID, MaxBytes: 1 << 20, Start: wire.Start{From: wire.FromFirst}})
		if h.LogStart == 5 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("log start %d, want 5", h.LogStart)
		}
	}
	p.fill(st, 0, values("a", 1, "new%d"))
	if _, got := p.fetch(wire.Fetch{Stream: st.ID, MaxBytes: 1 << 20}); len(got) != 1 || got[0].offset != 5 {
		t.Errorf("%+v", got)
	}
}
