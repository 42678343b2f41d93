//go:build unix

package broker

import "golang.org/x/sys/unix"

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
