package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/tidewire/tidewire/internal/explain"
)

// demoNode is a node in a process of its own.
type demoNode struct {
	cmd     *exec.Cmd
	address string
	exited  chan error // what Wait returned; read once
}

// demoPatience is how long a node may take to start or to stop.
const demoPatience = 30 * time.Second

// startDemoNode starts self with args, its log to the file log, and waits until it is ready. Unless it outlives
// us, the kernel ends it when we are killed.
func startDemoNode(ctx context.Context, outlives bool, self, log string, args ...string) (*demoNode, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the child has its own
	n := &demoNode{cmd: exec.Command(self, args...), exited: make(chan error, 1)}
	n.cmd.Stderr = f
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us; we stop it
	if !outlives {
		dieWithUs(n.cmd.SysProcAttr)
	}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	lines, started := make(chan string, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for dieWithUs: this thread lives as long as the child
		defer runtime.UnlockOSThread()
		err := n.cmd.Start()
		if started <- err; err != nil {
			return
		}
		line, _ := bufio.NewReader(stdout).ReadString('\n') // without a line: it ended, or is not ours
		lines <- strings.TrimSpace(line)
		n.exited <- n.cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	select {
	case line := <-lines:
		if address, ok := strings.CutPrefix(line, "ready "); ok {
			n.address = address
			return n, nil
		}
		_ = n.cmd.Process.Kill()
		return nil, errors.Join(fmt.Errorf("it said %q instead of ready", line), <-n.exited)
	case <-time.After(demoPatience):
		_ = n.kill()
		return nil, fmt.Errorf("it was not ready within %v", demoPatience)
	case <-ctx.Done():
		_ = n.kill()
		return nil, context.Cause(ctx)
	}
}

func (n *demoNode) pid() int { return n.cmd.Process.Pid }

// kill ends the process with SIGKILL and waits until it is gone.
func (n *demoNode) kill() error {
	if err := n.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	n.await()
	return nil
}

// stop ends the process in good order.
func (n *demoNode) stop() error {
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return nil // killed before
		}
		return err
	}
	select {
	case err := <-n.exited:
		n.exited <- err
		if err != nil {
			return &problem{id: explain.DemoFailed, what: "the node did not stop in good order", err: err}
		}
		return nil
	case <-time.After(demoPatience):
		_ = n.kill()
		return &problem{id: explain.DemoFailed, what: fmt.Sprintf("the node did not stop within %v", demoPatience)}
	}
}

func (n *demoNode) await() {
	err := <-n.exited
	n.exited <- err
}

// lastLines is the end of a file.
func lastLines(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
