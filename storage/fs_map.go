//go:build (linux && (amd64 || arm64)) || (darwin && (amd64 || arm64))

package storage

import (
	"os"
	"sync"

	"github.com/tysonmote/gommap"
)

// mapping is a gommap.MMap that is unmapped once: a second munmap would take away whatever lies there by then.
type mapping struct {
	mu sync.Mutex
	m  gommap.MMap
}

func mapFile(f *os.File) (Mapping, error) {
	m, err := gommap.Map(f.Fd(), gommap.PROT_READ, gommap.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &mapping{m: m}, nil
}

func (m *mapping) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.m
}

func (m *mapping) Unmap() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m == nil {
		return nil
	}
	gone := m.m
	m.m = nil
	return gone.UnsafeUnmap()
}
