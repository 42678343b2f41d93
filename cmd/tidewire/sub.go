package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/storage"
)

const subLong = `Read the records whose subject FILTER matches, from the first one kept, and go on with
what is published, until Ctrl-C or --count. --no-follow ends with what there is now; that
no stream captures FILTER, or that there are fewer records than --count, is then an error.

A filter is a subject in which a token may be *, which stands for any one token, and
the last may be >, which stands for one or more. It selects from every stream and
partition, also from those that come later. Records of one partition come in order.
A stream that is deleted meanwhile is named on stderr, and ends the reading of a FILTER
without wildcards.

--from says where to begin:
  first       the oldest record kept (default)
  last        the newest record of each partition
  next        what is published from now on
  4711        that offset (the filter must select one partition)
  10m         what was stored in the last ten minutes; 36h, 7d
  2026-01-02T15:04:05Z  what was stored since then; also 2026-01-02, 2026-01-02T15:04:05

Exit codes: 0 all that was asked for was read, or Ctrl-C of what has no end; 1 it could
not be read, is not there, or records are missing, as stderr says; 2 wrong usage; 130 Ctrl-C
before --count or --no-follow was at its end.

--format says what is printed of each record, as kcat does; default '%v\n':
` + formatHelp

const subExample = `  tidewire sub orders.new
  tidewire sub 'orders.>' --from 10m
  tidewire sub 'orders.>' --no-follow --json > orders.json
  tidewire sub '>' --format '%t %s %o %v\n' --from next
  tidewire sub orders.new --from 4711 --count 1 --json | jq .value`

type sub struct {
	*connection
	from     string
	count    uint64
	noFollow bool
	format   string
	view     *view
	quiet    bool
}

func (a *app) subCommand() *cobra.Command {
	v := &sub{}
	c := &cobra.Command{
		Use:     "sub FILTER",
		Short:   "Read records, and those that follow",
		Long:    subLong,
		Example: subExample,
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return v.run(c, args[0]) },
	}
	v.connection = a.connection(c)
	f := c.Flags()
	f.StringVar(&v.from, "from", "first", "`WHERE` to begin: first, last, next, an offset, a time or how long ago")
	f.Uint64Var(&v.count, "count", 0, "end after `N` records")
	f.BoolVar(&v.noFollow, "no-follow", false, "end with the newest record there is now, one partition after the other")
	f.StringVar(&v.format, "format", defaultFormat, "what to print of each record")
	a.progressFlags(c)
	v.completeSubjects(c, false)
	_ = c.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{"first", "last", "next"}, cobra.ShellCompDirectiveNoFileComp)) // fails for unknown flags alone
	v.view = a.view(c, recordShown{}, formatText, formatWide, formatJSON)
	f.BoolVar(&v.quiet, "quiet", false, "say nothing on stderr but errors")
	return c
}

func (v *sub) run(c *cobra.Command, filter string) error {
	if err := wire.ValidFilter(filter); err != nil {
		return usage(c, err)
	}
	start, err := parseFrom(v.from, time.Now())
	if err != nil {
		return usage(c, err)
	}
	if v.view.wide() && !c.Flags().Changed("format") {
		v.format = wideFormat
	}
	line, err := parseFormat(v.format)
	if err != nil {
		return usage(c, err)
	}
	write := line.append
	if !v.view.is(formatText) && c.Flags().Changed("format") {
		return usage(c, errors.New("--format and --output exclude each other"))
	}
	if v.view.is(formatJSON) {
		write = appendRecordJSON
	}
	if c.Flags().Changed("count") && v.count == 0 {
		return usage(c, errors.New("--count 0 would print nothing"))
	}
	if v.noFollow && v.from == "next" {
		return usage(c, errors.New("--no-follow would print nothing of what is published from now on"))
	}
	ctx, stop := interruptible(c.Context())
	defer stop()
	cl, err := v.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if v.noFollow {
		return v.readPresent(ctx, cl, filter, start, write)
	}
	s, err := v.subscribe(ctx, cl, filter, start)
	if _, worded := errors.AsType[*problem](err); worded {
		return err
	}
	if err != nil {
		return &problem{id: explain.ReadingStopped, what: fmt.Sprintf("cannot read %s", filter), err: err}
	}
	defer s.Close()
	return v.read(ctx, filter, s.All(ctx), write)
}

func (v *sub) subscribe(ctx context.Context, cl *client.Client, filter string, start client.Start) (*client.Subscription, error) {
	ctx, cancel := v.request(ctx)
	defer cancel()
	if offset, err := strconv.ParseUint(v.from, 10, 64); err == nil {
		if err := checkOffset(ctx, cl, filter, offset); err != nil {
			return nil, err
		}
	}
	s, err := cl.Subscribe(ctx, filter, start)
	if err != nil || v.quiet {
		return s, err
	}
	if streams, err := cl.Streams(ctx); err == nil && !slices.ContainsFunc(streams, func(st client.Stream) bool { return captures(&st, filter) }) {
		fmt.Fprintf(v.app.err, "no stream captures %s yet; waiting for one\n", filter)
	}
	return s, nil
}

