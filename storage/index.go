package storage

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"runtime/debug"
	"sort"
)

const (
	indexHead = 48
	indexItem = 32

	// indexBlock is how many bytes of a segment share an item.
	indexBlock = 4 << 10
)

var (
	_ = [1]struct{}{}[indexHead-(envelopeBytes+8+8+16)]
	_ = [1]struct{}{}[indexItem-(8+8+8+4+4)]
)

// sparseItem is an item of a sparse index: a frame, and what came before it.
type sparseItem struct {
	index    Index
	offset   Offset
	earlier  int64
	position int64
}

// sparseBuilder makes the items of a segment from its frames, given in order.
type sparseBuilder struct {
	items   []sparseItem
	block   int64
	maxTime int64
}

func (b *sparseBuilder) add(index Index, base Offset, time int64, records uint32, position int64) {
	if len(b.items) == 0 {
		b.maxTime = math.MinInt64
	}
	if block := position / indexBlock; len(b.items) == 0 || block != b.block {
		b.items = append(b.items, sparseItem{index: index, offset: base, earlier: b.maxTime, position: position})
		b.block = block
	}
	if records > 0 && time > b.maxTime {
		b.maxTime = time
	}
}

// encodeIndex returns the bytes of an index file.
func encodeIndex(id uint64, seed uint32, items []sparseItem) []byte {
	le := binary.LittleEndian
	b := make([]byte, indexHead+len(items)*indexItem)
	le.PutUint64(b[16:], id)
	le.PutUint64(b[24:], uint64(len(items)))
	sealEnvelope(b[:indexHead], magicIndex)
	for i, it := range items {
		p := b[indexHead+i*indexItem:]
		le.PutUint64(p[0:], uint64(it.index))
		le.PutUint64(p[8:], uint64(it.offset))
		le.PutUint64(p[16:], uint64(it.earlier))
		le.PutUint32(p[24:], uint32(it.position))
		le.PutUint32(p[28:], crc32.Update(seed, castagnoli, p[:28]))
	}
	return b
}

// errBadIndex says that an index file, or an item of it, cannot be used. It never leaves the package: the index is
// rebuilt.
var errBadIndex = errors.New("storage: bad index")

// sparse reads an index, mapped or in memory. Each item carries its own checksum, so that loading an index does not page
// it in; any item whose checksum is right is a correct place to start reading the segment from.
type sparse struct {
	seed  uint32
	items []byte
	n     int
	unmap func() error
}

// openIndex checks the header of an index file of segment id, mapped or in memory.
func openIndex(b []byte, id uint64, seed uint32) (*sparse, error) {
	index := &sparse{seed: seed}
	err := guarded(func() {
		if len(b) < indexHead || openEnvelope(b[:indexHead], magicIndex, "") != nil {
			panic(errBadIndex)
		}
		n := binary.LittleEndian.Uint64(b[24:])
		if binary.LittleEndian.Uint64(b[16:]) != id || !zero(b[32:indexHead]) ||
			(len(b)-indexHead)%indexItem != 0 || n != uint64(len(b)-indexHead)/indexItem {
			panic(errBadIndex)
		}
		index.items, index.n = b[indexHead:], int(n)
	})
	if err != nil {
		return nil, err
	}
	return index, nil
}

func (s *sparse) close() error {
	if s == nil || s.unmap == nil {
		return nil
	}
	return s.unmap()
}

// item decodes item i. It panics with errBadIndex: call it in guarded.
func (s *sparse) item(i int) sparseItem {
	p := s.items[i*indexItem : (i+1)*indexItem]
	le := binary.LittleEndian
	if crc32.Update(s.seed, castagnoli, p[:28]) != le.Uint32(p[28:]) {
		panic(errBadIndex)
	}
	return sparseItem{index: Index(le.Uint64(p)), offset: Offset(le.Uint64(p[8:])), earlier: int64(le.Uint64(p[16:])),
		position: int64(le.Uint32(p[24:]))}
}

// find returns the last item for which before holds, given that it holds for a prefix of the items. ok is false if it
// holds for none. A bad item, or a page that cannot be read, is errBadIndex.
func (s *sparse) find(before func(sparseItem) bool) (it sparseItem, ok bool, err error) {
	err = guarded(func() {
		if i := sort.Search(s.n, func(i int) bool { return !before(s.item(i)) }); i > 0 {
			it, ok = s.item(i-1), true
		}
	})
	return it, ok, err
}

// guarded runs read, which reads mapped memory, and returns errBadIndex if it panics with that or faults: a page that
// the disk cannot give, or that someone truncated away, is a SIGBUS, which ends the process unless the goroutine asked
// for a panic instead.
func guarded(read func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		_, fault := r.(interface{ Addr() uintptr })
		switch {
		case r == nil:
		case fault, r == errBadIndex:
			err = errBadIndex
		default:
			panic(r)
		}
	}()
	read()
	return nil
}

// buildSparse scans a sealed segment and returns its items. Damaged ranges have none.
func buildSparse(scan *scanner) ([]sparseItem, error) {
	var b sparseBuilder
	for {
		pos := scan.at.position
		f, _, g, err := scan.next()
		switch {
		case errors.Is(err, io.EOF):
			return b.items, nil
		case err != nil:
			return nil, err
		case g == nil:
			b.add(f.index, f.base, f.time, f.records, pos)
		}
	}
}
