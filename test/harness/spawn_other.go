//go:build unix && !linux

package harness

import (
	"os/exec"
	"syscall"
)

// start starts a process in a group of its own.
func start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd.Start()
}
