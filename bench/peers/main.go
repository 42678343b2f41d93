// Command peers measures Tidewire beside other brokers, in one run on one machine: every case on every system in turn,
// several rounds, medians. It prints a table and writes it as text, JSON and a page.
//
//	make bench            all cases, five rounds
//	make bench QUICK=1    one short round of each
//	make profile CASE=…   profiles of a case, of node and client
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	client "github.com/tidewire/tidewire/client/go"
)

// loadCommand is the argument of the processes that do the load.
const loadCommand = "load"

func main() {
	runtime.LockOSThread() // servers end with the thread that started them
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) == 2 && os.Args[1] == loadCommand {
		err = runJob(ctx, os.Stdin, os.Stdout)
	} else {
		err = measure(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context) error {
	in := &instrument{length: length{warming: time.Second, warmup: 500 * time.Millisecond, measured: 2 * time.Second}, shrink: 1}
	flag.IntVar(&in.rounds, "rounds", 5, "how often each system is measured")
	quick := flag.Bool("quick", false, "one short round, to see that it works; no figures to quote")
	only := flag.String("cases", "", "regular expression of the cases to measure")
	all := flag.Bool("all", false, "measure also what is no row of the table of goals: sizes, partitions, consumers beside, idle streams, retention")
	profiled := flag.String("profile", "", "regular expression of the cases to take profiles of, and to measure nothing")
	out := flag.String("out", "build/bench", "directory for results.txt, results.json and results.html")
	flag.StringVar(&in.dir, "dir", "", "directory on the disk to measure (default: in -out)")
	flag.StringVar(&tools, "tools", "build", "directory with tidewire and nats-server")
	summarized := flag.Bool("summary", false, "print a table in Markdown of runs whose results.json are the arguments, and measure nothing")
	flag.Parse()
	if *summarized {
		reports, err := readReports(flag.Args())
		if err != nil {
			return err
		}
		return summary(os.Stdout, reports)
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("%q is not understood; see -help", flag.Args())
	}
	if in.rounds < 1 {
		return fmt.Errorf("-rounds %d is below 1", in.rounds)
	}
	if in.quick = *quick; in.quick {
		in.rounds, in.length, in.shrink = 1, length{warming: 100 * time.Millisecond, measured: 400 * time.Millisecond}, 40 // no warm-up: a slow disk might be all of it
	}
	cases, err := casesLike(*only+*profiled, *all)
	if err != nil {
		return err
	}
	if in.dir == "" {
		in.dir = *out
	}
	if err := errors.Join(os.MkdirAll(*out, 0o755), os.MkdirAll(in.dir, 0o755), cleanup(in.dir)); err != nil {
		return err
	}
	if in.dir, err = filepath.Abs(in.dir); err != nil {
		return err
	}
	in.tell, in.told = progress(os.Stderr)
	if *profiled != "" {
		for _, c := range cases {
			for _, row := range c.rows() {
				if err := in.profiles(ctx, row, filepath.Join("build", "profile"), os.Stdout); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if slices.ContainsFunc(cases, (*Case).cold) {
		if err := dropCaches(); err != nil {
			return fmt.Errorf("cases that read what is not in memory need root, to empty the page cache: %w; -cases measures others", err)
		}
	}
	if slices.ContainsFunc(cases, (*Case).weighsDisk) {
		switch written, err := deviceWritten(in.dir); {
		case err != nil:
			return err
		case written < 0:
			return fmt.Errorf("cases of what is written to the disk need one that counts it, and %s is on none: name a directory on another with -dir, or measure others with -cases", in.dir)
		}
	}
	r, err := newReport(in, *quick)
	if err != nil {
		return err
	}
	for i, c := range cases {
		rows, err := in.measure(ctx, c)
		if err != nil {
			return err
		}
		for _, row := range rows {
			r.Rows = append(r.Rows, row)
			in.told(fmt.Sprintf("%d of %d: %s", i+1, len(cases), row.short()))
		}
		r.Took = time.Since(r.Began)
		if err := r.write(*out); err != nil { // after each: a run that ends early is not lost
			return err
		}
	}
	return r.text(os.Stdout)
}

// casesLike are those whose names, or that of a row of theirs, match; without a pattern, r1, or all.
func casesLike(pattern string, all bool) (cases []*Case, err error) {
	like, err := regexp.Compile("(?i)" + pattern)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, some := range [][]Case{r1, also} {
		extra := &some[0] == &also[0]
		for _, c := range some {
			c.Extra = extra
			matches := false
			for _, row := range c.rows() {
				names = append(names, row.Name)
				matches = matches || like.MatchString(row.Name)
			}
			if matches && (pattern != "" || all || !extra) {
				cases = append(cases, &c)
			}
		}
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("no case matches %q; there are:\n  %s", pattern, strings.Join(names, "\n  "))
	}
	return cases, nil
}

// message is a record of that many bytes.
func message(size int) client.Message {
	return client.Message{Subject: subject, Value: make([]byte, size)}
}
