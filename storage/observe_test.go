package storage

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// tally is an Observer that counts.
type tally struct {
	entries, writes int
	bytes, grew     int64
	negative        bool
}

func (c *tally) Appended(entries int, bytes int64, sync time.Duration) {
	c.entries += entries
	c.writes++
	c.bytes += bytes
	c.negative = c.negative || sync < 0
}

func (c *tally) Grew(bytes int64) { c.grew += bytes }

// An observer is told of what became durable, in as many writes as there were, and of nothing that was refused.
func TestObserver(t *testing.T) {
	dir := t.TempDir()
	base, err := OSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	c := new(tally)
	l, err := Open(Config{FS: base, Dir: "1", Partition: 1, SegmentBytes: 8 << 10, Observer: c})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	big := make([]byte, 3<<10)
	if err := l.Append([]Entry{{Index: 1, Term: 1, Payload: big}, {Index: 2, Term: 1, Payload: big}}, 0); err != nil {
		t.Fatal(err)
	}
	if c.entries != 2 || c.writes != 1 {
		t.Errorf("%d entries in %d writes, want 2 in 1", c.entries, c.writes)
	}
	if err := l.Append([]Entry{{Index: 9, Term: 1, Payload: big}}, 0); err == nil {
		t.Fatal("a gap was taken")
	}
	if err := l.Append([]Entry{{Index: 3, Term: 1, Payload: big}, {Index: 4, Term: 1, Payload: big}}, 0); err != nil {
		t.Fatal(err) // the segment is full: these begin the next
	}
	b := l.Bounds()
	if want := b.Bytes - int64(b.Segments)*headerBytes; c.entries != 4 || c.bytes != want || c.negative {
		t.Errorf("%d entries and %d bytes, want 4 and %d, what the log holds", c.entries, c.bytes, want)
	}
	size := int64(0)
	files, err := filepath.Glob(filepath.Join(dir, "1", "*.seg"))
	if err != nil || len(files) != b.Segments {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if c.grew == 0 || c.grew > size {
		t.Errorf("said to grow by %d bytes, the files have %d", c.grew, size)
	}
}
