package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
)

// demoCheckCommand is the process that reads back: it knows the text, how often it was published, and
// the node, and nothing else of what went before.
func (a *app) demoCheckCommand() *cobra.Command {
	var cn *connection
	var passes uint64
	c := &cobra.Command{
		Use:    "check TEXT",
		Short:  "Compare stream demo with a text",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := cn.connect(c.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			return a.checkDemo(c.Context(), cn, cl, args[0], passes)
		},
	}
	cn = a.connection(c)
	c.Flags().Uint64Var(&passes, "passes", 1, "how often the text was published")
	return c
}

func (a *app) checkDemo(ctx context.Context, cn *connection, cl *client.Client, text string, passes uint64) error {
	st, err := cl.Stream(ctx, "demo")
	if err != nil {
		return &problem{id: explain.DemoFailed, what: "cannot see stream demo", err: err}
	}
	want := &expectation{path: text, passes: passes}
	defer want.close()
	sub, err := cl.Subscribe(ctx, "demo", client.FromFirst())
	if err != nil {
		return &problem{id: explain.DemoFailed, what: "cannot read stream demo", err: err}
	}
	defer sub.Close()
	began := time.Now()
	// Nothing for so long ends it: a record that is missing at the end would be waited for for ever.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(cn.timeout, func() { cancel(fmt.Errorf("nothing more came for %v", cn.timeout)) })
	defer watch.Stop()
	end := st.Records()
	var records, size uint64
	for r, err := range sub.All(ctx) {
		if err != nil {
			return &problem{id: explain.DemoFailed, what: fmt.Sprintf("reading stopped after %s of %s", count(records), plural(end, "record")), err: err}
		}
		if records%4096 == 0 {
			watch.Reset(cn.timeout)
		}
		line, err := want.next()
		switch {
		case errors.Is(err, io.EOF):
			return &problem{id: explain.DemoFailed, what: fmt.Sprintf("offset %d holds a record that was never published: %s", r.Offset, quoted(r.Value, false))}
		case err != nil:
			return err
		case r.Offset != records:
			return &problem{id: explain.DemoFailed, what: fmt.Sprintf("offset %d came where %d belongs", r.Offset, records)}
		case !bytes.Equal(line, r.Value):
			return &problem{id: explain.DemoFailed, what: fmt.Sprintf("offset %d holds %s, published was %s", r.Offset, quoted(r.Value, false), quoted(line, false))}
		}
		size += uint64(len(r.Value))
		if records++; records == end {
			break
		}
	}
	if line, err := want.next(); err == nil {
		return &problem{id: explain.DemoFailed, what: fmt.Sprintf("the record after offset %d is missing: %s", records, quoted(line, false))}
	}
	took := time.Since(began)
	fmt.Fprintf(a.out, "%s in %s: %s; each is there once, in order, byte for byte\n", plural(records, "record"), span(took), rate(float64(records)/took.Seconds()))
	return nil
}

// expectation gives the lines of a file, several times over.
type expectation struct {
	path   string
	passes uint64
	file   *os.File
	lines  *lineReader
}

func (e *expectation) next() ([]byte, error) {
	for {
		if e.lines == nil {
			if e.passes == 0 {
				return nil, io.EOF
			}
			f, err := os.Open(e.path)
			if err != nil {
				return nil, err
			}
			e.passes--
			e.file, e.lines = f, newLineReader(f, 1<<30)
		}
		line, err := e.lines.next()
		if !errors.Is(err, io.EOF) {
			return line, err
		}
		e.close()
	}
}

func (e *expectation) close() {
	if e.file != nil {
		_ = e.file.Close()
	}
	e.file, e.lines = nil, nil
}
