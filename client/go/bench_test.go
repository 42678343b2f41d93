package client

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// The null server answers every batch at once and stores nothing; to a subscription it sends one
// prepared frame after the other, as credit allows. It runs in a process of its own, so that the
// CPU time of this one is the client's alone.
const nullServerEnv = "TIDEWIRE_CLIENT_BENCH_SERVER"

func serveNull() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr())
	go func() { // ends with the parent
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		nc, err := ln.Accept()
		if err != nil {
			panic(err)
		}
		go nullConn(nc)
	}
}

func nullConn(nc net.Conn) {
	defer nc.Close()
	if _, err := io.ReadFull(nc, make([]byte, len(wire.Magic))); err != nil {
		return
	}
	buf := make([]byte, 4<<20)
	have := 0
	var out, push []byte
	var credit atomic.Int64
	more := make(chan struct{}, 1)
	defer close(more)
	offsets := map[uint32]uint64{}
	for {
		n, err := nc.Read(buf[have:])
		if err != nil {
			return
		}
		have += n
		at := 0
		out = out[:0]
		for {
			f, n, err := wire.Decode(buf[at:have], wire.DefaultFrameLimit)
			if err != nil {
				break
			}
			at += n
			switch f.Op {
			case wire.OpHello:
				w := wire.Welcome{
					Version: 1, Node: 1, FrameLimit: wire.DefaultFrameLimit, BatchLimit: wire.MaxBatch, InFlightBatches: wire.MaxInFlightBatches,
					InFlightBytes: 64 << 20, CreditLimit: 64 << 20,
				}
				out = w.AppendTo(out, f.Corr)
			case wire.OpMetadata:
				out = topologyOf(orders(1)).AppendTo(out, f.Corr, 0)
			case wire.OpOpen:
				out = (&wire.Opened{Producer: 1}).AppendTo(out, f.Corr)
			case wire.OpPublish:
				count := uint64(binary.LittleEndian.Uint16(f.Body[10:]))
				a := wire.Ack{Quorum: 1, Voters: 1, Sequence: binary.LittleEndian.Uint64(f.Body[12:]), Count: count, Offset: offsets[f.Corr], Epoch: 1}
				offsets[f.Corr] += count
				out = a.AppendTo(out, f.Corr)
			case wire.OpSub:
				var s wire.Subscribe
				if err := s.Decode(f.Body); err != nil {
					panic(err)
				}
				var size, records int
				fmt.Sscanf(s.Filter, "orders.%d.%d", &size, &records)
				credit.Store(int64(s.Credit))
				push = wire.AppendEmpty(nil, wire.OpOK, f.Corr)
				go pushNull(nc, f.Corr, size, records, &credit, more)
				out = append(out, push...)
			case wire.OpCredit:
				var c wire.Credit
				c.Decode(f.Body)
				credit.Add(int64(c.Bytes))
				select {
				case more <- struct{}{}:
				default:
				}
			}
		}
		have = copy(buf, buf[at:have])
		if len(out) > 0 {
			if _, err := nc.Write(out); err != nil {
				return
			}
		}
	}
}

func pushNull(nc net.Conn, corr uint32, size, records int, credit *atomic.Int64, more <-chan struct{}) {
	values := make([]string, records)
	for i := range values {
		values[i] = strings.Repeat("v", size)
	}
	batch := aBatch(values...)
	perFrame := max(1, 256<<10/len(batch))
	var frame []byte
	for base := uint64(0); ; {
		if credit.Load() <= 0 {
			if _, ok := <-more; !ok {
				return
			}
			continue
		}
		next := base + uint64(perFrame*records)
		h := wire.RecordsHeader{Stream: 7, HighWatermark: next, Next: next}
		dst, at := wire.BeginRecords(frame[:0], corr, &h)
		run := wire.Run{Base: base, Epoch: 1, Time: 1}
		for range perFrame {
			run.Batches = append(run.Batches, batch...)
		}
		frame = wire.EndRecords(run.AppendTo(dst), at)
		if _, err := nc.Write(frame); err != nil {
			return
		}
		credit.Add(-int64(len(frame)))
		base = next
	}
}

