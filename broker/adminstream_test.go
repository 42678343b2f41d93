package broker

import (
	"testing"
	"time"

	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
)

// grown is the stream of the only partition there is, and as it is with another subject.
func grown(t *testing.T, n *Node) (key partKey, p *partition, st *cluster.Stream) {
	t.Helper()
	for key, p = range n.partitions.all() {
		next := *p.stream()
		next.Subjects = append([]string{"bills"}, next.Subjects...)
		next.Revision++
		return key, p, &next
	}
	t.Fatal("no partition")
	return key, nil, nil
}

// onSession has the only session's loop call f.
func onSession(n *Node, f func(*session)) {
	n.everyLoop(func(l *loop) {
		for s := range l.sessions {
			f(s)
		}
		l.flush()
	})
}

// A subscription that is still looking for the time it begins at does not begin elsewhere when its stream is updated, and goes on
// though the look that is of no use any more has all its credit.
func TestNarrowKeepsTheStart(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	p.fill(p.create(wire.CreateStream{Name: "orders", Subjects: []string{"orders.>"}, Partitions: 1, Replicas: 1}), 0, values("orders.a", 2, "%d"))
	key, part, st := grown(t, n)
	const corr = 1000
	onSession(n, func(s *session) {
		later := wire.Start{From: wire.FromTime, Value: uint64(time.Now().Add(time.Hour).UnixMilli())}
		if err := s.subscribe(corr, &wire.Subscribe{Filter: "orders.>", Start: later, Credit: 1000}); err != nil {
			t.Error(err)
		}
		if c := s.conversations[corr].(*subscription).cursors[key]; c.located || c.filter != "" {
			t.Error("it is located, or has a filter: this tests nothing")
		}
		s.narrow([]*partition{part}, st) // before the reader's answer, which comes to this loop
	})
	until(t, "located", func() (located bool) {
		onSession(n, func(s *session) {
			c := s.conversations[corr].(*subscription).cursors[key]
			if located = c.located; located && c.next != 2 {
				t.Errorf("it begins at %d, want 2", c.next)
			}
		})
		return located
	})
	p.recv(wire.OpOK)
	alive(t, p) // with no RECORDS before
}

// A subscription that begins between the filters and the new subjects of an update has a filter too.
func TestSubscriptionInTheMiddleOfAnUpdate(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	p.create(wire.CreateStream{Name: "orders", Subjects: []string{"orders.>"}, Partitions: 1, Replicas: 1})
	key, part, st := grown(t, n)
	part.announce(st)
	const corr = 1000
	onSession(n, func(s *session) {
		if err := s.subscribe(corr, &wire.Subscribe{Filter: "orders.>", Start: wire.Start{From: wire.FromNext}, Credit: 1 << 20}); err != nil {
			t.Error(err)
		}
		if s.conversations[corr].(*subscription).cursors[key].filter == "" {
			t.Error("it would see bills, and asked for orders.>")
		}
	})
}
