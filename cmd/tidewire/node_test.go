package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidewire/tidewire/broker"
)

// What differs between machines, beside scrubs.
func scrubNode(s string) string {
	for _, x := range []struct{ re, with string }{
		{regexp.QuoteMeta(broker.Version) + `, go\S+, \w+/\w+`, "VERSION"},
		{`of cluster [0-9a-f]{32}`, "of cluster CLUSTER"},
		{`(?m)^up .*, since`, "up SPAN, since"},
		{`(?m)^(connections|max_connections|max_requests|max_conversations|max_cursors) +\S+$`, "$1  COUNT"},
	} {
		s = regexp.MustCompile(x.re).ReplaceAllString(s, x.with)
	}
	return scrub(s)
}

// A node that runs shows itself and its configuration, and reloads it: what changed, what needs a restart, what is wrong.
func TestNodeThatRuns(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	writeFile(t, file, "limits: {max-requests: 9}\n")
	p := spawn(t, "", "server", "--config", file, "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0")
	c := newCLI(t, nil)
	c.env["TIDEWIRE_SERVER"] = p.ready()
	var story strings.Builder
	step := func(args string) {
		r := c.run(strings.Fields(args)...)
		fmt.Fprintf(&story, "$ tidewire %s\n%s%s", args, scrubNode(r.out), strings.ReplaceAll(scrub(r.err), dir, "DIR"))
		if r.code != 0 {
			fmt.Fprintf(&story, "exit code %d\n", r.code)
		}
	}
	step("node show")
	step("health")
	step("health --quiet")
	step("health -o yaml")
	step("config reload")
	writeFile(t, file, "limits: {max-requests: 10}\nstorage: {segment-bytes: 8MiB}\n")
	step("config reload")
	writeFile(t, file, "limits: {max-requests: 11}\n")
	step("config reload -o json")
	writeFile(t, file, "limts: {max-requests: 11}\n")
	step("config reload")
	step("config show --node --config x")
	step("config show --node --log-level info")
	step("config show --server x")
	step("health --wait -1s")
	golden(t, "node.txt", story.String())

	var settings []shownSetting
	if err := json.Unmarshal([]byte(c.ok("config", "show", "--node", "--origin", "-o", "json")), &settings); err != nil {
		t.Fatal(err)
	}
	seen := map[string]shownSetting{}
	for _, s := range settings {
		seen[s.Key] = s
	}
	if s := seen["limits.max-requests"]; string(s.Value) != "11" || s.Origin != file+":1:10" || s.Change != "reload" {
		t.Errorf("the node has %+v", s)
	}
	if s := seen["listen"]; s.Origin != "--listen" || s.Change != "restart" {
		t.Errorf("the node has %+v", s)
	}
	if wide := c.ok("config", "show", "-o", "wide"); !strings.HasPrefix(wide, "SETTING ") || !strings.Contains(wide, "log.level") {
		t.Errorf("wide:\n%s", wide)
	}
	var n nodeJSON
	if err := json.Unmarshal([]byte(c.ok("node", "show", "-o", "json")), &n); err != nil {
		t.Fatal(err)
	}
	if n.ID != 1 || len(n.Cluster) != 32 || n.Addresses[0] != c.env["TIDEWIRE_SERVER"] || n.Disk.Total == 0 || len(n.Limits) == 0 || n.Uptime <= 0 {
		t.Errorf("the node is %+v", n)
	}
	p.signal(syscall.SIGTERM)
	p.ends(0)
	c.fails(exitError, []string{"health", "--timeout", "5s"}, "error TW-5001: no answer from "+c.env["TIDEWIRE_SERVER"])
	if r := c.run("health", "--quiet", "--wait", "50ms"); r.code != exitError || r.out+r.err != "" {
		t.Errorf("--quiet of a node that is gone: %+v", r)
	}
}

// A configuration is shown and reloaded by nodes that have one.
func TestNodeWithoutSettings(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), false))
	c.fails(exitError, []string{"config", "reload"}, "error TW-4105: the configuration was not reloaded")
	c.fails(exitError, []string{"config", "show", "--node"}, "error TW-4105: ")
}

// Where HTTP and the admin API have an address of their own, the verbs find it by that of the clients.
func TestAdminElsewhere(t *testing.T) {
	p := spawn(t, "", "server", "--data", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	c := newCLI(t, nil)
	c.env["TIDEWIRE_SERVER"] = p.ready()
	c.ok("stream", "create", "orders")
	c.ok("stream", "rm", "orders", "--yes")
	if out := c.ok("stream", "undelete", "orders"); out != "stream orders is back\n" {
		t.Errorf("undelete says %q", out)
	}
	if out := c.ok("health"); !strings.HasPrefix(out, c.env["TIDEWIRE_SERVER"]+" is ready\n") {
		t.Errorf("health says %q", out)
	}
	c.ok("node", "show")
	_, version, err := getText(t.Context(), "http://"+c.env["TIDEWIRE_SERVER"]+"/version")
	if err != nil {
		t.Fatal(err)
	}
	admin := adminAddress(t.Context(), c.env["TIDEWIRE_SERVER"])
	if version.StatusCode != http.StatusMisdirectedRequest || admin == "" {
		t.Fatalf("%s, %q", version.Status, admin)
	}
	c.fails(exitError, []string{"pub", "orders", "x", "--server", admin}, "TW-5004", "that is a node's port for its admin API", "give the address that its clients use")
	gone := healthServer(t, func() (int, string) { return http.StatusMisdirectedRequest, "" })
	c.fails(exitError, []string{"health", "--server", gone}, errNoHealth.Error())
}

// healthServer answers what say gives.
func healthServer(t *testing.T, say func() (int, string)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		code, text := say()
		w.WriteHeader(code)
		_, _ = w.Write([]byte(text))
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

func TestHealth(t *testing.T) {
	const bad, good = "[+] loops\n[-] disk: full: 0 B free\nof 1 GiB\nnot ok\n", "[+] loops\n[+] disk\nok\n"
	failing := healthServer(t, func() (int, string) { return 503, bad })
	ready := healthServer(t, func() (int, string) { return 200, good })
	other := healthServer(t, func() (int, string) { return 200, "<html>\n" })
	var asked atomic.Int32
	later := healthServer(t, func() (int, string) {
		if asked.Add(1) < 3 {
			return 503, bad
		}
		return 200, good
	})
	c := newCLI(t, nil)
	r := c.run("health", "--server", failing)
	if r.code != exitError || !strings.Contains(r.out, "  loops  ok\n") || !strings.Contains(r.out, "fails  full: 0 B free") {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(r.err, "error TW-6035: "+failing+" is not ready\n  why: disk: full: 0 B free\n") {
		t.Errorf("it says %q", r.err)
	}
	c.fails(exitError, []string{"health", "--server", other}, "TW-5010", "no answer from "+other, errNoHealth.Error())
	c.fails(exitError, []string{"health", "--server", ready + "," + failing}, failing+" is not ready")
	if out := c.ok("health", "--server", later, "--wait", "30s"); out != later+" is ready\n  loops  ok\n  disk   ok\n" {
		t.Errorf("--wait shows %q", out)
	}
	var nodes []healthJSON
	r = c.run("health", "--server", failing+","+ready, "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &nodes); err != nil || r.code != exitError || len(nodes) != 2 || nodes[0].Ready || !nodes[1].Ready {
		t.Errorf("%+v, %v", r, err)
	}
	if got := nodes[0].Checks[1]; got != (checkJSON{Name: "disk", Reason: "full: 0 B free\nof 1 GiB"}) {
		t.Errorf("the check is %+v", got)
	}
}
