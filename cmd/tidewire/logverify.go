package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

const verifyLong = logLong + `

verify reads all of it, and checks the checksum of every frame, batch and snapshot, the
chain from frame to frame, and that offsets follow one another without a gap. Damage is
reported by file, byte and exact range of offsets.

A torn tail is not damage: it is what a crash in the middle of a write leaves, holds
nothing that was acknowledged, and is cut when the node starts.

A line says of each log: its directory, whose partition it is (stream/number), ok or what
is wrong, the records in batches that can be read, the half-open range of offsets kept,
Raft's entries (batches, changes of leadership and commands), files (segments), bytes on
disk, and whether it was closed in good order, as a node that is stopped does.

Of a whole data directory the catalog is read as well: what it says there is and what the
votes prove to have held records must be there, or is MISSING. A partition that the
catalog does not know is named as a stray; that is no damage.` + logExitCodes

// logReport is what verify found in one log.
type logReport struct {
	Log      string       `json:"log" doc:"directory"`
	Stream   string       `json:"stream,omitempty" doc:"whose partition this is"`
	Number   *uint32      `json:"stream_partition,omitempty" doc:"which partition of it"`
	Stray    bool         `json:"stray,omitempty" doc:"the catalog does not know it"`
	State    string       `json:"state" doc:"ok, damaged, unreadable or missing"`
	Error    string       `json:"error,omitempty" doc:"why it is not ok"`
	Clean    bool         `json:"closed_in_good_order" doc:"false after a crash"`
	Segments int          `json:"segments" doc:"files"`
	Bytes    int64        `json:"bytes" doc:"of them"`
	First    uint64       `json:"first_offset" doc:"of the oldest record"`
	Next     uint64       `json:"next_offset" doc:"what the next record would get"`
	Entries  uint64       `json:"entries" doc:"of Raft"`
	Batches  uint64       `json:"batches" doc:"that can be read"`
	Records  uint64       `json:"records" doc:"that can be read"`
	Torn     *tornTail    `json:"torn_tail,omitempty" doc:"what a crash left half written; the next start cuts it"`
	Damage   []damageItem `json:"damage,omitempty" doc:"what cannot be read"`

	owner *owner
}

type tornTail struct {
	Path     string `json:"path" doc:"file"`
	Position int64  `json:"position" doc:"byte in the file"`
	Bytes    int64  `json:"bytes" doc:"that are no whole write"`
	Offset   uint64 `json:"offset" doc:"that the next record would get"`
}

type damageItem struct {
	Path     string `json:"path,omitempty" doc:"file"`
	Position int64  `json:"position" doc:"byte in the file"`
	Start    uint64 `json:"start_offset" doc:"the first that cannot be read"`
	End      uint64 `json:"end_offset" doc:"the first behind it"`
	Reason   string `json:"reason" doc:"what is wrong"`
}

func (a *app) logVerifyCommand() *cobra.Command {
	var v *view
	c := &cobra.Command{
		Use:     "verify DIR",
		Short:   "Check every checksum and offset",
		Long:    verifyLong,
		Example: "  tidewire log verify ./tidewire-data\n  tidewire log verify ./tidewire-data/partitions/1 --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := openLogs(args[0])
			if err != nil {
				return err
			}
			defer set.fs.Close()
			reports, err := a.verifyAll(set, v)
			if err != nil {
				return err
			}
			if err := set.stopped(); err != nil { // started meanwhile
				return err
			}
			if err := v.print(reports, func() { a.sumUp(reports) }); err != nil {
				return err
			}
			if slices.ContainsFunc(reports, func(r *logReport) bool { return r.State != "ok" }) {
				return errSilent(exitError)
			}
			return nil
		},
	}
	a.progressFlags(c)
	v = a.view(c, []*logReport{})
	return c
}

func (a *app) verifyAll(set *logSet, v *view) ([]*logReport, error) {
	reports := []*logReport{}
	read := set.readings(2) // see logReport.verify
	bar := read.progress(a, "verified")
	text := v.is(formatText) || v.wide()
	later := a.terminal && a.width > 0 // lines would stand in the middle of the bar
	err := set.each(func(dir string, l *storage.Log, err error) error {
		r := &logReport{Log: set.name(dir), Stray: set.stray(dir) && !errors.Is(err, storage.ErrRemoved)}
		if r.owner = set.owner(dir); r.owner != nil {
			r.Stream, r.Number = r.owner.stream, &r.owner.partition
		}
		reports = append(reports, r)
		defer read.past(dir)
		if err != nil {
			r.unreadable(err)
		} else if err := r.verify(l); err != nil {
			return &problem{id: explain.LookingStopped, what: "verifying " + r.Log + " stopped", err: err}
		}
		if dir == "catalog" && set.inventory != nil && r.State == "ok" && !errors.Is(err, errEmpty) && set.inventory.catalogErr != nil {
			r.State, r.Error = "damaged", set.inventory.catalogErr.Error()
		}
		if text && !later {
			a.sayVerified(r)
		}
		return nil
	})
	bar.stop()
	for _, r := range reports {
		if text && later {
			a.sayVerified(r)
		}
	}
	return reports, err
}

func (r *logReport) unreadable(err error) {
	r.State, r.Error = "unreadable", unreadable(err)
	switch {
	case errors.Is(err, storage.ErrRemoved), errors.Is(err, errEmpty):
		r.State = "ok"
	case errors.Is(err, errMissing):
		r.State, r.Error = "missing", err.Error()
	}
}

