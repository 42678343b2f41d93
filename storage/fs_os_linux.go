package storage

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxVector is IOV_MAX: the kernel refuses longer vectors.
const maxVector = 1024

// WriteVAt writes with pwritev, in several calls if there are more than maxVector buffers or the kernel stops short.
func (o *osFile) WriteVAt(buffers [][]byte, pos int64) (int, error) {
	total := 0
	for len(buffers) > 0 {
		part := buffers[:min(len(buffers), maxVector)]
		n, err := unix.Pwritev(o.fd, part, pos)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return total, os.NewSyscallError("pwritev", err)
		}
		want := 0
		for _, b := range part {
			want += len(b)
		}
		total, pos = total+n, pos+int64(n)
		if n == want {
			buffers = buffers[len(part):]
			continue
		}
		// A short write: on a disk file this means that space or a limit ran out, which the next call reports.
		rest, err := o.writeRest(part, n, pos)
		total, pos = total+rest, pos+int64(rest)
		if err != nil {
			return total, err
		}
		buffers = buffers[len(part):]
	}
	return total, nil
}

// writeRest writes what a short pwritev left of part, of which the first done bytes are written.
func (o *osFile) writeRest(part [][]byte, done int, pos int64) (int, error) {
	total := 0
	for _, b := range part {
		if done >= len(b) {
			done -= len(b)
			continue
		}
		n, err := o.f.WriteAt(b[done:], pos)
		total, pos, done = total+n, pos+int64(n), 0
		if err != nil {
			return total, err
		}
		if n == 0 && len(b) > 0 {
			return total, io.ErrShortWrite
		}
	}
	return total, nil
}

func (o *osFile) datasync() error {
	for {
		err := unix.Fdatasync(o.fd)
		if err == unix.EINTR { // nothing was reported lost: the call never ran
			continue
		}
		return os.NewSyscallError("fdatasync", err)
	}
}

func space(d *os.File) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return 0, 0, fmt.Errorf("statfs: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}
