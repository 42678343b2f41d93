package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/tidewire/tidewire/test/harness"
)

// write makes the page: what ran where, the figures the tests reported, and each step's outcome.
func write(path, command string, began time.Time, steps []step, figures string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Nightly run\n\nWritten by `%s`; not edited by hand.\n\n", command)
	fmt.Fprintf(&b, "| | |\n|---|---|\n")
	fmt.Fprintf(&b, "| begun | %s, took %s |\n", began.UTC().Format("2006-01-02 15:04 MST"), time.Since(began).Round(time.Second))
	fmt.Fprintf(&b, "| commit | %s |\n", commit())
	fmt.Fprintf(&b, "| machine | %d cores, %s, %s |\n", runtime.NumCPU(), said("uname", "-srm"), cpu())
	fmt.Fprintf(&b, "| Go | %s |\n", runtime.Version())

	fmt.Fprintf(&b, "\n## Figures\n\n| test | what | result |\n|---|---|---|\n")
	all, err := readFigures(figures)
	if err != nil {
		return err
	}
	for _, f := range all {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", f.Test, cell(f.Name), cell(f.Value))
	}

	fmt.Fprintf(&b, "\n## Steps\n\n| step | took | CPU | result |\n|---|---|---|---|\n")
	for _, s := range steps {
		result := "passed"
		if s.note != "" {
			result += " " + s.note
		}
		if s.err != nil {
			result = "**failed**: " + cell(s.err.Error())
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", cell(s.name), s.took.Round(time.Second), s.cpu.Round(time.Second), result)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func readFigures(path string) (all []harness.Figure, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // no test got so far
	}
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(b) {
		var f harness.Figure
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ").Replace(s)
}

// commit names what was tested, and says so if the tree differed from it.
func commit() string {
	id := said("git", "rev-parse", "--short=12", "HEAD")
	if changes := said("git", "status", "--porcelain", "--untracked-files=no"); changes != "" && id != "unknown" {
		id += " and changes that were not committed"
	}
	return id
}

func cpu() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return runtime.GOARCH
}

// said is what a command prints on one line, or that it could not be run.
func said(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
