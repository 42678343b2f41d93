package bench

import (
	"fmt"
	"os"
	"time"
)

// Disk is what one small durable write costs on a disk, without a broker.
type Disk struct {
	Dir     string   `json:"dir" doc:"where it was measured"`
	Bytes   int      `json:"write_bytes" doc:"of each write"`
	Latency *Latency `json:"latency" doc:"of write and fdatasync"`
}

const (
	diskFile = 4 << 20
	diskRuns = 2000
	diskTime = 2 * time.Second
)

// MeasureDisk writes size bytes, at most 4 MiB, and syncs them (fdatasync), again and again, into a file in dir whose blocks were
// written before, as the node's segments are. It takes at most two seconds and leaves nothing behind.
func MeasureDisk(dir string, size int) (_ *Disk, err error) {
	f, err := os.CreateTemp(dir, ".tidewire-bench-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(make([]byte, diskFile)); err != nil {
		return nil, err
	}
	if err := datasync(f); err != nil {
		return nil, fmt.Errorf("sync %s: %w", f.Name(), err)
	}
	b := newValues(size, 1, false).next()
	h := NewHistogram()
	began := time.Now()
	for i := 0; i < diskRuns && time.Since(began) < diskTime; i++ {
		start := time.Now()
		if _, err := f.WriteAt(b, int64(i%(diskFile/size)*size)); err != nil {
			return nil, err
		}
		if err := datasync(f); err != nil {
			return nil, fmt.Errorf("sync %s: %w", f.Name(), err)
		}
		h.Record(time.Since(start))
	}
	return &Disk{Dir: dir, Bytes: size, Latency: h.Latency()}, nil
}
