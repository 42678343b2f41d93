package broker

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// yieldToOthers has the calling goroutine, and with it a thread of its own, run behind the others of the process when
// there are fewer processors than work.
func yieldToOthers() {
	const nice = 5 // a third of the share of the others
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, nice) // of this thread; who may not lower it goes on as it is
}
