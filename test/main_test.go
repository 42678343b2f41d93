// Package test runs Tidewire from end to end: real processes on real disks, killed, cut off from
// their disk and cut off from power, and held to the promise that an acknowledged record is never
// lost, doubled or reordered.
//
//	go test ./test/...                what runs anywhere
//	go test -tags faults ./test/...   also what mounts file systems and breaks system calls: as root, on Linux
//	go run ./test/nightly             all of it, long, with a page of figures
//
// A test that finds a tool or a right missing fails and names it; none is left out silently.
package test

import (
	"os"
	"testing"

	"github.com/tidewire/tidewire/test/harness"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(attackVariable); name != "" {
		os.Exit(attackMain(name, os.Getenv(attackAddress), os.Getenv(attackOther)))
	}
	os.Exit(harness.Main(m))
}
