package telemetry

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
)

// exists reports whether a name in a rule or a document is a metric's, or a series of a histogram.
func exists(name string) bool {
	return slices.ContainsFunc(Catalogue(), func(m Metric) bool {
		if m.Kind == histogram {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if name == m.Name+suffix {
					return true
				}
			}
		}
		return name == m.Name
	})
}

var metricName = regexp.MustCompile(`\btidewire_[a-z0-9_]+`)

// The rules parse, each says what to do, and asks for metrics that exist.
func TestAlerts(t *testing.T) {
	b, err := os.ReadFile("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(b, &file); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || seen[r.Alert] || r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
				t.Errorf("rule %q lacks a part, or is there twice", r.Alert)
			}
			seen[r.Alert] = true
			names := metricName.FindAllString(r.Expr+r.Annotations["description"], -1)
			if len(names) == 0 && !strings.HasPrefix(r.Expr, "up{") {
				t.Errorf("%s asks for no metric of ours: %s", r.Alert, r.Expr)
			}
			for _, name := range names {
				if !exists(name) {
					t.Errorf("%s asks for %s, which does not exist", r.Alert, name)
				}
			}
			for _, pair := range []string{"()", "[]", "{}"} {
				if strings.Count(r.Expr, pair[:1]) != strings.Count(r.Expr, pair[1:]) {
					t.Errorf("%s: %s do not pair: %s", r.Alert, pair, r.Expr)
				}
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("%d rules", len(seen))
	}
}

// The guide speaks of metrics that exist.
func TestGuide(t *testing.T) {
	b, err := os.ReadFile("../../docs/guides/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	names := metricName.FindAllString(string(b), -1)
	if len(names) == 0 {
		t.Fatal("no metric in the guide")
	}
	for _, name := range names {
		if !exists(name) {
			t.Errorf("the guide speaks of %s, which does not exist", name)
		}
	}
}
