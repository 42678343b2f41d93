package raft

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkPublish publishes 1 KiB batches, each with its own fdatasync'd acknowledgement: clients publish
// their next batch when the last one is answered. An op is a batch.
func BenchmarkPublish(b *testing.B) {
	for _, inFlight := range []int{1, 2, 4} {
		for _, clients := range []int{1, 16, 64, 256, 1000} {
			b.Run(fmt.Sprintf("entries=%d/clients=%d", inFlight, clients), func(b *testing.B) {
				benchmarkPublish(b, inFlight, clients, 1024)
			})
		}
	}
}

// BenchmarkPublish128 is the same with small batches.
func BenchmarkPublish128(b *testing.B) {
	for _, inFlight := range []int{1, 2} {
		for _, clients := range []int{1, 64, 1000} {
			b.Run(fmt.Sprintf("entries=%d/clients=%d", inFlight, clients), func(b *testing.B) {
				benchmarkPublish(b, inFlight, clients, 128)
			})
		}
	}
}

func benchmarkPublish(b *testing.B, inFlight, clients, size int) {
	n := newNode(b)
	n.open()
	data := batch(1, 1, size)
	var left atomic.Int64
	var answered atomic.Int64
	var latency atomic.Int64
	finished := make(chan struct{})
	type client struct {
		pend  Pending
		began time.Time
	}
	var p *Partition
	total := int64(b.N)
	wake := make(chan []*client, 1)
	cfg := PartitionConfig{
		ID: 1, Server: "1.1", Log: n.log, Stable: n.group(), InFlight: inFlight,
		Fatal: func(err error) { panic(err) },
		Committed: func(done []*Pending) {
			again := make([]*client, 0, len(done))
			now := time.Now()
			for _, d := range done {
				c := d.Owner.(*client)
				latency.Add(int64(now.Sub(c.began)))
				again = append(again, c)
			}
			wake <- again
			if answered.Add(int64(len(done))) >= total {
				close(finished)
			}
		},
	}
	var err error
	p, err = StartPartition(cfg)
	must(b, err)
	wait(b, p.Leading(), "leadership")
	left.Store(total)
	publish := func(c *client) {
		if left.Add(-1) < 0 {
			return
		}
		c.began = time.Now()
		c.pend.Sequence += uint64(c.pend.Count)
		if err := p.Enqueue(&c.pend, data); err != nil {
			panic(err)
		}
	}
	// The loop stands for an event loop: it publishes for all clients.
	var loop sync.WaitGroup
	loop.Go(func() {
		for {
			select {
			case cs := <-wake:
				for _, c := range cs {
					publish(c)
				}
				p.Flush()
			case <-finished:
				return
			}
		}
	})
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	before := n.fs.syncs.Load()
	b.ResetTimer()
	start := make([]*client, clients)
	for i := range start {
		start[i] = &client{pend: Pending{Producer: uint64(i + 1), Sequence: ^uint64(0), Count: 1}}
		start[i].pend.Owner = start[i]
	}
	wake <- start
	<-finished
	b.StopTimer()
	loop.Wait()
	b.ReportMetric(float64(n.fs.syncs.Load()-before)/float64(b.N), "fdatasync/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "batches/s")
	b.ReportMetric(float64(latency.Load())/float64(b.N)/1000, "µs/ack")
	p.Close()
}
