package harness

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Injection makes system calls of a running process fail, through strace.
type Injection struct {
	process *process
	trace   string // file of the calls seen
}

// Inject has every call of a kind (fdatasync, say) in process pid fail with an error (EIO, say), in
// all its threads, from the moment Inject returns until the process ends. It lasts as long as the
// test at most. strace counts calls by thread, so "the third call" cannot be had; "every call from
// now on" can.
func Inject(t testing.TB, pid int, call, errno string) *Injection {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("fault tests need strace: install the package strace")
	}
	i := &Injection{trace: filepath.Join(Dir(t), "trace")}
	cmd := exec.Command(path, "-f", "-o", i.trace, "-e", "trace="+call, "-e", "inject="+call+":error="+errno, "-p", strconv.Itoa(pid))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := start(cmd); err != nil {
		t.Fatalf("strace: %v", err)
	}
	p := &process{cmd: cmd, ready: make(chan string, 1), exited: make(chan struct{})}
	i.process = p
	go func() {
		sc := bufio.NewScanner(stderr)
		for sc.Scan() {
			_, _ = p.log.Write(append(sc.Bytes(), '\n'))
			if strings.Contains(sc.Text(), "attached") { // printed once every thread is
				select {
				case p.ready <- sc.Text():
				default:
				}
			}
		}
		_ = cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		if err := p.wait(exitTimeout); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-p.ready:
	case <-p.exited:
		t.Fatalf("strace could not attach to process %d: %s", pid, p.log.String())
	case <-time.After(Patience):
		t.Fatalf("strace did not attach within %v: %s", Patience, p.log.String())
	}
	return i
}

// Count is how many calls failed by the injection; the process must have ended.
func (i *Injection) Count(t testing.TB) int {
	t.Helper()
	if err := i.process.wait(exitTimeout); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(i.trace)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte("(INJECTED)"))
}