func nullServer(b *testing.B) (address string) {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), nullServerEnv+"=1")
	cmd.Stderr = os.Stderr
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); cmd.Wait() })
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(address)
}

func reportCPU(b *testing.B, start time.Duration, records int) {
	b.ReportMetric(float64(cpu()-start)/float64(records), "cpu-ns/record")
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkPublish is PublishAsync flat out to a server that answers at once: an op is a record.
func BenchmarkPublish(b *testing.B) {
	address := nullServer(b)
	for _, size := range []int{128, 1024} {
		for _, batch := range []int{1, 500, 65535} {
			for _, callback := range []bool{false, true} {
				b.Run(fmt.Sprintf("size=%d/batch=%d/callback=%t", size, batch, callback), func(b *testing.B) {
					c, err := Connect(b.Context(), address, WithMaxBatchRecords(batch), WithMaxBatchBytes(wire.MaxBatch))
					if err != nil {
						b.Fatal(err)
					}
					defer c.Close()
					m := Message{Subject: "orders.new", Value: make([]byte, size)}
					if _, err := c.Publish(b.Context(), m); err != nil {
						b.Fatal(err)
					}
					var done func(Ack, error)
					if callback {
						done = func(_ Ack, err error) {
							if err != nil {
								b.Error(err)
							}
						}
					}
					ctx := b.Context()
					b.SetBytes(int64(size))
					b.ReportAllocs()
					start, n := cpu(), 0
					for b.Loop() {
						n++
						if err := c.PublishAsync(ctx, m, done); err != nil {
							b.Fatal(err)
						}
					}
					if err := c.Flush(ctx); err != nil {
						b.Fatal(err)
					}
					reportCPU(b, start, n)
				})
			}
		}
	}
}

// BenchmarkRoundTrip is Publish with callers side by side: an op is a record.
func BenchmarkRoundTrip(b *testing.B) {
	address := nullServer(b)
	for _, callers := range []int{1, 64} {
		for _, batch := range []int{1, 65535} {
			b.Run(fmt.Sprintf("callers=%d/batch=%d", callers, batch), func(b *testing.B) {
				c, err := Connect(b.Context(), address, WithMaxBatchRecords(batch))
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				m := Message{Subject: "orders.new", Value: make([]byte, 128)}
				ctx := b.Context()
				b.SetParallelism((callers + 1) / 2)
				b.ReportAllocs()
				start := cpu()
				if callers == 1 {
					for range b.N {
						if _, err := c.Publish(ctx, m); err != nil {
							b.Fatal(err)
						}
					}
				} else {
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							if _, err := c.Publish(ctx, m); err != nil {
								b.Error(err)
							}
						}
					})
				}
				reportCPU(b, start, b.N)
			})
		}
	}
}

// BenchmarkConsume iterates over what a server pushes as fast as credit allows: an op is a record.
func BenchmarkConsume(b *testing.B) {
	address := nullServer(b)
	for _, size := range []int{128, 1024} {
		for _, batch := range []int{1, 500} {
			b.Run(fmt.Sprintf("size=%d/batch=%d", size, batch), func(b *testing.B) {
				c, err := Connect(b.Context(), address)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				c.topology.learn(topologyOf(orders(1)))
				s, err := c.Subscribe(b.Context(), fmt.Sprintf("orders.%d.%d", size, batch), FromFirst())
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				start, n := cpu(), 0
				for rec, err := range s.All(b.Context()) {
					if err != nil || len(rec.Value) != size {
						b.Fatal(err, len(rec.Value))
					}
					if n++; n >= b.N {
						break
					}
				}
				reportCPU(b, start, n)
			})
		}
	}
}
