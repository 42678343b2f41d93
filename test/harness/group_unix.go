//go:build unix

package harness

import "syscall"

// killGroup ends a process that start started, and what it started in turn.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }
