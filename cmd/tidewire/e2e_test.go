package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
	client "github.com/tidewire/tidewire/client/go"
)

// Publish, read, look: what a person does in the first minute, as it is printed.
func TestFirstMinute(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), true))
	var story strings.Builder
	step := func(args ...string) {
		fmt.Fprintf(&story, "$ tidewire %s\n%s", strings.Join(args, " "), scrub(c.ok(args...)))
	}
	step("pub", "orders.new", "hello")
	step("pub", "orders.new", `{"id": 7}`, "--key", "customer-9", "--header", "trace=4bf9", "--header", "empty=", "--json")
	c = c.typing("first line\n\nthird line, without an end")
	step("pub", "orders.paid", "-")
	step("sub", "orders.>", "--count", "5")
	step("sub", "orders.new", "--count", "2", "--format", `%S/%p %o %t %s key=%k headers=%h value=%v%%\n`)
	step("sub", "orders.new", "--count", "2", "--json")
	step("sub", "orders.*", "--from", "3", "--count", "1", "--format", `[%v]\n`)
	step("stream", "ls")
	step("stream", "show", "orders")
	step("stream", "show", "orders", "--json")
	golden(t, "first-minute.txt", story.String())
}

func TestStreams(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), false))
	var story strings.Builder
	step := func(args ...string) {
		r := c.run(args...)
		fmt.Fprintf(&story, "$ tidewire %s\n%s%s", strings.Join(args, " "), scrub(r.out), scrub(r.err))
		if r.code != 0 {
			fmt.Fprintf(&story, "exit code %d\n", r.code)
		}
	}
	step("stream", "ls")
	step("stream", "ls", "--json")
	step("pub", "nowhere", "x")
	step("stream", "create", "logs", "--partitions", "4", "--max-age", "7d", "--max-bytes", "10GiB", "--max-records", "1000000")
	step("stream", "create", "shop", "--subject", "orders.>", "--subject", "returns.*")
	step("stream", "create", "shop", "--subject", "orders.>", "--subject", "returns.*") // again: no error
	step("stream", "create", "shop")
	step("stream", "create", "mine", "--subject", "orders.new")
	step("stream", "create", "bad name")
	step("stream", "create", "mine", "--subject", "a..b")
	step("stream", "ls")
	step("stream", "ls", "--names")
	step("stream", "show", "logs")
	step("stream", "show", "nope")
	step("stream", "rm", "nope", "--yes")
	step("stream", "rm", "shop")
	c.typed = true
	c = c.typing("n\n")
	step("stream", "rm", "shop")
	c = c.typing("y\n")
	step("stream", "rm", "shop")
	step("stream", "rm", "logs", "--purge", "--yes", "--json")
	step("stream", "ls") // shop can still be brought back
	golden(t, "streams.txt", story.String())
}

// Everything that may stand in a record comes back as it was.
func TestBytesComeBack(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), true))
	lines := []string{"", " ", "\r", "\x00\x01", "\xff\xfe", "grün €", strings.Repeat("x", 900_000), `{"a":"b"}`, "\t"}
	in := strings.Join(lines, "\n") + "\n"
	if got := c.typing(in).ok("pub", "bytes", "-", "--quiet", "--compress", "--batch-bytes", "64KiB"); got != "" {
		t.Errorf("--quiet says %q", got)
	}
	if got := c.ok("sub", "bytes", "--count", strconv.Itoa(len(lines))); got != in {
		t.Errorf("%d bytes came back, %d were published", len(got), len(in))
	}
	out := c.ok("sub", "bytes", "--count", strconv.Itoa(len(lines)), "--json")
	for i, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var r struct {
			Offset          int
			Value, Encoding string
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Offset != i {
			t.Fatalf("%.100q: offset %d, %v", line, r.Offset, err)
		}
		want := lines[i]
		switch r.Encoding {
		case "utf8":
		case "base64":
			var raw []byte
			if err := json.Unmarshal([]byte(strconv.Quote(r.Value)), &raw); err != nil {
				t.Fatal(err)
			}
			r.Value = string(raw)
		default:
			t.Errorf("encoding is %q", r.Encoding)
		}
		if r.Value != want {
			t.Errorf("record %d came back as %.40q, was %.40q", i, r.Value, want)
		}
	}
}

func TestPubLines(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	c := newCLI(t, n)
	var in strings.Builder
	for i := range 20_000 {
		fmt.Fprintln(&in, i)
	}
	var s pubSummary
	if err := json.Unmarshal([]byte(c.typing(in.String()).ok("pub", "n", "--json", "--batch-records", "100", "--in-flight", "64KiB")), &s); err != nil {
		t.Fatal(err)
	}
	if s.Records != 20_000 || s.Bytes != uint64(in.Len()-20_000) || s.Quorum != 1 || s.Voters != 1 || s.Latency.Count != 20_000 || s.Latency.P50 <= 0 {
		t.Errorf("summary is %+v, latency %+v", s, s.Latency)
	}
	if got := c.ok("sub", "n", "--count", "20000"); got != in.String() {
		t.Error("the lines came back changed")
	}
	if got := c.ok("pub", "n"); got != "nothing to publish: the input was empty\n" {
		t.Errorf("without input: %q", got)
	}
	// Keys pick the partition, and --from next sees nothing of before.
	c.ok("stream", "create", "keyed", "--partitions", "8")
	c.typing("a\nb\nc\n").ok("pub", "keyed", "-", "--key", "k")
	places := map[string]bool{}
	for line := range strings.Lines(c.ok("sub", "keyed", "--count", "3", "--format", `%p\n`)) {
		places[line] = true
	}
	if len(places) != 1 {
		t.Errorf("records of one key are in partitions %v", places)
	}
}

func TestPubRefused(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	c := newCLI(t, n)
	c.fails(exitUsage, []string{"pub", "a b", "x"}, "space")
	c.fails(exitUsage, []string{"pub", "orders.*", "x"}, "wildcard")
	c.fails(exitError, []string{"pub", "a", strings.Repeat("x", 1<<20)}, "the record was not stored", "room for 1,048,5", "split it")
	c.fails(exitError, []string{"pub", "ümlaut.x", "x"}, `"ümlaut", its first token`, "tidewire stream create NAME --subject ümlaut.x")
	// Far too long for the reader, and just too long with what a record needs besides: it is said in the same words.
	limit := valueLimit(&client.Message{Subject: "a"}, 1<<20)
	for _, n := range []int{2 << 20, limit + 1} {
		over := c.typing("fine\n" + strings.Repeat("x", n) + "\nnever read\n")
		over.fails(exitError, []string{"pub", "a", "-"}, "line 2 is longer: a record on a has room for "+count(limit)+" bytes here",
			"the lines behind it were not published", "split it", "line 1 is stored; go on from line 2")
	}
	c.typing(strings.Repeat("x", limit)+"\n").ok("pub", "a", "-")
	if got := c.ok("sub", "a", "--count", "2"); got != "fine\nfine\n" {
		t.Errorf("stored is %q", got)
	}
}

func TestUnreachable(t *testing.T) {
	c := newCLI(t, nil)
	c.env["TIDEWIRE_SERVER"] = "127.0.0.1:1" // nobody listens on tcpmux
	for _, args := range [][]string{{"pub", "a", "x"}, {"sub", "a"}, {"stream", "ls"}, {"bench", "pub"}, {"bench", "sub"}, {"bench", "rtt"}} {
		c.fails(exitError, args, "no connection to 127.0.0.1:1", "connection refused", "TW-5001", "`tidewire dev` starts one to try things on")
	}
	c.fails(exitError, []string{"pub", "a", "x", "--server", "127.0.0.1:2"}, "no connection to 127.0.0.1:2")
	c.fails(exitUsage, []string{"pub", "a", "x", "--server", "what:is:this"}, "what:is:this", "do:  ")
	c.fails(exitUsage, []string{"pub", "a", "x", "--server", "localhost:99999"}, "localhost:99999", "1 to 65535", "do:  ")
	c.fails(exitUsage, []string{"pub", "a", "x", "--server", ""}, "--server is empty", "do:  ")
	c.fails(exitError, []string{"pub", "a", "x", "--server", "nosuch.invalid"}, "no connection to nosuch.invalid", "TW-5002", "do:  Check the name")
}

func TestSubFrom(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	c := newCLI(t, n)
	c.typing("0\n1\n2\n3\n4\n").ok("pub", "s", "-")
	for from, want := range map[string]string{"first": "0", "last": "4", "3": "3", "1h": "0", "2020-01-01": "0"} {
		if got := c.ok("sub", "s", "--count", "1", "--from", from); got != want+"\n" {
			t.Errorf("--from %s begins with %q, not %s", from, got, want)
		}
	}
	c.fails(exitUsage, []string{"sub", "a..b"}, "empty token")
}

