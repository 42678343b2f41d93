package storage_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tidewire/tidewire/storage"
)

// Benchmarks on the real file system below b.TempDir(). Every Append is durable when it returns: compare figures with
// the fdatasync of the same disk, which BenchmarkSync shows.

func benchLog(b *testing.B, change func(*storage.Config)) (*storage.Log, storage.Config, func()) {
	b.Helper()
	fsys, err := storage.OSFS(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	pool, err := storage.NewPool(fsys, "pool", 0)
	if err != nil {
		b.Fatal(err)
	}
	cfg := storage.Config{FS: fsys, Dir: "partitions/1", Partition: 1, Pool: pool}
	if change != nil {
		change(&cfg)
	}
	l, err := storage.Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	return l, cfg, func() {
		if err := errors.Join(l.Close(), pool.Close(), fsys.Close()); err != nil {
			b.Error(err)
		}
	}
}

func sizeName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%dMiB", n>>20)
	}
	return fmt.Sprintf("%dKiB", n>>10)
}

// trimming keeps the disk from filling: it keeps the last 256 MiB and a snapshot at their beginning.
func trimming(b *testing.B, l *storage.Log) {
	at := l.Bounds()
	if err := l.SaveSnapshot(storage.Snapshot{Index: at.Last, Term: 1, Offset: at.End}); err != nil {
		b.Fatal(err)
	}
	if err := l.Trim(l.RetentionPoint(256<<20, 0, 0)); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, tc := range []struct{ size, batch int }{{1 << 10, 1}, {16 << 10, 1}, {256 << 10, 1}, {1 << 20, 1}, {1 << 10, 16}, {16 << 10, 16}} {
		b.Run(fmt.Sprintf("size=%s/batch=%d", sizeName(tc.size), tc.batch), func(b *testing.B) {
			l, _, done := benchLog(b, nil)
			defer done()
			entries := make([]storage.Entry, tc.batch)
			payload := make([]byte, tc.size)
			next, rolled := storage.Index(1), 0
			b.SetBytes(int64(tc.size * tc.batch))
			b.ReportAllocs()
			for b.Loop() {
				for i := range entries {
					entries[i] = storage.Entry{Index: next, Term: 1, Records: 8, Time: int64(next), Payload: payload}
					next++
				}
				if err := l.Append(entries, next-2); err != nil {
					b.Fatal(err)
				}
				if n := l.Bounds().Segments; n > rolled {
					rolled = n
					trimming(b, l)
				}
			}
		})
	}
}

// BenchmarkSync is the floor of BenchmarkAppend: one write of as many bytes into a zero-filled file, and its fdatasync.
func BenchmarkSync(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 256 << 10} {
		b.Run("size="+sizeName(size), func(b *testing.B) {
			fsys, err := storage.OSFS(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer fsys.Close()
			f, err := fsys.Create("file")
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			const room = 64 << 20
			if _, err := f.WriteAt(make([]byte, room), 0); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			buf, pos := make([]byte, size), int64(0)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := f.WriteAt(buf, pos%room); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				pos += int64(size)
			}
		})
	}
}

// fill appends entries until the log has the given number of bytes.
func fill(b *testing.B, l *storage.Log, size int, bytes int64) {
	b.Helper()
	payload := make([]byte, size)
	for l.Bounds().Bytes < bytes {
		next := l.Bounds().Last + 1
		entries := make([]storage.Entry, 16)
		for i := range entries {
			entries[i] = storage.Entry{Index: next + storage.Index(i), Term: 1, Records: 8, Time: int64(next), Payload: payload}
		}
		if err := l.Append(entries, next); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRecovery opens a log after a kill: with an active segment of 64 MiB, full or (66 MiB) nearly empty.
func BenchmarkRecovery(b *testing.B) {
	for _, tc := range []struct {
		size  int
		bytes int64
	}{{1 << 10, 126 << 20}, {64 << 10, 66 << 20}, {64 << 10, 126 << 20}, {64 << 10, 510 << 20}} {
		b.Run(fmt.Sprintf("size=%s/log=%s", sizeName(tc.size), sizeName(int(tc.bytes))), func(b *testing.B) {
			l, cfg, done := benchLog(b, nil)
			defer done()
			fill(b, l, tc.size, tc.bytes)
			b.ReportAllocs()
			for b.Loop() {
				again, err := storage.Open(cfg) // the first one writes no more
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(again.Recovered().ScannedBytes)
				if again.Bounds() != l.Bounds() {
					b.Fatalf("%+v, want %+v", again.Bounds(), l.Bounds())
				}
			}
		})
	}
}

// BenchmarkRead reads a log from the start, as a consumer does: from memory, and from files in the page cache.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 256 << 10} {
		for _, hot := range []bool{true, false} {
			from, hotBytes := "files", int64(-1)
			if hot {
				from, hotBytes = "memory", 64<<20
			}
			b.Run(fmt.Sprintf("from=%s/size=%s", from, sizeName(size)), func(b *testing.B) {
				l, _, done := benchLog(b, func(c *storage.Config) { c.HotBytes = hotBytes })
				defer done()
				fill(b, l, size, 32<<20)
				end := l.Bounds().End
				r := l.Reader(0)
				defer r.Close()
				var bytes, calls int64
				b.ReportAllocs()
				for b.Loop() {
					if r.Position() == end {
						r.Seek(0)
					}
					es, err := r.Next(end, 256<<10)
					if err != nil {
						b.Fatal(err)
					}
					calls++
					for i := range es {
						bytes += int64(len(es[i].Payload))
					}
				}
				b.SetBytes(bytes / calls)
			})
		}
	}
}

// BenchmarkEntry reads single entries in order, as a leader does for a follower that is behind.
func BenchmarkEntry(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run("from=files/size="+sizeName(size), func(b *testing.B) {
			l, _, done := benchLog(b, func(c *storage.Config) { c.HotBytes = -1 })
			defer done()
			fill(b, l, size, 32<<20)
			last := l.Bounds().Last
			b.SetBytes(int64(size))
			b.ReportAllocs()
			i := storage.Index(1)
			for b.Loop() {
				if _, err := l.Entry(i); err != nil {
					b.Fatal(err)
				}
				if i++; i > last {
					i = 1
				}
			}
		})
	}
}
