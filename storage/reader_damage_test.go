package storage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Entries that a call returns alias the reader's window: looking for the frame behind a damaged one must not
// change them. The log is larger than the window, and each read asks for more than lies before the damage.
func TestReaderKeepsEntriesBeforeDamage(t *testing.T) {
	dir := t.TempDir()
	payload := func(i int) []byte {
		return bytes.Repeat(fmt.Appendf(nil, "%07d ", i), 3<<10/8)
	}
	const entries = 900 // 1 MiB, then a segment of 2 MiB, of which a window shows half
	l, err := Open(Config{Dir: dir, HotBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if err := l.Append([]Entry{{Index: Index(i + 1), Term: 1, Records: 1, Payload: payload(i)}}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(names) != 2 {
		t.Fatal(names, err)
	}
	whole, err := os.ReadFile(names[1])
	if err != nil {
		t.Fatal(err)
	}
	for damaged := 655; damaged < 675; damaged++ {
		begin := bytes.Index(whole, payload(damaged)[:8])
		if begin < 0 {
			t.Fatal("entry", damaged, "is not in the second segment")
		}
		for _, at := range []int{begin - frameBytes, begin + 100} { // its length; its payload
			b := bytes.Clone(whole)
			b[at] ^= 0x40
			if err := os.WriteFile(names[1], b, 0o640); err != nil {
				t.Fatal(err)
			}
			checkAroundDamage(t, dir, entries, damaged, payload)
		}
	}
}

// checkAroundDamage reads the log cold and whole: every entry but the damaged one, and that one as damage.
func checkAroundDamage(t *testing.T, dir string, entries, damaged int, payload func(int) []byte) {
	t.Helper()
	l, err := Open(Config{Dir: dir, HotBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := l.Reader(0)
	defer r.Close()
	next, told := 0, false
	for next < entries {
		got, err := r.Next(Offset(entries), 1<<20)
		var corrupt *CorruptError
		if errors.As(err, &corrupt) && int(corrupt.Start) == damaged && int(corrupt.End) == damaged+1 && next == damaged {
			told, next = true, damaged+1
			r.Seek(corrupt.End)
			continue
		}
		if err != nil {
			t.Fatalf("entry %d damaged: at %d: %v", damaged, next, err)
		}
		for _, e := range got {
			if int(e.Base) != next || !bytes.Equal(e.Payload, payload(next)) {
				t.Fatalf("entry %d damaged: entry %d came with base %d and %.16q", damaged, next, e.Base, e.Payload)
			}
			next++
		}
	}
	if !told {
		t.Errorf("entry %d: the damage was not told", damaged)
	}
}
