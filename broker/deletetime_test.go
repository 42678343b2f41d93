package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
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
		seen  time.Time
		looks []look
		doubt bool
	}{
		"steady":              {epoch, []look{{10 * time.Second, 10 * time.Second, true}, {100 * time.Hour, 100 * time.Hour, true}}, false},
		"slewed":              {epoch, []look{{70 * time.Second, 10 * time.Second, true}, {10 * time.Second, 70 * time.Second, true}}, false},
		"forward, then still": {epoch, []look{{1000 * time.Hour, time.Second, false}, {59 * time.Minute, 59 * time.Minute, false}, {time.Minute, time.Minute, true}}, false},
		"forward and back":    {epoch, []look{{1000 * time.Hour, time.Second, false}, {-1000 * time.Hour, time.Second, false}, {time.Hour, time.Hour, true}}, false},
		"back":                {epoch, []look{{-time.Hour, time.Second, false}, {time.Hour, time.Hour, true}}, false},
		"again and again":     {epoch, []look{{time.Hour, 0, false}, {59 * time.Minute, 59 * time.Minute, false}, {time.Hour, 0, false}, {59 * time.Minute, 59 * time.Minute, false}}, false},
		"down for a year":     {epoch.AddDate(-1, 0, 0), []look{{time.Second, time.Second, false}, {time.Hour, time.Hour, true}}, false},
		"down for an hour":    {epoch.Add(-time.Hour), []look{{time.Second, time.Second, true}}, false},
		"set back":            {epoch.AddDate(1, 0, 0), []look{{time.Second, time.Second, true}}, false},
		"in doubt before":     {epoch, []look{{59 * time.Minute, 59 * time.Minute, false}, {time.Minute, time.Minute, true}}, true},
		"a new node":          {time.Time{}, []look{{time.Second, time.Second, true}}, false},
	} {
		wall, steady := epoch, time.Duration(0)
		d := &deleteTime{wall: func() time.Time { return wall }, steady: func() time.Duration { return steady }, log: zap.NewNop(),
			note: func(clockNote, bool) error { return nil }}
		d.start(clockNote{tc.seen, tc.doubt}, 24*time.Hour)
		for i, l := range tc.looks {
			wall, steady = wall.Add(l.wall), steady+l.steady
			d.look()
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
				if settle < time.Hour {
					c.DeleteGrace = 500 * time.Millisecond // which has to pass again after the jump; before it, time stands still
				}
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

// A clock that is wrong at a start takes nothing: neither the records of a deleted stream, were they all there are, nor,
// after another restart, what is old to a clock by which new records have been stamped meanwhile.
func TestClockJumpsAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	var now, looks atomic.Int64
	now.Store(time.Now().UnixMilli())
	start := func() *Node {
		n := startNode(t, dir, func(c *Config) {
			c.KeepInterval = time.Millisecond
			c.Clock = func() time.Time { looks.Add(1); return time.UnixMilli(now.Load()) }
		})
		from := looks.Load()
		until(t, "the keeper looks at the clock", func() bool { return looks.Load() > from+20 })
		return n
	}
	n := start()
	p := connect(t, n)
	const week = 7 * 24 * time.Hour
	p.fill(p.create(wire.CreateStream{Name: "a", Retention: wire.Retention{MaxAge: week}}), 0, values("a", 5, "old%d"))
	gone := administer(t, n).delete("a")
	stopNode(t, n)

	now.Add(365 * 24 * time.Hour.Milliseconds())
	n = start()
	a := administer(t, n)
	back, err := a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Id: gone.Id})
	if err != nil {
		t.Fatalf("a deleted stream is lost to a clock that jumped: %v", err)
	}
	p = connect(t, n)
	p.fill(p.create(wire.CreateStream{Name: "b"}), 0, values("b", 1, "new%d")) // of that clock
	a.delete("b")
	stopNode(t, n)

	n = start()
	p = connect(t, n)
	if h, got := p.fetch(wire.Fetch{Stream: back.Stream.Id, MaxBytes: 1 << 20, Start: wire.Start{From: wire.FromFirst}}); h.LogStart != 0 || len(got) != 5 {
		t.Errorf("log start %d, %d records, want 0 and 5", h.LogStart, len(got))
	}
	stopNode(t, n)

	now.Add(-365 * 24 * time.Hour.Milliseconds()) // somebody has put it right
	n = start()
	if noted, err := n.data.readClock(); !noted.doubted || err != nil {
		t.Errorf("the doubt is forgotten before the clock was steady: %+v, %v", noted, err)
	}
}

