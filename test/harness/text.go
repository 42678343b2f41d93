package harness

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Lines gives the first n lines of a real text: the sources of Go's standard library, which every
// machine that runs these tests has. Empty lines are among them.
func Lines(t testing.TB, n int) [][]byte {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("go env GOROOT: %v", err)
	}
	lines := make([][]byte, 0, n)
	root := filepath.Join(strings.TrimSpace(string(out)), "src")
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(text) {
			if len(lines) == n {
				return fs.SkipAll
			}
			lines = append(lines, bytes.TrimSuffix(line, []byte("\n")))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) < n {
		t.Fatalf("%s has %d lines of Go, not %d", root, len(lines), n)
	}
	return lines
}
