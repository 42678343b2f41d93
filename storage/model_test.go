package storage_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/tidewire/tidewire/storage"
)

// model is what a log must hold: the plain slice that the real one is compared with. It is a value: operations return
// the model after them.
type model struct {
	head      storage.Snapshot // the entry before the first; no data
	start     storage.Offset
	entries   []storage.Entry // after head
	snapshots []storage.Snapshot
}

func (m model) last() storage.Index { return m.head.Index + storage.Index(len(m.entries)) }

func (m model) lastTerm() storage.Term {
	if n := len(m.entries); n > 0 {
		return m.entries[n-1].Term
	}
	return m.head.Term
}

func (m model) end() storage.Offset {
	if n := len(m.entries); n > 0 {
		return m.entries[n-1].Base + storage.Offset(m.entries[n-1].Records)
	}
	return m.head.Offset
}

// at returns the entry at index i, which the model holds.
func (m model) at(i storage.Index) storage.Entry { return m.entries[i-m.head.Index-1] }

// endOf returns the offset after entry i, which may be the head.
func (m model) endOf(i storage.Index) storage.Offset {
	if i == m.head.Index {
		return m.head.Offset
	}
	e := m.at(i)
	return e.Base + storage.Offset(e.Records)
}

func (m model) termOf(i storage.Index) storage.Term {
	if i == m.head.Index {
		return m.head.Term
	}
	return m.at(i).Term
}

func (m model) append(entries []storage.Entry) model {
	m.entries = slices.Clone(m.entries)
	for _, e := range entries {
		e.Base = m.end()
		m.entries = append(m.entries, e)
	}
	return m
}

func (m model) truncate(from storage.Index) model {
	if from <= m.last() {
		m.entries = slices.Clone(m.entries[:from-m.head.Index-1])
	}
	return m
}

func (m model) save(s storage.Snapshot) model {
	m.snapshots = slices.Clone(m.snapshots)
	if n := len(m.snapshots); n > 0 {
		newest := m.snapshots[n-1]
		if newest.Index == s.Index || newest.Offset == s.Offset && newest.Index > m.head.Index {
			m.snapshots = m.snapshots[:n-1]
		}
	}
	m.snapshots = append(m.snapshots, s)
	return m
}

func (m model) trim(to storage.Offset) model {
	m.start = max(m.start, to)
	keep := -1
	for i, s := range m.snapshots {
		if s.Offset <= to {
			keep = i
		}
	}
	if keep >= 0 {
		s := m.snapshots[keep]
		m.snapshots = slices.Clone(m.snapshots[keep:])
		if s.Index > m.head.Index {
			m.entries = slices.Clone(m.entries[s.Index-m.head.Index:])
			m.head = storage.Snapshot{Index: s.Index, Term: s.Term, Offset: s.Offset}
		}
	}
	return m
}

func (m model) reset(s storage.Snapshot) model {
	return model{head: storage.Snapshot{Index: s.Index, Term: s.Term, Offset: s.Offset}, start: s.Offset,
		snapshots: []storage.Snapshot{s}}
}

func (m model) String() string {
	return fmt.Sprintf("entries (%d, %d], offsets [%d, %d), %d snapshots", m.head.Index, m.last(), m.start, m.end(), len(m.snapshots))
}

// entry makes up an entry whose bytes say which one it is, so that one in the wrong place is noticed.
func makeEntry(rng *rand.Rand, index storage.Index, term storage.Term, size int) storage.Entry {
	e := storage.Entry{Index: index, Term: term, Type: uint8(rng.IntN(4)), Time: 1_700_000_000_000 + int64(index)*10 + int64(rng.IntN(100)) - 50}
	if rng.IntN(4) > 0 {
		e.Records = uint32(1 + rng.IntN(20))
	}
	e.Payload = make([]byte, size)
	for i := range e.Payload {
		e.Payload[i] = byte(rng.Uint32())
	}
	return e
}

