package telemetry

import (
	"sync/atomic"

	"github.com/tidewire/tidewire/proto/wire"
)

// codeCount is how many codes of the wire protocol are told apart; 0 is OK, and what is above them all
// is counted with the last.
const codeCount = 64

// Codes counts by code of the wire protocol.
type Codes [codeCount]atomic.Uint64

// Add adds n under a code; 0 is OK.
func (c *Codes) Add(code wire.Code, n uint64) { c[min(int(code), codeCount-1)].Add(n) }

// codeName is the value of a label.
func codeName(i int) string {
	if i == 0 {
		return "OK"
	}
	return wire.Code(i).String()
}

// Flow counts batches that went somewhere.
type Flow struct{ Batches, Records, Bytes atomic.Uint64 }

// Add counts.
func (f *Flow) Add(batches, records, bytes uint64) {
	f.Batches.Add(batches)
	f.Records.Add(records)
	f.Bytes.Add(bytes)
}

// Loop is what one event loop counts. Only that loop adds, so no addition waits for another
// processor's cache; anybody may read.
type Loop struct {
	Published      Codes // batches
	PublishedBytes Codes
	Records        atomic.Uint64 // acknowledged

	Pushed, Fetched Flow // deliveries, by kind

	Refused         Codes // connections
	RefusedRequests Codes
	Foreign, Panics atomic.Uint64
	Accepted        atomic.Uint64

	// Gauges.
	Wire, Sessions, Producers, Subscriptions, Credit atomic.Int64

	_ [64]byte // the next one lies on another cache line
}

// Acknowledged counts a batch that was answered with ACK.
func (l *Loop) Acknowledged(records uint32, bytes int64) {
	l.Published[0].Add(1)
	l.PublishedBytes[0].Add(uint64(bytes))
	l.Records.Add(uint64(records))
}

// RefusedBatch counts a batch that was answered with an error.
func (l *Loop) RefusedBatch(code wire.Code, bytes int64) {
	l.Published.Add(code, 1)
	l.PublishedBytes.Add(code, uint64(bytes))
}