// checkOffset refuses an offset that names no place: of several partitions, or behind the end.
func checkOffset(ctx context.Context, cl *client.Client, filter string, offset uint64) error {
	streams, err := cl.Streams(ctx)
	if err != nil {
		return err
	}
	const elsewhere = "first, last, next, or a time (10m, 2026-01-02T15:04:05Z)"
	var of *client.Stream
	partitions := 0
	for i := range streams {
		if st := &streams[i]; captures(st, filter) {
			of = st
			partitions += len(st.Partitions)
		}
	}
	if partitions > 1 {
		return &problem{id: explain.OffsetOfMany, what: fmt.Sprintf("cannot read %s from offset %s", filter, count(offset)),
			err:  fmt.Errorf("it selects %d partitions, and each has offsets of its own", partitions),
			todo: "give --from " + elsewhere + "; an offset goes with a filter that selects one stream of one partition: see `tidewire stream ls`"}
	}
	if of == nil || len(of.Partitions) == 0 {
		return nil
	}
	p := of.Partitions[0]
	if p.Leader == 0 {
		return errNotServed(of, &p)
	}
	if offset > p.HighWatermark {
		return &problem{id: explain.OffsetBeyond, what: fmt.Sprintf("cannot read %s from offset %s", filter, count(offset)),
			err: fmt.Errorf("stream %s, partition %d has %s; the next record gets %s", of.Name, p.Number,
				offsetsText(storage.Offset(p.LogStart), storage.Offset(p.HighWatermark)), count(p.HighWatermark)),
			todo: fmt.Sprintf("give --from %d to %d, or %s", p.LogStart, p.HighWatermark, elsewhere)}
	}
	return nil
}

// captures reports whether some subject is both the stream's and matched by filter.
func captures(st *client.Stream, filter string) bool {
	return !st.Deleted && slices.ContainsFunc(st.Subjects, func(s string) bool { return wire.Overlap(s, filter) })
}

// read prints records until there are enough or no more, or ctx ends.
func (v *sub) read(ctx context.Context, filter string, all iter.Seq2[client.Record, error], write func([]byte, *client.Record) []byte) error {
	out := newOutput(v.app.out)
	began := time.Now()
	var records, bytes uint64
	var failed error
	damaged, plain := false, wire.ValidSubject(filter) == nil
	var read atomic.Uint64
	if v.count > 0 && !(v.app.terminal && v.app.width > 0) { // a terminal shows the records themselves
		bar := v.app.progress("read", int64(v.count), func() (int64, string) {
			n := read.Load()
			return int64(n), fmt.Sprintf("%s, %s", plural(n, "record"), rate(float64(n)/time.Since(began).Seconds()))
		})
		defer bar.stop()
	}
	for r, err := range all {
		if err != nil {
			if v.passable(err) {
				damaged = true
				continue
			}
			if errors.Is(err, client.ErrUnknownStream) && !plain {
				if !v.quiet {
					fmt.Fprintln(v.app.err, reason(err)) // it says that reading goes on
				}
				continue
			}
			if ctx.Err() == nil {
				failed = stopped(err, filter)
			}
			break
		}
		if out.append(func(b []byte) []byte { return write(b, &r) }) != nil {
			break // close says why
		}
		bytes += uint64(len(r.Value))
		records++
		if read.Store(records); records == v.count {
			break
		}
	}
	if err := out.close(); failed == nil && err != nil {
		failed = &problem{id: explain.OutputFailed, what: "writing the records failed", err: err}
	}
	if !v.quiet && (ctx.Err() != nil || v.app.terminal) {
		took := time.Since(began)
		of := ""
		if records < v.count {
			of = " of " + count(v.count)
		}
		fmt.Fprintf(v.app.err, "%s%s, %s in %s\n", plural(records, "record"), of, size(bytes), span(took))
	}
	switch {
	case failed != nil:
		return failed
	case damaged:
		return errSilent(exitError)
	case ctx.Err() != nil && (records < v.count || v.noFollow):
		return errSilent(exitInterrupted)
	case v.noFollow && records < v.count:
		return &problem{id: explain.TooFew, what: fmt.Sprintf("there are fewer records than asked for: %s of %s", count(records), count(v.count))}
	}
	return nil
}

// stopped words why reading ended. Of a stream that was deleted a subscription says that it goes on, as one with wildcards does.
func stopped(err error, filter string) error {
	if errors.Is(err, client.ErrUnknownStream) {
		return &problem{id: explain.Wire(20), what: "reading stopped", err: fmt.Errorf("the stream that captures %s was deleted", filter)}
	}
	return &problem{id: explain.ReadingStopped, what: "reading stopped", err: err}
}

// passable says what is missing and reports whether reading goes on behind it.
func (v *sub) passable(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	switch {
	case !ok:
		return false
	case errors.Is(err, client.ErrOffsetRange), errors.Is(err, client.ErrDataLoss):
		fmt.Fprintf(v.app.err, "%s %s; going on at offset %s\n", v.app.red("missing:"), reason(err), count(e.Value))
	case errors.Is(err, client.ErrChecksum):
		fmt.Fprintf(v.app.err, "%s %s; asking for it again\n", v.app.red("damaged on the way:"), reason(err))
	default:
		return false
	}
	return true
}
