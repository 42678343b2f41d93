package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/tidewire/tidewire/bench"
	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
)

// Exit codes; server --help documents them.
const (
	exitError    = 1
	exitUsage    = 2
	exitNoInput  = 66 // EX_NOINPUT: log verify and dump could not look
	exitWrite    = 74 // EX_IOERR: a write to disk failed
	exitDataDir  = 75 // data directory refused
	exitFull     = 76 // the disk is full
	exitReadOnly = 77 // the file system became read-only
	exitConfig   = 78 // EX_CONFIG: the configuration is wrong
	exitLost     = 79 // the data directory is gone

	exitInterrupted = 130 // as a shell says it of Ctrl-C
)

// problem is an error as a person reads it: what happened, why, what to do.
type problem struct {
	id   explain.ID // of the catalogue, unless err tells a narrower one
	what string
	err  error  // why; may be nil
	todo string // default: what the catalogue says
	code int    // default exitError
	fate *fate  // of lines that were published; may be nil
}

func (p *problem) Error() string {
	if p.err == nil {
		return p.what
	}
	return p.what + ": " + p.err.Error()
}

func (p *problem) Unwrap() error { return p.err }

// errSilent ends with a code; everything was said.
type errSilent int

func (e errSilent) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// report says err on stderr and returns the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[errSilent](err); ok {
		return int(code)
	}
	p, ok := errors.AsType[*problem](err)
	if !ok {
		p = &problem{id: explain.Unexpected, what: err.Error()}
	}
	said := p.said()
	if a.format == formatJSON {
		_ = writeJSON(a.err, said)
		return cmp.Or(p.code, exitError)
	}
	label := "error:"
	if said.ID != "" {
		label = "error " + said.ID + ":"
	}
	fmt.Fprintf(a.err, "%s %s\n", a.red(label), said.What)
	if said.Why != "" {
		fmt.Fprintf(a.err, "  why: %s\n", indent(said.Why))
	}
	if said.Do != "" {
		fmt.Fprintf(a.err, "  do:  %s\n", indent(said.Do))
	}
	return cmp.Or(p.code, exitError)
}

// problemJSON is an error as it stands on stderr with -o json.
type problemJSON struct {
	ID   string `json:"id" doc:"the number, for tidewire explain and docs/reference/errors.md"`
	Name string `json:"name" doc:"what the catalogue calls it"`
	What string `json:"what" doc:"what happened"`
	Why  string `json:"why,omitempty" doc:"why, if more is known"`
	Do   string `json:"do,omitempty" doc:"what to do"`

	*fate
}

// said is p in words: what its place did not say, the catalogue does.
func (p *problem) said() problemJSON {
	id := p.id
	if narrower, ok := causeID(p.err); ok {
		id = narrower
	}
	out := problemJSON{What: p.what, Do: p.todo, fate: p.fate}
	if p.err != nil {
		out.Why = strings.TrimSpace(reason(p.err))
	}
	if e, ok := explain.Lookup(id); ok {
		out.ID, out.Name, out.Do = id.String(), e.Name, cmp.Or(p.todo, e.Remedy)
	}
	return out
}

func (a *app) red(s string) string {
	if !a.color {
		return s
	}
	return "\x1b[31m" + s + "\x1b[0m"
}

// bad is s in red on standard output.
func (a *app) bad(s string) string {
	if !a.outColor {
		return s
	}
	return "\x1b[31m" + s + "\x1b[0m"
}

func indent(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n       ") }

// reason is err in words, without what every error of the client begins with.
func reason(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		switch {
		case e.Message != "" && e.Err != nil:
			return e.Message + ": " + reason(e.Err)
		case e.Message != "":
			return e.Message
		case e.Err != nil:
			return reason(e.Err)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return strings.TrimPrefix(err.Error(), "tidewire: ")
}

// advice is what the catalogue says to do about err; empty if it has no number of its own.
func advice(err error) string {
	if id, ok := causeID(err); ok {
		e, _ := explain.Lookup(id)
		return e.Remedy
	}
	return ""
}

// causeID is the number that err itself tells: of the wire's code, of the admin API's error, or of what ended a connection.
func causeID(err error) (explain.ID, bool) {
	if err == nil {
		return 0, false
	}
	if _, ok := errors.AsType[diskFullError](err); ok {
		return explain.DiskAlmostFull, true
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		if id := explain.Wire(uint16(e.Code)); known(id) {
			return id, true
		}
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Timeout() {
		return explain.Timeout, true
	}
	for _, c := range []struct {
		err error
		id  explain.ID
	}{
		{errNoAck, explain.NoAck},
		{bench.ErrNoAnswer, explain.NoAck},
		{syscall.ECONNREFUSED, explain.Refused},
		{syscall.EHOSTUNREACH, explain.Unreachable},
		{syscall.ENETUNREACH, explain.Unreachable},
		{context.DeadlineExceeded, explain.Timeout},
		{client.ErrDisconnected, explain.Disconnected},
		{syscall.ECONNRESET, explain.Disconnected},
	} {
		if errors.Is(err, c.err) {
			return c.id, true
		}
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return explain.UnknownHost, true
	}
	return 0, false
}

func known(id explain.ID) bool {
	_, ok := explain.Lookup(id)
	return ok
}
