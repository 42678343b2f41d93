package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

const dumpLong = logLong + `

dump prints entries, the batches in them and their records. Damaged ranges are named in
their place and passed over. With --json each item is an object on a line of its own:
{"log": …}, {"entry": …}, {"batch": …}, {"record": …}, {"damage": …}.` + logExitCodes

func (a *app) logDumpCommand() *cobra.Command {
	d := &dump{app: a}
	c := &cobra.Command{
		Use:   "dump DIR",
		Short: "Print entries, batches and records",
		Long:  dumpLong,
		Example: `  tidewire log dump ./tidewire-data/partitions/1 --limit 10
  tidewire log dump ./tidewire-data/partitions/1 --from 4711 --limit 1
  tidewire log dump ./tidewire-data/catalog
  tidewire log dump ./tidewire-data --json | jq -c 'select(.record)'`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d.seek = c.Flags().Changed("from")
			return d.run(args[0])
		},
	}
	f := c.Flags()
	f.Uint64Var(&d.from, "from", 0, "begin with the record at `OFFSET`; an error if no log there holds it")
	f.Uint64Var(&d.limit, "limit", 0, "end each log after `N` records, or entries without records")
	f.BoolVar(&d.full, "full", false, "print whole values; without it they are cut at 80 bytes")
	a.progressFlags(c)
	d.view = a.view(c, dumpItem{}, formatText, formatJSON)
	return c
}

// dump prints logs.
type dump struct {
	app   *app
	from  uint64
	seek  bool // from was given
	limit uint64
	full  bool
	view  *view

	out     *output
	catalog bool   // the log at hand is the catalog's
	printed uint64 // of the log at hand: records and entries without records
	damaged bool
	found   bool     // a log holds the offset that was given
	held    []string // what logs hold, for the error if none does
}

var errEnough = errors.New("limit reached")

func (d *dump) run(dir string) error {
	set, err := openLogs(dir)
	if err != nil {
		return err
	}
	defer set.fs.Close()
	d.out = newOutput(d.app.out)
	read := set.readings(1)
	if d.app.width == 0 { // a terminal shows what is printed, which is progress enough
		bar := read.progress(d.app, "read")
		defer bar.stop()
	}
	err = set.each(func(dir string, l *storage.Log, err error) error {
		defer read.past(dir)
		d.printed = 0
		head, name := &dumpLog{Name: set.name(dir)}, set.name(dir)
		if o := set.owner(dir); o != nil {
			head.Stream, head.Number = o.stream, &o.partition
			name += " " + o.String()
		} else if set.stray(dir) {
			name += " (a stray)"
		}
		if err != nil {
			d.damaged = d.damaged || !errors.Is(err, storage.ErrRemoved) && !errors.Is(err, errEmpty)
			head.Error = unreadable(err)
			return d.print(dumpItem{Log: head}, "%s: %s\n", name, head.Error)
		}
		if err := d.log(head, name, l); !errors.Is(err, errEnough) {
			return err
		}
		return nil
	})
	if closeErr := d.out.close(); err == nil && closeErr != nil {
		err = &problem{id: explain.OutputFailed, what: "writing failed", err: closeErr}
	}
	switch {
	case err != nil:
		return err
	case d.damaged:
		return errSilent(exitError)
	case d.seek && !d.found:
		return &problem{id: explain.OffsetBeyond, what: fmt.Sprintf("no record there has the offset %d", d.from),
			err: errors.New("what is there: " + strings.Join(d.held, "; ")), todo: "give --from an offset that is kept, or leave it out"}
	}
	return nil
}

// dumpItem is one line of JSON.
type dumpItem struct {
	Log    *dumpLog    `json:"log,omitempty" doc:"the log at hand"`
	Entry  *dumpEntry  `json:"entry,omitempty" doc:"an entry of Raft"`
	Batch  *dumpBatch  `json:"batch,omitempty" doc:"a batch in it"`
	Record *dumpRecord `json:"record,omitempty" doc:"a record in that"`
	Damage *damageItem `json:"damage,omitempty" doc:"what cannot be read"`
}

type dumpLog struct {
	Name      string  `json:"name" doc:"directory"`
	Stream    string  `json:"stream,omitempty" doc:"whose partition this is"`
	Number    *uint32 `json:"stream_partition,omitempty" doc:"which partition of it"`
	Error     string  `json:"error,omitempty" doc:"why it cannot be read"`
	Cluster   string  `json:"cluster,omitempty" doc:"id of the cluster"`
	Partition uint64  `json:"partition" doc:"number of the log; 0 is the catalog"`
	First     uint64  `json:"first_offset" doc:"of the first record"`
	Next      uint64  `json:"next_offset" doc:"what the next record would get"`
	Segments  int     `json:"segments" doc:"files"`
	Bytes     int64   `json:"bytes" doc:"of it"`
	Clean     bool    `json:"closed_in_good_order" doc:"false after a crash"`
}

