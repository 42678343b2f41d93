//go:build !linux

package harness

import "os/exec"

// Idle makes a command that others hardly notice on the processor.
func Idle(name string, args ...string) *exec.Cmd {
	return exec.Command("nice", append([]string{"-n", "19", name}, args...)...)
}
