package telemetry

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"google.golang.org/grpc/codes"
)

//go:generate go test -run ^TestReference$ -update .

var update = flag.Bool("update", false, "write docs/reference/metrics.md")

// The page in the documents is what the code says.
func TestReference(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "reference", "metrics.md")
	var want bytes.Buffer
	if err := WriteReference(&want); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is stale: go generate ./broker/telemetry", path)
	}
}

// Every entry of the catalogue is told by a node under its name, type and labels, nothing else of
// ours is, and names and helps are as Prometheus has them.
func TestCatalogue(t *testing.T) {
	m := New(Config{Version: "1", Commit: "c", Go: "go", Protocol: 1, Streams: 1, State: func() State {
		return State{Dropped: []Dropped{{"idle", 1}}, Memory: []Budget{{"publish", 1, 2}}, Held: map[string]Held{}}
	}})
	m.HTTP("/", 200)
	m.Call("/tidewire.admin.v1.NodeService/GetNode", codes.OK)
	m.Loop(0).Refused.Add(1, 1)
	m.Loop(0).RefusedRequests.Add(1, 1)
	recordRPC(t)
	for deadline := time.Now().Add(patience); len(rpcCounts(t, m)) == 0; { // the last event of a call may follow its answer
		if time.Now().After(deadline) {
			t.Fatal("no call was measured")
		}
		runtime.Gosched()
	}
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[string]string)
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "tidewire_") {
			continue
		}
		told[f.GetName()] = strings.ToLower(f.GetType().String())
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		for _, e := range Catalogue() {
			if e.Name == f.GetName() && len(labels) != len(e.Labels) {
				t.Errorf("%s has labels %v, the catalogue says %v", e.Name, labels, e.Labels)
			}
		}
	}
	for _, e := range Catalogue() {
		switch kind, ok := told[e.Name]; {
		case !ok:
			t.Errorf("%s stands in the catalogue and is not told", e.Name)
		case kind != e.Kind:
			t.Errorf("%s is a %s, the catalogue says %s", e.Name, kind, e.Kind)
		case len(e.Help) < 20 || e.Unit == "":
			t.Errorf("%s has no help or no unit", e.Name)
		case !strings.HasPrefix(e.Name, "tidewire_"):
			t.Errorf("%s does not begin with tidewire_", e.Name)
		}
		delete(told, e.Name)
	}
	for name := range told {
		t.Errorf("%s is told and not in the catalogue", name)
	}
	problems, err := testutil.GatherAndLint(m.Gatherer())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "tidewire_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// Streams beyond the limit are summed, and no counter of the others ever goes back.
func TestStreamLabelsAreBounded(t *testing.T) {
	m := New(Config{Streams: 2, State: func() State { return State{} }})
	a, b, c := m.Stream("a"), m.Stream("b"), m.Stream("c")
	if a.Label != "a" || b.Label != "b" || c.Label != OtherStreams {
		t.Fatalf("labels %q %q %q", a.Label, b.Label, c.Label)
	}
	if again := m.Stream("a"); again != a {
		t.Error("two partitions of a stream do not share its counters")
	}
	c.Published.Add(1, 10, 100)
	m.Release(a)
	if d := m.Stream("d"); d.Label != OtherStreams {
		t.Errorf("%q has a label while a partition of a is open", d.Label)
	}
	m.Release(a)
	if d := m.Stream("d"); d.Label != "d" {
		t.Errorf("d is %q though a gave its label back", d.Label)
	}
	if c = m.Stream("c"); c.Label != OtherStreams || c.Published.Records.Load() != 10 {
		t.Error("a stream left the others: their counters would go back")
	}
	if n := testutil.CollectAndCount((*collector)(m), "tidewire_stream_published_records_total"); n != 3 {
		t.Errorf("%d series for 2 streams and the others", n)
	}
}
