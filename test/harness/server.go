package harness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The bounds of every wait for a process. They only have to be longer than anything healthy.
const (
	readyTimeout = 60 * time.Second
	exitTimeout  = 60 * time.Second
)

// ExitFailedWrite is the exit code of a node that stopped because a write or a sync failed
// (EX_IOERR of sysexits.h).
const ExitFailedWrite = 74

// The other exit codes of a node whose disk is no more what it was.
const (
	ExitFull     = 76
	ExitReadOnly = 77
	ExitLost     = 79
)

// Server is one node: a data directory, an address, and at most one process at a time that
// serves both. It belongs to one test and its methods to one goroutine at a time.
type Server struct {
	t       testing.TB
	binary  string
	dir     string
	address string   // as given to --listen
	flags   []string // further flags of `tidewire server`
	under   []string // command that runs it

	mu       sync.Mutex
	process  *process   // nil before the first start
	finished []*process // earlier ones, for their logs: the last few
}

// Config says how to run a node.
type Config struct {
	Variant Variant  // default Plain
	Dir     string   // data directory; default: a fresh one that goes with the test
	Address string   // default FreeAddress
	Flags   []string // further flags of `tidewire server`
	Under   []string // command that gets the node's as its arguments and becomes it (exec): prlimit, say
	Manual  bool     // do not start it yet
}

// process is one run of the binary.
type process struct {
	cmd    *exec.Cmd
	log    tail
	ready  chan string   // the address of the ready line; closed without one if stdout ended first
	exited chan struct{} // closed once the process is reaped
}

// NewServer makes a node and starts it. It ends with the test; if that failed, its log is shown.
func NewServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.Variant == "" {
		cfg.Variant = Plain
	}
	if cfg.Dir == "" {
		cfg.Dir = Dir(t)
	}
	if cfg.Address == "" {
		cfg.Address = FreeAddress(t)
	}
	s := &Server{t: t, binary: Binary(t, cfg.Variant), dir: cfg.Dir, address: cfg.Address, flags: cfg.Flags, under: cfg.Under}
	t.Cleanup(s.close)
	if !cfg.Manual {
		s.Start()
	}
	return s
}

// Dir makes a directory that is removed with the test. TIDEWIRE_KEEP=1 keeps that of a failed one.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tidewire-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("TIDEWIRE_KEEP") != "" {
			t.Logf("kept: %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	return dir
}

// Address is where the node listens: the same through all restarts.
func (s *Server) Address() string { return s.address }

// Dir is the data directory.
func (s *Server) Dir() string { return s.dir }

// Start starts the process and waits for its ready line.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.TryStart(); err != nil {
		s.t.Fatal(err)
	}
}

// StartUntil starts the process and returns when it has made some write calls, or is ready if that
// is sooner: in the middle of its recovery. The test is to end it.
func (s *Server) StartUntil(writes int64) {
	s.t.Helper()
	p, err := s.launch()
	if err != nil {
		s.t.Fatal(err)
	}
	deadline := time.Now().Add(readyTimeout)
	for len(p.ready) == 0 && !p.over() && writeCalls(p.cmd.Process.Pid) < writes {
		if time.Now().After(deadline) {
			s.t.Fatalf("neither ready nor %d writes within %v:\n%s", writes, readyTimeout, p.log.String())
		}
	}
}

// TryStart is Start for a test that expects a refusal: the error carries what the process said.
func (s *Server) TryStart() error {
	p, err := s.launch()
	if err != nil {
		return err
	}
	select {
	case address, ok := <-p.ready:
		if ok {
			s.address = address
			return nil
		}
		if err := p.wait(exitTimeout); err != nil {
			return err
		}
		return fmt.Errorf("the node ended with exit code %d before it was ready:\n%s", p.cmd.ProcessState.ExitCode(), p.log.String())
	case <-time.After(readyTimeout):
		p.signal(syscall.SIGQUIT) // the goroutines go to the log
		_ = p.wait(exitTimeout)
		return fmt.Errorf("no ready line within %v:\n%s", readyTimeout, p.log.String())
	}
}

// launch starts the process that becomes the current one.
func (s *Server) launch() (*process, error) {
	if p := s.current(); p != nil && !p.over() {
		return nil, errors.New("harness: the server runs already")
	}
	args := append([]string{"server", "--listen", s.address, "--data", s.dir, "--dev"}, s.flags...)
	args = append(append(slices.Clone(s.under), s.binary), args...)
	p, err := launch(args[0], args[1:]...)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.process != nil {
		s.finished = append(s.finished, s.process)
		if len(s.finished) > 3 {
			s.finished = s.finished[1:]
		}
	}
	s.process = p
	s.mu.Unlock()
	return p, nil
}

