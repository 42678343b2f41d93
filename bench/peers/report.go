package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/tidewire/tidewire/bench"
)

// Report is what a whole run measured.
type Report struct {
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took_ns"`
	Quick   bool          `json:"quick"` // too short to quote
	Rounds  int           `json:"rounds"`
	Servers []string      `json:"servers"` // what they say of their versions
	Machine Machine       `json:"machine"`
	Floors  []Floor       `json:"floors"`
	Rows    []*Row        `json:"rows"`
}

// Machine is where it ran.
type Machine struct {
	Cores  int    `json:"cores"`
	CPU    string `json:"cpu"`
	Kernel string `json:"kernel"`
	Memory string `json:"memory"`
	Go     string `json:"go"`
}

// Floor is what the machine does without a broker.
type Floor struct {
	Name    string         `json:"name"`
	Latency *bench.Latency `json:"latency"`
}

func newReport(in *instrument, quick bool) (*Report, error) {
	r := &Report{Began: time.Now(), Quick: quick, Rounds: in.rounds, Machine: describeMachine()}
	var err error
	if r.Servers, err = versions(); err != nil {
		return nil, err
	}
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		in.tell(fmt.Sprintf("write and fdatasync of %d KiB", size>>10))
		d, err := bench.MeasureDisk(in.dir, size)
		if err != nil {
			return nil, err
		}
		r.Floors = append(r.Floors, Floor{fmt.Sprintf("write and fdatasync, %d KiB", size>>10), d.Latency})
	}
	in.tell("round trip over loopback")
	l, err := loopback(64)
	if err != nil {
		return nil, err
	}
	r.Floors = append(r.Floors, Floor{"round trip over loopback, 64 B", l})
	return r, nil
}

func describeMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	field := func(file, key string) string {
		b, _ := os.ReadFile(file) // what cannot be told stays empty
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
				return strings.TrimSpace(v)
			}
		}
		return ""
	}
	m.CPU, m.Memory = field("/proc/cpuinfo", "model name"), field("/proc/meminfo", "MemTotal")
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(b))
	return m
}

