package web

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Check is one condition by name. Func gives nil, or why it does not hold, in words that help an
// operator. It may take its time, but no more than checkTimeout.
type Check struct {
	Name string
	Func func() error
	Note func() string // what to know though it holds, in one line; nil: nothing
}

// checkTimeout is how long a check may take; it has failed then.
const checkTimeout = 2 * time.Second

// health answers with the outcome of checks.
type health struct{ checks []*guarded }

func newHealth(checks []Check, log *zap.Logger) *health {
	h := &health{}
	for _, c := range checks {
		h.checks = append(h.checks, &guarded{Check: c, log: log})
	}
	return h
}

// guarded is a check that never has more than one goroutine: those who ask while it runs share it.
type guarded struct {
	Check
	log *zap.Logger
	mu  sync.Mutex // guards run
	run *run       // under way; nil: none
}

// run is a check on its way.
type run struct {
	began time.Time
	done  chan struct{} // closed when err and note are there
	err   error
	note  string
}

// ask runs the check, or waits for the one that runs.
func (g *guarded) ask() *run {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run != nil {
		return g.run
	}
	r := &run{began: time.Now(), done: make(chan struct{})}
	g.run = r
	go func() {
		r.note, r.err = g.contained()
		g.mu.Lock()
		g.run = nil
		g.mu.Unlock()
		close(r.done)
	}()
	return r
}

// contained runs the check. One that panics has failed; the log says more.
func (g *guarded) contained() (note string, err error) {
	defer func() {
		if r := recover(); r != nil {
			g.log.Error("panic in a health check", zap.String("check", g.Name), zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			err = errPanic
		}
	}()
	if err = g.Func(); err == nil && g.Note != nil {
		note = g.Note()
	}
	return note, err
}

// errPanic is all that is told over HTTP.
var errPanic = errors.New("the check panicked; the node's log says more")

// outcome waits until the deadline.
func (r *run) outcome(deadline <-chan struct{}) (note string, err error) {
	select {
	case <-r.done:
		return r.note, r.err
	default:
	}
	select {
	case <-r.done:
		return r.note, r.err
	case <-deadline:
		return "", fmt.Errorf("no answer for %s", time.Since(r.began).Round(time.Millisecond))
	}
}

// outcome is what a check said.
type outcome struct {
	name string
	note string
	err  error
}

// all has every check run at the same time, and gives their outcomes in order.
func (h *health) all() (out []outcome, ok bool) {
	late := make(chan struct{})
	timer := time.AfterFunc(checkTimeout, func() { close(late) })
	defer timer.Stop()
	var runs []*run
	for _, c := range h.checks {
		runs = append(runs, c.ask())
	}
	ok = true
	for i, r := range runs {
		note, err := r.outcome(late)
		ok = ok && err == nil
		out = append(out, outcome{h.checks[i].Name, note, err})
	}
	return out, ok
}

// serve answers 200 with "ok", or 503 with what fails; ?verbose names every check.
func (h *health) serve(w http.ResponseWriter, r *http.Request) {
	outcomes, ok := h.all()
	verbose := r.URL.Query().Has("verbose")
	var body bytes.Buffer
	for _, o := range outcomes {
		switch {
		case o.err != nil:
			fmt.Fprintf(&body, "[-] %s: %v\n", o.name, o.err)
		case verbose && o.note != "":
			fmt.Fprintf(&body, "[+] %s: %s\n", o.name, o.note)
		case verbose:
			fmt.Fprintf(&body, "[+] %s\n", o.name)
		}
	}
	text(w)
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
		body.WriteString("not ok\n")
	} else {
		body.WriteString("ok\n")
	}
	_, _ = body.WriteTo(w)
}
