//go:build unix && !race

// Not under the race detector: syscall.Write tells it only behind the system call that it has read
// the buffer, and by then an ack may have given that to somebody else.

package client

import "syscall"

const canTryWrite = true

// tryWrite writes what the socket takes without waiting; it is non-blocking already.
func tryWrite(fd uintptr, b []byte) (int, error) {
	n, err := syscall.Write(int(fd), b)
	switch err {
	case syscall.EAGAIN, syscall.EINTR:
		return 0, nil
	case nil:
		return n, nil
	}
	return 0, err
}