// write leaves the three forms in dir.
func (r *Report) write(dir string) error {
	for name, write := range map[string]func(io.Writer) error{"results.txt": r.text, "results.json": r.json, "results.html": r.html} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := write(f); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Report) json(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

func (r *Report) text(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s, %d rounds or twice as many, %d cores, %s, Linux %s, %s\n", r.Began.UTC().Format("2006-01-02 15:04 UTC"), r.Rounds, r.Machine.Cores, r.Machine.CPU, r.Machine.Kernel, r.Machine.Go)
	if r.Quick {
		fmt.Fprintln(w, "One short round, to see that it works: no figures to quote.")
	}
	for _, s := range r.Servers {
		fmt.Fprintln(w, s)
	}
	fmt.Fprintln(w)
	for _, f := range r.Floors {
		fmt.Fprintf(w, "%s\tp50 %.0f us\tp99 %.0f us\n", f.Name, micro(f.Latency.P50), micro(f.Latency.P99))
	}
	fmt.Fprintln(w)
	for _, line := range r.table() {
		fmt.Fprintln(w, strings.Join(line, "\t")+"\t")
	}
	held, all := r.held()
	fmt.Fprintf(w, "\nThe goals of %d of %d cases hold; it took %s. Medians; behind them what tidewire is of each. All figures:\n", held, all, r.Took.Round(time.Second))
	for _, row := range r.Rows {
		fmt.Fprintf(w, "\n%s (%s, %s)\n", row.Name, row.Metric, row.Unit)
		fmt.Fprintln(w, "  system\tclient\tfsync\tmedian\tmin - max\truns\tp50 us\tp99 us\tp99.9 us\tmax us\tserver us/rec\tclient us/rec\tanon MiB\tRSS MiB\tdevice B/B\tallocs/batch\treaders MB/s\t")
		for i := range row.Entries {
			c := &row.Entries[i]
			run := c.middle(row)
			low := ""
			if c.Low {
				low = fmt.Sprintf("worse than %.1f of what is known of it (%s)", honest, figure(row.known(c.System)))
			}
			l := run.Result.Latency
			if l == nil {
				l = &bench.Latency{}
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s - %s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f\t%.0f\t%s\t%s\t%s\t%s\n", c.System, dash(c.Client), c.Fsync, figure(c.Median), figure(c.Min), figure(c.Max), len(c.Runs),
				dashed(micro(l.P50)), dashed(micro(l.P99)), dashed(micro(l.P999)), dashed(micro(l.Max)), dashed(run.ServerCPU), dashed(run.ClientCPU),
				float64(run.Anonymous)/(1<<20), float64(run.Resident)/(1<<20), dashed(run.Device), dashed(run.Allocs), dashed(run.Read/1e6), low)
		}
		for _, g := range row.Goals {
			fmt.Fprintf(w, "  %s\n", g.say(row))
		}
	}
	return w.Flush()
}

// table is all rows in short: what each system reached, with the ratio of tidewire to it, and whether the goals hold.
func (r *Report) table() [][]string {
	names, fsync := []string{"case", "unit"}, []string{"", "fsync:"}
	for _, s := range systems {
		names, fsync = append(names, s.Name()), append(fsync, s.Fsync())
	}
	lines := [][]string{append(names, "goals"), append(fsync, "")}
	for _, row := range r.Rows {
		line := []string{row.Name, row.Unit}
		mine, err := row.best("tidewire")
		for _, s := range systems {
			c, none := row.best(s.Name())
			switch {
			case none != nil:
				line = append(line, "-")
			case err != nil || c == mine:
				line = append(line, figure(c.Median))
			default:
				line = append(line, fmt.Sprintf("%s (%s x)", figure(c.Median), figure(mine.Median/c.Median)))
			}
		}
		var verdicts []string
		for _, g := range row.Goals {
			verdicts = append(verdicts, verdict(g.Held))
		}
		lines = append(lines, append(line, strings.Join(verdicts, ", ")))
	}
	return lines
}

func verdict(held bool) string {
	if held {
		return "holds"
	}
	return "FALLS SHORT"
}

// held counts the rows that have goals, and those of which all hold.
func (r *Report) held() (held, all int) {
	for _, row := range r.Rows {
		if len(row.Goals) == 0 {
			continue
		}
		all++
		if !slices.ContainsFunc(row.Goals, func(m Met) bool { return !m.Held }) {
			held++
		}
	}
	return held, all
}

func (m Met) say(row *Row) string {
	bound := "at least"
	if m.AtMost {
		bound = "at most"
	}
	what, unit := m.measured(row)
	return fmt.Sprintf("%s: %s %s %s, goal %s %s", verdict(m.Held), what, figure(m.Ratio), unit, bound, figure(m.Reach))
}

// measured says what Ratio is of, and in what.
func (m Met) measured(row *Row) (what, unit string) {
	switch {
	case m.Flat:
		return m.Figure + " of the last load is", "x that of the second"
	case m.Than != "":
		return "tidewire is", "x " + m.Than
	case m.Beside != "":
		return "tidewire is", "x " + m.Beside
	case m.Figure != "":
		return m.Figure + " is", m.Unit
	}
	return "tidewire is", row.Unit
}

// middle is the run whose metric is nearest to the median.
func (c *Column) middle(row *Row) *Run {
	best := c.Runs[0]
	off := func(r *Run) float64 {
		d := row.Case.Metric.Of(r) - c.Median
		return max(d, -d)
	}
	for _, r := range c.Runs {
		if off(r) < off(best) {
			best = r
		}
	}
	return best
}

// figure writes three digits.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func dashed(v float64) string {
	if v == 0 {
		return "-"
	}
	return figure(v)
}

// short is a row on one line.
func (r *Row) short() string {
	s := r.Name
	for i := range r.Entries {
		c := &r.Entries[i]
		s += fmt.Sprintf(", %s %s", strings.TrimSpace(c.System+" "+c.Client), figure(c.Median))
	}
	return s + " " + r.Unit
}

// progress says what is measured now on one line of a terminal, and what has been measured on lines of their own.
func progress(f *os.File) (tell, told func(string)) {
	erase := ""
	if term.IsTerminal(int(f.Fd())) {
		erase = "\r\x1b[K"
	}
	return func(s string) {
		if erase != "" {
			fmt.Fprint(f, erase, s)
		}
	}, func(s string) { fmt.Fprintln(f, erase+s) }
}
