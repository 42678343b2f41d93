package harness

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

type spawn struct {
	cmd  *exec.Cmd
	done chan error
}

// spawner starts processes from one thread that never ends: the kernel kills a child with
// Pdeathsig when the thread that made it ends, not the process, and Go's threads come and go.
var spawner = sync.OnceValue(func() chan<- spawn {
	c := make(chan spawn)
	go func() {
		runtime.LockOSThread()
		for s := range c {
			s.done <- s.cmd.Start()
		}
	}()
	return c
})

// start starts a process in a group of its own, which is killed with the tests however they end.
func start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	s := spawn{cmd, make(chan error, 1)}
	spawner() <- s
	return <-s.done
}
