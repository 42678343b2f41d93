package harness

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// MemoryGroup is a cgroup that bounds memory, of version 1 or 2.
type MemoryGroup struct {
	dir string
	v2  bool
}

// NewMemoryGroup makes a cgroup of that many bytes below the test's own. It goes with the test, when its
// processes have ended. It fails the test if there is no memory controller.
func NewMemoryGroup(t testing.TB, bytes int64) *MemoryGroup {
	t.Helper()
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	g := &MemoryGroup{}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || g.dir != "" {
			continue
		}
		switch {
		case strings.Contains(","+f[1]+",", ",memory,"):
			for _, dir := range []string{filepath.Join("/sys/fs/cgroup/memory", f[2]), "/sys/fs/cgroup/memory"} {
				if _, err := os.Stat(filepath.Join(dir, "memory.limit_in_bytes")); err == nil && g.dir == "" {
					g.dir = dir
				}
			}
		case f[1] == "": // groups with processes have no controllers for groups below them, but the root does
			c, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
			if err == nil && strings.Contains(string(c), "memory") {
				_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0)
				g.dir, g.v2 = "/sys/fs/cgroup", true
			}
		}
	}
	if g.dir == "" {
		t.Fatal("needs a cgroup memory controller, version 1 below /sys/fs/cgroup/memory or version 2 at /sys/fs/cgroup: mount one")
	}
	g.dir = filepath.Join(g.dir, "tidewire-test-"+strconv.Itoa(os.Getpid())+"-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatalf("needs the right to make cgroups: %v", err)
	}
	t.Cleanup(func() { // a group is busy until the kernel has done away with its last process
		again := time.NewTicker(10 * time.Millisecond)
		defer again.Stop()
		for deadline := time.Now().Add(exitTimeout); ; <-again.C {
			err := os.Remove(g.dir)
			if err == nil {
				return
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				t.Errorf("cgroup: %v", err)
				return
			}
		}
	})
	file := "memory.limit_in_bytes"
	if g.v2 {
		file = "memory.max"
	}
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(strconv.FormatInt(bytes, 10)), 0); err != nil {
		t.Fatal(err)
	}
	return g
}

// Under is the command that runs another in the group, for Config.Under.
func (g *MemoryGroup) Under() []string {
	return []string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, g.dir}
}

// Resident is the anonymous memory of the group's processes, in bytes.
func (g *MemoryGroup) Resident(t testing.TB) (bytes int64) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, "memory.stat"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 2 && (f[0] == "rss" && !g.v2 || f[0] == "anon" && g.v2) {
			bytes, _ = strconv.ParseInt(f[1], 10, 64)
		}
	}
	return bytes
}
