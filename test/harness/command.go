package harness

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Command is a program a test runs to its end.
type Command struct {
	Dir   string // default: the module's
	Env   []string
	Stdin string
	Bound time.Duration // default Patience
	Args  []string
}

// Run runs the command and returns its standard output; a failure fails the test and shows all it said.
func (c Command) Run(t testing.TB) string {
	t.Helper()
	out, said, err := c.try(t)
	if err != nil {
		const most = 4 << 10
		if len(out) > most {
			out = "... " + out[len(out)-most:]
		}
		t.Fatalf("%s: %v\n%s%s", strings.Join(c.Args, " "), err, said, out)
	}
	return out
}

func (c Command) try(t testing.TB) (out, said string, err error) {
	t.Helper()
	if c.Dir == "" {
		if c.Dir, err = Root(); err != nil {
			t.Fatal(err)
		}
	}
	if c.Bound == 0 {
		c.Bound = Patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Bound)
	defer cancel()
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.Dir, append(cmd.Environ(), c.Env...), strings.NewReader(c.Stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	if err := start(cmd); err != nil {
		return "", "", err
	}
	stop := context.AfterFunc(ctx, func() { killGroup(cmd.Process.Pid) })
	err = cmd.Wait()
	if !stop() && err != nil {
		err = ctx.Err()
	}
	return stdout.String(), stderr.String(), err
}

// Python runs one of the examples of docs/examples/python.
func Python(t testing.TB, example, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Fatal("the examples need python3: install the package python3-minimal")
	}
	return Command{Args: append([]string{"python3", filepath.Join("docs/examples/python", example)}, args...), Stdin: stdin}.Run(t)
}