// A doubt that has passed is not remembered.
func TestClockSettles(t *testing.T) {
	dir := t.TempDir()
	var now, looks atomic.Int64
	now.Store(time.Now().UnixMilli())
	n := startNode(t, dir, func(c *Config) {
		c.KeepInterval, c.ClockSettle, c.DeleteGrace = time.Millisecond, 500*time.Millisecond, time.Millisecond
		c.Clock = func() time.Time { looks.Add(1); return time.UnixMilli(now.Load()) }
	})
	from := looks.Load()
	until(t, "the keeper looks at the clock", func() bool { return looks.Load() > from+20 })
	now.Add(time.Hour.Milliseconds())
	doubted := func() bool {
		noted, err := n.data.readClock()
		return noted.doubted && err == nil
	}
	until(t, "the clock is in doubt", doubted)
	until(t, "it is believed again", func() bool { return !doubted() })
}

// A clock that jumps, and a node that is killed before it looks at the clock again: what was stored meanwhile, by that
// clock, does not speak for it.
func TestClockJumpsBeforeAKill(t *testing.T) {
	dir := t.TempDir()
	var now atomic.Int64
	now.Store(time.Now().UnixMilli())
	start := func() *Node {
		return startNode(t, dir, func(c *Config) {
			c.KeepInterval = time.Hour
			c.Clock = func() time.Time { return time.UnixMilli(now.Load()) }
		})
	}
	noted := func(n *Node) (c clockNote) {
		until(t, "the clock is noted", func() (ok bool) {
			c, _ = n.data.readClock()
			return !c.seen.IsZero()
		})
		return c
	}
	n := start()
	if c := noted(n); c.doubted {
		t.Fatal("the clock of a new node is in doubt")
	}
	p := connect(t, n)
	st := p.create(wire.CreateStream{Name: "a", Retention: wire.Retention{MaxAge: 7 * 24 * time.Hour}})
	p.fill(st, 0, values("a", 5, "old%d"))
	now.Add(365 * 24 * time.Hour.Milliseconds())
	p.fill(p.create(wire.CreateStream{Name: "b"}), 0, values("b", 1, "new%d"))
	stopNode(t, n) // which does not look at the clock

	n = start()
	until(t, "the clock is in doubt", func() bool { return noted(n).doubted })
	p = connect(t, n)
	if h, got := p.fetch(wire.Fetch{Stream: st.ID, MaxBytes: 1 << 20, Start: wire.Start{From: wire.FromFirst}}); h.LogStart != 0 || len(got) != 5 {
		t.Errorf("log start %d, %d records, want 0 and 5", h.LogStart, len(got))
	}
}

func TestClockNotes(t *testing.T) {
	d, _, err := openDataDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { d.close() }()
	if got, err := d.readClock(); got != (clockNote{}) || err != nil {
		t.Errorf("nothing noted: %+v, %v", got, err)
	}
	d.close()
	if d, _, err = openDataDir(d.dir); err != nil {
		t.Fatal(err)
	}
	if got, err := d.readClock(); !got.doubted || err == nil {
		t.Errorf("the note of a node that is not new was lost: %+v, %v", got, err)
	}
	for _, want := range []clockNote{{time.UnixMilli(1e12).UTC(), true}, {time.UnixMilli(2e12).UTC(), false}} {
		if err := d.writeClock(want, want.doubted); err != nil {
			t.Fatal(err)
		}
		if got, err := d.readClock(); got != want || err != nil {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	for _, damaged := range []string{"", "2026-01-02T03:04:05.006Z", "2026-01-02T03:04:05.006Z nonsense\n", strings.Repeat("\x00", 34)} {
		if err := os.WriteFile(filepath.Join(d.dir, clockFile), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := d.readClock(); !got.doubted || err == nil {
			t.Errorf("%q is read as %+v, %v", damaged, got, err)
		}
	}
}
