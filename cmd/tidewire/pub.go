package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
)

const pubLong = `Publish DATA as one record, or each line of standard input as a record of its own; with
--whole all of standard input as one.

A record counts as published when it is acknowledged: fsynced on a majority of its
replicas. Lines go out as they are read, in batches made of whatever came while the
last batch was on its way; their order is kept. The newline that ends a line is not
part of the record; everything else is, to the byte.

A record has room in 1 MiB, with its subject, key, headers and some 50 bytes around it.
A line that is longer ends it: the lines before it are stored, no line behind it is.
Whatever else ends it early, it says which lines are stored. Ctrl-C while it waits for a
line ends it as the end of the input does, but for a line that has not ended: all others are stored.`

const pubExample = `  tidewire pub orders.new '{"id": 7}'
  tidewire pub orders.new '{"id": 7}' --key customer-9 --header trace=4bf92f
  journalctl -f -o json | tidewire pub logs.host1 -
  tidewire pub pictures.cat --whole < cat.png
  tidewire pub logs.host1 - --compress < access.log`

type pub struct {
	*connection
	key          string
	headers      []string
	batchRecords int
	batchBytes   byteCount
	inFlight     byteCount
	compress     bool
	whole        bool
	view         *view
	quiet        bool

	subject string
}

func (a *app) pubCommand() *cobra.Command {
	v := &pub{}
	c := &cobra.Command{
		Use:     "pub SUBJECT [DATA | -]",
		Short:   "Publish a record, or a record for each line of standard input",
		Long:    pubLong,
		Example: pubExample,
		Args:    cobra.RangeArgs(1, 2),
		RunE:    func(c *cobra.Command, args []string) error { return v.run(c, args) },
	}
	v.connection = a.connection(c)
	f := c.Flags()
	f.StringVar(&v.key, "key", "", "`KEY` of the records: those of one key stay in one partition, in order")
	f.StringArrayVar(&v.headers, "header", nil, "`NAME=VALUE` beside each record; repeatable")
	f.IntVar(&v.batchRecords, "batch-records", 0, "most records in a batch, 1 to 65535 (default 65535)")
	f.Var(&v.batchBytes, "batch-bytes", "most bytes in a batch, up to 1MiB (default 256KiB)")
	f.Var(&v.inFlight, "in-flight", "most bytes without an ack; beyond that, reading waits (default 4MiB)")
	f.BoolVar(&v.whole, "whole", false, "publish standard input as one record, to the byte")
	f.BoolVar(&v.compress, "compress", false, "compress batches with zstd; they stay so on disk and on the way to readers")
	a.progressFlags(c)
	v.completeSubjects(c, true)
	v.view = a.view(c, oneAck{})
	v.view.ofMany = reflect.TypeFor[pubSummary]()
	f.BoolVar(&v.quiet, "quiet", false, "print nothing but errors")
	return c
}

func (v *pub) run(c *cobra.Command, args []string) error {
	fromInput := len(args) == 1 || args[1] == "-"
	if v.whole && !fromInput {
		return usage(c, errors.New("DATA and --whole exclude each other: --whole reads standard input"))
	}
	if len(args) == 1 && v.app.typed {
		return usage(c, errors.New("there is nothing to publish: give DATA, or pipe lines in (- reads the terminal)"))
	}
	if err := wire.ValidSubject(args[0]); err != nil {
		return usage(c, err)
	}
	v.subject = args[0]
	m := client.Message{Subject: args[0], Key: []byte(v.key)}
	for _, h := range v.headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok || name == "" {
			return usage(c, fmt.Errorf("--header %q is not NAME=VALUE", h))
		}
		m.Headers = append(m.Headers, client.Header{Name: name, Value: []byte(value)})
	}
	opts, err := v.options(c)
	if err != nil {
		return usage(c, err)
	}
	ctx, stop := interruptible(c.Context())
	defer stop()
	cl, err := v.connect(ctx, opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	if fromInput && !v.whole {
		return v.lines(ctx, cl, m)
	}
	limit := valueLimit(&m, cl.Server().BatchLimit)
	long := ""
	if v.whole {
		m.Value, err = v.input(ctx, limit)
		if errors.Is(err, context.Canceled) {
			return &problem{id: explain.NotStored, what: "interrupted before the input ended: nothing was stored", todo: "publish it again", code: exitInterrupted}
		}
		if err != nil {
			return &problem{id: explain.InputFailed, what: "the record was not stored", err: err, todo: "see why the input ended, and publish it again"}
		}
		long = "longer"
	} else {
		m.Value = []byte(args[1])
		long = plural(len(m.Value), "byte") + " long"
		v.noteFile(args[1])
	}
	if len(m.Value) > limit {
		return &problem{id: explain.Wire(3), what: "the record was not stored", err: fmt.Errorf("it is %s, and %w", long, errTooLong(m.Subject, limit)), todo: splitIt}
	}
	return v.one(ctx, cl, m)
}

