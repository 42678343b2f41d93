package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Recovery, case by case, on the real file system. Each case builds a log, stops it, and edits the file of the active
// segment.

// fixture is a log of entries of one known size, each appended on its own.
type fixture struct {
	t    *testing.T
	root string
	cfg  Config
	log  *Log
}

const fixturePayload = 136 // so that a frame has 200 bytes

func newFixture(t *testing.T, entries int) *fixture {
	t.Helper()
	f := &fixture{t: t, root: t.TempDir()}
	fsys, err := OSFS(f.root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	f.cfg = Config{FS: fsys, Dir: "p/1", Partition: 1, SegmentBytes: 64 << 10, HotBytes: -1}
	f.open()
	for i := range entries {
		f.append(Index(i) + 1)
	}
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	l, err := Open(f.cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.log = l
	f.t.Cleanup(func() { l.Close() })
}

func fixtureEntry(i Index) Entry {
	return Entry{Index: i, Term: 1, Records: 2, Time: int64(i), Payload: bytes.Repeat([]byte{byte(i)}, fixturePayload)}
}

func (f *fixture) append(indexes ...Index) {
	f.t.Helper()
	var es []Entry
	for _, i := range indexes {
		es = append(es, fixtureEntry(i))
	}
	if err := f.log.Append(es, 0); err != nil {
		f.t.Fatal(err)
	}
}

// kill forgets the log as the death of the process does.
func (f *fixture) kill() { f.log.release(f.log.segments) }

func (f *fixture) path(segment uint64) string {
	return filepath.Join(f.root, segmentName(f.cfg.Dir, segment))
}

// edit changes the first segment's bytes.
func (f *fixture) edit(change func([]byte) []byte) {
	f.t.Helper()
	b, err := os.ReadFile(f.path(1))
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(f.path(1), change(b), 0o640); err != nil {
		f.t.Fatal(err)
	}
}

// frameOf is where entry i's frame begins.
func frameOf(i int) int { return headerBytes + 200*(i-1) }

func (f *fixture) holds(first, last Index) {
	f.t.Helper()
	if b := f.log.Bounds(); b.First != first || b.Last != last {
		f.t.Errorf("bounds are %+v, want [%d, %d]", b, first, last)
	}
	for i := first; i <= last; i++ {
		e, err := f.log.Entry(i)
		if err != nil || !bytes.Equal(e.Payload, fixtureEntry(i).Payload) || e.Base != Offset(2*(i-1)) {
			f.t.Errorf("entry %d: %v", i, err)
		}
	}
}

func TestRecoverTornTail(t *testing.T) {
	f := newFixture(t, 5)
	f.kill()
	f.edit(func(b []byte) []byte { // what a write of two frames may leave: the second whole, the first not
		b[frameOf(5)+100] ^= 1
		return b
	})
	f.open()
	f.holds(1, 4)
	r := f.log.Recovered()
	if !r.CutNonZero || r.CutBytes != 200 || r.CutIndex != 5 || r.CutOffset != 8 || r.CutPosition != int64(frameOf(5)) || len(r.Damaged) > 0 {
		t.Errorf("report is %+v", r)
	}
	b, err := os.ReadFile(f.path(1))
	if err != nil || !zero(b[frameOf(5):]) {
		t.Errorf("bytes of the cut tail are still there, %v", err)
	}
	f.append(5, 6)
	f.kill()
	f.open()
	f.holds(1, 6)
	if r := f.log.Recovered(); r.CutNonZero {
		t.Errorf("report is %+v", r)
	}
}

// In a file that another log had before, zeros stand only right behind the end. A torn write must be told from the old
// bytes there, and what is left of it must be gone afterwards.
func TestRecoverTornTailInReusedFile(t *testing.T) {
	const block = 4096
	whole := bytes.Repeat([]byte{1}, 2*block-headerBytes-frameBytes) // a frame that ends with its block
	for name, tear := range map[string]func(b []byte){
		"nothing":                          func([]byte) {},
		"the first frame is half written":  func(b []byte) { b[2*block+frameBytes+1] ^= 1 },
		"the first frame did not arrive":   func(b []byte) { clear(b[2*block : 4*block]) },
		"only the first block has arrived": func(b []byte) { copy(b[3*block:], bytes.Repeat([]byte{0xaa}, 5*block)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := &fixture{t: t, root: t.TempDir()}
			fsys, err := OSFS(f.root)
			if err != nil {
				t.Fatal(err)
			}
			defer fsys.Close()
			old := bytes.Repeat([]byte{0xaa}, 64<<10)
			if err := errors.Join(os.Mkdir(filepath.Join(f.root, "pool"), 0o750), os.WriteFile(filepath.Join(f.root, "pool/00000000000000000007.free"), old, 0o640)); err != nil {
				t.Fatal(err)
			}
			pool, err := newPool(fsys, "pool", 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			f.cfg = Config{FS: fsys, Dir: "p/1", Partition: 1, SegmentBytes: 64 << 10, HotBytes: -1, Pool: pool}
			f.open()
			entry := func(i Index) Entry { return Entry{Index: i, Term: 1, Records: 1, Payload: whole} }
			last := Entry{Index: 2, Term: 1, Records: 1, Payload: bytes.Repeat([]byte{2}, 2*block-frameBytes)}
			if err := errors.Join(f.log.Append([]Entry{entry(1)}, 0), f.log.Append([]Entry{last, entry(3)}, 0)); err != nil {
				t.Fatal(err)
			}
			f.kill()
			f.edit(func(b []byte) []byte {
				if !bytes.Contains(b, old[:block]) {
					t.Error("no old bytes are left: nothing is tested")
				}
				tear(b)
				return b
			})
			torn := name != "nothing"
			f.open()
			if r, b := f.log.Recovered(), f.log.Bounds(); r.CutNonZero != torn || torn && b.Last != 1 || !torn && b.Last != 3 || len(r.Damaged) > 0 {
				t.Errorf("report is %+v, bounds %+v", r, b)
			}
			f.kill()
			f.open() // once cut, it is gone
			if r := f.log.Recovered(); r.CutNonZero {
				t.Errorf("the second time, report is %+v", r)
			}
			n := f.log.Bounds().Last + 1
			if err := f.log.Append([]Entry{entry(n), entry(n + 1)}, 0); err != nil {
				t.Fatal(err)
			}
			f.kill()
			f.open()
			if r, b := f.log.Recovered(), f.log.Bounds(); r.CutNonZero || b.Last != n+1 {
				t.Errorf("after going on, report is %+v, bounds %+v", r, b)
			}
		})
	}
}

func TestRecoverDamage(t *testing.T) {
	f := newFixture(t, 9)
	f.kill()
	f.edit(func(b []byte) []byte {
		b[frameOf(3)+5] ^= 0x40 // a length: the next frames are found all the same
		clear(b[frameOf(5) : frameOf(7)-8])
		return b
	})
	f.open()
	r := f.log.Recovered()
	if r.CutNonZero || len(r.Damaged) != 2 {
		t.Fatalf("report is %+v", r)
	}
	for n, want := range []CorruptError{
		{FirstIndex: 3, EndIndex: 4, Start: 4, End: 6, Position: int64(frameOf(3))},
		{FirstIndex: 5, EndIndex: 7, Start: 8, End: 12, Position: int64(frameOf(5))},
	} {
		got := *r.Damaged[n]
		got.Path, got.Reason = "", ""
		if got != want {
			t.Errorf("damage is %+v, want %+v", got, want)
		}
		for i := want.FirstIndex; i < want.EndIndex; i++ {
			for name, read := range map[string]func(Index) (Entry, error){"Entry": f.log.Entry, "Header": f.log.Header} {
				_, err := read(i)
				if c, ok := errors.AsType[*CorruptError](err); !ok || c.FirstIndex != want.FirstIndex || c.EndIndex != want.EndIndex {
					t.Errorf("%s(%d): %v", name, i, err)
				}
			}
		}
		for o := want.Start; o < want.End; o++ {
			if _, err := f.log.FindOffset(o); !errors.Is(err, ErrCorrupt) {
				t.Errorf("FindOffset(%d): %v", o, err)
			}
		}
	}
	for _, i := range []Index{1, 2, 4, 7, 8, 9} {
		if e, err := f.log.Entry(i); err != nil || e.Payload[0] != byte(i) {
			t.Errorf("entry %d: %v", i, err)
		}
		if at, err := f.log.FindOffset(Offset(2*i - 1)); err != nil || at != i {
			t.Errorf("offset %d is in entry %d, %v", 2*i-1, at, err)
		}
	}
	if err := f.log.TruncateSuffix(4); !errors.Is(err, ErrCorrupt) {
		t.Errorf("truncating behind a damaged entry, whose term nobody knows: %v", err)
	}
	// The damage outlives sealing, and truncation behind it.
	if err := f.log.Roll(); err != nil {
		t.Fatal(err)
	}
	if err := f.log.TruncateSuffix(9); err != nil {
		t.Fatal(err)
	}
	if d, err := f.log.Verify(); err != nil || len(d) != 2 {
		t.Errorf("verify: %v, %v", d, err)
	}
}

// The manifest of a clean stop knows the exact end, so that damage to the very last frame is damage, not a torn tail.
func TestRecoverDamageAtTheEnd(t *testing.T) {
	f := newFixture(t, 5)
	if err := f.log.Close(); err != nil {
		t.Fatal(err)
	}
	f.edit(func(b []byte) []byte { return b[:frameOf(5)+50] })
	f.open()
	r := f.log.Recovered()
	if len(r.Damaged) != 1 || r.Damaged[0].FirstIndex != 5 || r.Damaged[0].End != 10 || r.Clean != true && r.CutBytes != 0 {
		t.Fatalf("report is %+v", r)
	}
	f.append(6)
	f.kill()
	f.open()
	if b := f.log.Bounds(); b.Last != 6 || b.End != 12 || b.LastTerm != 1 {
		t.Errorf("bounds are %+v", b)
	}
	if _, err := f.log.Entry(5); !errors.Is(err, ErrCorrupt) {
		t.Errorf("entry 5: %v", err)
	}
}

// A frame that was cut away must not follow another one that has come to end where it begins.
func TestStaleFrameDoesNotFollow(t *testing.T) {
	f := newFixture(t, 2)
	f.append(3)
	f.kill()
	stale, err := os.ReadFile(f.path(1))
	if err != nil {
		t.Fatal(err)
	}
	f.edit(func(b []byte) []byte { b[frameOf(2)] ^= 1; clear(b[frameOf(3):]); return b })
	f.open()
	f.holds(1, 1)
	e := fixtureEntry(2)
	e.Term = 2 // so it is another entry 2
	if err := f.log.Append([]Entry{e}, 0); err != nil {
		t.Fatal(err)
	}
	f.kill()
	f.edit(func(b []byte) []byte { copy(b[frameOf(3):], stale[frameOf(3):]); return b })
	f.open()
	if b := f.log.Bounds(); b.Last != 2 || b.LastTerm != 2 {
		t.Errorf("bounds are %+v: a frame from before the cut is back", b)
	}
	if r := f.log.Recovered(); !r.CutNonZero || r.CutIndex != 3 {
		t.Errorf("report is %+v", r)
	}
}

func TestRecoverEmptyActiveSegmentKeepsTerm(t *testing.T) {
	f := newFixture(t, 1)
	e := fixtureEntry(2)
	e.Term = 7
	if err := f.log.Append([]Entry{e}, 0); err != nil {
		t.Fatal(err)
	}
	f.log.writeMu.Lock()
	_, err := f.log.roll(100)
	f.log.writeMu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	f.kill()
	f.open()
	if b := f.log.Bounds(); b.LastTerm != 7 || b.Last != 2 || b.Segments != 2 {
		t.Errorf("bounds are %+v", b)
	}
}

func TestRecoverHeader(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(b []byte)
		want   error
	}{
		{"damaged", func(b []byte) { b[40]++ }, nil},
		{"another partition's", func(b []byte) {
			identity{partition: 2, id: 1}.encodeHeader(b)
		}, ErrForeign},
		{"another cluster's", func(b []byte) {
			id, _ := decodeHeader(b, "")
			id.cluster[0]++
			id.encodeHeader(b)
		}, ErrForeign},
		{"a newer program's", func(b []byte) {
			b[8] = 9
			binary.LittleEndian.PutUint32(b[12:], envelopeCRC(b[:headerBytes]))
		}, ErrVersion},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, 3)
			f.kill()
			f.edit(func(b []byte) []byte { tc.change(b); return b })
			before, err := os.ReadFile(f.path(1))
			if err != nil {
				t.Fatal(err)
			}
			l, err := Open(f.cfg)
			if !errors.Is(err, tc.want) {
				t.Fatalf("open: %v", err)
			}
			if err == nil {
				f.log = l
				f.holds(1, 3)
				if d := l.Recovered().Damaged; len(d) != 1 || d[0].FirstIndex != d[0].EndIndex {
					t.Errorf("damage is %v", d)
				}
				return
			}
			after, err := os.ReadFile(f.path(1))
			if err != nil || !bytes.Equal(before, after) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	manifest := func(f *fixture) string { return filepath.Join(f.root, "p/1/manifest") }
	for _, tc := range []struct {
		name  string
		spoil func(f *fixture) error
		want  error
	}{
		{"another partition", func(f *fixture) error { f.cfg.Partition = 2; return nil }, ErrForeign},
		{"another cluster", func(f *fixture) error { f.cfg.Cluster[3] = 1; return nil }, ErrForeign},
		{"no manifest", func(f *fixture) error { return os.Remove(manifest(f)) }, ErrNoManifest},
		{"an empty manifest", func(f *fixture) error { return os.Truncate(manifest(f), 0) }, ErrCorrupt},
		{"no active segment", func(f *fixture) error { return os.Remove(f.path(1)) }, ErrCorrupt},
		{"a manifest older than a segment", func(f *fixture) error {
			old, err := os.ReadFile(manifest(f))
			if err != nil {
				return err
			}
			f.open()
			if err := f.log.Roll(); err != nil {
				return err
			}
			f.append(4)
			f.kill()
			return os.WriteFile(manifest(f), old, 0o640)
		}, ErrCorrupt},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, 3)
			f.kill()
			if err := tc.spoil(f); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadDir(filepath.Join(f.root, "p/1"))
			if err != nil {
				t.Fatal(err)
			}
			if l, err := Open(f.cfg); !errors.Is(err, tc.want) {
				t.Fatalf("open: %v, %v", l, err)
			}
			after, err := os.ReadDir(filepath.Join(f.root, "p/1"))
			if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("files are %v, were %v", after, before)
			}
		})
	}
}

