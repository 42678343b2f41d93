package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

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
	f.Uint64Var(&d.from, "from", 0, "begin with the record at `OFFSET`")
	f.Uint64Var(&d.limit, "limit", 0, "end each log after `N` records, or entries without records")
	f.BoolVar(&d.full, "full", false, "print whole values; without it they are cut at 80 bytes")
	f.BoolVar(&d.json, "json", false, "print a JSON object a line")
	return c
}

// dump prints logs.
type dump struct {
	app   *app
	from  uint64
	seek  bool // from was given
	limit uint64
	full  bool
	json  bool

	out     *output
	catalog bool   // the log at hand is the catalog's
	printed uint64 // of the log at hand: records and entries without records
	damaged bool
}

var errEnough = errors.New("limit reached")

func (d *dump) run(dir string) error {
	set, err := openLogs(dir)
	if err != nil {
		return err
	}
	defer set.fs.Close()
	d.out = newOutput(d.app.out)
	err = set.each(func(dir string, l *storage.Log, err error) error {
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
		err = &problem{what: "writing failed", err: closeErr}
	}
	if err == nil && d.damaged {
		return errSilent(exitError)
	}
	return err
}

// dumpItem is one line of JSON.
type dumpItem struct {
	Log    *dumpLog    `json:"log,omitempty"`
	Entry  *dumpEntry  `json:"entry,omitempty"`
	Batch  *dumpBatch  `json:"batch,omitempty"`
	Record *dumpRecord `json:"record,omitempty"`
	Damage *damageItem `json:"damage,omitempty"`
}

type dumpLog struct {
	Name      string  `json:"name"`
	Stream    string  `json:"stream,omitempty"` // whose partition this is
	Number    *uint32 `json:"stream_partition,omitempty"`
	Error     string  `json:"error,omitempty"`
	Cluster   string  `json:"cluster,omitempty"`
	Partition uint64  `json:"partition"` // 0: the catalog
	First     uint64  `json:"first_offset"`
	Next      uint64  `json:"next_offset"`
	Segments  int     `json:"segments"`
	Bytes     int64   `json:"bytes"`
	Clean     bool    `json:"closed_in_good_order"`
}

type dumpEntry struct {
	Index   uint64          `json:"index"`
	Term    uint64          `json:"term"`
	Kind    string          `json:"kind"`
	Base    uint64          `json:"first_offset"`
	Records uint32          `json:"records"`
	Time    string          `json:"time,omitempty"`
	Bytes   int             `json:"bytes"`
	Command json.RawMessage `json:"command,omitempty"` // of the catalog
}

type dumpBatch struct {
	Offset     uint64 `json:"first_offset"`
	Records    uint32 `json:"records"`
	Bytes      int    `json:"bytes"`
	Compressed bool   `json:"compressed"`
	Producer   uint64 `json:"producer"` // 0: not deduplicated
	Epoch      uint16 `json:"producer_epoch"`
	Sequence   uint64 `json:"sequence"`
}

type dumpRecord struct {
	Offset   uint64       `json:"offset"`
	Time     string       `json:"time"`
	Subject  string       `json:"subject"`
	Key      *dumpBytes   `json:"key,omitempty"`
	Headers  []dumpHeader `json:"headers,omitempty"`
	Value    dumpBytes    `json:"value"`
	Encoding string       `json:"encoding"` // of value
}

type dumpHeader struct {
	Name  string    `json:"name"`
	Value dumpBytes `json:"value"`
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
		if !d.json {
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
			return &problem{what: fmt.Sprintf("entry %d of %s cannot be read", index, head.Name), err: err}
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
