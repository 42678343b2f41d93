package storage

import "sort"

const (
	// hotOverhead is what an entry in the hot tail costs beside its payload.
	hotOverhead = 96
	// leastRing is how many entries there is room for where there are any.
	leastRing = 16
)

// hotTail keeps the newest entries of a log in memory: a ring, contiguous in index, that ends with the log's last entry
// or is empty. The payloads are the very slices given to Append. Guarded by Log.mu.
type hotTail struct {
	limit  int64 // bytes
	memory *Memory
	ring   []Entry // its length is a power of two
	head   int     // position of the oldest
	n      int
	bytes  int64
}

func hotCost(e *Entry) int64 { return int64(cap(e.Payload)) + hotOverhead }

// at returns the i-th oldest entry.
func (h *hotTail) at(i int) *Entry { return &h.ring[(h.head+i)&(len(h.ring)-1)] }

// push adds the log's next entry and then drops the oldest ones that are too many.
func (h *hotTail) push(e *Entry) {
	if h.limit < 0 {
		return
	}
	if h.n == len(h.ring) {
		h.grow()
	}
	*h.at(h.n) = *e
	h.n++
	h.account(hotCost(e))
	for h.n > 0 && (h.bytes > h.limit || h.memory.over()) {
		h.drop()
	}
	if h.n == 0 && len(h.ring) > leastRing { // others have the memory: what is left here is not counted
		h.ring, h.head = nil, 0
	}
}

func (h *hotTail) grow() {
	ring := make([]Entry, max(leastRing, 2*len(h.ring)))
	for i := range h.n {
		ring[i] = *h.at(i)
	}
	h.ring, h.head = ring, 0
}

// drop forgets the oldest entry.
func (h *hotTail) drop() {
	e := h.at(0)
	h.account(-hotCost(e))
	*e = Entry{}
	h.head = (h.head + 1) & (len(h.ring) - 1)
	h.n--
}

// truncate forgets the entries from index on.
func (h *hotTail) truncate(index Index) {
	for h.n > 0 && h.at(h.n-1).Index >= index {
		e := h.at(h.n - 1)
		h.account(-hotCost(e))
		*e = Entry{}
		h.n--
	}
}

// trim forgets the entries below index.
func (h *hotTail) trim(index Index) {
	for h.n > 0 && h.at(0).Index < index {
		h.drop()
	}
}

func (h *hotTail) clear() {
	h.truncate(0)
	h.ring, h.head = nil, 0
}

func (h *hotTail) account(n int64) {
	h.bytes += n
	h.memory.add(n)
}

// entry returns the entry at index, or nil.
func (h *hotTail) entry(index Index) *Entry {
	if h.n == 0 || index < h.at(0).Index || index > h.at(h.n-1).Index {
		return nil
	}
	return h.at(int(index - h.at(0).Index))
}

// find returns the position in the ring of the first entry that ends after offset. ok tells that nothing older than the
// tail holds the offset.
func (h *hotTail) find(offset Offset) (i int, ok bool) {
	if h.n == 0 || h.at(0).Base > offset {
		return 0, false
	}
	return sort.Search(h.n, func(i int) bool {
		e := h.at(i)
		return e.Base+Offset(e.Records) > offset
	}), true
}
