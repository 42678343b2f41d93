package storage_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tidewire/tidewire/storage"
	"github.com/tidewire/tidewire/storage/crashfs"
)

func openMem(t *testing.T, change func(*storage.Config)) (*storage.Log, *crashfs.FS) {
	t.Helper()
	fsys := crashfs.New()
	cfg := storage.Config{FS: fsys, Dir: "p/1", Partition: 1, SegmentBytes: 4 << 10}
	if change != nil {
		change(&cfg)
	}
	l, err := storage.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, fsys
}

// put appends n entries of one record and size bytes each, at one-second times.
func put(t *testing.T, l *storage.Log, n, size int) {
	t.Helper()
	for range n {
		i := l.Bounds().Last + 1
		if err := l.Append([]storage.Entry{{Index: i, Term: 1, Records: 1, Time: int64(i) * 1000, Payload: numbered(i, size)}}, i); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRetentionPoint(t *testing.T) {
	l, _ := openMem(t, nil)
	put(t, l, 12, 900) // four to a segment: [0,4) [4,8) sealed, [8,12) active
	full := l.Bounds().Bytes
	for _, tc := range []struct {
		bytes   int64
		records uint64
		before  int64
		want    storage.Offset
	}{
		{0, 0, 0, 0},
		{full, 0, 0, 0},
		{full / 2, 0, 0, 4},
		{1, 0, 0, 8},
		{0, 12, 0, 0},
		{0, 9, 0, 0},
		{0, 8, 0, 4},
		{0, 1, 0, 8},
		{0, 0, 4000, 0},
		{0, 0, 4001, 4},
		{0, 0, 1 << 40, 8},
		{full, 8, 0, 4},
		{1, 8, 1, 8},
	} {
		if got := l.RetentionPoint(tc.bytes, tc.records, tc.before); got != tc.want {
			t.Errorf("RetentionPoint(%d, %d, %d) = %d, want %d", tc.bytes, tc.records, tc.before, got, tc.want)
		}
	}
	if err := l.Roll(); err != nil {
		t.Fatal(err)
	}
	if got := l.RetentionPoint(0, 0, 1<<40); got != 12 {
		t.Errorf("after Roll the retention point is %d", got)
	}
	if err := l.Roll(); err != nil { // nothing to seal
		t.Fatal(err)
	}
	if err := l.Trim(13); !errors.Is(err, storage.ErrOutOfRange) {
		t.Errorf("trim behind the end: %v", err)
	}
}

func TestMemoryBudget(t *testing.T) {
	memory := storage.NewMemory(10_000)
	with := func(c *storage.Config) { c.Memory = memory }
	a, _ := openMem(t, with)
	b, _ := openMem(t, with)
	put(t, a, 5, 1000)
	put(t, b, 8, 1000) // over: b drops its own oldest
	if used := memory.Used(); used > 10_000 || used < 9_000 {
		t.Errorf("%d bytes are used", used)
	}
	if _, err := a.Reader(0).NextHot(5, 1); err != nil {
		t.Errorf("the log that was not appending: %v", err)
	}
	if _, err := b.Reader(0).NextHot(8, 1); !errors.Is(err, storage.ErrCold) {
		t.Errorf("the oldest of the log that was: %v", err)
	}
	if es, err := b.Reader(7).NextHot(8, 1); err != nil || len(es) != 1 {
		t.Errorf("its newest: %v", err)
	}
	a.Close()
	b.Close()
	if used := memory.Used(); used != 0 {
		t.Errorf("%d bytes are used by nobody", used)
	}
}

// Logs that take nothing any more leave the budget to the others, once it is short.
func TestIdleLogsCool(t *testing.T) {
	memory := storage.NewMemory(10_000)
	with := func(c *storage.Config) { c.Memory = memory }
	idle, _ := openMem(t, with)
	busy, _ := openMem(t, with)
	hot := func(l *storage.Log, offset storage.Offset) bool {
		es, err := l.Reader(offset).NextHot(offset+1, 1)
		return err == nil && len(es) == 1
	}
	put(t, idle, 4, 1000)
	for range 3 { // there is room for all
		idle.Cool()
	}
	if !hot(idle, 0) {
		t.Error("a hot tail was let go of though the memory is there")
	}
	put(t, idle, 5, 1000)
	put(t, busy, 2, 1000)
	if hot(busy, 0) {
		t.Error("the budget is not used up")
	}
	idle.Cool() // has taken entries since the last time
	if !hot(idle, 8) {
		t.Error("a log that was in use was told to cool")
	}
	idle.Cool()
	if hot(idle, 8) {
		t.Error("an idle log keeps what others need")
	}
	put(t, busy, 5, 1000)
	if !hot(busy, 3) {
		t.Error("the log in use has not got the memory")
	}
}

func TestHotBytes(t *testing.T) {
	l, _ := openMem(t, func(c *storage.Config) { c.HotBytes = 5000 })
	put(t, l, 20, 900)
	r := l.Reader(0)
	defer r.Close()
	if _, err := r.NextHot(20, 1); !errors.Is(err, storage.ErrCold) {
		t.Errorf("offset 0: %v", err)
	}
	r.Seek(17)
	es, err := r.NextHot(20, 2000)
	if err != nil || len(es) != 2 || es[0].Base != 17 {
		t.Errorf("offset 17: %v, %v", es, err)
	}
	if es, err := r.NextHot(19, 2000); err != nil || es != nil {
		t.Errorf("at the limit: %v, %v", es, err)
	}
}

func TestPoolRecyclesAndPrepares(t *testing.T) {
	fsys := crashfs.New()
	pool, err := storage.NewIdlePool(fsys, "pool", 320<<10)
	if err != nil {
		t.Fatal(err)
	}
	l, err := storage.Open(storage.Config{FS: fsys, Dir: "p/1", SegmentBytes: 64 << 10, Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, 48, 900) // more than half a segment, at once: a busy log
	pool.Work()
	if pool.Spares() != 1 {
		t.Fatalf("%d spares", pool.Spares())
	}
	put(t, l, 32, 900)
	if pool.Spares() != 0 {
		t.Errorf("the spare was not used")
	}
	put(t, l, 192, 900)
	if err := l.SaveSnapshot(storage.Snapshot{Index: 272, Term: 1, Offset: 272}); err != nil {
		t.Fatal(err)
	}
	if err := l.Trim(272); err != nil {
		t.Fatal(err)
	}
	recycled := pool.Used()
	if recycled == 0 {
		t.Fatal("nothing was recycled")
	}
	pool.Want(64 << 10)
	pool.Work()
	if pool.Spares() == 0 || pool.Used() == recycled {
		t.Errorf("%d spares were made, none from the %d recycled files", pool.Spares(), recycled)
	}
	if err := l.Remove(); err != nil {
		t.Fatal(err)
	}
	pool.Work()
	total := int64(0)
	for _, name := range fsys.Files() {
		n, err := fsys.Size(name)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if total > 320<<10 {
		t.Errorf("the pool keeps %d bytes", total)
	}
	again, err := storage.NewIdlePool(fsys, "pool", 320<<10)
	if err != nil || again.Used() == 0 || again.Spares() != 0 {
		t.Errorf("a new pool finds %d used, %d spares, %v", again.Used(), again.Spares(), err)
	}
}

func TestPoolStopsInTheMiddle(t *testing.T) {
	fsys := crashfs.New()
	pool, err := storage.NewPool(fsys, "pool", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		pool.Want(8 << 20)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
}

// WriteAge sees a sync that hangs, also one that only waits for a slot.
func TestWriteAge(t *testing.T) {
	syncs := storage.NewSyncLimit(1)
	l, fsys := openMem(t, func(c *storage.Config) { c.Syncs = syncs })
	put(t, l, 1, 10)
	if age := l.WriteAge(); age != 0 {
		t.Errorf("age at rest is %v", age)
	}
	hanging, goOn := make(chan struct{}), make(chan struct{})
	fsys.Fault = func(op crashfs.Op, _ string) error {
		if op == crashfs.OpSync {
			close(hanging)
			<-goOn
		}
		return nil
	}
	done := make(chan error)
	go func() { done <- l.Append([]storage.Entry{{Index: 2, Term: 1}}, 0) }()
	<-hanging
	for l.WriteAge() < time.Microsecond {
	}
	if b := l.Bounds(); b.Last != 1 {
		t.Errorf("an entry is seen before it is durable: %+v", b)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if age := l.WriteAge(); age != 0 {
		t.Errorf("age after the write is %v", age)
	}
	fsys.Fault = nil
}

func TestConfigValidate(t *testing.T) {
	fsys := crashfs.New()
	pool, err := storage.NewIdlePool(crashfs.New(), "pool", 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]storage.Config{
		"no directory":     {FS: fsys},
		"small segments":   {FS: fsys, Dir: "x", SegmentBytes: 100},
		"large segments":   {FS: fsys, Dir: "x", SegmentBytes: 1 << 32},
		"another's pool":   {FS: fsys, Dir: "x", Pool: pool},
		"a pool and no FS": {Dir: "x", Pool: pool},
	} {
		if err := cfg.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := storage.Open(cfg); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestAppendRefusals(t *testing.T) {
	l, _ := openMem(t, nil)
	put(t, l, 2, 10)
	for name, es := range map[string][]storage.Entry{
		"a gap":          {{Index: 4, Term: 1}},
		"a repetition":   {{Index: 2, Term: 1}},
		"a gap within":   {{Index: 3, Term: 1}, {Index: 5, Term: 1}},
		"an older term":  {{Index: 3, Term: 0}},
		"a term falling": {{Index: 3, Term: 3}, {Index: 4, Term: 2}},
	} {
		if err := l.Append(es, 0); !errors.Is(err, storage.ErrSequence) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := l.Append(nil, 0); err != nil {
		t.Error(err)
	}
	put(t, l, 1, 10) // none of it stopped the log
	if _, err := l.Entry(4); !errors.Is(err, storage.ErrNotFound) {
		t.Error(err)
	}
}

func TestSnapshotReplacesOneOfItsOffset(t *testing.T) {
	l, _ := openMem(t, nil)
	put(t, l, 10, 900)
	save := func(s storage.Snapshot, want ...storage.Index) {
		t.Helper()
		if err := l.SaveSnapshot(s); err != nil {
			t.Fatal(err)
		}
		var got []storage.Index
		for _, info := range l.Snapshots() {
			got = append(got, info.Index)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("snapshots at %v, want %v", got, want)
		}
	}
	save(storage.Snapshot{Index: 5, Offset: 5}, 5)
	save(storage.Snapshot{Index: 6, Offset: 5}, 6)
	save(storage.Snapshot{Index: 7, Offset: 7}, 6, 7)
	if err := l.Trim(7); err != nil {
		t.Fatal(err)
	}
	save(storage.Snapshot{Index: 8, Offset: 7}, 7, 8) // the state that the first entry held follows stays
	save(storage.Snapshot{Index: 9, Offset: 7}, 7, 9)
}

func TestSnapshotRules(t *testing.T) {
	l, _ := openMem(t, nil)
	put(t, l, 10, 900)
	if err := l.SaveSnapshot(storage.Snapshot{Index: 5, Term: 1, Offset: 5}); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]storage.Snapshot{
		"above the log":           {Index: 11, Offset: 10},
		"below the newest":        {Index: 4, Offset: 4},
		"an offset above the end": {Index: 6, Offset: 11},
	} {
		if err := l.SaveSnapshot(s); !errors.Is(err, storage.ErrOutOfRange) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := l.TruncateSuffix(5); !errors.Is(err, storage.ErrPinned) {
		t.Errorf("truncate under a snapshot: %v", err)
	}
	if err := l.TruncateSuffix(11); err != nil {
		t.Error(err)
	}
	if _, err := l.LoadSnapshot(6); !errors.Is(err, storage.ErrNotFound) {
		t.Error(err)
	}
}

func TestOnRoll(t *testing.T) {
	rolls := 0
	l, _ := openMem(t, func(c *storage.Config) { c.OnRoll = func() { rolls++ } })
	put(t, l, 12, 900)
	if want := l.Bounds().Segments - 1; rolls != want || want < 2 {
		t.Errorf("%d rolls, want %d", rolls, want)
	}
}

// However small entries are, a segment has an end: its index is in memory.
func TestSegmentsEndAfterManyEntries(t *testing.T) {
	const most, large, small = 1 << 16, 30, 1<<16 + 2000
	l, _ := openMem(t, func(c *storage.Config) { c.SegmentBytes = 64 << 20 })
	put(t, l, large, 512<<10) // until segments are as large as many small entries want
	batch := make([]storage.Entry, 1000)
	for l.Bounds().Last < large+small {
		for i := range batch {
			batch[i] = storage.Entry{Index: l.Bounds().Last + 1 + storage.Index(i), Term: 1, Records: 1, Payload: []byte("x")}
		}
		if err := l.Append(batch, 0); err != nil {
			t.Fatal(err)
		}
	}
	entries := make(map[string]int)
	fullest := 0
	for _, e := range l.Layout(func(i storage.Index) int {
		if i <= large {
			return 512 << 10
		}
		return 1
	}) {
		entries[e.File]++
		fullest = max(fullest, entries[e.File])
	}
	if fullest != most {
		t.Errorf("the segment of the most entries has %d, want %d", fullest, most)
	}
}

// What an entry in the hot tail holds is counted, not what it says.
func TestHotTailCountsWhatItHolds(t *testing.T) {
	memory := storage.NewMemory(100_000)
	l, _ := openMem(t, func(c *storage.Config) { c.Memory, c.SegmentBytes = memory, 1<<20 })
	e := storage.Entry{Index: 1, Term: 1, Records: 1, Payload: make([]byte, 10, 5000)}
	if err := l.Append([]storage.Entry{e}, 0); err != nil {
		t.Fatal(err)
	}
	if used := memory.Used(); used < 5000 {
		t.Errorf("%d bytes are counted of an entry that holds 5,000", used)
	}
}

func ExampleLog_Reader() {
	l, err := storage.Open(storage.Config{FS: crashfs.New(), Dir: "partitions/17", Partition: 17})
	if err != nil {
		panic(err)
	}
	defer l.Close()
	err = l.Append([]storage.Entry{
		{Index: 1, Term: 1, Payload: []byte("a configuration: no records")},
		{Index: 2, Term: 1, Records: 2, Payload: []byte("two records")},
		{Index: 3, Term: 1, Records: 1, Payload: []byte("one more")},
	}, 2)
	if err != nil {
		panic(err)
	}
	r := l.Reader(0)
	defer r.Close()
	entries, err := r.Next(l.Bounds().End, 1<<20)
	for _, e := range entries {
		fmt.Printf("offset %d: %s\n", e.Base, e.Payload)
	}
	fmt.Println(r.Position(), err)
	// Output:
	// offset 0: two records
	// offset 2: one more
	// 3 <nil>
}

// A log that writes much at a time takes what the pool has as it is, and asks for nothing.
func TestLargeWritesReuse(t *testing.T) {
	fsys := crashfs.New()
	pool, err := storage.NewIdlePool(fsys, "pool", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	cfg := storage.Config{FS: fsys, Dir: "p/1", SegmentBytes: 64 << 10, Pool: pool}
	l, err := storage.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, 16, 20<<10)
	pool.Work()
	if pool.Spares() != 0 {
		t.Errorf("%d spares", pool.Spares())
	}
	if err := l.SaveSnapshot(storage.Snapshot{Index: 15, Term: 1, Offset: 15}); err != nil {
		t.Fatal(err)
	}
	if err := l.Trim(15); err != nil {
		t.Fatal(err)
	}
	recycled := pool.Used()
	put(t, l, 6, 20<<10)
	if pool.Used() != recycled-2 {
		t.Errorf("of %d recycled files %d are left, two segments on", recycled, pool.Used())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = storage.Open(cfg); err != nil || l.Recovered().CutNonZero || l.Bounds().Last != 22 {
		t.Errorf("opened again: %+v, %v", l.Bounds(), err)
	}
}

// A reader that rests keeps no memory of what it read: there may be tens of thousands.
func TestIdleReaderKeepsNothing(t *testing.T) {
	l, _ := openMem(t, func(c *storage.Config) { c.HotBytes, c.SegmentBytes = 5000, 1<<20 })
	put(t, l, 200, 900)
	r := l.Reader(0)
	defer r.Close()
	if _, err := r.Next(200, 100_000); err != nil || r.Kept() < 100_000 {
		t.Fatalf("%v; it keeps %d bytes, and should hold a window of the file", err, r.Kept())
	}
	if r.Leave(); r.Kept() > 0 || r.Holds() {
		t.Errorf("at rest it keeps %d bytes", r.Kept())
	}
	if _, err := r.Next(200, 100_000); err != nil || r.Kept() < 100_000 {
		t.Fatalf("%v; it keeps %d bytes", err, r.Kept())
	}
	r.Seek(198)
	if _, err := r.Next(200, 100_000); err != nil || r.Position() != 200 {
		t.Fatalf("%v, at %d", err, r.Position())
	}
	if r.Leave(); r.Kept() > 0 {
		t.Errorf("at rest it keeps %d bytes", r.Kept())
	}
}
