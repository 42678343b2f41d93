package broker

import (
	"fmt"
	"testing"

	"github.com/tidewire/tidewire/proto/wire"
)

// BenchmarkPublish measures a node and a bare connection in one process: PUBLISH frames of
// 128-byte records through TCP to the disk (fdatasync before every ack, one voter) and the ACK
// back. An operation is one batch.
func BenchmarkPublish(b *testing.B) {
	for _, shape := range []struct{ records, window int }{{1, 1}, {1, 64}, {500, 1}, {500, 40}} {
		b.Run(fmt.Sprintf("size=128B/batch=%d/window=%d", shape.records, shape.window), func(b *testing.B) {
			n := startNode(b, b.TempDir())
			p := connect(b, n)
			st := p.streamOf("bench")
			corr, _ := p.open(st, wire.Open{})
			value := string(make([]byte, 128))
			var messages []message
			for range shape.records {
				messages = append(messages, message{"bench", "", value})
			}
			frame := wire.AppendPublish(nil, corr, batch(b, 0, messages...))
			b.SetBytes(int64(shape.records * 128))
			b.ReportAllocs()
			sent, acked := 0, 0
			for b.Loop() {
				for ; sent < acked+shape.window; sent++ {
					p.send(frame)
				}
				for was := acked; acked == was; {
					f, err := p.read()
					if err != nil || f.Op != wire.OpAck {
						b.Fatal(f.Op, err)
					}
					var a wire.Ack
					if err := a.Decode(f.Body); err != nil {
						b.Fatal(err)
					}
					acked += int(a.Count) / shape.records
				}
			}
			b.ReportMetric(float64(acked*shape.records)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
