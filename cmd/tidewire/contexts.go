package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/internal/spelling"
)

// contextEntry is a node, or several of one cluster, under a name.
type contextEntry struct {
	Name        string `json:"name" doc:"what it is called"`
	Server      string `json:"server" doc:"address of a node, or several with commas"`
	Description string `json:"description,omitempty" doc:"what it is for"`
	Protected   bool   `json:"protected,omitempty" doc:"what removes data must be confirmed by the stream's name"`
	Cluster     string `json:"cluster,omitempty" doc:"of a protected one: id of the cluster that its addresses led to first; it is protected at every address"`
}

// contexts is the file of contexts, contexts.json in the user's directory of configuration.
type contexts struct {
	Version  int            `json:"version"`
	Selected string         `json:"selected,omitempty"`
	Previous string         `json:"previous,omitempty"` // what `context -` goes back to
	Contexts []contextEntry `json:"contexts"`

	path string
}

const contextsVersion = 1

var contextName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

// contextsPath is XDG_CONFIG_HOME/tidewire/contexts.json, or where the system has such files.
func (a *app) contextsPath() (string, error) {
	dir := a.getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) { // the XDG specification: others are to be ignored
		var err error
		if dir, err = os.UserConfigDir(); err != nil {
			return "", &problem{id: explain.ContextFile, what: "there is no directory for contexts", err: err, todo: "set HOME or XDG_CONFIG_HOME"}
		}
	}
	return filepath.Join(dir, "tidewire", "contexts.json"), nil
}

// contexts reads the file; without one there are none.
func (a *app) contexts() (*contexts, error) {
	path, err := a.contextsPath()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return &contexts{Version: contextsVersion, Contexts: []contextEntry{}, path: path}, nil
	}
	if err == nil {
		var all *contexts
		if all, err = parseContexts(b); err == nil {
			all.path = path
			return all, nil
		}
	}
	return nil, &problem{id: explain.ContextFile, what: "the contexts in " + path + " cannot be read", err: err,
		todo: "mend the file by hand, or move it away and add the contexts anew: no command changes it as it is; --server ADDRESS does without"}
}

func parseContexts(b []byte) (*contexts, error) {
	all := &contexts{}
	if err := strictJSON(b, all); err != nil {
		what := err.Error()
		switch e, ok := errors.AsType[*json.SyntaxError](err); {
		case len(bytes.TrimSpace(b)) == 0:
			what = "it is empty"
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			what = "it ends in the middle"
		case ok:
			what = fmt.Sprintf("line %d: %v", 1+bytes.Count(b[:min(int(e.Offset), len(b))], []byte("\n")), e)
		}
		return nil, fmt.Errorf("it is no JSON of contexts: %s", what)
	}
	if all.Version != contextsVersion {
		return nil, fmt.Errorf("it is of version %d, this program knows %d", all.Version, contextsVersion)
	}
	seen := map[string]bool{}
	for i := range all.Contexts {
		e := &all.Contexts[i]
		if err := e.check(); err != nil {
			return nil, err
		}
		if seen[e.Name] {
			return nil, fmt.Errorf("context %s stands in it twice", e.Name)
		}
		seen[e.Name] = true
	}
	return all, nil
}

// strictJSON decodes one value and refuses fields that it does not know.
func strictJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if dec.More() {
		return errors.New("it goes on behind the JSON")
	}
	return nil
}

func (e *contextEntry) check() error {
	if !contextName.MatchString(e.Name) {
		return fmt.Errorf("%q can name no context: allowed are 1 to 64 of A-Z a-z 0-9 _ . -, the first no dot or dash", e.Name)
	}
	if err := checkServers(e.Server); err != nil {
		return fmt.Errorf("context %s: %w", e.Name, err)
	}
	return nil
}

