package raft

import (
	"testing"
)

func TestPublishIsDurableAndOrdered(t *testing.T) {
	n := newNode(t)
	n.open()
	p := n.partition().lead()
	for i := range 10 {
		b := batch(7, uint64(i), 100)
		pend := p.publish(&Pending{Producer: 7, Sequence: uint64(i), Count: 1}, b)
		if pend.Err != nil || pend.Offset != storageOffset(uint64(i)) || pend.Quorum != 1 || pend.Voters != 1 || pend.Term == 0 {
			t.Fatalf("batch %d: %+v", i, pend)
		}
		if hw := p.HighWatermark(); hw != pend.Offset+1 {
			t.Fatalf("high watermark %d behind the acknowledgement of %d", hw, pend.Offset)
		}
	}
	p.Close()
}