// --no-follow from an offset that retention has passed names what is missing, and reads what there is.
func TestSubPresentFromWhatIsGone(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), false))
	c.ok("stream", "create", "s", "--max-bytes", "1MiB")
	c.typing(strings.Repeat(strings.Repeat("x", 1000)+"\n", 5000)).ok("pub", "s", "-", "--quiet")
	waitFor(t, "the first records go", func() bool { return c.ok("sub", "s", "--count", "1", "--quiet", "--format", "%o") != "0" })
	r := c.run("sub", "s", "--no-follow", "--from", "5", "--format", "%o\\n")
	if r.code != exitError || !strings.Contains(r.err, "missing: ") || !strings.HasSuffix(r.out, "\n4999\n") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
}

// A partition that nobody serves is not an empty one.
func TestSubPresentOfWhatIsNotServed(t *testing.T) {
	st := client.Stream{Name: "s", Subjects: []string{"s"}, Partitions: []client.Partition{{}}}
	for _, err := range present(t.Context(), nil, []client.Stream{st}, "s", client.FromFirst()) {
		if err == nil || !strings.Contains(err.Error(), "stream s, partition 0 is not served") {
			t.Errorf("%v", err)
		}
		return
	}
	t.Error("it is said to be empty")
}

// --no-follow reads what there is, of every partition, and ends.
func TestSubPresent(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), true))
	c.typing("0\n1\n2\n").ok("pub", "s.a", "-")
	c.typing("3\n4\n").ok("pub", "s.b", "-")
	c.ok("stream", "create", "empty")
	for args, want := range map[string]string{
		"s.>":                           "0\n1\n2\n3\n4\n",
		"s.b":                           "3\n4\n",
		"s.a":                           "0\n1\n2\n",
		"s.* --count 2":                 "0\n1\n",
		"s.> --from 3":                  "3\n4\n",
		"s.a --from 4":                  "",
		"s.> --from 5":                  "",
		"s.> --from last":               "4\n",
		"s.> --from 1h":                 "0\n1\n2\n3\n4\n",
		"s.> --from 2020-01-01":         "0\n1\n2\n3\n4\n",
		"empty":                         "",
		"empty --from last":             "",
		"> --from first":                "0\n1\n2\n3\n4\n",
		"s.b --format %o=%v\\n --quiet": "3=3\n4=4\n",
	} {
		if got := c.ok(append([]string{"sub", "--no-follow"}, strings.Fields(args)...)...); got != want {
			t.Errorf("sub --no-follow %s: %q, want %q", args, got, want)
		}
	}
	c.fails(exitError, []string{"sub", "none", "--no-follow"}, "error TW-1020: cannot read none", "no stream captures none")
	c.fails(exitError, []string{"sub", "none.*", "--no-follow", "--quiet"}, "error TW-1020: ")
	if r := c.run("sub", "s.>", "--no-follow", "--count", "9"); r.code != exitError || r.out != "0\n1\n2\n3\n4\n" || !strings.Contains(r.err, "error TW-6036: there are fewer records than asked for: 5 of 9") {
		t.Errorf("of too few: %+v", r)
	}
	c.fails(exitUsage, []string{"sub", "s.>", "--no-follow", "--from", "next"}, "--no-follow would print nothing")
	c.fails(exitError, []string{"sub", "s.>", "--no-follow", "--from", "6"}, "TW-6010", "give --from 0 to 5")

	c.ok("stream", "create", "wide", "--partitions", "3")
	var in strings.Builder
	for i := range 30_000 { // more than one answer holds, and over all partitions
		fmt.Fprintf(&in, "%d %s\n", i, strings.Repeat("x", 100))
	}
	c.typing(in.String()).ok("pub", "wide", "-", "--quiet")
	got := strings.Split(strings.TrimSpace(c.ok("sub", "wide", "--no-follow", "--quiet")), "\n")
	want := strings.Split(strings.TrimSpace(in.String()), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d lines came back, %d were published", len(got), len(want))
	}
}

