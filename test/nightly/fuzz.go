package main

import (
	"fmt"
	"os/exec"
	"strings"
)

type target struct{ pkg, name string }

// fuzzTargets finds every fuzz target of the module.
func fuzzTargets() ([]target, error) {
	packages, err := exec.Command("go", "list", "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var targets []target
	for _, pkg := range strings.Fields(string(packages)) {
		out, err := exec.Command("go", "test", "-list", "^Fuzz", pkg).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("go test -list %s: %w\n%s", pkg, err, out)
		}
		for line := range strings.Lines(string(out)) {
			if name := strings.TrimSpace(line); strings.HasPrefix(name, "Fuzz") {
				targets = append(targets, target{pkg, name})
			}
		}
	}
	return targets, nil
}
