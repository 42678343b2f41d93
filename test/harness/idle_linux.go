package harness

import "os/exec"

// Idle makes a command that runs only while nobody else wants the processor.
func Idle(name string, args ...string) *exec.Cmd {
	return exec.Command("chrt", append([]string{"--idle", "0", name}, args...)...)
}
