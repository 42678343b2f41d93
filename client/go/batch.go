package client

import (
	"encoding/binary"
	"hash/crc32"
	"sync"

	"github.com/tidewire/tidewire/proto/wire"
)

// batch is one batch on its way: built, sent as often as needed, answered.
type batch struct {
	buf    []byte // a PUBLISH frame: room for its header, then the batch
	first  uint64 // sequence of the first record
	count  uint32
	cost   int64  // held in the budget
	ticket uint64 // counts the batches of a producer; see Flush
	shift  uint64 // records before it that were dropped: its sequence falls by so many when it is sent again

	again    bool // refused, but not for good: to be sent again
	finished bool // acknowledged or failed; leaves the queue with those before it
	unsure   bool // may be stored: it was sent, and no answer came or will come

	waits []completion // of Publish
	calls []completion // of PublishAsync
}

// size is the bytes that count against the node's bound.
func (b *batch) size() int { return len(b.buf) - wire.HeaderBytes }

// batches keeps batches for reuse, buffers included. It is the client's own: a batch that fails in
// Close may still be known to an outbox of that client, and to no other.
type batches struct{ pool sync.Pool }

func (p *batches) get() *batch {
	if b, ok := p.pool.Get().(*batch); ok {
		return b
	}
	return new(batch)
}

// put takes a batch that neither a producer nor an outbox knows any more.
func (p *batches) put(b *batch) {
	if !reuseBatches {
		return
	}
	clear(b.waits)
	*b = batch{buf: b.buf[:0], waits: b.waits[:0]}
	p.pool.Put(b)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// renumber gives an encoded batch another sequence, which its CRC covers. Offsets: the picture in
// proto/wire/batch.go.
func (b *batch) renumber(first uint64) {
	if b.first == first {
		return
	}
	b.first = first
	raw := b.buf[wire.HeaderBytes:]
	binary.LittleEndian.PutUint64(raw[12:], first)
	binary.LittleEndian.PutUint32(raw[4:], crc32.Checksum(raw[8:], castagnoli))
}

// ring is a queue of batches that can be looked into.
type ring struct {
	slots []*batch // a power of two
	head  int
	n     int
}

func (r *ring) len() int        { return r.n }
func (r *ring) at(i int) *batch { return r.slots[(r.head+i)&(len(r.slots)-1)] }

func (r *ring) push(b *batch) {
	if r.n == len(r.slots) {
		slots := make([]*batch, max(8, 2*r.n))
		for i := range r.n {
			slots[i] = r.at(i)
		}
		r.slots, r.head = slots, 0
	}
	r.slots[(r.head+r.n)&(len(r.slots)-1)] = b
	r.n++
}

func (r *ring) pop() *batch {
	b := r.slots[r.head]
	r.slots[r.head] = nil
	r.head = (r.head + 1) & (len(r.slots) - 1)
	r.n--
	return b
}

// compact removes what is finished, wherever it stands, and hands it to put.
func (r *ring) compact(put func(*batch)) {
	n := r.n
	for range n {
		if b := r.pop(); b.finished {
			put(b)
		} else {
			r.push(b)
		}
	}
}
