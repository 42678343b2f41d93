// Package layout holds the tests that keep the layout of the module as DESIGN.md §3 has it: which
// package may import which, and what a user's build gets from the client.
package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tidewire/tidewire"

// rooms says what each room may import of the others; the longest name that fits a package is its
// room. Inside a room everything may. "*" is everything.
var rooms = map[string][]string{
	"proto/wire":            {},
	"proto/admin/v1":        {},
	"storage":               {},
	"auth":                  {},
	"raft":                  {"storage", "proto/wire"},
	"cluster":               {"raft", "storage", "proto/wire", "auth"},
	"broker":                {"cluster", "raft", "storage", "proto/wire", "proto/admin/v1", "auth"},
	"client/go":             {"proto/wire"},
	"client/go/grpcbalance": {"client/go", "proto/wire", "proto/admin/v1"},
	"cmd":                   {"*"},
	"test":                  {"*"},
	"bench":                 {"*"},
	"internal":              {}, // and each of its packages only the standard library
}

// tops are rooms that nobody imports, but for cmd, whose verb `tidewire bench` is the load generator.
var tops = []string{"cmd", "test", "bench"}

type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Standard     bool
	Module       *struct{ Path string }
}

// list is go list over the module: patterns, with flags before them.
func list(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	var packages []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// within reports whether path is dir or below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// roomOf gives the room of a package of this module; ok is false for packages of others.
func roomOf(path string) (room string, ok bool) {
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return "", path == module
	}
	for name := range rooms {
		if within(rest, name) && len(name) > len(room) {
			room = name
		}
	}
	return room, true
}

func TestImports(t *testing.T) {
	for _, p := range list(t, "-tags", "faults,nightly", "./...") {
		room, _ := roomOf(p.ImportPath)
		if room == "" {
			t.Errorf("%s is in no room: DESIGN.md §3 lists them", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			other, ours := roomOf(imported)
			may := rooms[room]
			switch {
			case !ours || other == room && room != "internal":
			case other == "internal":
			case room == "cmd" && other == "bench":
			case slices.Contains(tops, other):
				t.Errorf("%s imports %s: nobody imports %s", p.ImportPath, imported, strings.Join(tops, ", "))
			case !slices.Contains(may, "*") && !slices.Contains(may, other):
				t.Errorf("%s imports %s: %s may import only %v", p.ImportPath, imported, room, may)
			}
		}
		// Tests may look further, but not up: a test that needs a whole node belongs in test/ or beside the node.
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			if other, ours := roomOf(imported); ours && other != room && slices.Contains(tops, other) {
				t.Errorf("a test of %s imports %s: nobody imports %s", p.ImportPath, imported, strings.Join(tops, ", "))
			}
		}
	}
}

// TestInternalIsALeaf: what serves every room knows only the standard library.
func TestInternalIsALeaf(t *testing.T) {
	for _, p := range list(t, "./internal/...") {
		for _, imported := range p.Imports {
			if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") {
				t.Errorf("%s imports %s: packages below internal/ know only the standard library", p.ImportPath, imported)
			}
		}
	}
}

// TestClientDependencies: a program that publishes gets the client, the codec and a zstd library, and
// nothing of the server's.
func TestClientDependencies(t *testing.T) {
	allowed := []string{module, "github.com/klauspost/compress"}
	for _, p := range list(t, "-deps", "./client/go") {
		if p.Standard {
			continue
		}
		if p.Module == nil || !slices.Contains(allowed, p.Module.Path) {
			t.Errorf("the client brings %s into its user's build", p.ImportPath)
		}
		if room, ours := roomOf(p.ImportPath); ours && room != "client/go" && room != "proto/wire" && room != "internal" {
			t.Errorf("the client brings %s into its user's build", p.ImportPath)
		}
	}
}

// TestRaftLibrary: only raft/ knows hashicorp/raft, so that another library can take its place.
func TestRaftLibrary(t *testing.T) {
	for _, p := range list(t, "-tags", "faults,nightly", "./...") {
		if room, _ := roomOf(p.ImportPath); room == "raft" {
			continue
		}
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if strings.HasPrefix(imported, "github.com/hashicorp/raft") {
				t.Errorf("%s imports %s: only raft/ does", p.ImportPath, imported)
			}
		}
	}
}
