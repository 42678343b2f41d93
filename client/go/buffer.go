package client

import (
	"math/bits"
	"sync"
)

// buffer holds the bytes of one frame that outlives the read buffer.
type buffer struct {
	b     []byte
	class int8 // of pools; -1: none
}

const (
	minClass = 9  // 512 bytes
	maxClass = 21 // 2 MiB, above the frame limit this client announces
)

var pools [maxClass + 1]sync.Pool

// getBuffer gives a buffer with len(b) == n.
func getBuffer(n int) *buffer {
	class := max(minClass, bits.Len(uint(n-1)))
	if class > maxClass {
		return &buffer{b: make([]byte, n), class: -1}
	}
	if v := pools[class].Get(); v != nil {
		buf := v.(*buffer)
		buf.b = buf.b[:n]
		return buf
	}
	return &buffer{b: make([]byte, n, 1<<class), class: int8(class)}
}

// free gives the buffer back. Builds with the race detector overwrite it, so that one who keeps
// borrowed bytes sees it.
func (b *buffer) free() {
	if b == nil || b.class < 0 {
		return
	}
	mangle(b.b)
	pools[b.class].Put(b)
}
