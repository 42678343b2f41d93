package storage_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidewire/tidewire/storage"
	"github.com/tidewire/tidewire/storage/crashfs"
)

// machine drives a log and the model side by side, with operations that rapid draws.
type machine struct {
	story
	reader *storage.Reader
	at     storage.Offset // where reader is in the model
}

func newMachine(t *rapid.T) *machine {
	m := &machine{story: *newStory(crashfs.New(), rapid.SampledFrom([]pooling{noPool, prepared, recycled}).Draw(t, "pool"))}
	m.rng = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	m.cfg.HotBytes = rapid.SampledFrom([]int64{-1, 500, 1 << 20}).Draw(t, "hot")
	m.cfg.SegmentBytes = int64(m.size) * rapid.SampledFrom([]int64{4 << 10, 16 << 10}).Draw(t, "segment")
	m.must(t, m.open())
	m.reader = m.log.Reader(0)
	return m
}

func (m *machine) must(t *rapid.T, err error) {
	if err != nil {
		t.Fatalf("%v (model: %v)", err, m.acked)
	}
}

func (m *machine) indexFrom(t *rapid.T, low storage.Index) storage.Index {
	return storage.Index(rapid.Uint64Range(uint64(low), uint64(m.acked.last())).Draw(t, "index"))
}

func (m *machine) Append(t *rapid.T) {
	term := m.acked.lastTerm() + storage.Term(rapid.IntRange(0, 1).Draw(t, "term"))
	size := rapid.SampledFrom([]int{1, 64, 700, 6000}).Draw(t, "size")
	m.must(t, m.append(rapid.IntRange(1, 6).Draw(t, "entries"), size, max(term, 1)))
}

func (m *machine) AppendWrongIndex(t *rapid.T) {
	e := []storage.Entry{{Index: m.acked.last() + 2, Term: m.acked.lastTerm()}}
	if err := m.log.Append(e, 0); !errors.Is(err, storage.ErrSequence) {
		t.Fatalf("append with a gap: %v", err)
	}
}

func (m *machine) Truncate(t *rapid.T) {
	low := m.acked.head.Index + 1
	if n := len(m.acked.snapshots); n > 0 {
		low = m.acked.snapshots[n-1].Index + 1
	}
	if low > m.acked.last() {
		return // nothing to cut
	}
	from := m.indexFrom(t, low)
	if m.acked.endOf(from-1) < m.acked.start {
		if err := m.log.TruncateSuffix(from); !errors.Is(err, storage.ErrOutOfRange) {
			t.Fatalf("cut below the log start: %v", err)
		}
		return
	}
	m.must(t, m.truncate(from))
	if m.at > m.acked.end() {
		m.reader.Seek(m.acked.end())
		m.at = m.acked.end()
	}
}

func (m *machine) Save(t *rapid.T) {
	low := m.acked.head.Index
	if n := len(m.acked.snapshots); n > 0 {
		low = m.acked.snapshots[n-1].Index
	}
	m.must(t, m.save(m.indexFrom(t, low)))
}

func (m *machine) Trim(t *rapid.T) {
	to := storage.Offset(rapid.Uint64Range(0, uint64(m.acked.end())).Draw(t, "offset"))
	if to < m.acked.start {
		m.must(t, m.log.Trim(to)) // changes nothing
		return
	}
	m.must(t, m.trim(to))
}

func (m *machine) Reset(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		return
	}
	m.must(t, m.reset(storage.Snapshot{Index: m.acked.last() + 5, Term: m.acked.lastTerm() + 1, Offset: m.acked.end() + 50, Data: []byte("x")}))
}

func (m *machine) Roll(t *rapid.T) { m.must(t, m.log.Roll()) }

func (m *machine) Work(t *rapid.T) { m.must(t, m.work()) }

func (m *machine) Reopen(t *rapid.T) {
	m.reader.Close()
	m.must(t, m.reopen())
	if r := m.log.Recovered(); r.CutNonZero || len(r.Damaged) > 0 {
		t.Fatalf("reopened: %+v", r)
	}
	m.reader = m.log.Reader(m.at)
}

func (m *machine) PowerCut(t *rapid.T) {
	m.reader.Close()
	m.fs = m.fs.Image(rapid.Uint64Range(0, 20).Draw(t, "image"))
	m.must(t, m.open())
	m.reader = m.log.Reader(m.at)
}

// Follow reads on from where the last Follow stopped.
func (m *machine) Follow(t *rapid.T) {
	if m.at < m.acked.start {
		if _, err := m.reader.Next(m.acked.end(), 1); !errors.Is(err, storage.ErrOutOfRange) {
			t.Fatalf("reader below the log start: %v", err)
		}
		m.at = m.acked.start
		m.reader.Seek(m.at)
	}
	limit := m.at + storage.Offset(rapid.IntRange(0, 200).Draw(t, "limit"))
	bytes := rapid.IntRange(0, 10000).Draw(t, "bytes")
	read := m.reader.Next
	if rapid.Bool().Draw(t, "memory only") {
		read = m.reader.NextHot
	}
	es, err := read(limit, bytes)
	if errors.Is(err, storage.ErrCold) {
		return
	}
	m.must(t, err)
	size := 0
	for _, e := range es {
		w, ok := m.holding(m.at)
		if !ok || !sameEntry(e, w) || w.Base >= limit {
			t.Fatalf("reader at %d gives entry %d, want %d", m.at, e.Index, w.Index)
		}
		size += len(e.Payload)
		m.at = w.Base + storage.Offset(w.Records)
	}
	if len(es) > 1 && size > bytes {
		t.Fatalf("%d bytes, asked for %d", size, bytes)
	}
	if len(es) == 0 && m.at < min(limit, m.acked.end()) {
		t.Fatalf("reader at %d gives nothing, the log ends at %d", m.at, m.acked.end())
	}
	if m.reader.Position() != m.at {
		t.Fatalf("reader is at %d, not %d", m.reader.Position(), m.at)
	}
}

// holding returns the model's entry that holds the record at o.
func (m *machine) holding(o storage.Offset) (storage.Entry, bool) {
	for _, e := range m.acked.entries {
		if e.Base <= o && o < e.Base+storage.Offset(e.Records) {
			return e, true
		}
	}
	return storage.Entry{}, false
}

// Check runs after every operation.
func (m *machine) Check(t *rapid.T) {
	m.must(t, compare(m.log, m.acked))
	if d, err := m.log.Verify(); err != nil || len(d) > 0 {
		t.Fatalf("verify: %v, %v", d, err)
	}
}

func TestAgainstModel(t *testing.T) {
	for n := range max(8/raceStride, 1) { // rapid draws a hundred runs each
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				m := newMachine(t)
				t.Repeat(rapid.StateMachineActions(m))
				m.reader.Close()
				m.must(t, m.log.Close())
			})
		})
	}
}