// launch starts one process and reads what it prints.
func launch(binary string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(binary, args...), ready: make(chan string, 1), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "GOTRACEBACK=all", "GORACE=halt_on_error=1 exitcode=66")
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := start(p.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	var pipes sync.WaitGroup
	pipes.Go(func() { _, _ = io.Copy(&p.log, stderr) })
	pipes.Go(func() {
		defer close(p.ready)
		sc := bufio.NewScanner(stdout)
		for first := true; sc.Scan(); {
			fmt.Fprintf(&p.log, "[stdout] %s\n", sc.Text())
			if address, ok := strings.CutPrefix(sc.Text(), "ready "); ok && first {
				p.ready <- address
				first = false
			}
		}
	})
	go func() {
		pipes.Wait()     // before Wait, which closes them
		_ = p.cmd.Wait() // ProcessState tells
		close(p.exited)
	}()
	return p, nil
}

func (s *Server) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

func (p *process) over() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// signal reaches the process only while it is not reaped, so never another one of the same number.
func (p *process) signal(sig syscall.Signal) {
	if !p.over() {
		_ = p.cmd.Process.Signal(sig)
	}
}

func (p *process) wait(bound time.Duration) error {
	select {
	case <-p.exited:
		return nil
	case <-time.After(bound):
		p.signal(syscall.SIGQUIT)
		select {
		case <-p.exited:
		case <-time.After(5 * time.Second):
			p.signal(syscall.SIGKILL)
			<-p.exited
		}
		return fmt.Errorf("process %d did not end within %v:\n%s", p.cmd.Process.Pid, bound, p.log.String())
	}
}

// Pid is the process id of the node that runs, or ran last.
func (s *Server) Pid() int { return s.current().cmd.Process.Pid }

// Signal sends the process a signal.
func (s *Server) Signal(sig syscall.Signal) { s.current().signal(sig) }

// Exited is closed when the process has ended.
func (s *Server) Exited() <-chan struct{} { return s.current().exited }

// Kill ends the process with SIGKILL and waits until it is gone.
func (s *Server) Kill() {
	s.t.Helper()
	p := s.current()
	if p.over() {
		s.t.Fatalf("the node had ended by itself, with exit code %d, before it could be killed", p.cmd.ProcessState.ExitCode())
	}
	p.signal(syscall.SIGKILL)
	if err := p.wait(exitTimeout); err != nil {
		s.t.Fatal(err)
	}
}

// End kills the process if it still runs, and waits until it is gone: for a node that a fault may
// have ended already.
func (s *Server) End() {
	s.t.Helper()
	p := s.current()
	p.signal(syscall.SIGKILL)
	if err := p.wait(exitTimeout); err != nil {
		s.t.Fatal(err)
	}
}

// Stop ends the process with SIGTERM, and fails the test unless it exits cleanly.
func (s *Server) Stop() {
	s.t.Helper()
	s.Signal(syscall.SIGTERM)
	if code := s.ExitCode(); code != 0 {
		s.t.Fatalf("after SIGTERM the node exited with %d\n%s", code, s.Log())
	}
}

// ExitCode waits for the process to end by itself and returns its exit code; -1 for a signal.
func (s *Server) ExitCode() int {
	s.t.Helper()
	p := s.current()
	if err := p.wait(exitTimeout); err != nil {
		s.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Log is the end of what the current process printed.
func (s *Server) Log() string { return s.current().log.String() }

func (s *Server) close() {
	p := s.current()
	if p == nil {
		return
	}
	p.signal(syscall.SIGKILL)
	if err := p.wait(exitTimeout); err != nil {
		s.t.Error(err)
	}
	if bytes.Contains(p.log.bytes(), []byte("DATA RACE")) {
		s.t.Error("the race detector found a race in the node")
	}
	if !s.t.Failed() {
		return
	}
	for _, p := range append(s.finished, p) {
		s.t.Logf("log of node process %d (%v):\n%s", p.cmd.Process.Pid, p.cmd.ProcessState, p.log.String())
	}
}

// tail keeps the first and the last of what is written to it: how it began, and what it died of.
type tail struct {
	mu      sync.Mutex
	head    []byte
	rest    []byte
	dropped int
}

const (
	headBytes = 4 << 10
	restBytes = 48 << 10
)

func (w *tail) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(b)
	if room := headBytes - len(w.head); room > 0 {
		take := min(room, len(b))
		w.head = append(w.head, b[:take]...)
		b = b[take:]
	}
	w.rest = append(w.rest, b...)
	if over := len(w.rest) - restBytes; over > restBytes {
		w.dropped += over
		w.rest = append(w.rest[:0], w.rest[over:]...)
	}
	return n, nil
}

func (w *tail) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := bytes.Clone(w.head)
	if w.dropped > 0 {
		out = fmt.Appendf(out, "\n... %d bytes ...\n", w.dropped)
	}
	return append(out, w.rest...)
}

func (w *tail) String() string { return string(w.bytes()) }
