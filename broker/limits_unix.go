//go:build unix

package broker

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// openFileLimit is how many files the process may have open.
func openFileLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil || r.Cur > 1<<20 {
		return 1 << 20
	}
	return int(r.Cur)
}

// shutdownWrite ends our direction of a connection: the peer reads what was sent, then EOF.
func shutdownWrite(fd int) { _ = unix.Shutdown(fd, unix.SHUT_WR) }

// writeNow writes as much of b as the socket takes without waiting. Of an error it says nothing: the next write meets it again.
func writeNow(fd int, b []byte) int {
	if len(b) == 0 {
		return 0
	}
	n, err := unix.Write(fd, b)
	if err != nil {
		return 0
	}
	return n
}

// kernelUnsent is about how many bytes of a new connection the kernel takes that it may not send yet. It would take megabytes,
// also for a client that reads nothing.
const kernelUnsent = 256 << 10

// keepLittle has the connections that a listener accepts keep to kernelUnsent.
func keepLittle(_, _ string, listener syscall.RawConn) error {
	return listener.Control(func(fd uintptr) { notSent(int(fd), kernelUnsent) })
}

// keepMore ends that for a connection.
func keepMore(fd int) { notSent(fd, 0) }

// notSent says how many bytes of a connection the kernel takes that it may not send yet; 0: what it takes by itself. Where it does
// not know of that, nothing is lost but memory.
func notSent(fd, most int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, most)
}