// verify reads the log twice: frames and snapshots as storage checks them, then the batches within.
func (r *logReport) verify(l *storage.Log) error {
	found, bounds := l.Recovered(), l.Bounds()
	r.Clean, r.Segments, r.Bytes = found.Clean, bounds.Segments, bounds.Bytes
	r.First, r.Next = uint64(bounds.Start), uint64(bounds.End)
	r.Entries = uint64(bounds.Last + 1 - bounds.First)
	if found.CutNonZero {
		r.Torn = &tornTail{found.CutPath, found.CutPosition, found.CutBytes, uint64(found.CutOffset)}
	}
	damage, err := l.Verify()
	if err != nil {
		return err
	}
	for _, c := range append(found.Damaged, damage...) {
		r.damaged(damageItem{c.Path, c.Position, uint64(c.Start), uint64(c.End), c.Reason})
	}
	if isCatalog(l) {
		r.Next = r.First // its entries are commands, no records
	} else if err := r.batches(l, bounds); err != nil {
		return err
	}
	r.State = "ok"
	if len(r.Damage) > 0 {
		r.State = "damaged"
	}
	return nil
}

// damaged adds what is not known yet: the active segment is looked at twice.
func (r *logReport) damaged(d damageItem) {
	if !slices.Contains(r.Damage, d) {
		r.Damage = append(r.Damage, d)
	}
}

// batches checks what is in the frames, and that nothing is missing between them.
func (r *logReport) batches(l *storage.Log, bounds storage.Bounds) error {
	reader := l.Reader(bounds.Start)
	defer reader.Close()
	next := bounds.Start
	for next < bounds.End {
		entries, err := reader.Next(bounds.End, 4<<20)
		if c, ok := errors.AsType[*storage.CorruptError](err); ok && c.End > next {
			r.damaged(damageItem{c.Path, c.Position, uint64(c.Start), uint64(c.End), c.Reason})
			next = c.End
			reader.Seek(next)
			continue
		}
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			r.damaged(damageItem{Start: uint64(next), End: uint64(bounds.End), Reason: "nothing is stored here"})
			return nil
		}
		for i := range entries {
			e := &entries[i]
			if e.Base > next {
				r.damaged(damageItem{Start: uint64(next), End: uint64(e.Base), Reason: "offsets are missing"})
			}
			end := e.Base + storage.Offset(e.Records)
			err := eachBatch(e, func(raft.Descriptor, *wire.Batch, []byte) error { r.Batches++; return nil })
			if err != nil {
				r.damaged(damageItem{Start: uint64(e.Base), End: uint64(end), Reason: fmt.Sprintf("entry %d: %v", e.Index, err)})
			} else {
				r.Records += uint64(end - max(e.Base, bounds.Start))
			}
			next = end
		}
	}
	return nil
}

func (a *app) sayVerified(r *logReport) {
	var s []string
	if r.Error != "" {
		s = append(s, r.Error)
	} else {
		s = append(s, numbered(r.Entries, "entry", "entries"), plural(r.Segments, "segment"), size(r.Bytes))
		if r.Next > 0 {
			s = append([]string{fmt.Sprintf("%s in %s", plural(r.Records, "record"), numbered(r.Batches, "batch", "batches")), offsetsText(storage.Offset(r.First), storage.Offset(r.Next))}, s...)
		}
		if !r.Clean {
			s = append(s, "not closed in good order")
		}
	}
	name, state := r.Log, r.State
	if r.owner != nil {
		name += " " + r.owner.String()
	}
	if state != "ok" {
		state = a.bad(strings.ToUpper(state))
	}
	switch {
	case r.State != "missing":
		if r.Stray {
			s = append(s, "a stray: the catalog does not know it, and a node leaves it alone")
		}
		fmt.Fprintf(a.out, "%-14s  %s  %s\n", name, state, strings.Join(s, ", "))
	case r.owner != nil:
		fmt.Fprintf(a.out, "%s (stream %s, partition %d): %s, %s\n", r.Log, r.owner.stream, r.owner.partition, state, r.Error)
	default:
		fmt.Fprintf(a.out, "%s: %s, %s\n", r.Log, state, r.Error)
	}
	if t := r.Torn; t != nil {
		fmt.Fprintf(a.out, "               torn tail: %s at byte %s of %s are no whole write; nothing of it was acknowledged, the next start cuts it\n",
			plural(t.Bytes, "byte"), count(t.Position), t.Path)
	}
	for _, d := range r.Damage {
		where := ""
		if d.Path != "" {
			where = fmt.Sprintf(" (%s, byte %s)", d.Path, count(d.Position))
		}
		fmt.Fprintf(a.out, "               %s cannot be read: %s%s\n", offsetsText(storage.Offset(d.Start), storage.Offset(d.End)), d.Reason, where)
	}
}

func (a *app) sumUp(reports []*logReport) {
	var records uint64
	damaged, missing, strays := 0, 0, 0
	for _, r := range reports {
		records += r.Records
		switch {
		case r.State == "missing":
			missing++
		case r.State != "ok":
			damaged++
		}
		if r.Stray {
			strays++
		}
	}
	var verdicts []string
	if damaged > 0 {
		verdicts = append(verdicts, a.bad(fmt.Sprintf("damage in %d of them", damaged)))
	}
	if missing > 0 {
		verdicts = append(verdicts, a.bad(fmt.Sprintf("%d missing", missing)))
	}
	verdict := cmp.Or(strings.Join(verdicts, ", "), "no damage")
	if strays > 0 {
		verdict += ", " + plural(strays, "stray")
	}
	fmt.Fprintf(a.out, "%s, %s: %s\n", plural(len(reports), "log"), plural(records, "record"), verdict)
}
