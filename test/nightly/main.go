// Command nightly runs what takes too long for every change: hundreds of power cuts and kills, every
// fuzz target for minutes, a restart with 2 GiB, a node left idle. It writes a page with the figures:
//
//	go run ./test/nightly                       all of it, about two hours; as root, on Linux
//	go run ./test/nightly -cuts 50 -fuzz 10s    a shorter one
//
// It runs every step even if one fails, and then exits with 1.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type options struct {
	cuts, kills int
	fuzz        time.Duration // of each target
	connection  time.Duration // of FuzzConnection, on two cores
	out         string
}

// step is one command of the run and what became of it.
type step struct {
	name string
	args []string
	env  []string
	took time.Duration
	cpu  time.Duration // it used, on all cores
	err  error
	note string // what to know of how it passed
}

func main() {
	var o options
	flag.IntVar(&o.cuts, "cuts", 500, "power cuts")
	flag.IntVar(&o.kills, "kills", 200, "SIGKILLs")
	flag.DurationVar(&o.fuzz, "fuzz", 2*time.Minute, "time for each fuzz target")
	flag.DurationVar(&o.connection, "connection", 40*time.Minute, "time for FuzzConnection, on two cores")
	flag.StringVar(&o.out, "out", "docs/results/nightly.md", "page to write")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "nightly:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	dir, err := os.MkdirTemp("", "tidewire-nightly-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	figures := filepath.Join(dir, "figures")
	steps, err := plan(o)
	if err != nil {
		return err
	}
	began := time.Now()
	failed := 0
	for i := range steps {
		s := &steps[i]
		s.env = append(s.env, "TIDEWIRE_FIGURES="+figures)
		fmt.Printf("--- %s\n", s.name)
		s.run()
		if errors.Is(s.err, errInterrupted) {
			return s.err
		}
		if s.err != nil {
			failed++
			fmt.Printf("--- %s: %v\n", s.name, s.err)
		}
	}
	command := strings.Join(append([]string{"go run ./test/nightly"}, os.Args[1:]...), " ")
	if err := write(o.out, command, began, steps, figures); err != nil {
		return err
	}
	fmt.Printf("--- %d steps, %d failed, %s: %s\n", len(steps), failed, time.Since(began).Round(time.Second), o.out)
	if failed > 0 {
		return fmt.Errorf("%d of %d steps failed", failed, len(steps))
	}
	return nil
}

// tests lists the steps that are tests of ./test.
func tests(o options) []step {
	test := func(name, run string, env ...string) step {
		return step{name: name, env: env, args: []string{"go", "test", "-count=1", "-v", "-timeout", "3h", "-tags", "faults,nightly", "-run", run, "./test"}}
	}
	return []step{
		test(fmt.Sprintf("%d power cuts", o.cuts), "^TestPowerCut", fmt.Sprintf("TIDEWIRE_POWER_CUTS=%d", o.cuts)),
		test(fmt.Sprintf("%d kills", o.kills), "^TestKill$", fmt.Sprintf("TIDEWIRE_KILLS=%d", o.kills)),
		test("faults of the disk", "^(TestFailedWrite|TestFailedSyncUnderLoad|TestDiskFull|TestDamage)"),
		test("a million records", "^(TestMillion|TestRetention)$"),
		test("restart with 2 GiB", "^TestRestart$"),
		test("idle", "^TestIdle$"),
		test("bad and unlucky input beside a neighbour", "^(TestHostile|TestHostileConnections|TestOutOfFiles|TestManyCursors|TestTopologyUnread)$",
			"TIDEWIRE_PAIRS=9", "TIDEWIRE_NEIGHBOUR_GOAL=1.3"),
		{name: "end to end under the race detector", args: []string{"go", "test", "-count=1", "-race", "-timeout", "1h",
			"-run", "^(TestKill|TestTerm|TestFilters|TestResume|TestSlowReaders|TestMillion)$", "./test"}},
	}
}

// plan lists the steps, the fuzz targets of all packages among them.
func plan(o options) ([]step, error) {
	steps := tests(o)
	targets, err := fuzzTargets()
	for _, f := range targets {
		if f.name == "FuzzConnection" {
			continue
		}
		steps = append(steps, step{name: fmt.Sprintf("fuzz %s %s", f.name, f.pkg),
			args: []string{"go", "test", "-run", "^$", "-fuzz", "^" + f.name + "$", "-fuzztime", o.fuzz.String(), f.pkg}})
	}
	// What a connection makes of any sequence of frames has more states than a decoder: an hour of CPU, as its two workers wait a fifth
	// of the time.
	steps = append(steps, step{name: "fuzz FuzzConnection", args: []string{"go", "test", "-run", "^$", "-fuzz", "^FuzzConnection$",
		"-fuzztime", o.connection.String(), "-parallel", "2", "./broker"}})
	return steps, err
}

// run runs the command, a second time if Go's fuzzer ended with an error of its own.
func (s *step) run() {
	began := time.Now()
	out := s.once()
	if s.err != nil && fuzzerGaveUp(out) {
		s.note = "at the second time; in the first Go's fuzzer took the end of its time for an error (golang/go#75804)"
		fmt.Printf("--- %s: again\n", s.name)
		s.once()
	}
	s.took = time.Since(began)
}

// fuzzerGaveUp tells from the output of go test -fuzz whether it found nothing and failed all the same: at the end of -fuzztime
// the coordinator may take its own deadline for an error. What it finds it always writes to a file, and says so.
func fuzzerGaveUp(out []byte) bool {
	return bytes.Contains(out, []byte("--- FAIL: Fuzz")) && bytes.Contains(out, []byte("\n    context deadline exceeded\n")) &&
		!bytes.Contains(out, []byte("Failing input written to"))
}

var errInterrupted = errors.New("interrupted")

// once runs the command and returns its output, which it passes on as it comes. Ctrl-C ends the command; its processes go with it.
func (s *step) once() []byte {
	var out bytes.Buffer
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	cmd.Stderr = cmd.Stdout
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupt)
	if s.err = cmd.Start(); s.err != nil {
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { s.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() }()
	select {
	case s.err = <-ended:
	case <-interrupt:
		_ = cmd.Process.Signal(os.Interrupt)
		<-ended
		s.err = errInterrupted
	}
	return out.Bytes()
}
