package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/html"

	"github.com/tidewire/tidewire/bench"
	client "github.com/tidewire/tidewire/client/go"
)

// Every case measures Tidewire, and no goal names what the case does not measure.
func TestCases(t *testing.T) {
	names := map[string]bool{}
	for _, c := range slices.Concat(r1, also) {
		rows := c.rows()
		for _, row := range rows {
			if names[slug(row.Name)] {
				t.Errorf("two rows have the slug %q", slug(row.Name))
			}
			names[slug(row.Name)] = true
			measures := func(system string) bool {
				return slices.ContainsFunc(row.Entries, func(e Entry) bool { return e.System == system })
			}
			for i, e := range row.Entries {
				if len(c.Then) > 0 && (len(c.Variants) > 0 || len(row.Entries) != len(c.Entries) || e.System != c.Entries[i].System) {
					t.Errorf("%s is not of the same systems as %s", row.Name, c.Name)
				}
			}
			if !measures("tidewire") {
				t.Errorf("%s does not measure tidewire", row.Name)
			}
			for _, e := range row.Entries {
				if _, err := systemNamed(e.System); err != nil {
					t.Errorf("%s: %v", row.Name, err)
				}
			}
			for _, g := range row.Goals {
				if g.Than != "" && !measures(g.Than) {
					t.Errorf("%s: a goal names %s, which it does not measure", row.Name, g.Than)
				}
				if g.Beside != "" && !slices.ContainsFunc(rows, func(other *Case) bool { return other != row && other.Name == c.Name+", "+g.Beside }) {
					t.Errorf("%s: a goal names the variant %s, which is not there", row.Name, g.Beside)
				}
				if better := g.Stretch > g.Reach; g.Stretch != 0 && better == row.Metric.Less {
					t.Errorf("%s: the stretch %v is no better than %v", row.Name, g.Stretch, g.Reach)
				}
			}
		}
	}
	for _, c := range r1 {
		for _, row := range c.rows() {
			if len(row.Goals) == 0 {
				t.Errorf("%s has no goal", row.Name)
			}
		}
	}
}

// In as many pairs of rounds as there are, each is at each place, from both ends, and as often before another as behind it.
func TestOrder(t *testing.T) {
	for n := 1; n < 6; n++ {
		places, before := make([][]int, n), make([][]int, n)
		for i := range n {
			places[i], before[i] = make([]int, n), make([]int, n)
		}
		for round := range 2 * n {
			all := order(round, n)
			for place, i := range all {
				places[i][place]++
				for _, other := range all[place+1:] {
					before[i][other]++
				}
			}
		}
		for i := range n {
			for j := range n {
				if places[i][j] != 2 || i != j && before[i][j] != n {
					t.Fatalf("of %d: %d is %d times at place %d, and %d times before it", n, i, places[i][j], j, before[i][j])
				}
			}
		}
	}
}

// A row of a case is its load varied, and the load of the others stays.
func TestRows(t *testing.T) {
	c := Case{Name: "load", Spec: Spec{Size: 1}, Goals: []Goal{{Reach: 1}}, Variants: []Variant{
		{Name: "a", Vary: func(s *Spec) { s.Size = 2 }, Goals: []Goal{{Reach: 2}}},
		{Name: "b", Vary: func(s *Spec) { s.Rate = 3 }},
	}}
	rows := c.rows()
	if len(rows) != 2 || rows[0].Name != "load, a" || rows[0].Spec != (Spec{Size: 2}) || len(rows[0].Goals) != 2 ||
		rows[1].Spec != (Spec{Size: 1, Rate: 3}) || len(rows[1].Goals) != 1 || c.Spec != (Spec{Size: 1}) {
		t.Errorf("%+v, %+v, %+v", rows[0], rows[1], c)
	}
}

func TestCasesLike(t *testing.T) {
	if cases, err := casesLike("END to end at", false); err != nil || len(cases) != 1 || cases[0].Extra {
		t.Errorf("%d cases, %v", len(cases), err)
	}
	if cases, err := casesLike("256 partitions", false); err != nil || len(cases) != 1 || !cases[0].Extra || len(cases[0].rows()) != 3 {
		t.Errorf("%d cases, %v", len(cases), err)
	}
	if cases, err := casesLike("restart", false); err != nil || len(cases) != 1 || len(cases[0].rows()) != 4 {
		t.Errorf("%d cases, %v", len(cases), err)
	}
	if cases, err := casesLike("", false); err != nil || len(cases) != len(r1) {
		t.Errorf("%d cases, %v", len(cases), err)
	}
	if cases, err := casesLike("", true); err != nil || len(cases) != len(r1)+len(also) {
		t.Errorf("%d cases, %v", len(cases), err)
	}
	if _, err := casesLike("nothing of that name", true); err == nil || !strings.Contains(err.Error(), r1[0].Name) {
		t.Errorf("%v does not say what there is", err)
	}
	if _, err := casesLike("(", true); err == nil {
		t.Error("a pattern that is none is taken")
	}
}

