package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	client "github.com/tidewire/tidewire/client/go"
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
	exitLost     = 79 // the data directory is gone
)

// problem is an error as a person reads it: what happened, why, what to do.
type problem struct {
	what string
	err  error // why; may be nil
	todo string
	code int // default exitError
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
		p = &problem{what: err.Error()}
	}
	fmt.Fprintf(a.err, "%s %s\n", a.red("error:"), p.what)
	if p.err != nil {
		fmt.Fprintf(a.err, "  why: %s\n", indent(reason(p.err)))
	}
	todo := p.todo
	if todo == "" {
		todo = advice(p.err)
	}
	if todo != "" {
		fmt.Fprintf(a.err, "  do:  %s\n", indent(todo))
	}
	return cmp.Or(p.code, exitError)
}

func (a *app) red(s string) string {
	if !a.color {
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

// advice is what to do about an error whose place has nothing better to say.
func advice(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, syscall.ECONNREFUSED):
		return "start a node with `tidewire dev`, or name another with --server or TIDEWIRE_SERVER"
	case isUnknownHost(err):
		return "check the name; --server and TIDEWIRE_SERVER take HOST:PORT, such as " + defaultServer
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "is the node up, and not overloaded? its log says more; --timeout waits longer"
	case errors.Is(err, client.ErrUnknownStream):
		return "list the streams with `tidewire stream ls`, make one with `tidewire stream create NAME`"
	case errors.Is(err, client.ErrStreamExists):
		return "choose another name, or look at what is there with `tidewire stream show NAME`"
	case errors.Is(err, client.ErrSubjectOverlap):
		return "choose subjects that no other stream captures: `tidewire stream ls`"
	case errors.Is(err, client.ErrOffsetRange):
		return "read --from first, or see which offsets are kept with `tidewire stream show NAME`"
	case errors.Is(err, client.ErrDataLoss):
		return "the node's log names the damaged file; `tidewire log verify` on the stopped node's directory lists all damage"
	}
	return ""
}

func isUnknownHost(err error) bool {
	_, ok := errors.AsType[*net.DNSError](err)
	return ok
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