// input reads all of the input, or a byte more than limit. A pipe that has nothing to say does not keep it from stopping.
func (v *pub) input(ctx context.Context, limit int) ([]byte, error) {
	type input struct {
		bytes []byte
		err   error
	}
	read := make(chan input, 1)
	go func() {
		b, err := io.ReadAll(io.LimitReader(v.app.in, int64(limit)+1))
		read <- input{b, err}
	}()
	select {
	case in := <-read:
		return in.bytes, in.err
	case <-ctx.Done():
		return nil, context.Canceled
	}
}

// noteFile says how to publish a file to somebody who gave a file's name as the record.
func (v *pub) noteFile(data string) {
	name := strings.TrimPrefix(data, "@")
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && !v.quiet {
		fmt.Fprintf(v.app.err, "the record is the text %q; the file of that name: tidewire pub %s --whole < %s\n", data, v.subject, quoteArg(name))
	}
}

func (v *pub) options(c *cobra.Command) ([]client.Option, error) {
	inFlight := 4 << 20
	if c.Flags().Changed("in-flight") {
		if v.inFlight < 1 || v.inFlight > 1<<30 {
			return nil, fmt.Errorf("--in-flight %d is not 1 to 1GiB", v.inFlight)
		}
		inFlight = int(v.inFlight)
	}
	// What was to be flushed is, or was waited for long enough: Close does not wait again.
	opts := []client.Option{client.WithMaxInFlight(inFlight), client.WithCloseTimeout(time.Millisecond)}
	if c.Flags().Changed("batch-records") {
		if v.batchRecords < 1 || v.batchRecords > 65535 {
			return nil, fmt.Errorf("--batch-records %d is not 1 to 65535", v.batchRecords)
		}
		opts = append(opts, client.WithMaxBatchRecords(v.batchRecords))
	}
	if c.Flags().Changed("batch-bytes") {
		if v.batchBytes < 1<<10 || v.batchBytes > 1<<20 {
			return nil, fmt.Errorf("--batch-bytes %d is not 1KiB to 1MiB", v.batchBytes)
		}
		opts = append(opts, client.WithMaxBatchBytes(int(v.batchBytes)))
	}
	if v.compress {
		opts = append(opts, client.WithCompression())
	}
	return opts, nil
}

// oneAck is what is shown of a single record.
type oneAck struct {
	Stream    string  `json:"stream" doc:"where it is stored"`
	Partition uint32  `json:"partition" doc:"where it is stored"`
	Offset    uint64  `json:"offset" doc:"where it is stored"`
	Epoch     uint64  `json:"epoch" doc:"of the leader"`
	Quorum    int     `json:"quorum" doc:"it is fsynced on so many replicas"`
	Voters    int     `json:"voters" doc:"of so many"`
	Took      float64 `json:"took_us" doc:"until the ack, in microseconds"`
}

// one publishes one record.
func (v *pub) one(ctx context.Context, cl *client.Client, m client.Message) error {
	ack, took, err := v.publish(ctx, cl, m)
	if err != nil {
		return v.refused(ctx, err)
	}
	if v.quiet {
		return nil
	}
	return v.view.print(oneAck{ack.Stream, ack.Partition, ack.Offset, ack.Epoch, ack.Quorum, ack.Voters, float64(took) / 1e3}, func() {
		fmt.Fprintf(v.app.out, "stored in %s, partition %d, offset %d; %s, acknowledged after %s\n",
			ack.Stream, ack.Partition, ack.Offset, restsOn(ack.Quorum, ack.Voters), span(took))
	})
}