// A system is as good as its best client, also against what is known of it.
func TestBelowKnown(t *testing.T) {
	row := &Row{Case: &Case{Metric: throughput}, Entries: []Column{
		{System: "redis-always", Known: 100, Runs: runs(50)},
		{System: "redis-always", Client: "multi", Runs: runs(79)},
	}}
	if !row.sum() || row.Entries[0].Low || !row.Entries[1].Low {
		t.Errorf("79 of 100 is marked %v, what is no best %v", row.Entries[1].Low, row.Entries[0].Low)
	}
	row.Entries[1].Runs = runs(81)
	if row.sum() || row.Entries[1].Low {
		t.Error("81 of 100 is marked")
	}
	for us, low := range map[float64]bool{124: false, 126: true} {
		r := &Row{Less: true, Entries: []Column{{System: "redis-always", Known: 100, Median: us}}}
		if r.belowKnown(&r.Entries[0]) != low {
			t.Errorf("%v us of 100 is low: %v", us, !low)
		}
	}
}

// runs are of so many thousand records a second.
func runs(thousands ...float64) (all []*Run) {
	for _, k := range thousands {
		h := bench.NewHistogram()
		h.Record(time.Millisecond)
		all = append(all, &Run{Result: &bench.Result{Records: uint64(k * 1e3), Took: time.Second, Latency: h.Latency()}, ServerCPU: 1, Device: 1.05})
	}
	return all
}

// report is one of a single case.
func report() *Report {
	c := &Case{Name: "64 in flight & more", Metric: throughput, Spec: publishing(1, 64, 1, 128)}
	row := &Row{Case: c, Name: c.Name, Metric: c.Metric.Name, Unit: c.Metric.Unit, Entries: []Column{
		{System: "tidewire", Fsync: "before every ack", Runs: runs(300, 100, 200)},
		{System: "jetstream", Client: "raw", Fsync: "every 2 minutes", Known: 200, Runs: runs(50, 80)},
		{System: "jetstream", Client: "async", Fsync: "every 2 minutes", Runs: runs(100, 100)},
	}}
	row.sum()
	for _, g := range []Goal{{Than: "jetstream", Reach: 1.5, Stretch: 2}, {Than: "jetstream", Reach: 2.5}, {Reach: 150}} {
		row.Goals = append(row.Goals, row.met(g, nil))
	}
	h := bench.NewHistogram()
	h.Record(time.Microsecond)
	return &Report{Began: time.Unix(0, 0), Took: time.Minute, Rounds: 3, Servers: []string{"tidewire 0.1.0"}, Floors: []Floor{{"write and fdatasync, 4 KiB", h.Latency()}}, Rows: []*Row{row}}
}