// All of the input as one record, whatever is in it.
func TestPubWhole(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), true))
	in := "one\ntwo\x00\n\n"
	c.typing(in).ok("pub", "s", "--whole", "--quiet")
	c.typing("").ok("pub", "s", "-", "--whole", "--quiet")
	if got := c.ok("sub", "s", "--no-follow", "--format", "<%v>"); got != "<"+in+"><>" {
		t.Errorf("it came back as %q", got)
	}
	c.typing(strings.Repeat("x", 1<<20)).fails(exitError, []string{"pub", "s", "--whole"}, "TW-1003: the record was not stored", "it is longer, and a record on s has room for")
	c.fails(exitUsage, []string{"pub", "s", "data", "--whole"}, "DATA and --whole exclude each other")
	file := filepath.Join(t.TempDir(), "f.json")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := c.run("pub", "s", "@"+file); r.code != 0 || !strings.Contains(r.err, "tidewire pub s --whole < "+file) {
		t.Errorf("%+v", r)
	}
}

func TestSubFromOffset(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), true))
	c.typing("0\n1\n2\n").ok("pub", "s", "-")
	c.fails(exitError, []string{"sub", "s", "--from", "99999999"}, "TW-6010: cannot read s from offset 99,999,999", "has offsets [0, 3)", "give --from 0 to 3")
	c.ok("stream", "create", "k", "--partitions", "2")
	for _, filter := range []string{">", "k"} {
		c.fails(exitError, []string{"sub", filter, "--from", "3"}, "partitions, and each has offsets of its own", "give --from first, last, next, or a time")
	}
}

// Whatever ends pub early, it says which lines are stored, and ends at once.
func TestPubSaysWhatIsStored(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	c := newCLI(t, n)
	c.ok("stream", "create", "s")
	r, w := io.Pipe()
	var out, stderr buffer
	a := &app{in: r, out: &out, err: &stderr, getenv: func(k string) string { return c.env[k] }}
	done := make(chan int)
	go func() { done <- a.run([]string{"pub", "s", "-", "--timeout", "30s"}) }()
	lines := func(s string) {
		if _, err := w.Write([]byte(s)); err != nil {
			t.Error(err)
		}
	}
	lines("1\n2\n3\n")
	if got := c.ok("sub", "s", "--count", "3"); got != "1\n2\n3\n" {
		t.Errorf("stored is %q", got)
	}
	c.ok("stream", "rm", "s", "--yes")
	lines("4\n")
	began := time.Now()
	code := <-done
	w.Close() // the reader of lines still waits for one
	if code != exitError || time.Since(began) > 5*time.Second {
		t.Errorf("exit code %d after %v", code, time.Since(began))
	}
	for _, want := range []string{"not every line was stored", "lines 1-3 are stored; go on from line 4", "tidewire stream create NAME --subject s"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr lacks %q:\n%s", want, stderr.String())
		}
	}
	c.typing("1\n").fails(exitError, []string{"pub", "nowhere.x", "-"}, "no line is stored; go on from line 1", "--subject nowhere.x")
	c.typing("1\n").fails(exitError, []string{"pub", "nowhere.x", "-", "-o", "json"}, `"stored_lines": 0`, `"next_line": 1`)
	c.ok("stream", "create", "t")
	c.typing("1\n2\n"+strings.Repeat("x", 2<<20)+"\n").fails(exitError, []string{"pub", "t", "-", "-o", "json"}, `"stored_lines": 2`, `"next_line": 3`)
}

// A subscription that begins with what is next waits for it, also where no stream is yet, and prints
// each record when it comes, not when a buffer is full.
func TestSubFollows(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	c := newCLI(t, n)
	for _, x := range []struct{ subject, from string }{{"later.one", "next"}, {"other.one", "first"}} {
		var out, stderr buffer
		a := &app{in: strings.NewReader(""), out: &out, err: &stderr, getenv: func(k string) string { return c.env[k] }}
		done := make(chan int)
		go func() { done <- a.run([]string{"sub", x.subject, "--from", x.from, "--count", "2"}) }()
		waitFor(t, "the notice", func() bool { return strings.Contains(stderr.String(), "no stream captures "+x.subject+" yet") })
		c.ok("pub", x.subject, "one")
		waitFor(t, "the first record", func() bool { return out.String() == "one\n" })
		c.ok("pub", x.subject, "two")
		if code := <-done; code != 0 || out.String() != "one\ntwo\n" {
			t.Errorf("exit code %d, output %q, %s", code, out.String(), stderr.String())
		}
	}
}

// waitFor waits for what another goroutine or process brings about.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