// publish stores one record, in time. If it does not, it closes the client, which says only then whether the record is on its
// way: if every attempt was refused, or none was made, it is not.
func (v *pub) publish(ctx context.Context, cl *client.Client, m client.Message) (ack client.Ack, took time.Duration, err error) {
	ctx, cancel := v.request(ctx)
	defer cancel()
	began := time.Now()
	if err := cl.PublishAsync(ctx, m, func(a client.Ack, e error) { ack, took, err = a, time.Since(began), e }); err != nil {
		return ack, 0, err
	}
	_ = cl.Flush(ctx) // the callback is told more
	if ctx.Err() != nil {
		_ = cl.Close()
	}
	switch {
	case !errors.Is(err, client.ErrClosed):
		return ack, took, err
	case errors.Is(err, client.ErrUnknownOutcome):
		return ack, took, &client.Error{Code: wire.CodeUnknownOutcome, Err: noAck(v.timeout)}
	}
	return ack, took, noAck(v.timeout)
}

// restsOn is what an ack stands for.
func restsOn(quorum, voters int) string { return fmt.Sprintf("fsynced on %d of %d", quorum, voters) }

// publishAdvice is what to do about an error of publishing.
func (v *pub) publishAdvice(err error) string {
	if errors.Is(err, client.ErrUnknownStream) || errors.Is(err, client.ErrBadName) && wire.ValidSubject(v.subject) == nil {
		return fmt.Sprintf("make a stream for it with `tidewire stream create NAME --subject %s`, or see `tidewire stream ls`; a node run with --dev makes them itself", quoteArg(v.subject))
	}
	return advice(err)
}

// worded names the first token, which a node run with --dev could not name a stream after.
func (v *pub) worded(err error) error {
	if errors.Is(err, client.ErrBadName) && wire.ValidSubject(v.subject) == nil {
		first, _, _ := strings.Cut(v.subject, ".")
		return fmt.Errorf("no stream captures it, and %q, its first token, can name none: allowed are 1 to 128 of A-Z a-z 0-9 _ - and dot", first)
	}
	return err
}

// quoteArg is s as a shell takes it.
func quoteArg(s string) string {
	if strings.ContainsAny(s, "*> '\"$`\\&;|<()") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// refused words an error of publishing one record.
func (v *pub) refused(ctx context.Context, err error) error {
	what := "the record was not stored"
	unknown := errors.Is(err, client.ErrUnknownOutcome)
	if unknown {
		what = "the record may or may not be stored"
	} else {
		err = v.blamed(err)
	}
	if ctx.Err() != nil {
		p := &problem{id: explain.NotStored, what: "interrupted: " + what, todo: "publish it again", code: exitInterrupted}
		if unknown {
			p.id, p.todo = explain.Wire(47), ""
		}
		return p
	}
	return &problem{id: explain.NotStored, what: what, err: v.worded(err), todo: v.publishAdvice(err)}
}

const splitIt = "split it, or store it elsewhere and publish a reference"

// errTooLong names the most that a record can hold.
func errTooLong(subject string, limit int) error {
	return fmt.Errorf("a record on %s has room for %s bytes here", subject, count(limit))
}

// valueLimit is the longest value that fits a batch of so many bytes with the rest of m around it; -1: none does.
func valueLimit(m *client.Message, batchLimit int) int {
	headers := make([]wire.Header, len(m.Headers))
	for i, h := range m.Headers {
		headers[i] = wire.Header{Name: []byte(h.Name), Value: h.Value}
	}
	var b wire.Builder
	value, buf := make([]byte, batchLimit), make([]byte, batchLimit)
	tooLong := sort.Search(batchLimit, func(n int) bool {
		b.Reset(buf[:0], batchLimit)
		_, large := errors.AsType[*wire.TooLargeError](b.Append(m.Subject, m.Key, value[:n], headers, 0))
		return large
	})
	return tooLong - 1
}

// lines publishes each line of the input.
func (v *pub) lines(ctx context.Context, cl *client.Client, m client.Message) error {
	t := newTracker()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopWatching := t.watch(v.timeout, cancel)
	defer stopWatching()
	bar := v.app.progress("published", inputSize(v.app.in), t.progress)

	// Reading is on a goroutine of its own: a terminal or pipe that has nothing to say must not keep
	// us from stopping.
	read := make(chan error, 1)
	input := &stoppable{r: v.app.in}
	in := newLineReader(input, valueLimit(&m, cl.Server().BatchLimit))
	go func() { read <- v.feed(ctx, cl, m, in, t, cancel) }()
	var err error
	select {
	case err = <-read:
	case <-ctx.Done():
		err = context.Cause(ctx)
		switch reading, cut := input.stop(); {
		case !reading || inputSize(v.app.in) > 0: // a file always answers
			<-read // it hands over what it has, or says what it could not
		case cut:
			t.refuse(in.line) // half a line is no record
		}
	}
	gaveUp := false
	interrupted := errors.Is(err, context.Canceled)
	if interrupted { // Ctrl-C: what was read is finished
		err = nil
	} else if ctx.Err() != nil { // an error, or no acks for too long: waiting again changes nothing
		gaveUp = true
	}
	if !gaveUp {
		flushCtx, stop := v.flushing(ctx)
		flushErr := cl.Flush(flushCtx)
		stop()
		if cause := context.Cause(ctx); err == nil && flushErr != nil && cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		} else if err == nil {
			err = flushErr
		}
	}
	_ = cl.Close() // every record has its answer now, or none that will be waited for
	bar.stop()
	if err = v.ended(t, err); err == nil && interrupted && t.refused() {
		fate := t.fate()
		return &problem{id: explain.NotAllStored, what: "interrupted: not every line was stored", todo: fate.text, fate: fate, code: exitInterrupted}
	}
	return err
}

