package harness

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Freeze stops the node as a power cut would, all at once: when it returns no thread of it runs, or
// will run before it is killed. A thread may be inside a system call, a sync say; that may end, but
// the node does not get to know.
//
// Without it a cut by ioctl is not one moment: the kernel answers an fdatasync that is under way
// while the file system goes down with success, now and then, and loses what it was to write. Of
// 1,500 cuts under a program that did nothing but write and sync (Linux 6.18), 51 lost a write whose
// fdatasync had returned 0 *after* the ioctl began, and none one from before it.
func (s *Server) Freeze() {
	s.t.Helper()
	p := s.current()
	if p.over() {
		return
	}
	p.signal(syscall.SIGSTOP)
	for deadline := time.Now().Add(exitTimeout); !p.over(); runtime.Gosched() {
		stopped, err := frozen(p.cmd.Process.Pid)
		if stopped || err != nil {
			return // an error: it has just ended
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the node is not stopped %v after SIGSTOP", exitTimeout)
		}
	}
}

// frozen reports whether each thread of a process is stopped, or in a system call that it will not
// return from to its program.
func frozen(pid int) (bool, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false, err
	}
	for _, path := range tasks {
		b, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		// pid (name) state …: the name may hold anything.
		end := bytes.LastIndexByte(b, ')')
		if end < 0 || end+2 >= len(b) {
			return false, fmt.Errorf("%s: %q", path, b)
		}
		switch b[end+2] {
		case 'T', 't', 'D', 'Z', 'X':
		default:
			return false, nil
		}
	}
	return len(tasks) > 0, nil
}