// changeContexts lets f change the contexts and writes them. Under a lock, so that of two processes at once
// none loses what the other wrote; the file is replaced as a whole.
func (a *app) changeContexts(f func(*contexts) error) error {
	path, err := a.contextsPath()
	if err != nil {
		return err
	}
	unlock, err := lockContexts(path)
	if err != nil {
		return &problem{id: explain.ContextFile, what: "the contexts in " + path + " cannot be changed", err: err}
	}
	defer unlock()
	all, err := a.contexts()
	if err != nil {
		return err
	}
	if err := f(all); err != nil {
		return err
	}
	if err := all.write(); err != nil {
		return &problem{id: explain.ContextFile, what: "the contexts in " + path + " were not written", err: err}
	}
	return nil
}

// lockContexts waits for its turn. The lock is a file of its own, as the other one is replaced.
func lockContexts(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return func() { _ = lock.Close() }, nil // lets go of it
}

func (all *contexts) write() (err error) {
	var b bytes.Buffer
	if err := writeJSON(&b, all); err != nil {
		return err
	}
	dir := filepath.Dir(all.path)
	f, err := os.CreateTemp(dir, "contexts-*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b.Bytes()); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), all.path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// find gives the context of a name.
func (all *contexts) find(name string) (*contextEntry, error) {
	if i := all.index(name); i >= 0 {
		return &all.Contexts[i], nil
	}
	p := &problem{id: explain.UnknownContext, what: fmt.Sprintf("there is no context %q", name), code: exitUsage}
	if near := nearest(name, all.names()); near != "" {
		p.todo = "did you mean " + near + "? `tidewire context ls` lists them"
	}
	return nil, p
}

func (all *contexts) index(name string) int {
	return slices.IndexFunc(all.Contexts, func(e contextEntry) bool { return e.Name == name })
}

func (all *contexts) names() (out []string) {
	for i := range all.Contexts {
		out = append(out, all.Contexts[i].Name)
	}
	return out
}

// choose makes name the selected context.
func (all *contexts) choose(name string) {
	if name != all.Selected {
		all.Selected, all.Previous = name, all.Selected
	}
}

// protects names a protected context that the addresses, or the cluster they led to, belong to; however they were given.
// cluster is empty if it is not known.
func (all *contexts) protects(ctx context.Context, addresses, cluster string) string {
	var mine []string
	for i := range all.Contexts {
		e := &all.Contexts[i]
		if !e.Protected {
			continue
		}
		if cluster != "" && e.Cluster == cluster {
			return e.Name
		}
		if mine == nil {
			mine = resolved(ctx, addresses)
		}
		if slices.ContainsFunc(resolved(ctx, e.Server), func(s string) bool { return slices.Contains(mine, s) }) {
			return e.Name
		}
	}
	return ""
}

// resolvePatience bounds what is asked of the resolver to compare addresses.
const resolvePatience = 2 * time.Second

// resolved are addresses in one spelling, and what their hosts resolve to: localhost:7420 is 127.0.0.1:7420 too.
func resolved(ctx context.Context, addresses string) []string {
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	out := hostPorts(addresses)
	for _, address := range slices.Clone(out) {
		host, port, _ := net.SplitHostPort(address) // hostPorts joined it
		if net.ParseIP(host) != nil {
			continue
		}
		ips, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host) // unknown: then its name alone is compared
		for _, ip := range ips {
			out = append(out, net.JoinHostPort(ip.Unmap().String(), port))
		}
	}
	return out
}

// hostPorts are addresses in one spelling.
func hostPorts(addresses string) (out []string) {
	_, defaultPort, _ := net.SplitHostPort(defaultServer)
	for address := range strings.SplitSeq(strings.ToLower(addresses), ",") {
		address = strings.TrimSpace(address)
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			host, port = strings.Trim(address, "[]"), defaultPort
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			host = ip.Unmap().String()
		}
		out = append(out, net.JoinHostPort(host, port))
	}
	return out
}

// nearest is the name that was perhaps meant: one that begins so, or differs in at most two letters.
func nearest(name string, names []string) string {
	best, least := "", 3
	for _, n := range names {
		if name != "" && strings.HasPrefix(strings.ToLower(n), strings.ToLower(name)) {
			return n
		}
		if d := spelling.Distance(name, n); d < least && d < len(n) {
			best, least = n, d
		}
	}
	return best
}