// ended says what publishing came to, and which lines are stored if that is not all of them.
func (v *pub) ended(t *tracker, err error) error {
	if err == nil {
		err = t.failure()
	}
	err = v.blamed(err)
	if s := t.summary(); err == nil || s.Records > 0 {
		v.say(s)
	}
	if err == nil {
		return nil
	}
	fate := t.fate()
	if errors.Is(err, errLine) {
		return &problem{id: explain.LineTooLong, what: "not every line was stored", err: err, todo: splitIt + "; " + fate.text, fate: fate}
	}
	p := &problem{id: explain.NotAllStored, what: "not every line was stored", err: v.worded(err), fate: fate}
	if inner, ok := errors.AsType[*problem](err); ok {
		p.err = errors.New(inner.Error())
	}
	p.todo = fate.text
	if more := v.publishAdvice(err); more != "" {
		p.todo += "\n" + more
	}
	return p
}

// errLine is what a line unwraps to that no record can hold.
var errLine = errors.New("the lines behind it were not published")

// flushing bounds the wait for the last acks: by the watch while all goes well, by the timeout once ctx has ended.
func (v *pub) flushing(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), v.timeout)
}

// feed hands over one line after the other.
func (v *pub) feed(ctx context.Context, cl *client.Client, m client.Message, in *lineReader, t *tracker, cancel context.CancelCauseFunc) error {
	for {
		line, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			t.refuse(in.line)
			if errors.Is(err, errStopped) {
				return context.Cause(ctx)
			}
			if errors.Is(err, errLongLine) {
				return fmt.Errorf("line %s is longer: %w; %w", count(in.line), errTooLong(m.Subject, in.limit), errLine)
			}
			return &problem{id: explain.InputFailed, what: fmt.Sprintf("reading stopped at line %s", count(in.line)), err: err}
		}
		m.Value = line
		if err := cl.PublishAsync(ctx, m, t.handOver(in.line, len(line), cancel)); err != nil {
			t.takeBack(in.line)
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
	}
}

func (v *pub) say(s pubSummary) {
	if !v.quiet {
		_ = v.view.print(s, func() { fmt.Fprintln(v.app.out, s) })
	}
}

// inputSize is how much there is to read, if that is known.
func inputSize(r io.Reader) int64 {
	if f, ok := r.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			return info.Size()
		}
	}
	return 0
}
