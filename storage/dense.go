package storage

import (
	"math"
	"sort"
)

// item is what the log remembers of an entry in the active segment.
type item struct {
	base     Offset
	time     int64
	term     Term
	position uint32
	length   uint32
	records  uint32
	kind     uint8
	damaged  bool // the entry is in a quarantined range; base is the range's first offset, the rest is unknown
}

const (
	denseChunk = 1024
	// firstChunk is what the first has room for in the beginning: most logs of a node with many have few entries.
	firstChunk = 8
	// maxItems is how many entries a segment takes, however small: all logs of a node have this index in memory, of 2.6 MB at most.
	maxItems = 1 << 16
)

// dense is the index of the active segment, an item for every entry. It grows by chunks, so adding copies nothing of what
// is there once the first is full. Guarded by Log.mu.
type dense struct {
	first   Index
	n       int
	chunks  [][]item
	maxTime int64 // greatest time of an entry with records
}

func newDense(first Index) dense { return dense{first: first, maxTime: math.MinInt64} }

func (d *dense) at(i int) *item { return &d.chunks[i/denseChunk][i%denseChunk] }

func (d *dense) add(it item) {
	if d.n%denseChunk == 0 {
		room := denseChunk
		if d.n == 0 {
			room = firstChunk
		}
		d.chunks = append(d.chunks, make([]item, 0, room))
	}
	last := &d.chunks[len(d.chunks)-1]
	*last = append(*last, it)
	d.n++
	if it.records > 0 && it.time > d.maxTime {
		d.maxTime = it.time
	}
}

// cut keeps the first n items.
func (d *dense) cut(n int) {
	d.n = n
	d.chunks = d.chunks[:(n+denseChunk-1)/denseChunk]
	if n%denseChunk != 0 {
		d.chunks[len(d.chunks)-1] = d.chunks[len(d.chunks)-1][:n%denseChunk]
	}
	d.maxTime = math.MinInt64
	for i := range n {
		if it := d.at(i); it.records > 0 && it.time > d.maxTime {
			d.maxTime = it.time
		}
	}
}

// clone returns a copy to cut: it shares the items, which never change once added.
func (d *dense) clone() dense {
	c := *d
	c.chunks = append([][]item(nil), d.chunks...)
	return c
}

// entry returns the item of index, or nil.
func (d *dense) entry(index Index) *item {
	if index < d.first || index-d.first >= Index(d.n) {
		return nil
	}
	return d.at(int(index - d.first))
}

// find returns the index of the entry that holds offset, given that one does: the last to begin at or before it.
// Entries without records begin where the next one does, so the last is the one that holds it.
func (d *dense) find(offset Offset) Index {
	i := sort.Search(d.n, func(i int) bool { return d.at(i).base > offset })
	return d.first + Index(i) - 1
}

// sparse returns the items of the sparse index for what is in d.
func (d *dense) sparse() []sparseItem {
	var b sparseBuilder
	for i := range d.n {
		if it := d.at(i); !it.damaged {
			b.add(d.first+Index(i), it.base, it.time, it.records, int64(it.position))
		}
	}
	return b.items
}