type dumpEntry struct {
	Index   uint64          `json:"index" doc:"of Raft"`
	Term    uint64          `json:"term" doc:"of Raft"`
	Kind    string          `json:"kind" doc:"records, command, no-op, barrier or configuration"`
	Base    uint64          `json:"first_offset" doc:"of the first record"`
	Records uint32          `json:"records" doc:"in it"`
	Time    string          `json:"time,omitempty" doc:"of the leader"`
	Bytes   int             `json:"bytes" doc:"of it"`
	Command json.RawMessage `json:"command,omitempty" doc:"of the catalog"`
}

type dumpBatch struct {
	Offset     uint64 `json:"first_offset" doc:"of the first record"`
	Records    uint32 `json:"records" doc:"in it"`
	Bytes      int    `json:"bytes" doc:"of it"`
	Compressed bool   `json:"compressed" doc:"with zstd"`
	Producer   uint64 `json:"producer" doc:"0: duplicates are not detected"`
	Epoch      uint16 `json:"producer_epoch" doc:"of the producer"`
	Sequence   uint64 `json:"sequence" doc:"of the first record"`
}

type dumpRecord struct {
	Offset   uint64       `json:"offset" doc:"of the record"`
	Time     string       `json:"time" doc:"of the record"`
	Subject  string       `json:"subject" doc:"what it was published to"`
	Key      *dumpBytes   `json:"key,omitempty" doc:"its key"`
	Headers  []dumpHeader `json:"headers,omitempty" doc:"beside the value"`
	Value    dumpBytes    `json:"value" doc:"as encoding says"`
	Encoding string       `json:"encoding" doc:"utf8 or base64"`
}

type dumpHeader struct {
	Name  string    `json:"name" doc:"may come more than once"`
	Value dumpBytes `json:"value" doc:"as encoding says"`
}

// dumpBytes is a JSON string: as it is if it is UTF-8, else base64.
type dumpBytes []byte

func (b dumpBytes) MarshalJSON() ([]byte, error) {
	if utf8.Valid(b) {
		return appendString(nil, b), nil
	}
	return appendBase64(nil, b), nil
}

// print writes one item, as JSON or as the text.
func (d *dump) print(item dumpItem, format string, args ...any) error {
	return d.out.append(func(dst []byte) []byte {
		if !d.view.is(formatJSON) {
			return fmt.Appendf(dst, format, args...)
		}
		b, err := json.Marshal(item)
		if err != nil {
			panic(fmt.Sprintf("tidewire: dump item does not encode: %v", err))
		}
		return append(append(dst, b...), '\n')
	})
}

func (d *dump) log(head *dumpLog, name string, l *storage.Log) error {
	b, found := l.Bounds(), l.Recovered()
	cluster, partition := l.Identity()
	d.catalog = isCatalog(l)
	head.Cluster, head.Partition, head.First, head.Next = fmt.Sprintf("%x", cluster), partition, uint64(b.Start), uint64(b.End)
	head.Segments, head.Bytes, head.Clean = b.Segments, b.Bytes, found.Clean
	err := d.print(dumpItem{Log: head}, "%s: cluster %x, log %d, entries [%d, %d), %s, %s, %s\n", name, cluster, partition, b.First, b.Last+1,
		offsetsText(b.Start, b.End), plural(b.Segments, "segment"), size(b.Bytes))
	if err != nil {
		return err
	}
	index := b.First
	if d.seek {
		if !d.catalog && b.Start < b.End {
			d.held = append(d.held, fmt.Sprintf("%s %s", head.Name, offsetsText(b.Start, b.End)))
		} else if !d.catalog {
			d.held = append(d.held, head.Name+" no records")
		}
		d.found = d.found || !d.catalog && b.Start <= storage.Offset(d.from) && storage.Offset(d.from) < b.End
		if index, err = d.find(l, storage.Offset(d.from)); err != nil {
			return err
		}
	}
	for index <= b.Last {
		e, err := l.Entry(index)
		if c, ok := errors.AsType[*storage.CorruptError](err); ok && c.EndIndex > index {
			if err := d.damage(c); err != nil {
				return err
			}
			index = c.EndIndex
			continue
		}
		if err != nil {
			return &problem{id: explain.LookingStopped, what: fmt.Sprintf("entry %d of %s cannot be read", index, head.Name), err: err}
		}
		if err := d.entry(&e); err != nil {
			return err
		}
		index++
	}
	return nil
}

