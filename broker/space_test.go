package broker

import (
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
