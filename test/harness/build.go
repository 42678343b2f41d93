package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Variant is a way to build the binary.
type Variant string

// The variants.
const (
	// Plain is what users run; when the tests run under the race detector, so does the node.
	Plain Variant = "plain"
	// NoSync never syncs what it writes: it exists to prove that the tests notice.
	NoSync Variant = "nosync"
)

type built struct {
	once sync.Once
	path string
	err  error
}

var (
	buildDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "tidewire-build-") })
	buildsMu sync.Mutex
	builds   = make(map[Variant]*built)
)

// Main runs the tests of a package that uses the harness, and removes what it built. It is for TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
func Main(m *testing.M) int {
	code := m.Run()
	buildsMu.Lock()
	defer buildsMu.Unlock()
	if len(builds) > 0 {
		if dir, err := buildDir(); err == nil {
			_ = os.RemoveAll(dir)
		}
	}
	return code
}

// Binary builds the variant, once per run, and returns its path.
func Binary(t testing.TB, v Variant) string {
	t.Helper()
	buildsMu.Lock()
	b := builds[v]
	if b == nil {
		b = new(built)
		builds[v] = b
	}
	buildsMu.Unlock()
	b.once.Do(func() { b.path, b.err = build(v) })
	if b.err != nil {
		t.Fatalf("build %s: %v", v, b.err)
	}
	return b.path
}

func build(v Variant) (string, error) {
	dir, err := buildDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "tidewire-"+string(v))
	args := []string{"build", "-o", path}
	if v == NoSync {
		args = append(args, "-tags", "tidewire_nosync")
	}
	if RaceDetector {
		args = append(args, "-race")
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", append(args, "./cmd/tidewire")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return path, nil
}

// Root is the directory of the module.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = up
	}
}
