package storage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Scan gives what Entry gives, across sealed segments and the active one, and ends at damage.
func TestScan(t *testing.T) {
	dir := t.TempDir()
	const entries = 400
	payload := func(i Index) []byte { return bytes.Repeat(fmt.Appendf(nil, "%07d ", i), 100) }
	open := func() *Log {
		l, err := Open(Config{Dir: dir, SegmentBytes: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	for i := Index(1); i <= entries; i++ {
		e := Entry{Index: i, Term: Term(1 + i/100), Type: uint8(i % 3), Records: uint32(i % 4), Time: int64(i), Payload: payload(i)}
		if err := l.Append([]Entry{e}, i-1); err != nil {
			t.Fatal(err)
		}
	}
	check := func(from, to Index) {
		t.Helper()
		next := from
		err := l.Scan(from, to, func(e Entry) error {
			want, err := l.Entry(next)
			if err != nil || !bytes.Equal(e.Payload, want.Payload) {
				return fmt.Errorf("payload %.16q for %.16q (%v)", e.Payload, want.Payload, err)
			}
			e.Payload, want.Payload = nil, nil
			if fmt.Sprint(e) != fmt.Sprint(want) {
				return fmt.Errorf("%+v for %+v", e, want)
			}
			next++
			return nil
		})
		if err != nil || next != max(from, to+1) {
			t.Errorf("[%d, %d]: up to %d: %v", from, to, next, err)
		}
	}
	for range 2 { // with what is hot, and as it is found on disk
		for _, r := range [][2]Index{{1, entries}, {1, 1}, {entries, entries}, {50, 49}, {77, 301}, {350, 399}} {
			check(r[0], r[1])
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := l.Scan(1, 2, nil); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		l = open()
	}
	stop := errors.New("stop")
	if err := l.Scan(5, 9, func(e Entry) error { return stop }); err != stop {
		t.Error(err)
	}
	ignore := func(Entry) error { return nil }
	for _, r := range [][2]Index{{0, 3}, {entries, entries + 1}} {
		if err := l.Scan(r[0], r[1], ignore); !errors.Is(err, ErrNotFound) {
			t.Errorf("[%d, %d]: %v", r[0], r[1], err)
		}
	}
	l.Close()

	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(names) < 4 {
		t.Fatal(names, err)
	}
	for _, damaged := range []Index{3, 120, 399} {
		for _, name := range names {
			whole, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(whole, payload(damaged))
			if at < 0 {
				continue
			}
			b := bytes.Clone(whole)
			b[at+50] ^= 4
			if err := os.WriteFile(name, b, 0o640); err != nil {
				t.Fatal(err)
			}
			l = open()
			last := Index(0)
			err = l.Scan(1, entries, func(e Entry) error { last = e.Index; return nil })
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || corrupt.FirstIndex != damaged || corrupt.EndIndex != damaged+1 || last != damaged-1 {
				t.Errorf("entry %d is damaged: read up to %d: %v", damaged, last, err)
			}
			check(1, damaged-1)
			check(damaged+1, entries)
			l.Close()
			if err := os.WriteFile(name, whole, 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
}
