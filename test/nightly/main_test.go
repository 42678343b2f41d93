package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What a step names, go test leaves out without a word if there is no such test.
func TestPlannedTestsExist(t *testing.T) {
	sources, err := filepath.Glob("../*_test.go")
	if err != nil || len(sources) == 0 {
		t.Fatal(sources, err)
	}
	exists := map[string]bool{}
	for _, name := range sources {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(b, -1) {
			exists[string(m[1])] = true
		}
	}
	for _, s := range tests(options{}) {
		for _, name := range regexp.MustCompile(`Test\w+`).FindAllString(strings.Join(s.args, " "), -1) {
			if !exists[name] {
				t.Errorf("%s: there is no %s", s.name, name)
			}
		}
	}
}

func TestFuzzerGaveUp(t *testing.T) {
	const began = "fuzz: elapsed: 30s, execs: 239969 (0/sec), new interesting: 1 (total: 39)\n"
	for _, c := range []struct {
		name, out string
		want      bool
	}{
		{"its own deadline", began + "--- FAIL: FuzzSniff (30.11s)\n    context deadline exceeded\nFAIL\n", true},
		{"a finding", began + "--- FAIL: FuzzSniff (30.11s)\n    --- FAIL: FuzzSniff (0.00s)\n        f_test.go:9: no\n    \n    Failing input written to testdata/fuzz/FuzzSniff/1\n", false},
		{"a finding that speaks of a deadline", began + "--- FAIL: FuzzSniff (30.11s)\n    context deadline exceeded\n    \n    Failing input written to testdata/fuzz/FuzzSniff/1\n", false},
		{"a worker that hung", began + "--- FAIL: FuzzSniff (30.11s)\n    fuzzing process hung or terminated unexpectedly: exit status 2\n", false},
		{"no fuzzer", "--- FAIL: TestKill (30.11s)\n    context deadline exceeded\nFAIL\n", false},
		{"passed", began + "PASS\n", false},
	} {
		if got := fuzzerGaveUp([]byte(c.out)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
