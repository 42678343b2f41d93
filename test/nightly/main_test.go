package main

import "testing"

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
