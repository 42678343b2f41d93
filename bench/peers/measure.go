package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tidewire/tidewire/bench"
)

// Row is a Case with what came of it.
type Row struct {
	Case    *Case    `json:"-"`
	Name    string   `json:"case"`
	Metric  string   `json:"metric"`
	Unit    string   `json:"unit"`
	Less    bool     `json:"less_is_better"`
	Entries []Column `json:"entries"`
	Goals   []Met    `json:"goals"`
}

// Column is a system's part of a Row.
type Column struct {
	System string  `json:"system"`
	Client string  `json:"client,omitempty"`
	Fsync  string  `json:"fsync"`
	Known  float64 `json:"known,omitempty"`
	Low    bool    `json:"below_known,omitempty"` // the best of its system is, also with twice the rounds
	Runs   []*Run  `json:"runs"`

	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Met is a Goal with what came of it.
type Met struct {
	Goal
	Figure string  `json:"figure,omitempty"` // it is of; "": the row's
	Unit   string  `json:"unit,omitempty"`   // of Figure
	AtMost bool    `json:"at_most"`          // Reach is
	Ratio  float64 `json:"ratio"`            // or the figure itself
	Held   bool    `json:"held"`
}

// instrument measures cases.
type instrument struct {
	dir    string // where servers keep their data; one directory each, removed afterwards
	quick  bool   // nothing is repeated
	rounds int
	length length
	shrink uint64       // of what is filled, 1 / shrink is
	tell   func(string) // what is measured now
	told   func(string) // what has been measured

	profile string // directory where loads leave profiles of their own; "": they make none
}

// cell is an entry of one row, or of several that are measured on the same server.
type cell struct {
	rows  []*Row
	entry int
}

func (c cell) columns() (all []*Column) {
	for _, r := range c.rows {
		all = append(all, &r.Entries[c.entry])
	}
	return all
}

// order is the one in which n are measured in a round: it turns, and every other round goes the other way round, so that none always runs
// behind the same one, or at the same place.
func order(round, n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = (round/2 + i) % n
	}
	if round%2 == 1 {
		slices.Reverse(all)
	}
	return all
}

// measure measures a case, of which each variant becomes a row: every entry of every row once a round, in the order of the
// round. If a peer is below what is known of it, all have as many rounds again, once, and all rounds count.
func (in *instrument) measure(ctx context.Context, c *Case) (rows []*Row, err error) {
	var cells []cell
	for _, rc := range c.rows() {
		row := &Row{Case: rc, Name: rc.Name, Metric: rc.Metric.Name, Unit: rc.Metric.Unit, Less: rc.Metric.Less}
		for i, e := range rc.Entries {
			s, err := systemNamed(e.System)
			if err != nil {
				return nil, err
			}
			row.Entries = append(row.Entries, Column{System: e.System, Client: e.Client, Fsync: s.Fsync(), Known: e.Known})
			if len(rows) == 0 || len(c.Variants) > 0 {
				cells = append(cells, cell{[]*Row{row}, i})
			} else {
				cells[i].rows = append(cells[i].rows, row)
			}
		}
		rows = append(rows, row)
	}
	rounds := in.rounds
	if c.Loads > 0 {
		rounds = 1
	}
	done := 0
	for _, why := range []string{"", "again, as one was below what is known of it; "} {
		for round := range rounds {
			for _, at := range order(done, len(cells)) {
				if err := in.once(ctx, cells[at], fmt.Sprintf("%sround %d of %d", why, round+1, rounds)); err != nil {
					return nil, err
				}
			}
			done++
		}
		low := false
		for _, row := range rows {
			low = row.sum() || low
		}
		if !low || in.quick {
			break
		}
	}
	for _, row := range rows {
		for _, g := range row.Case.Goals {
			row.Goals = append(row.Goals, row.met(g, rows))
		}
	}
	return rows, nil
}

