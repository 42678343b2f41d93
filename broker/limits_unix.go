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
