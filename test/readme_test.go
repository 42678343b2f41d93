package test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidewire/tidewire/test/harness"
)

// TestReadme runs the commands of README.md as they stand there: every line that begins with "$ ",
// in an indented block or in one fenced as console, from the top. Only three are treated apart:
//
//   - make demo is given a small text, through the environment;
//   - make test is looked up, not run: it is what runs this;
//   - build/tidewire dev runs beside those that follow it, to the end.
//
// make runs in the module, the binary in an empty directory where build/ is the module's.
func TestReadme(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := commandsOf(string(readme))
	for _, needed := range []string{"make demo", "make test"} {
		if !slices.Contains(commands, needed) {
			t.Errorf("README.md does not say: $ %s", needed)
		}
	}
	text := filepath.Join(harness.Dir(t), "text")
	if err := os.WriteFile(text, readme, 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := harness.Dir(t)
	if err := os.Symlink(filepath.Join(root, "build"), filepath.Join(elsewhere, "build")); err != nil {
		t.Fatal(err)
	}
	for _, command := range commands {
		run := harness.Command{Args: []string{"bash", "-euo", "pipefail", "-c", command}, Dir: root, Bound: 3 * harness.Patience}
		switch {
		case command == "make test":
			run.Args = []string{"make", "-n", "test"}
		case command == "make demo":
			run.Env = []string{"FILE=" + text}
		case command == "build/tidewire dev":
			startDev(t, elsewhere)
			continue
		case !strings.HasPrefix(command, "make "):
			run.Dir = elsewhere
		}
		began := time.Now()
		out := run.Run(t)
		t.Logf("$ %s (%.1f s)\n%s", command, time.Since(began).Seconds(), out)
	}
}

// commandsOf finds the commands of a text, without their prompt.
func commandsOf(text string) (commands []string) {
	console := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			console = line == "```console"
		case console:
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				commands = append(commands, command)
			}
		default:
			if command, ok := strings.CutPrefix(line, "    $ "); ok {
				commands = append(commands, command)
			}
		}
	}
	return commands
}

// startDev runs the README's node, at the address everybody has, until the test ends.
func startDev(t *testing.T, dir string) {
	t.Helper()
	const address = "127.0.0.1:7420"
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the README's node needs its address: stop what listens there: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("build/tidewire", "dev")
	cmd.Dir = dir
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan bool, 1)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		sc := bufio.NewScanner(stdout)
		for sc.Scan() {
			if strings.Contains(sc.Text(), address) {
				select {
				case ready <- true:
				default:
				}
			}
		}
		close(ready)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		stop := time.AfterFunc(harness.Patience, func() { _ = cmd.Process.Kill() })
		defer stop.Stop()
		<-drained
		if err := cmd.Wait(); err != nil {
			t.Errorf("the README's node, after SIGTERM: %v", err)
		}
	})
	select {
	case up := <-ready:
		if !up {
			t.Fatal("the README's node ended before it said that it is ready")
		}
	case <-time.After(harness.Patience):
		t.Fatalf("the README's node did not say within %v that it is ready", harness.Patience)
	}
}
