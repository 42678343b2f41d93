package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/internal/explain"
)

const demoLong = `Show what Tidewire promises, with real processes and a real text: start a node, publish
every line, kill the node with SIGKILL, start it again on the same directory, read everything
back in another process and compare it byte for byte.

The text is every text file that git tracks here (without git: every text file here), repeated
until it makes a million records or five seconds have passed; or the file given, once.`

const (
	demoRecords = 1_000_000
	demoTime    = 5 * time.Second
	demoLimit   = 10 * time.Minute // for all of it; only a large --file comes near
)

// demo is one run of the demonstration.
type demo struct {
	app  *app
	file string
	keep bool

	self string // this binary
	dir  string // temporary
	text *demoText
	node *demoNode
	kept bool // node and dir stay

	cancel  context.CancelFunc // ends all of it
	unheard error              // why stdout could not be written
}

func (a *app) demoCommand() *cobra.Command {
	d := &demo{app: a}
	c := &cobra.Command{
		Use:     "demo",
		Short:   "Publish, kill -9, start again, read back and compare",
		Long:    demoLong,
		Example: "  tidewire demo\n  tidewire demo --file /usr/share/dict/words\n  tidewire demo --keep",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			// Whatever comes, the node is stopped and the files are removed; so a second signal ends nothing early. To
			// ask for SIGPIPE makes a write to a closed stdout an error, which say looks at.
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
			defer stop()
			ctx, d.cancel = context.WithCancel(ctx)
			defer d.cancel()
			ctx, cancel := context.WithTimeout(ctx, demoLimit)
			defer cancel()
			return d.run(ctx)
		},
	}
	c.Flags().StringVar(&d.file, "file", "", "publish the lines of `FILE` instead")
	c.Flags().BoolVar(&d.keep, "keep", false, "leave the node running at the end")
	c.AddCommand(a.demoCheckCommand())
	return c
}

func (d *demo) run(ctx context.Context) (err error) {
	if d.self, err = os.Executable(); err != nil {
		return &problem{id: explain.DemoFailed, what: "cannot find this program's own file", err: err}
	}
	if d.dir, err = os.MkdirTemp("", "tidewire-demo-*"); err != nil {
		return &problem{id: explain.NoTemporary, what: "there is no temporary directory", err: err}
	}
	defer func() { err = errors.Join(err, d.clean()) }()
	if d.text, err = collectText(d.file, filepath.Join(d.dir, "text")); err != nil {
		return &problem{id: explain.DemoFailed, what: "there is no text to publish", err: err, todo: "run it in a directory with text files, or name one with --file"}
	}
	d.say("Tidewire demo: %s\n", d.text)
	for _, step := range []func(context.Context) error{d.start, d.publish, d.kill, d.restart, d.compare} {
		err := step(ctx)
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &problem{id: explain.DemoInterrupted, what: "the demo was interrupted", err: d.unheard, todo: "nothing: its node is stopped and its files are removed"}
		}
		if err != nil {
			return d.failed(err)
		}
	}
	d.say("\nWhat was acknowledged is what is there.\n")
	if d.keep {
		d.leave()
	}
	if d.unheard != nil {
		return &problem{id: explain.OutputFailed, what: "the output could not be written", err: d.unheard}
	}
	return nil
}

// say tells the story. When nobody can hear it any more the demo ends.
func (d *demo) say(format string, args ...any) {
	if _, err := fmt.Fprintf(d.app.out, format, args...); err != nil && d.unheard == nil {
		d.unheard = err
		d.cancel()
	}
}

func (d *demo) start(ctx context.Context) error {
	d.say("\n1. Start a node on an empty directory.\n")
	return d.launch(ctx, "127.0.0.1:0")
}

func (d *demo) launch(ctx context.Context, listen string) error {
	data := filepath.Join(d.dir, "data")
	d.say("   $ tidewire server --dev --data %s --listen %s\n", data, listen)
	began := time.Now()
	var err error
	d.node, err = startDemoNode(ctx, d.keep, d.self, filepath.Join(d.dir, "node.log"), "server", "--dev", "--data", data, "--listen", listen)
	if err != nil {
		return &problem{id: explain.DemoFailed, what: "the node did not start", err: err}
	}
	d.say("   ready at %s after %s; process %d\n", d.node.address, span(time.Since(began)), d.node.pid())
	return nil
}

