package wire

import (
	"bytes"
	"fmt"
	"testing"
)

// manyRecords is a batch of n records of size bytes each.
func manyRecords(t testing.TB, n, size int, mixed, zstd bool) []byte {
	t.Helper()
	var b Builder
	b.Reset(nil, MaxBatch)
	value := bytes.Repeat([]byte("tidewire"), size/8+1)[:size]
	for i := range n {
		subject := "orders.new"
		if mixed && i%2 == 1 {
			subject = "orders.paid"
		}
		if err := b.Append(subject, nil, value, nil, newYear+int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	return b.Finish(1<<21, zstd)
}

// receive is what a node does with a batch before it is queued.
func receive(body []byte) error {
	b, err := ParsePublish(body)
	if err != nil {
		return err
	}
	if err := b.Verify(); err != nil {
		return err
	}
	raw, err := b.Raw(nil)
	if err != nil {
		return err
	}
	return b.Check(raw)
}

// hot are the operations that run for each frame or record; none of them allocates.
func hot(t testing.TB) map[string]func() {
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	batch, mixed := manyRecords(t, 500, 128, false, false), manyRecords(t, 500, 128, true, false)
	var frames []byte
	for i := range uint64(100) {
		frames = (&Ack{Quorum: 1, Voters: 1, Sequence: i, Count: 1, Offset: i, Epoch: 1}).AppendTo(frames, 1)
	}
	var builder Builder
	buf := make([]byte, HeaderBytes, MaxBatch+HeaderBytes)
	value, key := make([]byte, 128), []byte("key-1")
	headers := []Header{{[]byte("trace"), []byte("value")}}
	out := make([]byte, 0, MaxFilteredBatch)
	return map[string]func(){
		"receive/records=500/size=128/subjects=one":   func() { check(receive(batch)) },
		"receive/records=500/size=128/subjects=mixed": func() { check(receive(mixed)) },
		"iterate/records=500/size=128": func() {
			b, err := ParseBatch(batch)
			check(err)
			var rec Record
			n := 0
			for it := b.Iterate(b.records); it.Next(&rec); {
				n += len(rec.Value)
			}
			if n != 500*128 {
				t.Fatal(n)
			}
		},
		"match/records=500": func() {
			b, err := ParseBatch(mixed)
			check(err)
			var rec Record
			n := 0
			for it := b.Iterate(b.records); it.Next(&rec); {
				if Match("orders.*", rec.Subject) && !Match("*.new", rec.Subject) {
					n++
				}
			}
			if n != 250 {
				t.Fatal(n)
			}
		},
		"decode/frames=100/op=ACK": func() {
			n := 0
			for rest := frames; len(rest) > 0; n++ {
				f, size, err := Decode(rest, DefaultFrameLimit)
				check(err)
				var a Ack
				check(a.Decode(f.Body))
				rest = rest[size:]
			}
			if n != 100 {
				t.Fatal(n)
			}
		},
		"build/records=500/size=128": func() {
			builder.Reset(buf, MaxBatch)
			for i := range int64(500) {
				check(builder.Append("orders.new", nil, value, nil, newYear+i))
			}
			PutPublishHeader(builder.Finish(0, false), 1, builder.Size())
		},
		"build/records=500/size=128/key=5/headers=1": func() {
			builder.Reset(buf, MaxBatch)
			for i := range int64(500) {
				check(builder.Append("orders.new", key, value, headers, newYear+i))
			}
			builder.Finish(0, false)
		},
		"build/records=500/size=128/subjects=mixed": func() {
			builder.Reset(buf, MaxBatch)
			for i := range int64(500) {
				subject := "orders.new"
				if i&1 == 1 {
					subject = "orders.paid"
				}
				check(builder.Append(subject, nil, value, nil, newYear+i))
			}
			builder.Finish(0, false)
		},
		"records/batches=16/size=64KiB": func() {
			frame, at := BeginRecords(out[:0], 1, &RecordsHeader{Stream: 5, HighWatermark: 1 << 21, First: 1 << 21, Next: 1 << 21})
			run := Run{Base: 1 << 21, Epoch: 7, Time: newYear, Batches: batch}
			for range 16 {
				frame = run.AppendTo(frame)
			}
			EndRecords(frame, at)
		},
		"partition/key=40": func() { PartitionOf("a.subject.longer.than.thirty-two.bytes.is.here", nil, 7) },
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	for name, do := range hot(t) {
		do() // buffers grow once
		if n := testing.AllocsPerRun(20, do); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	// Cutting a batch takes one Record on the heap, for keep; not one for each record.
	b, err := ParseBatch(manyRecords(t, 500, 128, true, false))
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 0, MaxFilteredBatch)
	if n := testing.AllocsPerRun(20, func() { filterHalf(t, out, &b) }); n > 1 {
		t.Errorf("AppendFiltered: %v allocations", n)
	}
}

func filterHalf(t testing.TB, out []byte, b *Batch) {
	if _, err := AppendFiltered(out, b, b.records, func(r *Record) bool { return Match("*.new", r.Subject) }); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkCodec(b *testing.B) {
	bytesOf := map[string]int64{
		"receive/records=500/size=128/subjects=one": 500 * 128, "receive/records=500/size=128/subjects=mixed": 500 * 128,
		"iterate/records=500/size=128": 500 * 128, "build/records=500/size=128": 500 * 128,
		"build/records=500/size=128/key=5/headers=1": 500 * 128, "build/records=500/size=128/subjects=mixed": 500 * 128,
		"records/batches=16/size=64KiB": 1 << 20,
	}
	for name, do := range hot(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(bytesOf[name])
			for b.Loop() {
				do()
			}
		})
	}
}

func BenchmarkAppendFiltered(b *testing.B) {
	for _, n := range []int{10, 500} {
		b.Run(fmt.Sprintf("records=%d/size=128/kept=half", n), func(b *testing.B) {
			h, err := ParseBatch(manyRecords(b, n, 128, true, false))
			if err != nil {
				b.Fatal(err)
			}
			out := make([]byte, 0, MaxFilteredBatch)
			b.ReportAllocs()
			b.SetBytes(int64(n) * 128)
			for b.Loop() {
				filterHalf(b, out, &h)
			}
		})
	}
}

func BenchmarkZstd(b *testing.B) {
	batch := manyRecords(b, 500, 128, false, true)
	raw := manyRecords(b, 500, 128, false, false)
	b.Run("decompress/records=500/size=128", func(b *testing.B) {
		h, err := ParseBatch(batch)
		if err != nil {
			b.Fatal(err)
		}
		scratch := make([]byte, 0, MaxBatch)
		b.ReportAllocs()
		b.SetBytes(500 * 128)
		for b.Loop() {
			if _, err := h.Raw(scratch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("compress/records=500/size=128", func(b *testing.B) {
		out := make([]byte, 0, MaxBatch)
		b.ReportAllocs()
		b.SetBytes(500 * 128)
		for b.Loop() {
			compress(out, raw)
		}
	})
}