func TestBench(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	c := newCLI(t, n)
	run := func(args ...string) (m map[string]any) {
		t.Helper()
		out := c.ok(append(append([]string{"bench"}, args...), "--json")...)
		if err := json.Unmarshal([]byte(out), &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	check := func(m map[string]any, want map[string]any) {
		t.Helper()
		for k, v := range want {
			if !reflect.DeepEqual(m[k], v) {
				t.Errorf("%s %s is %v, not %v", m["workload"], k, m[k], v)
			}
		}
	}
	m := run("pub", "--records", "5000", "--warmup", "0", "--size", "64", "--connections", "2", "--partitions", "3", "--in-flight", "500", "--batch", "50", "--disk", t.TempDir())
	check(m, map[string]any{"workload": "pub", "records": 5000.0, "bytes": 320000.0, "partitions": 3.0, "connections": 2.0, "in_flight": 500.0,
		"batch": 50.0, "size_bytes": 64.0, "durability": "every ack: fsynced on 1 of 1", "latency_from": "the call to its ack"})
	if l := m["latency"].(map[string]any); l["count"] != 5000.0 || l["p50_us"].(float64) <= 0 || l["max_us"].(float64) < l["p99_us"].(float64) {
		t.Errorf("latency is %v", l)
	}
	if d := m["disk"].(map[string]any); d["write_bytes"] != 4096.0 {
		t.Errorf("disk is %v", d)
	}
	check(run("sub"), map[string]any{"workload": "sub", "records": 5000.0, "partitions": 3.0, "connections": 1.0, "durability": ""})
	check(run("pub", "--records", "50", "--warmup", "0", "--in-flight", "1", "--batch", "1"), map[string]any{"records": 50.0, "in_flight": 1.0, "batch": 1.0})
	check(run("pub", "--duration", "100ms", "--warmup", "50ms", "--rate", "1000"), map[string]any{"records": 100.0, "rate_wanted": 1000.0,
		"latency_from": "the time a record was meant to be sent to its ack"})
	check(run("rtt", "--duration", "100ms", "--warmup", "50ms", "--rate", "2000"), map[string]any{"workload": "rtt", "records": 200.0, "quorum": 1.0})

	golden(t, "bench.txt", benchNumbers(c.ok("bench", "pub", "--records", "100", "--warmup", "0", "--disk", ".")+
		c.ok("bench", "pub", "--records", "100", "--warmup", "0", "--rate", "5000", "--batch", "1")+c.ok("bench", "sub", "--records", "100")))
	c.fails(exitError, []string{"bench", "sub", "--subject", "nothing"}, "no records are stored under nothing", "tidewire bench pub")
	c.fails(exitError, []string{"bench", "pub", "--partitions", "5"}, "has 3 partitions, not 5")
	c.fails(exitError, []string{"bench", "pub", "--disk", "/nonexistent"}, "the disk could not be measured")
}

// benchNumbers scrubs what depends on the machine.
func benchNumbers(s string) string {
	var out strings.Builder
	for line := range strings.Lines(scrub(s)) {
		if strings.HasPrefix(line, "machine") {
			line = "machine  MACHINE\n"
		}
		out.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return out.String()
}

func TestLog(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, true)
	c := newCLI(t, n)
	c.ok("pub", "orders.new", "hello", "--key", "k", "--header", "h=v")
	c.typing("one\n\xff\n").ok("pub", "orders.new", "-", "--compress")
	c.fails(exitDataDir, []string{"log", "verify", dir}, "a node runs on "+dir, fmt.Sprintf("process %d", os.Getpid()), "stop that process first")
	c.fails(exitDataDir, []string{"log", "dump", filepath.Join(dir, "partitions", "1")}, "a node runs on "+dir)
	stopNode(t, n)

	before := fingerprint(t, dir)
	story := "$ tidewire log verify DIR\n" + c.ok("log", "verify", dir) + "$ tidewire log verify DIR/partitions/1 --json\n" +
		c.ok("log", "verify", filepath.Join(dir, "partitions", "1"), "--json") + "$ tidewire log dump DIR/partitions/1\n" +
		c.ok("log", "dump", filepath.Join(dir, "partitions", "1")) + "$ tidewire log dump DIR/partitions/1 --from 1 --json\n" +
		c.ok("log", "dump", filepath.Join(dir, "partitions", "1"), "--from", "1", "--json")
	golden(t, "log.txt", scrub(strings.ReplaceAll(story, dir, "DIR")))
	if out := c.ok("log", "dump", dir, "--from", "2", "--limit", "1"); !strings.Contains(out, `"\xff"`) || strings.Contains(out, "hello") {
		t.Errorf("--from 2 --limit 1 prints %s", out)
	}
	for _, args := range []string{"--from 3", "--from 99 --json"} {
		c.fails(exitError, append([]string{"log", "dump", dir}, strings.Fields(args)...), "TW-6010", "no record there has the offset", "partitions/1 offsets [0, 3)")
	}
	if out := c.ok("log", "dump", filepath.Join(dir, "catalog")); !strings.Contains(out, `"op":"create-stream"`) {
		t.Errorf("the catalog is %s", out)
	}
	if after := fingerprint(t, dir); !reflect.DeepEqual(before, after) {
		t.Error("looking has changed the files")
	}

	for _, verb := range []string{"verify", "dump"} {
		c.fails(exitNoInput, []string{"log", verb, filepath.Join(dir, "nope")}, "there is no directory")
		c.fails(exitNoInput, []string{"log", verb, filepath.Join(dir, "node.json")}, "is a file")
		c.fails(exitNoInput, []string{"log", verb, t.TempDir()}, "there is no log in")
	}
}

// fingerprint is every file below dir: its bytes and when it was changed.
func fingerprint(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			m[path] = "dir"
			return err
		}
		b, err := os.ReadFile(path)
		m[path] = info.ModTime().String() + string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Damage is found, named exactly, and does not hide what is around it.
func TestLogVerifyFindsDamage(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, true)
	c := newCLI(t, n)
	for i := range 5 { // an entry each
		c.ok("pub", "d", fmt.Sprintf("record %d", i))
	}
	stopNode(t, n)
	part := filepath.Join(dir, "partitions", "1")
	segments, err := filepath.Glob(filepath.Join(part, "*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	b, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(b), "record 2")
	b[at] ^= 1
	if err := os.WriteFile(segments[0], b, 0o640); err != nil {
		t.Fatal(err)
	}
	r := c.run("log", "verify", dir)
	if r.code != 1 || !strings.Contains(r.out, "offsets [2, 3) cannot be read") || !strings.Contains(r.out, "4 records in 4 batches") ||
		!strings.Contains(r.out, "2 logs, 4 records: damage in 1 of them") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	r = c.run("log", "verify", part, "--json")
	var reports []logReport
	if err := json.Unmarshal([]byte(r.out), &reports); err != nil || r.code != 1 || len(reports) != 1 || len(reports[0].Damage) != 1 ||
		reports[0].Damage[0].Start != 2 || reports[0].Damage[0].End != 3 || reports[0].State != "damaged" {
		t.Errorf("exit code %d, %v: %s", r.code, err, r.out)
	}
	r = c.run("log", "dump", part)
	if r.code != 1 || !strings.Contains(r.out, "DAMAGE: ") || !strings.Contains(r.out, "record 1") || !strings.Contains(r.out, "record 3") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	n = startNode(t, dir, true) // and a node serves what is around it, and says so
	c = newCLI(t, n)
	note := "damaged on disk and not served, the rest is: d/0: offsets 2 to 2"
	if out := c.ok("health"); !strings.Contains(out, " is ready\n") || !strings.Contains(out, note) {
		t.Errorf("health says %q", out)
	}
	var nodes []healthJSON
	if err := json.Unmarshal([]byte(c.ok("health", "-o", "json")), &nodes); err != nil || !slices.ContainsFunc(nodes[0].Checks, func(c checkJSON) bool { return c.OK && c.Note == note }) {
		t.Errorf("health says %+v, %v", nodes, err)
	}
	if r := c.run("sub", "d", "--no-follow"); r.code != exitError || r.out != "record 0\nrecord 1\nrecord 3\nrecord 4\n" || !strings.Contains(r.err, "missing: ") {
		t.Errorf("%+v", r)
	}
	stopNode(t, n)
	if err := os.Remove(filepath.Join(part, "manifest")); err != nil {
		t.Fatal(err)
	}
	if r = c.run("log", "verify", dir); r.code != 1 || !strings.Contains(r.out, "UNREADABLE") {
		t.Errorf("without a manifest: exit code %d\n%s", r.code, r.out)
	}
}

// What the catalog says there is, and the votes prove to have held something, must be there.
func TestLogVerifyFindsMissing(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, false)
	c := newCLI(t, n)
	c.ok("stream", "create", "kk", "--partitions", "2")
	c.ok("stream", "create", "gone")
	c.ok("pub", "kk", "x")
	c.ok("stream", "rm", "gone", "--yes")
	stopNode(t, n)
	verify := func(code int, words ...string) {
		t.Helper()
		for _, verb := range []string{"verify", "dump"} {
			r := c.run("log", verb, dir)
			if r.code != code {
				t.Errorf("%s: exit code %d, want %d\n%s%s", verb, r.code, code, r.out, r.err)
			}
			for _, w := range words {
				if verb == "verify" && !strings.Contains(r.out, w) {
					t.Errorf("verify lacks %q:\n%s", w, r.out)
				}
			}
		}
	}
	partition := func(n string) string { return filepath.Join(dir, "partitions", n) }
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	verify(0, "partitions/1 kk/0", "partitions/2 kk/1", "partitions/3 gone/0 (deleted)", "no damage")
	if out := c.ok("log", "dump", dir); !strings.Contains(out, "partitions/2 kk/1: cluster ") {
		t.Errorf("dump says\n%s", out)
	}

	away := filepath.Join(t.TempDir(), "away")
	move(partition("1"), away)
	verify(1, "partitions/1 (stream kk, partition 0): MISSING, there is no such directory", "4 logs, 0 records: 1 missing")
	if err := os.Mkdir(partition("1"), 0o750); err != nil {
		t.Fatal(err)
	}
	verify(1, "partitions/1 (stream kk, partition 0): MISSING, the directory holds nothing")
	var reports []logReport
	r := c.run("log", "verify", dir, "--json")
	if err := json.Unmarshal([]byte(r.out), &reports); err != nil || r.code != 1 || len(reports) != 4 || reports[1].State != "missing" || reports[1].Stream != "kk" {
		t.Errorf("exit code %d, %v: %s", r.code, err, r.out)
	}
	if err := os.Remove(partition("1")); err != nil {
		t.Fatal(err)
	}
	move(away, partition("1"))

	move(partition("3"), away) // what was deleted may be gone
	verify(0, "3 logs, 1 record: no damage")
	move(away, partition("7"))
	verify(0, "a stray: the catalog does not know it", "no damage, 1 stray")
	move(partition("7"), partition("3"))

	move(filepath.Join(dir, "catalog"), away)
	verify(1, "catalog: MISSING, there is no such directory", "1 missing")
	if err := os.RemoveAll(filepath.Join(dir, "partitions")); err != nil {
		t.Fatal(err)
	}
	verify(1, "catalog: MISSING")
	move(away, filepath.Join(dir, "catalog"))
	verify(1, "partitions/1 (stream kk, partition 0): MISSING", "partitions/2 (stream kk, partition 1): MISSING", "2 missing")

	if os.Getuid() != 0 {
		if err := os.Chmod(dir, 0); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(dir, 0o700)
		c.fails(exitNoInput, []string{"log", "verify", dir}, "permission denied")
	}
}

// Who gives up while a node refuses is told why it did.
func TestRefusalIsTold(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, true)
	newCLI(t, n).ok("pub", "orders", "one")
	stopNode(t, n)
	n, err := broker.Start(t.Context(), broker.Config{Address: "127.0.0.1:0", DataDir: dir, Dev: true, MinFree: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, n) })
	c := newCLI(t, n)
	const advice = "do:  Free space, or shorten the retention"
	c.fails(exitError, []string{"stream", "create", "more", "--timeout", "300ms"}, "error TW-4010: stream more was not created", "the disk is almost full", advice)
	c.fails(exitError, []string{"pub", "orders", "two", "--timeout", "300ms"}, "error TW-4010: the record was not stored", "why: no ack came for 300 ms: the disk is almost full", advice)
	c.fails(exitError, []string{"pub", "nowhere", "two", "--timeout", "300ms"}, "error TW-4010: the record was not stored", "why: the disk is almost full", advice)
	c.typing("1\n2\n").fails(exitError, []string{"pub", "orders", "--timeout", "300ms"}, "error TW-4010: not every line was stored", "no ack came for 300 ms: the disk is almost full",
		"no line is stored; go on from line 1", "Free space, or shorten the retention")
	for _, args := range []string{"pub --subject orders", "pub --subject orders --in-flight 1", "pub --subject orders --rate 1000 --connections 3", "rtt --subject orders", "pub --subject nowhere"} {
		c.fails(exitError, append(strings.Fields("bench --timeout 300ms"), strings.Fields(args)...), "error TW-4010: the benchmark did not finish", "the disk is almost full", advice)
	}
	way := newDetour(t, n.Addr().String(), "")
	p := spawn(t, "", "bench", "pub", "--subject", "orders", "--server", way.address)
	<-way.accepted
	<-way.accepted // the first one only sees whether there is a node
	p.signal(os.Interrupt)
	p.ends(exitError, "interrupted after", "nothing was acknowledged: the disk is almost full", advice)
}