func TestGoals(t *testing.T) {
	row := report().Rows[0]
	if mine := row.Entries[0]; mine.Median != 200 || mine.Min != 100 || mine.Max != 300 {
		t.Errorf("median %v of %v to %v", mine.Median, mine.Min, mine.Max)
	}
	if row.Entries[1].Median != 65 || row.Entries[1].Low || !row.Entries[2].Low || row.Entries[0].Low {
		t.Errorf("%+v", row.Entries)
	}
	if best, err := row.best("jetstream"); err != nil || best.Client != "async" {
		t.Errorf("the best is %+v, %v", best, err)
	}
	var ratios []float64
	var held []bool
	for _, g := range row.Goals {
		ratios, held = append(ratios, g.Ratio), append(held, g.Held)
	}
	if !slices.Equal(ratios, []float64{2, 2, 200}) || !slices.Equal(held, []bool{true, false, true}) {
		t.Errorf("%v, %v", ratios, held)
	}

	row.Less = true // the same figures as milliseconds, say
	if best, err := row.best("jetstream"); err != nil || best.Client != "raw" {
		t.Errorf("the best is %+v, %v", best, err)
	}
	if m := row.met(Goal{Than: "jetstream", Reach: 3.1}, nil); !m.Held || math.Abs(m.Ratio-200.0/65) > 1e-9 {
		t.Errorf("%+v", m)
	}
	other := report().Rows[0]
	other.Name = "load, elsewhere"
	for i := range other.Entries {
		other.Entries[i].Median *= 4
	}
	row.Less = false
	if m := row.met(Goal{Beside: "elsewhere", Reach: 0.3}, []*Row{row, other}); m.Ratio != 0.25 || m.Held {
		t.Errorf("%+v", m)
	}
	// Of the loads 300, 100 and 200, the last is twice the second: it has grown, more than it may.
	if m := row.met(Goal{Of: &throughput, Flat: true, Reach: 1.9}, nil); m.Ratio != 2 || m.Held || !m.AtMost {
		t.Errorf("%+v", m)
	}
	if m := row.met(Goal{Of: &throughput, Flat: true, Reach: 2.1}, nil); !m.Held {
		t.Errorf("%+v", m)
	}
	// Another figure than the row's is the median of its own.
	if m := row.met(Goal{Of: &median, Reach: 900}, nil); math.Abs(m.Ratio-1000) > 1 || m.Held || !m.AtMost || m.Figure != "p50" || m.Unit != "us" {
		t.Errorf("%+v", m)
	}
	if _, err := row.best("redis-always"); err == nil {
		t.Error("a system that was not measured has a best")
	}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := report().text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`(?m)^tidewire 0\.1\.0$`,
		`64 in flight & more +k records/s +200 +100 \(2\.00 x\) +- +- +- +holds, FALLS SHORT, holds`,
		`The goals of 0 of 1 cases hold; it took 1m0s`,
		`jetstream +async +every 2 minutes +100 +100 - 100 +2 .*worse than 0\.8 of what is known of it \(200\)`,
		`tidewire +- +before every ack +200 +100 - 300 +3`,
		`FALLS SHORT: tidewire is 2\.00 x jetstream, goal at least 2\.50`,
		`holds: tidewire is 200 k records/s, goal at least 150`,
	} {
		if !regexp.MustCompile(want).Match(b.Bytes()) {
			t.Errorf("not there: %s\n%s", want, &b)
		}
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := report().json(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	row := back.Rows[0]
	if row.Name != "64 in flight & more" || len(row.Entries) != 3 || len(row.Entries[0].Runs) != 3 || row.Entries[0].Runs[0].Result.PerSecond() != 300_000 || !row.Goals[0].Held {
		t.Errorf("%s", &b)
	}
}

// Several runs, read from what they left, become one table.
func TestSummary(t *testing.T) {
	var files []string
	for i := range 2 {
		r := report()
		if i == 1 {
			r.Rows[0].Goals[0].Held = false
		}
		var b bytes.Buffer
		if err := r.json(&b); err != nil {
			t.Fatal(err)
		}
		files = append(files, filepath.Join(t.TempDir(), "results.json"))
		if err := os.WriteFile(files[i], b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reports, err := readReports(files)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := summary(&out, reports); err != nil {
		t.Fatal(err)
	}
	mine := figure(reports[0].Rows[0].Entries[0].Median)
	for _, want := range []string{"| case | tidewire |", reports[0].Rows[0].Name, "| " + mine + " / " + mine + " |", "100* / 100* (async)", "**short in 1 of 2**"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	reports[1].Rows[0].Name = "other"
	if err := summary(io.Discard, reports); err == nil {
		t.Error("runs of other cases are put into one table")
	}
}

// The page has every figure in it, and needs nothing from elsewhere.
func TestPage(t *testing.T) {
	var b bytes.Buffer
	if err := report().html(&b); err != nil {
		t.Fatal(err)
	}
	root, err := html.Parse(&b)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	var text strings.Builder
	for n := range root.Descendants() {
		count[n.Data]++
		if n.Type == html.TextNode {
			text.WriteString(n.Data)
		}
		for _, a := range n.Attr {
			if a.Key == "src" || a.Key == "href" {
				t.Errorf("%s=%s", a.Key, a.Val)
			}
		}
	}
	if count["svg"] != 3 || count["details"] != 1 {
		t.Errorf("%v", count)
	}
	for _, want := range []string{"64 in flight & more", "200 (100 to 300, 3 runs)", "100 (100 to 100, 2 runs), worse than what is known of it", "The goals of 0 of 1 cases hold", "fsync before every ack", "holds, FALLS SHORT, holds"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("not there: %s\n%s", want, text.String())
		}
	}
}

// What Redis answers to XADD is taken apart, and an error is the record's.
func TestRedisAnswers(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	c := newRedisConn(here)
	defer c.Close()
	c.start(3)
	go func() {
		_, _ = there.Read(make([]byte, 4096))
		_, _ = there.Write([]byte("$15\r\n1526919030474-0\r\n-OOM command not allowed\r\n"))
		_ = there.Close()
	}()
	answers := make(chan error, 3)
	for range 3 {
		if err := c.PublishAsync(t.Context(), client.Message{Subject: subject, Value: []byte("x")}, func(_ client.Ack, err error) { answers <- err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-answers; err != nil {
		t.Error(err)
	}
	if err := <-answers; err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("%v is not what it said", err)
	}
	if err := <-answers; err == nil {
		t.Error("a connection that ended has acknowledged a record")
	}
}

// A batch of Redis is a transaction, of as many as were asked for and at most what a batch may have; each command has its answer.
func TestRedisTransactions(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	c := newRedisConn(here)
	c.batch = 2
	c.waiting = make(chan func(client.Ack, error), 3)
	for range 3 { // none is written: it is not started
		if err := c.PublishAsync(t.Context(), client.Message{Subject: subject, Value: []byte("x")}, func(client.Ack, error) {}); err != nil {
			t.Fatal(err)
		}
	}
	c.execLocked()
	got := string(c.out)
	add := string(appendXADD(nil, client.Message{Subject: subject, Value: []byte("x")}))
	const multi, exec = "*1\r\n$5\r\nMULTI\r\n", "*1\r\n$4\r\nEXEC\r\n"
	if want := multi + add + add + exec + multi + add + exec; got != want {
		t.Errorf("%q, not %q", got, want)
	}
	go func() {
		_, _ = there.Write([]byte("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$15\r\n1526919030474-0\r\n$15\r\n1526919030474-1\r\n" +
			"+OK\r\n+QUEUED\r\n-EXECABORT Transaction discarded\r\n"))
	}()
	for i := range 3 {
		if err := c.answer(); (err == nil) != (i < 2) || err != nil && !strings.Contains(err.Error(), "EXECABORT") {
			t.Errorf("answer %d: %v", i, err)
		}
	}
	_ = here.Close()
}

// A sender that is told of acknowledgements when it calls must not have all in flight that it may, or it never calls again.
func TestFastFlow(t *testing.T) {
	for _, c := range slices.Concat(r1, also) {
		for _, row := range c.rows() {
			if row.Spec.Kind != publish || row.Spec.Batch < 2 {
				continue
			}
			for _, s := range []Spec{row.Spec, bulkOf(row.Spec)} {
				flow, acks := fastFlow(s.Batch, s.InFlight, s.Connections)
				if most := serverFlow / s.Connections; most > 1 && flow > most {
					t.Errorf("%s: %d messages an acknowledgement, the server gives one for %d", row.Name, flow, most)
				}
				if flow < 1 || flow > s.Batch || acks < 2 || flow*acks >= s.InFlight || flow*acks < s.InFlight/2 {
					t.Errorf("%s, %d in flight: %d acknowledgements of %d", row.Name, s.InFlight, acks, flow)
				}
			}
		}
	}
}

// Who reads faster than it may waits; how long is for the clock to say.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{rate: 100e6}
		began := time.Now()
		for range 1000 {
			p.spent(t.Context(), 1e6)
		}
		if took := time.Since(began); took < 9990*time.Millisecond || took > 10010*time.Millisecond {
			t.Errorf("1 GB at 100 MB/s took %v", took)
		}
	})
}

func TestStored(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a"), 0o755), os.WriteFile(filepath.Join(dir, "a", "b"), make([]byte, 100_000), 0o600)); err != nil {
		t.Fatal(err)
	}
	if n, err := allocated(dir); err != nil || n < 100_000 || n > 200_000 {
		t.Errorf("%d, %v", n, err)
	}
}

// What a run that was killed left behind goes; nothing else does.
func TestCleanup(t *testing.T) {
	dir := t.TempDir()
	mine, other := filepath.Join(dir, prefix+"1"), filepath.Join(dir, "results.txt")
	if err := errors.Join(os.MkdirAll(filepath.Join(mine, "data"), 0o755), os.WriteFile(other, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := cleanup(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mine); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", mine, err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}
