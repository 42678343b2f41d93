package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
)

const pubLong = `Publish DATA as one record, or each line of standard input as a record of its own.

A record counts as published when it is acknowledged: fsynced on a majority of its
replicas. Lines go out as they are read, in batches made of whatever came while the
last batch was on its way; their order is kept. The newline that ends a line is not
part of the record; everything else is, to the byte.`

const pubExample = `  tidewire pub orders.new '{"id": 7}'
  tidewire pub orders.new '{"id": 7}' --key customer-9 --header trace=4bf92f
  journalctl -f -o json | tidewire pub logs.host1 -
  tidewire pub logs.host1 - --compress < access.log`

type pub struct {
	*connection
	key          string
	headers      []string
	batchRecords int
	batchBytes   byteCount
	inFlight     byteCount
	compress     bool
	json         bool
	quiet        bool
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
	f.BoolVar(&v.compress, "compress", false, "compress batches with zstd; they stay so on disk and on the way to readers")
	f.BoolVar(&v.json, "json", false, "print the summary as JSON")
	f.BoolVar(&v.quiet, "quiet", false, "print nothing but errors")
	return c
}

func (v *pub) run(c *cobra.Command, args []string) error {
	fromInput := len(args) == 1 || args[1] == "-"
	if len(args) == 1 && v.app.typed {
		return usage(c, errors.New("there is nothing to publish: give DATA, or pipe lines in (- reads the terminal)"))
	}
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
	if fromInput {
		return v.lines(ctx, cl, m)
	}
	m.Value = []byte(args[1])
	return v.one(ctx, cl, m)
}

func (v *pub) options(c *cobra.Command) ([]client.Option, error) {
	inFlight := 4 << 20
	if c.Flags().Changed("in-flight") {
		if v.inFlight < 1 || v.inFlight > 1<<30 {
			return nil, fmt.Errorf("--in-flight %d is not 1 to 1GiB", v.inFlight)
		}
		inFlight = int(v.inFlight)
	}
	opts := []client.Option{client.WithMaxInFlight(inFlight)}
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

// oneAck is the JSON of a single record.
type oneAck struct {
	Stream    string  `json:"stream"`
	Partition uint32  `json:"partition"`
	Offset    uint64  `json:"offset"`
	Epoch     uint64  `json:"epoch"`
	Quorum    int     `json:"quorum"`
	Voters    int     `json:"voters"`
	Took      float64 `json:"took_us"`
}

// one publishes one record.
func (v *pub) one(ctx context.Context, cl *client.Client, m client.Message) error {
	ctx, cancel := v.request(ctx)
	defer cancel()
	began := time.Now()
	ack, err := cl.Publish(ctx, m)
	if err != nil {
		return v.refused("the record was not stored", err)
	}
	took := time.Since(began)
	switch {
	case v.quiet:
	case v.json:
		return writeJSON(v.app.out, oneAck{ack.Stream, ack.Partition, ack.Offset, ack.Epoch, ack.Quorum, ack.Voters, float64(took) / 1e3})
	default:
		fmt.Fprintf(v.app.out, "stored in %s, partition %d, offset %d; %s, acknowledged after %s\n",
			ack.Stream, ack.Partition, ack.Offset, restsOn(ack.Quorum, ack.Voters), span(took))
	}
	return nil
}

// restsOn is what an ack stands for.
func restsOn(quorum, voters int) string { return fmt.Sprintf("fsynced on %d of %d", quorum, voters) }

// refused words an error of publishing.
func (v *pub) refused(what string, err error) error {
	p := &problem{what: what, err: err}
	if errors.Is(err, client.ErrUnknownOutcome) || errors.Is(err, context.DeadlineExceeded) {
		p.what = strings.Replace(what, "was not stored", "may or may not be stored", 1)
	}
	return p
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
	in := newLineReader(v.app.in, cl.Server().BatchLimit)
	go func() { read <- v.feed(ctx, cl, m, in, t, cancel) }()
	var err error
	select {
	case err = <-read:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if errors.Is(err, context.Canceled) { // Ctrl-C: what was read is finished
		err = nil
	}
	flushCtx, stop := v.flushing(ctx)
	flushErr := cl.Flush(flushCtx)
	stop()
	bar.stop()
	if failed := t.failure(); failed != nil {
		err = v.refused("not every line was stored", failed)
	} else if err == nil && flushErr != nil {
		err = v.refused("not every line was stored", flushErr)
	}
	if s := t.summary(); err == nil || s.Records > 0 {
		v.say(s)
	}
	return err
}

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
			return &problem{what: fmt.Sprintf("reading stopped at line %s", count(in.line)), err: err,
				todo: "the lines before it are stored; split the line, or store it elsewhere and publish a reference"}
		}
		m.Value = line
		if err := cl.PublishAsync(ctx, m, t.handOver(len(line), cancel)); err != nil {
			t.takeBack()
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return v.refused(fmt.Sprintf("line %s was not stored", count(in.line)), err)
		}
	}
}

func (v *pub) say(s pubSummary) {
	switch {
	case v.quiet:
	case v.json:
		_ = writeJSON(v.app.out, s)
	default:
		fmt.Fprintln(v.app.out, s)
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
