package telemetry

import (
	"strings"
	"testing"
)

// What cannot be told fails the scrape, not the node, and only while it cannot.
func TestPanicFailsTheScrape(t *testing.T) {
	broken := true
	m := New(Config{State: func() State {
		if broken {
			panic("melon")
		}
		return State{}
	}})
	if _, err := m.Gatherer().Gather(); err == nil || !strings.Contains(err.Error(), "panic: melon") || !strings.Contains(err.Error(), "collect_test.go") {
		t.Errorf("the scrape gives %v", err)
	}
	broken = false
	if all, err := m.Gatherer().Gather(); err != nil || len(all) == 0 {
		t.Errorf("after it: %d metrics, %v", len(all), err)
	}
}
