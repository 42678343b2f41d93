package test

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/test/harness"
)

// TestPythonExamples runs the producer and the consumer that were written in Python from
// docs/protocol.md alone, against a real node and the Go client on the other side: two
// implementations that share no line must agree.
func TestPythonExamples(t *testing.T) {
	harness.Command{Args: []string{"python3", "-m", "unittest", "discover", "-s", "docs/examples/python", "-p", "test_*.py"}}.Run(t)
	s := harness.NewServer(t, harness.Config{})
	host, port, err := net.SplitHostPort(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	at := []string{"--host", host, "--port", port}
	c := harness.Connect(t, s.Address())
	ctx := harness.Context(t)
	lines := harness.Lines(t, 20_000)

	t.Run("from Python to Go", func(t *testing.T) {
		var text strings.Builder
		for _, l := range lines {
			text.Write(append(l, '\n'))
		}
		out := harness.Python(t, "tidewire_producer.py", text.String(), append(at, "--subject", "snake.text")...)
		if want := fmt.Sprintf("published %d records, last offset %d, durable on 1 of 1", len(lines), len(lines)-1); !strings.Contains(out, want) {
			t.Errorf("the producer said %q, not %q", out, want)
		}
		fetchLines(t, c, "snake", lines, 0)
		readLines(t, c, "snake.*", lines)
	})

	t.Run("from Go to Python", func(t *testing.T) {
		if _, err := c.CreateStream(ctx, client.StreamConfig{Name: "gopher", Partitions: 3}); err != nil {
			t.Fatal(err)
		}
		all := newShelf()
		for i, l := range lines {
			// Mixed batches, keys, headers of all kinds: what the consumer must get past.
			if err := all.publish(ctx, c, fmt.Sprintf("gopher.%d", i%3), fmt.Sprint("k", i%10), string(l)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		want, total := all.matching(t, "gopher.>")
		out := harness.Python(t, "tidewire_consumer.py", "", append(at, "--filter", "gopher.>", "--from", "first", "--count", fmt.Sprint(total), "--long")...)
		for line := range strings.Lines(out) {
			// partition offset subject key value
			f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 5)
			var p place
			var r stored
			if _, err := fmt.Sscan(f[0], &p.partition); err != nil || len(f) != 5 {
				t.Fatalf("the consumer said %q", line)
			}
			if _, err := fmt.Sscan(f[1], &r.offset); err != nil {
				t.Fatalf("the consumer said %q", line)
			}
			p.stream, r.subject, r.value = "gopher", f[2], f[4]
			if len(want[p]) == 0 || want[p][0] != r {
				t.Fatalf("partition %d: the consumer gave %v, next is %v", p.partition, r, want[p][:min(1, len(want[p]))])
			}
			want[p] = want[p][1:]
			total--
		}
		if total != 0 {
			t.Errorf("%d records were not given", total)
		}
	})

	t.Run("over a kill", func(t *testing.T) {
		// The producer is fed by a pipe; the node is killed when the first half is being published.
		cmd := exec.CommandContext(ctx, "python3", append(append([]string{"../docs/examples/python/tidewire_producer.py"}, at...), "--subject", "killed.text")...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		feed := func(lines [][]byte) {
			w := bufio.NewWriter(in)
			for _, l := range lines {
				_, _ = w.Write(append(l, '\n'))
			}
			if err := w.Flush(); err != nil {
				t.Fatalf("the producer has ended: %v: %s", err, &said)
			}
		}
		sub, err := c.Subscribe(ctx, "killed.>", client.FromFirst())
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		feed(lines[:len(lines)/2])
		n := 0
		for rec, err := range sub.All(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if err := sameLine(&rec, lines, n); err != nil {
				t.Fatal(err)
			}
			switch n++; n {
			case len(lines) / 4:
				s.Kill()
				s.Start()
				feed(lines[len(lines)/2:])
				if err := in.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if n == len(lines) {
				break
			}
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("the producer: %v: %s", err, &said)
		}
		fetchLines(t, c, "killed", lines, 0)
	})
}