// once measures an entry on a fresh server.
func (in *instrument) once(ctx context.Context, at cell, when string) error {
	first := at.columns()[0]
	system, err := systemNamed(first.System)
	if err != nil {
		return err
	}
	c := at.rows[0].Case
	in.tell(fmt.Sprintf("%s: %s %s, %s", c.Name, first.System, first.Client, when))
	return in.with(ctx, c, system, first.Client, func(s **server, spec Spec) error {
		for i, col := range at.columns() {
			if i > 0 {
				c = at.rows[i].Case
				records := spec.Records
				spec = c.Spec
				spec.Client, spec.Records = col.Client, records
				in.tell(fmt.Sprintf("%s: %s %s, %s", c.Name, col.System, col.Client, when))
			}
			for load := range max(1, c.Loads) {
				if c.Loads > 0 {
					in.tell(fmt.Sprintf("%s: %s %s, %d of %d", c.Name, col.System, col.Client, load+1, c.Loads))
				}
				measure := in.measured
				if c.Restart {
					measure = in.restart
				}
				run, err := measure(ctx, s, spec)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", c.Name, col.System, err)
				}
				col.Runs = append(col.Runs, run)
			}
		}
		return nil
	})
}

// settling is how long a server has nothing to do before it counts as idle, and resting how long it is measured then: what it does
// now and then must be in it as often as it is done.
const settling, resting = 45 * time.Second, time.Minute

