package broker

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// A client that is turned away reads why and then the end, also if it spoke first, and whatever others who are turned
// away do: those here before it go on sending and never read.
func TestRefusedClientsAreTold(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.MaxConnections = 1 })
	alive(t, connect(t, n))
	var stubborn sync.WaitGroup
	for range 2 * maxLeaving {
		p := dial(t, n)
		stubborn.Go(func() {
			for {
				if _, err := p.conn.Write(make([]byte, 4<<10)); err != nil {
					return
				}
			}
		})
	}
	for i := range 100 {
		p := dial(t, n)
		p.send(hello().AppendTo([]byte(wire.Magic), 0))
		p.send((&wire.Metadata{}).AppendTo(nil, 1)) // it does not wait for WELCOME
		if e := p.recvError(wire.CodeOverloaded); e.Bits&wire.ErrorEndsConnection == 0 || e.Value != 1 {
			t.Fatalf("%d: %v", i, &e)
		}
		if _, err := p.read(); !errors.Is(err, io.EOF) {
			t.Fatalf("%d: behind the error %v, want the end", i, err)
		}
		p.conn.Close()
	}
	stubborn.Wait() // the node ends them
	if got := n.connections.Load(); got != 1 {
		t.Errorf("%d connections are counted, one is open", got)
	}
}

// Who is turned away and stays does not hold up the end of the node.
func TestRefusedClientsDoNotHoldStop(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.MaxConnections = 1 })
	connect(t, n).conn.Close()
	until(t, "nobody is connected", func() bool { return n.connections.Load() == 0 })
	connect(t, n)
	p := dial(t, n)
	p.recvError(wire.CodeOverloaded)
	stopNode(t, n)
	for _, c := range n.accepting.leaving {
		if c != nil {
			t.Error("a refused connection is still held")
		}
	}
}

// gnet must not get its hands on the zone of an address, a string that belongs to the net package.
func TestAddressesWithoutZone(t *testing.T) {
	tcp := &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 7, Zone: "eth0"}
	withoutZone(tcp)
	if got := tcp.String(); got != "[fe80::1]:7" {
		t.Error(got)
	}
	withoutZone(&net.UnixAddr{Name: "x"})
	withoutZone(nil)
}

// What refused connections hold is bounded in time.
func TestRefusedClientsAreLetGo(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.MaxConnections = 1 })
	connect(t, n)
	p := dial(t, n)
	p.recvError(wire.CodeOverloaded)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for { // it stays, and says something now and then, until the node has closed
		if _, err := p.conn.Write([]byte{0}); err != nil {
			break
		}
		<-tick.C
	}
}

// However many come at once, accepting them takes its share of the machine; a few do not wait, and the end does not either.
func TestAcceptingRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		a := newAcceptor(&Node{ctx: ctx}, nil)
		began := time.Now()
		for range acceptBurst / acceptCost {
			a.rest()
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("the first wait %s", waited)
		}
		const busy = 100 * time.Millisecond
		for range busy / acceptCost {
			a.rest() // most of it waiting for a loop
		}
		want := time.Duration(float64(busy) / acceptShare / float64(cores))
		if waited := time.Since(began); waited < want-time.Millisecond || waited > want+time.Millisecond {
			t.Errorf("%s of work have %s, want %s", busy, waited, want)
		}
		end()
		began = time.Now()
		for range 100 {
			a.rest()
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("a node that ends waits %s", waited)
		}
	})
}