// publish feeds the text to the pub verb, pass after pass.
func (d *demo) publish(ctx context.Context) error {
	d.say("\n2. Publish every line as a record.\n   $ cat text | tidewire pub demo -\n")
	cmd := d.command(ctx, "pub", "demo", "-", "--json", "--server", d.node.address)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	var out, stderr tail
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	feedErr := d.text.feed(stdin, d.file == "")
	feedErr = errors.Join(feedErr, stdin.Close())
	if err := cmd.Wait(); err != nil {
		return &problem{id: explain.DemoFailed, what: "publishing failed", err: fmt.Errorf("%w\n%s", err, stderr)}
	}
	if feedErr != nil {
		return &problem{id: explain.DemoFailed, what: "publishing failed", err: feedErr}
	}
	var s pubSummary
	if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
		return &problem{id: explain.DemoFailed, what: "the summary of pub does not decode", err: err}
	}
	if want := d.text.records(); s.Records != want {
		return &problem{id: explain.DemoFailed, what: "not every line was acknowledged", err: fmt.Errorf("%s of %s", count(s.Records), count(want))}
	}
	d.say("   %s (%s, %s) in %s: %s, %s/s\n", plural(s.Records, "record"), times(d.text.passes), size(s.Bytes), span(s.Took), rate(s.PerSecond),
		size(uint64(float64(s.Bytes)/max(s.Took.Seconds(), 1e-9))))
	d.say("   ack p50 %s, p99 %s; every ack rests on: %s\n", span(s.Latency.P50), span(s.Latency.P99), restsOn(s.Quorum, s.Voters))
	return nil
}

func times(n uint64) string {
	if n == 1 {
		return "the text once"
	}
	return "the text " + count(n) + " times over"
}

func (d *demo) kill(context.Context) error {
	d.say("\n3. Kill the node: no warning, no clean stop.\n   $ kill -9 %d\n", d.node.pid())
	return d.node.kill()
}

func (d *demo) restart(ctx context.Context) error {
	d.say("\n4. Start it again on the same directory.\n")
	return d.launch(ctx, d.node.address)
}

// compare reads everything back in a process of its own.
func (d *demo) compare(ctx context.Context) error {
	d.say("\n5. Read everything back, in another process, and compare.\n")
	cmd := d.command(ctx, "demo", "check", d.text.path, "--passes", fmt.Sprint(d.text.passes), "--server", d.node.address)
	var out, stderr tail
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return &problem{id: explain.DemoFailed, what: "what came back is not what was acknowledged", err: fmt.Errorf("%w\n%s", err, stderr)}
	}
	d.say("   %s", out.String())
	return nil
}

func (d *demo) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.self, args...)
	cmd.WaitDelay = time.Second
	return cmd
}

// failed shows what the node had to say, and keeps its data to be looked at.
func (d *demo) failed(err error) error {
	fmt.Fprintf(d.app.err, "\nthe node's log ends so:\n%s\n", lastLines(filepath.Join(d.dir, "node.log"), 20))
	d.kept = true
	p := &problem{id: explain.DemoFailed, what: "the demo failed", err: err}
	if inner, ok := errors.AsType[*problem](err); ok {
		p = inner
	}
	p.todo = "this should not happen; the node's data and log are kept in " + d.dir + ": `tidewire log verify " + filepath.Join(d.dir, "data") + "` looks at them"
	if d.node != nil {
		_ = d.node.kill()
	}
	return p
}

// leave lets the node run on.
func (d *demo) leave() {
	d.say(`
The node is still running at %[1]s, process %[2]d. Try:

  %[4]s stream show demo --server %[1]s
  %[4]s sub demo --from last --server %[1]s
  %[4]s pub orders.new 'hello' --server %[1]s
  %[4]s bench pub --duration 3s --server %[1]s
  %[4]s --help

Stop it with:            kill %[2]d
Then its data can go:    rm -r %[3]s
`, d.node.address, d.node.pid(), d.dir, d.app.self)
	d.kept = d.unheard == nil // else nobody knows how to stop it
}

// clean stops the node and removes everything.
func (d *demo) clean() error {
	if d.kept {
		return nil
	}
	if d.node != nil {
		if err := d.node.stop(); err != nil {
			return errors.Join(err, os.RemoveAll(d.dir))
		}
	}
	return os.RemoveAll(d.dir)
}

// tail keeps the end of what a child process says.
type tail struct{ b []byte }

const tailBytes = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-tailBytes):]
	return len(p), nil
}

func (t tail) String() string { return string(t.b) }
