package harness

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// Figure is one thing a run measured.
type Figure struct {
	Test  string    `json:"test"`
	Name  string    `json:"name"`
	Value string    `json:"value"`
	Time  time.Time `json:"time"`
}

// Report prints a figure, and adds it as a line of JSON to the file TIDEWIRE_FIGURES names, if it does.
func Report(t testing.TB, name, format string, args ...any) {
	t.Helper()
	f := Figure{Test: t.Name(), Name: name, Value: fmt.Sprintf(format, args...), Time: time.Now().UTC()}
	if RaceDetector {
		f.Name += ", with the race detector"
	}
	t.Logf("%s: %s", f.Name, f.Value)
	path := os.Getenv("TIDEWIRE_FIGURES")
	if path == "" {
		return
	}
	line, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// Seed draws the seed of a test's random choices, or takes TIDEWIRE_SEED, and prints it. It fixes
// the records and after how many acknowledgements each fault strikes; where in the node's work
// that falls still differs from run to run.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("TIDEWIRE_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 0, 64); err != nil {
			t.Fatalf("TIDEWIRE_SEED: %v", err)
		}
	}
	t.Logf("TIDEWIRE_SEED=%#x", seed)
	return seed
}

// Count is how often a test does a thing: the number in an environment variable, or else usual.
func Count(t testing.TB, variable string, usual int) int {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number above 0", variable, s)
	}
	return n
}
