package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/internal/explain"
)

const healthLong = `Say whether a node can serve: each of its checks by name, with the reason of one that
fails. Of several addresses all are asked, and all must be ready.

Exit codes: 0 ready, 1 not ready or no answer, 2 wrong usage. For scripts: --quiet prints
nothing, --wait asks again until it is ready or the time is over.`

const healthExample = `  tidewire health
  tidewire health --quiet || echo 'not ready'
  tidewire health --quiet --wait 30s && tidewire pub orders.new 'hello'`

const (
	healthAgain = 200 * time.Millisecond // how soon --wait asks again
	healthBytes = 1 << 20                // of an answer, at most
)

// healthJSON is how one node is.
type healthJSON struct {
	Address string      `json:"address" doc:"that was asked"`
	Ready   bool        `json:"ready" doc:"it can serve"`
	Error   string      `json:"error,omitempty" doc:"why there is no answer of a node"`
	Checks  []checkJSON `json:"checks" doc:"its checks; none if it did not answer"`

	err error // behind Error
}

type checkJSON struct {
	Name   string `json:"name" doc:"of the check"`
	OK     bool   `json:"ok" doc:"it holds"`
	Reason string `json:"reason,omitempty" doc:"why it does not"`
	Note   string `json:"note,omitempty" doc:"what to know though it does: records that are damaged on disk, a catalog that is older than the data"`
}

func (a *app) healthCommand() *cobra.Command {
	var quiet bool
	var wait time.Duration
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use: "health", Short: "Say whether a node can serve", Long: healthLong, Example: healthExample, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if wait < 0 || cn.timeout <= 0 {
				return usage(c, errors.New("--wait must not be below 0, and --timeout must be above it"))
			}
			if err := cn.check(); err != nil {
				return err
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			if !quiet {
				cn.remind()
			}
			nodes, err := waitReady(ctx, hostPorts(cn.address()), cn.timeout, wait)
			if quiet {
				if err != nil {
					return errSilent(exitError)
				}
				return nil
			}
			if shown := v.print(nodes, func() { a.showHealth(nodes) }); shown != nil {
				return shown
			}
			return err
		},
	}
	cn = a.connection(c)
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing: the exit code says it")
	c.Flags().DurationVar(&wait, "wait", 0, "ask again until the node is ready, for at most `DURATION`")
	v = a.view(c, []healthJSON{})
	return c
}

// waitReady asks all addresses until all are ready or wait is over, once at least. The error is of the first that is not.
func waitReady(ctx context.Context, addresses []string, timeout, wait time.Duration) ([]healthJSON, error) {
	deadline := time.Now().Add(wait)
	for {
		var nodes []healthJSON
		var first error
		for _, address := range addresses {
			h := askHealth(ctx, address, timeout)
			if first == nil {
				first = h.problem()
			}
			nodes = append(nodes, h)
		}
		left := time.Until(deadline)
		if first == nil || left <= 0 {
			return nodes, first
		}
		select {
		case <-time.After(min(left, healthAgain)):
		case <-ctx.Done():
			return nodes, first
		}
	}
}

// problem is why the node is not ready; nil if it is.
func (h *healthJSON) problem() error {
	switch {
	case h.err != nil:
		return &problem{id: explain.NotConnected, what: "no answer from " + h.Address, err: h.err}
	case h.Ready:
		return nil
	}
	var why []string
	for _, c := range h.Checks {
		if !c.OK {
			why = append(why, c.Name+": "+c.Reason)
		}
	}
	return &problem{id: explain.NotReady, what: h.Address + " is not ready", err: errors.New(strings.Join(why, "\n"))}
}

// errNoHealth says that what answered is no node.
var errNoHealth = errors.New("what answers there is not what a node says of its health")

// askHealth asks one node over HTTP, on the port of its clients or where that says.
func askHealth(ctx context.Context, address string, timeout time.Duration) healthJSON {
	h := healthJSON{Address: address, Checks: []checkJSON{}}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	text, answer, err := getText(ctx, "http://"+address+"/readyz?verbose")
	if err == nil && answer.StatusCode == http.StatusMisdirectedRequest {
		if other := adminAddress(ctx, address); other != "" {
			text, answer, err = getText(ctx, "http://"+other+"/readyz?verbose")
		}
	}
	if err == nil {
		h.Checks, err = parseHealth(text)
	}
	if err != nil {
		h.err, h.Error = err, reason(err)
		return h
	}
	h.Ready = answer.StatusCode == http.StatusOK
	return h
}

// getText gives the body of an answer, and the answer, whose body is closed.
func getText(ctx context.Context, url string) (string, *http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy: a node is asked as a client reaches it
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return "", nil, err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, healthBytes))
	return string(b), answer, err
}

// parseHealth reads what /readyz?verbose says: "[+] name", "[+] name: note" or "[-] name: reason" a line, and at last ok or not ok.
func parseHealth(text string) ([]checkJSON, error) {
	checks := []checkJSON{}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if last := lines[len(lines)-1]; last != "ok" && last != "not ok" {
		return nil, errNoHealth
	}
	for _, line := range lines[:len(lines)-1] {
		if held, ok := strings.CutPrefix(line, "[+] "); ok {
			name, note, _ := strings.Cut(held, ": ")
			checks = append(checks, checkJSON{Name: name, OK: true, Note: note})
		} else if failed, ok := strings.CutPrefix(line, "[-] "); ok {
			name, why, _ := strings.Cut(failed, ": ")
			checks = append(checks, checkJSON{Name: name, Reason: why})
		} else if n := len(checks); n > 0 { // the reason goes on
			checks[n-1].Reason += "\n" + line
		}
	}
	if len(checks) == 0 {
		return nil, errNoHealth
	}
	return checks, nil
}

func (a *app) showHealth(nodes []healthJSON) {
	for _, h := range nodes {
		switch {
		case h.err != nil:
			fmt.Fprintf(a.out, "%s %s\n", h.Address, a.bad("does not answer"))
			continue
		case h.Ready:
			fmt.Fprintf(a.out, "%s is ready\n", h.Address)
		default:
			fmt.Fprintf(a.out, "%s is %s\n", h.Address, a.bad("not ready"))
		}
		var rows [][]string
		for _, c := range h.Checks {
			state := "ok"
			if !c.OK {
				state = "fails"
			}
			rows = append(rows, []string{"  " + c.Name, state, c.Reason + a.bad(c.Note)})
		}
		a.table(rows)
	}
}