// find gives the entry that holds an offset; of a log without that offset nothing is printed.
func (d *dump) find(l *storage.Log, o storage.Offset) (storage.Index, error) {
	i, err := l.FindOffset(o)
	if c, ok := errors.AsType[*storage.CorruptError](err); ok {
		return c.FirstIndex, nil
	}
	if errors.Is(err, storage.ErrOutOfRange) {
		return math.MaxUint64, nil
	}
	return i, err
}

func (d *dump) damage(c *storage.CorruptError) error {
	d.damaged = true
	return d.print(dumpItem{Damage: &damageItem{c.Path, c.Position, uint64(c.Start), uint64(c.End), c.Reason}},
		"DAMAGE: entries [%d, %d), %s: %s (%s, byte %d)\n", c.FirstIndex, c.EndIndex, offsetsText(c.Start, c.End), c.Reason, c.Path, c.Position)
}

// count stops the log when enough is printed.
func (d *dump) count() error {
	if d.printed++; d.printed == d.limit {
		return errEnough
	}
	return nil
}

func (d *dump) entry(e *storage.Entry) error {
	item := &dumpEntry{Index: uint64(e.Index), Term: uint64(e.Term), Kind: entryKind(e, d.catalog), Base: uint64(e.Base), Records: e.Records,
		Time: unixMilli(e.Time), Bytes: len(e.Payload)}
	text := ""
	if e.Records > 0 && !d.catalog {
		text = fmt.Sprintf(", %s, %s", plural(e.Records, "record"), offsetsText(e.Base, e.Base+storage.Offset(e.Records)))
	} else if json.Valid(e.Payload) {
		item.Command = e.Payload
		text = " " + string(e.Payload)
	}
	if item.Time != "" {
		text += ", " + item.Time
	}
	if err := d.print(dumpItem{Entry: item}, "entry %d, term %d: %s%s\n", e.Index, e.Term, item.Kind, text); err != nil {
		return err
	}
	if e.Records == 0 || d.catalog {
		return d.count()
	}
	err := eachBatch(e, d.batch)
	if err == nil || errors.Is(err, errEnough) || d.out.failed() != nil {
		return err
	}
	d.damaged = true
	return d.print(dumpItem{Damage: &damageItem{Start: uint64(e.Base), End: uint64(e.Base) + uint64(e.Records), Reason: err.Error()}},
		"DAMAGE: %s: %v\n", offsetsText(e.Base, e.Base+storage.Offset(e.Records)), err)
}

func (d *dump) batch(desc raft.Descriptor, b *wire.Batch, raw []byte) error {
	if uint64(desc.Offset)+uint64(desc.Count) <= d.from {
		return nil
	}
	item := &dumpBatch{uint64(desc.Offset), b.Count, len(b.Bytes), b.Compressed(), desc.Producer, desc.Epoch, b.Sequence}
	text := ""
	if b.Compressed() {
		text = ", zstd"
	}
	if desc.Producer != 0 {
		text += fmt.Sprintf(", producer %d epoch %d sequence %d", desc.Producer, desc.Epoch, b.Sequence)
	}
	err := d.print(dumpItem{Batch: item}, "  batch: %s, %s, %s%s\n", plural(b.Count, "record"), offsetsText(desc.Offset, desc.Offset+storage.Offset(b.Count)),
		size(len(b.Bytes)), text)
	if err != nil {
		return err
	}
	var r wire.Record
	for it := b.Iterate(raw); it.Next(&r); {
		offset := uint64(desc.Offset) + uint64(r.OffsetDelta)
		if offset < d.from {
			continue
		}
		if err := d.record(offset, &r); err != nil {
			return err
		}
	}
	return nil
}

func (d *dump) record(offset uint64, r *wire.Record) error {
	item := &dumpRecord{Offset: offset, Time: unixMilli(r.Time), Subject: string(r.Subject), Value: r.Value, Encoding: "utf8"}
	if !utf8.Valid(r.Value) {
		item.Encoding = "base64"
	}
	text := ""
	if len(r.Key) > 0 {
		item.Key = (*dumpBytes)(&r.Key)
		text = " key=" + quoted(r.Key, d.full)
	}
	for h := range r.Headers {
		item.Headers = append(item.Headers, dumpHeader{string(h.Name), h.Value})
		text += " " + string(h.Name) + "=" + quoted(h.Value, d.full)
	}
	if err := d.print(dumpItem{Record: item}, "    %d  %s  %s%s  %s\n", offset, item.Time, item.Subject, text, quoted(r.Value, d.full)); err != nil {
		return err
	}
	return d.count()
}

// quoted is b with everything unprintable escaped, cut at 80 bytes unless all of it is wanted.
func quoted(b []byte, full bool) string {
	const most = 80
	if full || len(b) <= most {
		return strconv.Quote(string(b))
	}
	return fmt.Sprintf("%s… %s bytes", strconv.Quote(string(b[:most])), count(len(b)))
}

func unixMilli(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format(timeLayout)
}
