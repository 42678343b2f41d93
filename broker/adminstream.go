package broker

import (
	"context"

	"github.com/tidewire/tidewire/cluster"
)

// update has the partition serve its stream as it is now, unless a later change came first.
func (p *partition) update(st *cluster.Stream) {
	for {
		old := p.meta.Load()
		if old.Revision >= st.Revision || p.meta.CompareAndSwap(old, st) {
			return
		}
	}
}

// announce has subscriptions that begin from now on reckon with the stream as it is about to be.
func (p *partition) announce(st *cluster.Stream) {
	for {
		old := p.coming.Load()
		if old != nil && old.Revision >= st.Revision || p.coming.CompareAndSwap(old, st) {
			return
		}
	}
}

// streamUpdated takes over a stream that was changed: first those who read without a filter get one
// if they may not see what it captures from now on, then publishers may use it, then subscriptions
// that meet it for the first time follow.
func (n *Node) streamUpdated(st *cluster.Stream) {
	var parts []*partition
	all := n.partitions.all()
	for i := range st.Partitions {
		if p := all[partKey{st.ID, uint32(i)}]; p != nil && !p.gone.Load() && p.stream().Revision < st.Revision {
			parts = append(parts, p)
		}
	}
	if len(parts) == 0 {
		return
	}
	for _, p := range parts {
		p.announce(st) // before narrow: a subscription that begins behind that has its filter
	}
	n.everyLoop(func(l *loop) { l.narrow(parts, st) })
	for _, p := range parts {
		p.update(st)
	}
	n.everyLoop(func(l *loop) { l.follow(parts) })
}

// everyLoop has each loop call f, and waits until all have.
func (n *Node) everyLoop(f func(*loop)) {
	done := make(chan struct{}, len(n.loops))
	asked := 0
	for _, l := range n.loops {
		l.mu.Lock()
		bound := l.events != nil // else it has no session, and forgets what is posted
		l.mu.Unlock()
		if bound {
			asked++
			l.post(func() { f(l); done <- struct{}{} })
		}
	}
	for range asked {
		select {
		case <-done:
		case <-n.ctx.Done():
			return
		}
	}
}

// narrow gives subscriptions that saw everything of the partitions a filter, where the stream, as it
// is about to be, captures subjects that theirs do not match.
func (l *loop) narrow(parts []*partition, st *cluster.Stream) {
	for s := range l.sessions {
		s.contained(func(s *session) { s.narrow(parts, st) })
	}
}

func (s *session) narrow(parts []*partition, st *cluster.Stream) {
	for sub := range s.subscriptions {
		if len(sub.cursors) == 0 || covers(st, sub.pattern) || !overlaps(parts[0].stream(), sub.pattern) {
			continue // it reads none of them, or may see everything
		}
		for _, p := range parts {
			key := partKey{st.ID, p.number}
			c := sub.cursors[key]
			if c == nil || c.filter != "" {
				continue
			}
			// A read under way may look at the cursor: another one goes on where it stands.
			place := c.place()
			sub.detach(key, c)
			sub.attach(key, p, sub.pattern, place)
		}
		sub.tidy()
	}
}

// updateStream changes a stream and returns when this node serves it so.
func (n *Node) updateStream(ctx context.Context, name string, update cluster.StreamUpdate, options ...cluster.Option) (*cluster.Stream, error) {
	st, err := n.catalog.UpdateStream(ctx, name, update, options...)
	if err != nil {
		return st, err
	}
	n.streamUpdated(st) // beside the catalog's own: whoever comes first, it is done when this returns
	return st, nil
}

// undeleteStream makes a deleted stream live again and returns when its partitions take publishes.
func (n *Node) undeleteStream(ctx context.Context, id uint64, options ...cluster.Option) (*cluster.Stream, error) {
	if st := n.catalog.State().Streams[id]; st != nil {
		known, err := n.roomFor(cluster.StreamSpec{Name: st.Name, Partitions: uint32(len(st.Partitions))})
		if err != nil {
			return nil, err
		}
		defer known()
	}
	return n.catalog.UndeleteStream(ctx, id, options...)
}

// revive starts an undeleted stream. What was stopping of it has stopped before: its log is free.
func (n *Node) revive(st *cluster.Stream) error {
	defer n.partitions.starting(st.ID)()
	n.stopStream(st, false) // only what its deletion marked
	return n.startStream(n.ctx, st)
}
