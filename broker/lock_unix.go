//go:build unix

package broker

import (
	"os"

	"golang.org/x/sys/unix"
)

// tryLock locks f for this process, until it is closed or the process ends however it ends.
func tryLock(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}
