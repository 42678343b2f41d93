package bench

import (
	"time"

	"golang.org/x/sys/unix"
)

// exactSleeps has the kernel wake this thread on time, and not up to 50 µs later to save power. The
// function it returns puts things back.
func exactSleeps() func() {
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) != nil {
		return func() {}
	}
	return func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) }
}

// nap sleeps on the thread. It may return early.
func nap(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil)
}
