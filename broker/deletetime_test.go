package broker

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidewire/tidewire/proto/wire"
)

func TestDeleteTime(t *testing.T) {
	const settle = time.Hour
	epoch := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	type look struct {
		wall, steady time.Duration // since the last look
		trusted      bool
	}
	for name, tc := range map[string]struct {
		newest time.Time
		looks  []look
	}{
		"steady":              {epoch, []look{{10 * time.Second, 10 * time.Second, true}, {100 * time.Hour, 100 * time.Hour, true}}},
		"slewed":              {epoch, []look{{70 * time.Second, 10 * time.Second, true}, {10 * time.Second, 70 * time.Second, true}}},
		"forward, then still": {epoch, []look{{1000 * time.Hour, time.Second, false}, {59 * time.Minute, 59 * time.Minute, false}, {time.Minute, time.Minute, true}}},
		"forward and back":    {epoch, []look{{1000 * time.Hour, time.Second, false}, {-1000 * time.Hour, time.Second, false}, {time.Hour, time.Hour, true}}},
		"back":                {epoch, []look{{-time.Hour, time.Second, false}, {time.Hour, time.Hour, true}}},
		"again and again":     {epoch, []look{{time.Hour, 0, false}, {59 * time.Minute, 59 * time.Minute, false}, {time.Hour, 0, false}, {59 * time.Minute, 59 * time.Minute, false}}},
		"down for a year":     {epoch.AddDate(-1, 0, 0), []look{{time.Second, time.Second, false}, {time.Hour, time.Hour, true}}},
		"down for an hour":    {epoch.Add(-time.Hour), []look{{time.Second, time.Second, true}}},
		"behind its records":  {epoch.AddDate(1, 0, 0), []look{{time.Second, time.Second, true}}},
		"without any records": {time.Time{}, []look{{time.Second, time.Second, true}}},
	} {
		wall, steady := epoch, time.Duration(0)
		d := &deleteTime{wall: func() time.Time { return wall }, steady: func() time.Duration { return steady }, log: zap.NewNop()}
		ms := int64(0)
		if !tc.newest.IsZero() {
			ms = tc.newest.UnixMilli()
		}
		d.start(ms, settle)
		for i, l := range tc.looks {
			wall, steady = wall.Add(l.wall), steady+l.steady
			if got := d.trusted(settle); got != l.trusted {
				t.Errorf("%s, look %d: trusted %v, want %v", name, i, got, l.trusted)
			}
		}
	}
}

// A clock that jumps forward by a year expires nothing at once, and does in the end if it stays there.
func TestClockJumps(t *testing.T) {
	for _, settle := range []time.Duration{time.Hour, time.Millisecond} {
		t.Run(fmt.Sprint(settle), func(t *testing.T) {
			var now, looks atomic.Int64
			now.Store(time.Now().UnixMilli())
			core, logs := observer.New(zapcore.WarnLevel)
			n := startNode(t, t.TempDir(), func(c *Config) {
				c.KeepInterval, c.DeleteGrace, c.ClockSettle = time.Millisecond, 24*time.Hour, settle
				c.Clock = func() time.Time { looks.Add(1); return time.UnixMilli(now.Load()) }
				c.Logger = zap.New(core)
			})
			p := connect(t, n)
			st := p.create(wire.CreateStream{Name: "a", Retention: wire.Retention{MaxAge: 7 * 24 * time.Hour}})
			p.fill(st, 0, values("a", 5, "old%d"))
			gone := p.create(wire.CreateStream{Name: "b"})
			p.send((&wire.DeleteStream{Name: "b"}).AppendTo(nil, p.next()))
			p.recv(wire.OpOK)

			now.Add(time.Duration(365 * 24 * time.Hour).Milliseconds())
			deadline := time.Now().Add(patience)
			for from := looks.Load(); looks.Load() < from+20; { // rounds of the keeper
				if time.Now().After(deadline) {
					t.Fatal("the keeper does not look at the clock")
				}
			}
			expired := func() bool {
				h, _ := p.fetch(wire.Fetch{Stream: st.ID, MaxBytes: 1 << 20, Start: wire.Start{From: wire.FromFirst}})
				return h.LogStart == 5 && n.catalog.State().Streams[gone.ID] == nil
			}
			if settle == time.Hour {
				if h, got := p.fetch(wire.Fetch{Stream: st.ID, MaxBytes: 1 << 20, Start: wire.Start{From: wire.FromFirst}}); h.LogStart != 0 || len(got) != 5 {
					t.Errorf("after the jump: log start %d, %d records", h.LogStart, len(got))
				}
				if n.catalog.State().Streams[gone.ID] == nil {
					t.Error("the deleted stream was purged before its grace time")
				}
			} else {
				for !expired() {
					if time.Now().After(deadline) {
						t.Fatal("nothing expires though the clock is steady")
					}
				}
			}
			warned := 0
			for _, e := range logs.All() {
				if strings.Contains(e.Message, "the clock jumped by") {
					warned++
				}
			}
			if warned != 1 {
				t.Errorf("%d warnings of one jump", warned)
			}
		})
	}
}
