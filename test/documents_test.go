package test

import (
	"bufio"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidewire/tidewire/test/harness"
)

// TestDocuments runs the commands of README.md and of every page under docs/ as they stand there, from the
// top: each line that begins with "$ ", in an indented block or in one fenced as console. Lines below a command
// in a console block are what it prints: they must come in that order, and … stands for anything.
//
// Each page has an empty directory of its own, where build/ is the module's and tidewire on the path.
// Only these are treated apart:
//
//   - make runs in the module; make demo is given a small text, through the environment;
//   - make test, bench and profile are looked up, not run: the first is what runs this, and has a look at the others;
//   - tidewire dev and tidewire server run beside those that follow them, to the end of the page.
func TestDocuments(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	pages := []string{"README.md"}
	err = filepath.WalkDir(filepath.Join(root, "docs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".md") {
			page, _ := filepath.Rel(root, path)
			pages = append(pages, page)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		steps := stepsOf(string(text))
		if page == "README.md" {
			for _, needed := range []string{"make demo", "make test"} {
				if !slices.ContainsFunc(steps, func(s step) bool { return s.command == needed }) {
					t.Errorf("README.md does not say: $ %s", needed)
				}
			}
		}
		if len(steps) > 0 {
			t.Run(page, func(t *testing.T) { runPage(t, root, steps, text) })
		}
	}
}

func runPage(t *testing.T, root string, steps []step, text []byte) {
	demo := filepath.Join(harness.Dir(t), "text")
	if err := os.WriteFile(demo, text, 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := harness.Dir(t)
	if err := os.Symlink(filepath.Join(root, "build"), filepath.Join(elsewhere, "build")); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + filepath.Join(root, "build") + ":" + os.Getenv("PATH"), "XDG_CONFIG_HOME=" + filepath.Join(elsewhere, "config")}
	for _, s := range steps {
		run := harness.Command{Args: []string{"bash", "-euo", "pipefail", "-c", s.command}, Dir: elsewhere, Env: env, Bound: 3 * harness.Patience}
		_, verb, _ := strings.Cut(s.command, "tidewire ")
		target, isMake := strings.CutPrefix(s.command, "make ")
		target, _, _ = strings.Cut(target, " ")
		switch {
		case isMake && slices.Contains([]string{"test", "bench", "summary", "profile"}, target):
			run.Args[len(run.Args)-1], run.Dir = "make -n "+strings.TrimPrefix(s.command, "make "), root
		case isMake:
			run.Env, run.Dir = append(env, "FILE="+demo), root
		case verb == "dev" || strings.HasPrefix(verb, "dev ") || strings.HasPrefix(verb, "server "):
			startNode(t, elsewhere, s.command, env)
			continue
		}
		began := time.Now()
		out := run.Run(t)
		t.Logf("$ %s (%.1f s)\n%s", s.command, time.Since(began).Seconds(), out)
		s.check(t, out)
	}
}

// step is one command of a page, without its prompt, and the lines that stand below it.
type step struct {
	command string
	prints  []string
}

// stepsOf finds the commands of a page.
func stepsOf(text string) (steps []step) {
	console, open := false, false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "```") {
			console, open = line == "```console", false
			continue
		}
		prefix := "    $ "
		if console {
			prefix = "$ "
		}
		if command, ok := strings.CutPrefix(line, prefix); ok {
			steps = append(steps, step{command: command})
			open = console
		} else if open && strings.TrimSpace(line) != "" {
			s := &steps[len(steps)-1]
			s.prints = append(s.prints, line)
		}
	}
	return steps
}

// check demands that out has the lines that the page shows, in that order.
func (s *step) check(t *testing.T, out string) {
	t.Helper()
	lines := strings.Split(out, "\n")
	for _, want := range s.prints {
		parts := strings.Split(strings.TrimRight(want, " "), "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		like := regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
		at := slices.IndexFunc(lines, func(l string) bool { return like.MatchString(strings.TrimRight(l, " \r")) })
		if at < 0 {
			t.Errorf("$ %s\ndoes not print, where the page says so:\n%s\nbut\n%s", s.command, want, out)
			return
		}
		lines = lines[at+1:]
	}
}

// startNode runs a page's node, at the address everybody has, until the page ends.
func startNode(t *testing.T, dir, command string, env []string) {
	t.Helper()
	const address = "127.0.0.1:7420"
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the page's node needs its address: stop what listens there: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", "exec "+command)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
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
			t.Errorf("the page's node, after SIGTERM: %v", err)
		}
	})
	select {
	case up := <-ready:
		if !up {
			t.Fatal("the page's node ended before it said that it is ready")
		}
	case <-time.After(harness.Patience):
		t.Fatalf("the page's node did not say within %v that it is ready", harness.Patience)
	}
}