func TestOpenClearsOrphans(t *testing.T) {
	f := newFixture(t, 3)
	f.kill()
	for _, n := range []string{"00000000000000000000.seg", "00000000000000000009.seg", "00000000000000000000.idx",
		"00000000000000000008.snap", "manifest.tmp", "00000000000000000001.idx.tmp"} {
		if err := os.WriteFile(filepath.Join(f.root, "p/1", n), []byte("left over"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	f.open()
	f.holds(1, 3)
	if n := f.log.Recovered().Orphans; n != 6 {
		t.Errorf("%d orphans", n)
	}
	names, err := f.cfg.FS.List("p/1")
	if err != nil || len(names) != 2 {
		t.Errorf("files are %v, %v", names, err)
	}
	if f.log.manifest.nextFile != 10 {
		t.Errorf("the next file is %d: a name would be used twice", f.log.manifest.nextFile)
	}
}

func TestMissingSealedSegment(t *testing.T) {
	f := newFixture(t, 3)
	if err := f.log.Roll(); err != nil {
		t.Fatal(err)
	}
	f.append(4, 5)
	f.kill()
	if err := os.Remove(f.path(1)); err != nil {
		t.Fatal(err)
	}
	f.open()
	f.holdsFrom(4, 5)
	d := f.log.Recovered().Damaged
	if len(d) != 1 || d[0].FirstIndex != 1 || d[0].EndIndex != 4 || d[0].Start != 0 || d[0].End != 6 {
		t.Fatalf("damage is %v", d)
	}
	r := f.log.Reader(1)
	defer r.Close()
	_, err := r.Next(10, 1000)
	c, ok := errors.AsType[*CorruptError](err)
	if !ok || c.Start != 0 || c.End != 6 {
		t.Fatalf("reader: %v", err)
	}
	r.Seek(c.End)
	if es, err := r.Next(10, 1000); err != nil || len(es) != 2 || es[0].Index != 4 {
		t.Errorf("reader after the damage: %v, %v", es, err)
	}
	if got, err := f.log.FindTime(2); err != nil || got != 6 {
		t.Errorf("FindTime passes over damage: %d, %v", got, err)
	}
}

func (f *fixture) holdsFrom(first, last Index) {
	f.t.Helper()
	for i := first; i <= last; i++ {
		if e, err := f.log.Entry(i); err != nil || e.Payload[0] != byte(i) {
			f.t.Errorf("entry %d: %v", i, err)
		}
	}
}

func TestInspectChangesNothing(t *testing.T) {
	f := newFixture(t, 5)
	f.kill()
	f.edit(func(b []byte) []byte { b[frameOf(5)+100] ^= 1; return b })
	before, err := os.ReadFile(f.path(1))
	if err != nil {
		t.Fatal(err)
	}
	l, err := Inspect(f.cfg.FS, f.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f.log = l
	f.holds(1, 4)
	if r := l.Recovered(); r.CutBytes != 200 {
		t.Errorf("report is %+v", r)
	}
	if _, partition := l.Identity(); partition != 1 {
		t.Errorf("partition is %d", partition)
	}
	if err := l.Append([]Entry{fixtureEntry(5)}, 0); !errors.Is(err, ErrReadOnly) {
		t.Errorf("append: %v", err)
	}
	after, err := os.ReadFile(f.path(1))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed, %v", err)
	}
}

func TestCommitHintSurvives(t *testing.T) {
	f := newFixture(t, 3)
	if err := f.log.Append([]Entry{fixtureEntry(4)}, 3); err != nil {
		t.Fatal(err)
	}
	f.kill()
	f.open()
	if b := f.log.Bounds(); b.CommitHint != 3 {
		t.Errorf("commit hint is %d", b.CommitHint)
	}
}

func TestRemove(t *testing.T) {
	f := newFixture(t, 3)
	if err := f.log.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(f.root, "p/1")); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
	if err := f.log.Append([]Entry{fixtureEntry(4)}, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("append: %v", err)
	}
}

// The last byte that is not zero is found wherever it stands, in files of many windows and of none.
func TestLastNonZero(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	const size = 5 << 19
	for _, at := range []int64{-1, 0, 1, zeroWrite - 1, zeroWrite, zeroWrite + 1, 4*scanChunk - 1, 4 * scanChunk, 1<<20 + zeroWrite + 7, size - 1} {
		b := make([]byte, size)
		if at >= 0 {
			b[at] = 1
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range []int64{0, 64, at + 1} {
			want := max(from, at+1)
			scan := scanner{file: f, chunk: 4 * scanChunk, end: size}
			if got, err := lastNonZero(&scan, from, size); got != want || err != nil {
				t.Errorf("byte %d from %d: %d, not %d (%v)", at, from, got, want, err)
			}
		}
		f.Close()
	}
}
