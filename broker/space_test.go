package broker

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidewire/tidewire/proto/wire"
)

// On a disk with less free than is to be kept, nothing new is stored and what is there is served.
func TestMinFree(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir)
	p := connect(t, n)
	p.fill(p.streamOf("a"), 0, values("a", 3, "%d"))
	stopNode(t, n)

	n = startNode(t, dir, func(c *Config) { c.MinFree = 1 << 60 })
	if d := n.diskState(); !d.Full || d.Floor != 1<<60 || d.Free <= 0 || d.Total < d.Free {
		t.Errorf("%+v", d)
	}
	p = connect(t, n)
	st := p.streamOf("a")
	corr, _ := p.open(st, wire.Open{})
	p.send(wire.AppendPublish(nil, corr, batch(t, 0, message{"a", "", "v"})))
	if e := p.recvError(wire.CodeOverloaded); !e.Retriable() || e.RetryAfter == 0 || e.Bits&wire.ErrorOneBatch == 0 {
		t.Errorf("%+v", e)
	}
	p.send((&wire.CreateStream{Name: "b"}).AppendTo(nil, p.next()))
	p.recvError(wire.CodeOverloaded)
	p.receive(p.subscribe(wire.Subscribe{Filter: "a", Start: wire.Start{From: wire.FromFirst}}), 3)
}

// A refusal names the number that free is compared with, also while publishes do not go on though the floor is free again.
func TestRefusalNamesWhatIsCompared(t *testing.T) {
	const floor, taken = 800, 30
	s := &space{look: make(chan struct{}, 1)}
	s.endLook(s.beginLook(), floor+50, 1<<20, floor, taken)
	if want := "850 bytes are free; publishes go on when 930 are (800 are kept free)"; !strings.Contains(s.refusal().Error(), want) {
		t.Errorf("it says %q", s.refusal())
	}
	if room := s.endLook(s.beginLook(), s.resume.Load(), 1<<20, floor, taken); room != floor/resumeShare {
		t.Errorf("with what it names there is room for %d, want %d", room, floor/resumeShare)
	}
	// A burst is refused before a look says that the disk is full.
	s.endLook(s.beginLook(), 10*floor, 1<<20, floor, 0)
	s.took(10 * floor)
	if !s.full.Load() || !strings.Contains(s.refusal().Error(), "once it was looked at again") {
		t.Errorf("it says %q", s.refusal())
	}
}

// What happens while the disk is being looked at is counted once at least, and no longer once a later look has seen it.
func TestLookForgetsNothing(t *testing.T) {
	const floor, unit = 1000, 100
	fresh := func(free int64) *space {
		s := &space{look: make(chan struct{}, 1)}
		s.endLook(s.beginLook(), free, 1<<20, floor, 0)
		return s
	}
	fits := func(s *space) (count int) {
		for s.Reserve(unit) {
			count++
		}
		return count
	}
	// Spares leave the floor once more above it.
	if got := fits(fresh(2*floor + 5*unit)); got != 5 {
		t.Fatalf("%d fit, want 5", got)
	}
	for name, tc := range map[string]struct {
		before, meanwhile func(*space)
		fit               int
	}{
		"nothing":                       {fit: 5},
		"reserved before":               {before: func(s *space) { s.Reserve(unit) }, fit: 4},
		"reserved meanwhile":            {meanwhile: func(s *space) { s.Reserve(unit) }, fit: 4},
		"released meanwhile":            {before: func(s *space) { s.Reserve(unit) }, meanwhile: func(s *space) { s.Release(unit) }, fit: 4},
		"released before":               {before: func(s *space) { s.Reserve(unit); s.Release(unit) }, fit: 5}, // free shows it
		"reserved and released between": {meanwhile: func(s *space) { s.Reserve(unit); s.Release(unit) }, fit: 4},
	} {
		s := fresh(2*floor + 5*unit)
		if tc.before != nil {
			tc.before(s)
		}
		began := s.beginLook()
		if tc.meanwhile != nil {
			tc.meanwhile(s)
		}
		s.endLook(began, 2*floor+5*unit, 1<<20, floor, 0)
		if got := fits(s); got != tc.fit {
			t.Errorf("%s: %d fit, want %d", name, got, tc.fit)
		}
	}
	s := fresh(2*floor + 5*unit)
	s.Reserve(unit)
	s.Release(unit)
	if got := fits(s); got != 4 {
		t.Errorf("before the next look, room given back was promised again: %d fit", got)
	}

	// Publishes: what is admitted while the disk is asked counts against what is left.
	s = fresh(3 * floor)
	began := s.beginLook()
	s.took(floor/2 - frameCost)
	s.endLook(began, 3*floor, 1<<20, floor, 0)
	if got := s.left.Load(); got != 0 {
		t.Errorf("%d left, want 0", got)
	}
}

// However looks and reservations meet, no more is promised than there is.
func TestReserveBesideLooks(t *testing.T) {
	const floor, unit, spares = 1 << 20, 100, 50
	s := &space{look: make(chan struct{}, 1)}
	free := int64(2*floor + spares*unit) // nothing is written meanwhile
	s.endLook(s.beginLook(), free, 1<<30, floor, 0)
	var promised atomic.Int64
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				s.endLook(s.beginLook(), free, 1<<30, floor, 0)
			}
		}
	})
	var reservers sync.WaitGroup
	for range 4 {
		reservers.Go(func() {
			for range 2000 {
				if s.Reserve(unit) {
					promised.Add(unit)
				}
			}
		})
	}
	reservers.Wait()
	close(done)
	wg.Wait()
	if got := promised.Load(); got != spares*unit {
		t.Errorf("%d bytes were promised, there are %d", got, spares*unit)
	}
}

// A kill while the reserve is made leaves a part of it, or nothing in the file.
func TestReserveHalfMade(t *testing.T) {
	dir := t.TempDir()
	stopNode(t, startNode(t, dir))
	for _, left := range []int64{0, 1 << 20} {
		if err := os.WriteFile(filepath.Join(dir, reserveFile), make([]byte, left), 0o600); err != nil {
			t.Fatal(err)
		}
		n := startNode(t, dir)
		until(t, "the reserve is whole", func() bool {
			size, _ := n.data.fs.Size(reserveFile)
			return size == min(reserveBytes, n.diskState().Floor/2)
		})
		stopNode(t, n)
	}
}

// Where others fill the disk, the node has a reserve to delete streams with; it is made anew when there is room.
func TestReserve(t *testing.T) {
	n := startNode(t, t.TempDir())
	size := func() int64 {
		s, _ := n.data.fs.Size(reserveFile)
		return s
	}
	until(t, "the reserve is made", func() bool { return size() > 0 })
	cfg := *n.config()
	cfg.MinFree = -1 // nothing is kept: no reserve is made anew
	n.cfg.Store(&cfg)
	if free := n.diskState().Free; free < size() {
		t.Fatalf("%d bytes are free", free)
	}
	until(t, "nothing is kept free", func() bool { return n.diskState().Floor == 0 })
	if size() == 0 {
		t.Error("given up though the disk is not full")
	}
}