// A record without an ack is said not to be stored only where that is known.
func TestUnknownOutcomeIsSaid(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	newCLI(t, n).ok("pub", "orders", "one")
	c := newCLI(t, nil)
	c.env["TIDEWIRE_SERVER"] = newDetour(t, n.Addr().String(), "swallowed").address
	c.fails(exitError, []string{"pub", "orders", "swallowed", "--timeout", "300ms"}, "error TW-1047: the record may or may not be stored", "no ack came for 300 ms", "Look with `tidewire sub`")
	c.typing("swallowed\n").fails(exitError, []string{"pub", "orders", "--timeout", "300ms"}, "error TW-6008: not every line was stored", "line 1 may or may not be", "Is the node up")
}

// Of a stream that is deleted while it is read, a filter that may meet others goes on.
func TestSubOfDeletedStream(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	c := newCLI(t, n)
	for filter, ends := range map[string]bool{"gone.*": false, "gone.a": true} {
		c.ok("stream", "create", "g", "--subject", "gone.a")
		c.ok("pub", "gone.a", "one")
		var out, stderr buffer
		a := &app{in: strings.NewReader(""), out: &out, err: &stderr, getenv: func(k string) string { return c.env[k] }}
		done := make(chan int)
		go func() { done <- a.run([]string{"sub", filter, "--count", "2"}) }()
		waitFor(t, "the record", func() bool { return out.String() == "one\n" })
		c.ok("stream", "rm", "g", "--purge", "--yes")
		if ends {
			if code := <-done; code != exitError || stderr.String() != "error TW-1020: reading stopped\n  why: the stream that captures gone.a was deleted\n  do:  "+advice(client.ErrUnknownStream)+"\n" {
				t.Errorf("exit code %d: %s", code, stderr.String())
			}
			continue
		}
		waitFor(t, "the note", func() bool {
			return strings.Contains(stderr.String(), "was deleted; the subscription goes on with what else its filter meets\n")
		})
		c.ok("stream", "create", "h", "--subject", "gone.b")
		c.ok("pub", "gone.b", "two")
		if code := <-done; code != 0 || out.String() != "one\ntwo\n" {
			t.Errorf("exit code %d, %q: %s", code, out.String(), stderr.String())
		}
		c.ok("stream", "rm", "h", "--purge", "--yes")
	}
}