func sameEntry(a, b storage.Entry) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && a.Records == b.Records && a.Base == b.Base &&
		a.Time == b.Time && bytes.Equal(a.Payload, b.Payload)
}

// compare says how l differs from m, in everything that can be asked of a log.
func compare(l *storage.Log, m model) error {
	b := l.Bounds()
	if b.First != m.head.Index+1 || b.Last != m.last() || b.LastTerm != m.lastTerm() || b.Start != m.start || b.End != m.end() {
		return fmt.Errorf("bounds are %+v, want %v", b, m)
	}
	for _, w := range m.entries {
		e, err := l.Entry(w.Index)
		if err != nil {
			return err
		}
		if !sameEntry(e, w) {
			return fmt.Errorf("entry %d differs: offset %d, term %d, %d bytes; want %d, %d, %d", w.Index, e.Base, e.Term,
				len(e.Payload), w.Base, w.Term, len(w.Payload))
		}
		h, err := l.Header(w.Index)
		if err != nil {
			return err
		}
		if w.Payload = nil; h.Payload != nil || !sameEntry(h, w) {
			return fmt.Errorf("header %d differs", w.Index)
		}
	}
	for _, i := range []storage.Index{m.head.Index, m.last() + 1} {
		if _, err := l.Entry(i); !errors.Is(err, storage.ErrNotFound) {
			return fmt.Errorf("entry %d outside the log: %v", i, err)
		}
	}
	if err := compareReader(l, m, m.start); err != nil {
		return err
	}
	return compareSnapshots(l, m)
}

// compareReader reads everything from an offset on.
func compareReader(l *storage.Log, m model, from storage.Offset) error {
	r := l.Reader(from)
	defer r.Close()
	for _, w := range m.entries {
		if w.Records == 0 || w.Base+storage.Offset(w.Records) <= from {
			continue
		}
		es, err := r.Next(m.end(), 1)
		if err != nil {
			return err
		}
		if len(es) != 1 || !sameEntry(es[0], w) {
			return fmt.Errorf("reader gives %d entries, not entry %d at offset %d", len(es), w.Index, w.Base)
		}
	}
	if es, err := r.Next(m.end()+1, 1); err != nil || len(es) != 0 {
		return fmt.Errorf("reader gives %d entries at the end, %v", len(es), err)
	}
	for _, w := range m.entries {
		for o := max(w.Base, m.start); o < w.Base+storage.Offset(w.Records); o += max(1, storage.Offset(w.Records)/2) {
			if i, err := l.FindOffset(o); err != nil || i != w.Index {
				return fmt.Errorf("offset %d is in entry %d, want %d: %v", o, i, w.Index, err)
			}
		}
	}
	return compareTimes(l, m)
}

// compareTimes looks up the time of every seventh entry, and times around.
func compareTimes(l *storage.Log, m model) error {
	for n := 0; n < len(m.entries); n += 7 {
		ms := m.entries[n].Time + int64(n%3) - 1
		want := m.end()
		for _, e := range m.entries {
			if e.Records > 0 && e.Time >= ms && e.Base+storage.Offset(e.Records) > m.start {
				want = max(e.Base, m.start)
				break
			}
		}
		if got, err := l.FindTime(ms); err != nil || got != want {
			return fmt.Errorf("time %d is at offset %d, want %d: %v", ms, got, want, err)
		}
	}
	return nil
}

func compareSnapshots(l *storage.Log, m model) error {
	infos := l.Snapshots()
	if len(infos) != len(m.snapshots) {
		return fmt.Errorf("%d snapshots, want %d", len(infos), len(m.snapshots))
	}
	for i, w := range m.snapshots {
		s, err := l.LoadSnapshot(infos[i].Index)
		if err != nil {
			return err
		}
		if s.Index != w.Index || s.Term != w.Term || s.Offset != w.Offset || !bytes.Equal(s.Data, w.Data) {
			return fmt.Errorf("snapshot %d differs", w.Index)
		}
	}
	return nil
}
