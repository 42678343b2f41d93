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