// A lost connection is said once.
func TestConnectionLostIsSaid(t *testing.T) {
	n := startNode(t, t.TempDir(), true)
	newCLI(t, n).ok("pub", "s", "one")
	way := newDetour(t, n.Addr().String(), "")
	var out, stderr buffer
	a := &app{in: strings.NewReader(""), out: &out, err: &stderr, getenv: func(string) string { return "" }}
	done := make(chan int)
	go func() { done <- a.run([]string{"sub", "s", "--count", "2", "--server", way.address}) }()
	waitFor(t, "the record", func() bool { return out.String() == "one\n" })
	(<-way.accepted).Close()
	waitFor(t, "the notice", func() bool { return strings.Contains(stderr.String(), "connection lost ("+way.address) })
	newCLI(t, n).ok("pub", "s", "two")
	if code := <-done; code != 0 || strings.Contains(stderr.String(), "connection was lost") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

// detour stands between clients and a node.
type detour struct {
	address  string
	accepted chan net.Conn // those of clients
}

// newDetour passes everything on, until a client says swallow, if that is not empty: from there on its connection is silent.
func newDetour(t *testing.T, to, swallow string) *detour {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &detour{l.Addr().String(), make(chan net.Conn, 100)}
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	running.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { from.Close() })
			node, err := net.Dial("tcp", to)
			if err != nil {
				from.Close()
				continue
			}
			r.accepted <- from
			running.Go(func() { _, _ = io.Copy(from, node); from.Close() })
			running.Go(func() {
				defer node.Close()
				b := make([]byte, 64<<10)
				for {
					n, err := from.Read(b)
					if err != nil {
						return
					}
					if swallow != "" && strings.Contains(string(b[:n]), swallow) {
						<-ctx.Done()
						return
					}
					if _, err := node.Write(b[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		stop()
		running.Wait()
	})
	return r
}