// measured does the load for as long as loads are measured.
func (in *instrument) measured(ctx context.Context, s **server, spec Spec) (*Run, error) {
	if spec.Cold {
		if err := dropCaches(); err != nil {
			return nil, err
		}
	}
	if spec.Kind == idle && !in.quick {
		in.tell("what making the streams has cost settles")
		select {
		case <-time.After(settling):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if spec.Kind != publish || spec.Records == 0 {
		spec.Warmup, spec.Duration = in.length.warmup, in.length.measured
	}
	if spec.Kind == idle && !in.quick {
		spec.Duration = resting
	}
	return in.load(ctx, *s, spec)
}

// with calls use with a fresh server that has what the case begins with. use may put another in its place.
func (in *instrument) with(ctx context.Context, c *Case, system System, client string, use func(s **server, spec Spec) error) error {
	dir, err := os.MkdirTemp(in.dir, prefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	address, err := freeAddress()
	if err != nil {
		return err
	}
	s, err := startServer(ctx, system, dir, address)
	if err != nil {
		return err
	}
	defer func() { s.kill() }()
	spec := c.Spec
	spec.Client = client
	if err := system.Prepare(ctx, address, spec); err != nil {
		return fmt.Errorf("%s: %w", system.Name(), err)
	}
	spec.Records = max(spec.Records/in.shrink, min(spec.Records, 1))
	if c.Fill > 0 {
		fill := max(1, c.Fill/in.shrink)
		if err := in.bulk(ctx, s, spec, fill, 0); err != nil {
			return err
		}
		s.holds = fill
		if spec.Kind != publish {
			spec.Records = fill
		}
	} else if spec.Kind == publish || spec.Kind == roundTrip {
		// It is measured as one that has been running: at first it takes memory that its process has not touched before.
		if err := in.bulk(ctx, s, spec, 0, in.length.warming); err != nil {
			return err
		}
	}
	return use(&s, spec)
}

// bulkOf is the load that fills a server for another one.
func bulkOf(spec Spec) Spec {
	return publishing(1, min(inFlight, (32<<20)/spec.Size), perBatch, spec.Size)
}

// bulk has a server take records as fast as it can: so many, or for so long.
func (in *instrument) bulk(ctx context.Context, s *server, spec Spec, records uint64, long time.Duration) error {
	b := bulkOf(spec)
	b.Records, b.Duration, b.Partitions, b.Subjects, b.Redundant = records, long, spec.Partitions, spec.Subjects, spec.Redundant
	if _, ok := s.system.(*jetStream); ok {
		b.Client = "fast"
	}
	_, err := in.load(ctx, s, b)
	return err
}

// load has a process of its own do it.
func (in *instrument) load(ctx context.Context, s *server, spec Spec) (*Run, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	what, err := json.Marshal(job{System: s.system.Name(), Address: s.address, Pid: s.cmd.Process.Pid, Dir: s.dir, Profile: in.profile, Spec: spec})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, loadCommand)
	dieWithParent(cmd)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(what), &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	run := &Run{}
	return run, json.Unmarshal(out.Bytes(), run)
}

// restart kills the server and measures the time until another has given its first record and its first ack.
func (in *instrument) restart(ctx context.Context, s **server, spec Spec) (*Run, error) {
	old := *s
	old.kill()
	if spec.Cold {
		if err := dropCaches(); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	next, err := startServer(ctx, old.system, old.dir, old.address)
	if err != nil {
		return nil, err
	}
	*s = next
	next.holds = old.holds
	one := Spec{Kind: replay, Client: "ordered", Size: spec.Size, Records: 1}
	if _, err := next.system.Replay(ctx, next.address, one); err != nil {
		return nil, err
	}
	p, err := next.system.Publisher(ctx, next.address, Spec{Client: "async", InFlight: 1, Batch: 1})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	ack, err := p.Publish(ctx, message(spec.Size))
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	if ack.Offset != next.holds {
		return nil, fmt.Errorf("after a restart it stores record %d where it held %d", ack.Offset, next.holds)
	}
	next.holds++
	u, err := measureUsage(next.cmd.Process.Pid, next.dir)
	if err != nil {
		return nil, err
	}
	return &Run{Result: &bench.Result{Workload: "restart", Records: spec.Records, Size: spec.Size, Took: took},
		ServerCPU: micro(u.CPU) / float64(spec.Records), Resident: u.Resident, Anonymous: u.Anonymous}, nil
}

// sum works the medians out, and tells whether a system is below what is known of it.
func (r *Row) sum() (low bool) {
	for i := range r.Entries {
		c := &r.Entries[i]
		c.Median, c.Min, c.Max = c.of(r.Case.Metric)
		c.Low = false
	}
	for _, s := range systems {
		if c, err := r.best(s.Name()); err == nil {
			c.Low = r.belowKnown(c)
			low = low || c.Low
		}
	}
	return low
}

// of is a figure of the runs.
func (c *Column) of(m Metric) (median, least, most float64) {
	var all []float64
	for _, r := range c.Runs {
		all = append(all, m.Of(r))
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2, all[0], all[n-1]
}

// honest is how far a peer may fall short of what is known of it before its case has more rounds.
const honest = 0.8

// known is what is known of a system in the case, with its best client; 0 if nothing is.
func (r *Row) known(system string) (known float64) {
	for _, c := range r.Entries {
		if c.System == system && c.Known > 0 && (known == 0 || (c.Known < known) == r.Less) {
			known = c.Known
		}
	}
	return known
}

func (r *Row) belowKnown(c *Column) bool {
	known := r.known(c.System)
	if r.Less {
		return known > 0 && c.Median > known/honest
	}
	return c.Median < known*honest
}

// best is a system's best column.
func (r *Row) best(system string) (*Column, error) {
	var best *Column
	for i := range r.Entries {
		c := &r.Entries[i]
		if c.System == system && (best == nil || (c.Median < best.Median) == r.Less) {
			best = c
		}
	}
	if best == nil {
		return nil, errors.New("the row has no " + system)
	}
	return best, nil
}

// clients is how many of a system's were measured.
func (r *Row) clients(system string) (n int) {
	for i := range r.Entries {
		if r.Entries[i].System == system {
			n++
		}
	}
	return n
}

// met works a goal out; rows are those of the same case.
func (r *Row) met(g Goal, rows []*Row) Met {
	m := Met{Goal: g}
	mine, err := r.best("tidewire")
	if err != nil {
		return m
	}
	less, median := r.Less, func(c *Column) float64 { return c.Median }
	if g.Of != nil {
		m.Figure, m.Unit, less = g.Of.Name, g.Of.Unit, g.Of.Less
		median = func(c *Column) float64 { of, _, _ := c.of(*g.Of); return of }
	}
	switch {
	case g.Flat:
		if len(mine.Runs) < 2 {
			return m
		}
		less = true
		m.Ratio = g.Of.Of(mine.Runs[len(mine.Runs)-1]) / g.Of.Of(mine.Runs[1])
	case g.Than != "":
		peer, err := r.best(g.Than)
		if err != nil {
			return m
		}
		m.Ratio = median(mine) / median(peer)
	case g.Beside != "":
		i := slices.IndexFunc(rows, func(other *Row) bool { return strings.HasSuffix(other.Name, ", "+g.Beside) })
		if i < 0 {
			return m
		}
		other, err := rows[i].best("tidewire")
		if err != nil {
			return m
		}
		m.Ratio = median(mine) / median(other)
	default:
		m.Ratio = median(mine)
	}
	m.AtMost = less
	m.Held = m.Ratio >= g.Reach
	if less {
		m.Held = m.Ratio <= g.Reach
	}
	return m
}

// prefix is of the directories that servers have.
const prefix = "tidewire-bench-"

// cleanup removes what a run that was killed left behind.
func cleanup(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	for _, l := range left {
		err = errors.Join(err, os.RemoveAll(l))
	}
	return err
}
