package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"
)

const (
	profileFor = 5 * time.Second // the CPU profile of the node
	traceFor   = time.Second     // its scheduler trace, behind that
	settle     = time.Second     // before them
)

// profiles does a case's load on Tidewire alone while profiles are taken of the node, and of the client that does the load
// last. They are left in a directory named after the case below out; the tops of some are written to w.
func (in *instrument) profiles(ctx context.Context, c *Case, out string, w io.Writer) error {
	if c.Restart {
		return fmt.Errorf("%s: it is over before a profile has begun", c.Name)
	}
	dir, err := filepath.Abs(filepath.Join(out, slug(c.Name)))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	in.tell("profiles of " + c.Name)
	long := *in
	long.profile = dir
	long.length.measured = settle + profileFor + traceFor
	err = long.with(ctx, c, tidewire{profiled: true}, "", func(s **server, spec Spec) error {
		taken := make(chan error, 1)
		go func() { taken <- takeProfiles(ctx, "http://"+(*s).address+"/debug/pprof/", dir) }()
		for { // a replay is over soon, and begins again
			if _, err := long.measured(ctx, s, spec); err != nil {
				return err
			}
			select {
			case err := <-taken:
				return err
			default:
			}
		}
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: %s\n", c.Name, dir)
	for _, name := range []string{"node.cpu", "client.cpu", "node.allocs", "client.allocs"} {
		top, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-nodecount=12", "-sample_index="+sample(name), filepath.Join(dir, name)).Output()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(w, "\n%s\n%s", name, top)
	}
	return nil
}

// sample is which figure of a profile counts.
func sample(name string) string {
	if strings.HasSuffix(name, ".allocs") {
		return "alloc_space"
	}
	return "cpu"
}

// takeProfiles asks a node for its profiles, one after the other.
func takeProfiles(ctx context.Context, url, dir string) error {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, p := range []struct{ name, path string }{
		{"node.cpu", fmt.Sprintf("profile?seconds=%d", profileFor/time.Second)},
		{"node.trace", fmt.Sprintf("trace?seconds=%d", traceFor/time.Second)},
		{"node.allocs", "allocs"}, {"node.heap", "heap"}, {"node.mutex", "mutex"}, {"node.block", "block"},
	} {
		if err := download(ctx, url+p.path, filepath.Join(dir, p.name)); err != nil {
			return err
		}
	}
	return nil
}

func download(ctx context.Context, url, to string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, answer.Body); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return f.Close()
}

// slug is a case's name as one of a directory.
func slug(name string) string {
	return strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(name), "-"), "-")
}

// profiling is of this process; nil: none is made.
type profiling struct {
	dir string
	cpu *os.File
}

func startProfiles(dir string) (*profiling, error) {
	if dir == "" {
		return nil, nil
	}
	runtime.SetMutexProfileFraction(100)
	runtime.SetBlockProfileRate(int(100 * time.Microsecond))
	f, err := os.Create(filepath.Join(dir, "client.cpu"))
	if err != nil {
		return nil, err
	}
	return &profiling{dir, f}, pprof.StartCPUProfile(f)
}

// write ends them.
func (p *profiling) write() error {
	if p == nil {
		return nil
	}
	pprof.StopCPUProfile()
	if err := p.cpu.Close(); err != nil {
		return err
	}
	for _, name := range []string{"allocs", "mutex", "block"} {
		f, err := os.Create(filepath.Join(p.dir, "client."+name))
		if err != nil {
			return err
		}
		if err := pprof.Lookup(name).WriteTo(f, 0); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
