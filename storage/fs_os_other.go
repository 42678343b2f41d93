//go:build !linux

package storage

import (
	"math"
	"os"
)

// WriteVAt writes the buffers one by one: these systems are for development, not for production.
func (o *osFile) WriteVAt(buffers [][]byte, pos int64) (int, error) {
	total := 0
	for _, b := range buffers {
		n, err := o.f.WriteAt(b, pos)
		total, pos = total+n, pos+int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// datasync is os.File.Sync, which on darwin flushes the drive's own cache too.
func (o *osFile) datasync() error { return o.f.Sync() }

// space does not know: it reports a file system without limit.
func space(*os.File) (free, total int64, err error) { return math.MaxInt64, math.MaxInt64, nil }
