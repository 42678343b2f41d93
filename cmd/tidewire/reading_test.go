package main

import (
	"strings"
	"testing"

	"github.com/tidewire/tidewire/storage"
)

// What is read is told in bytes: it grows with what verify reads, never goes back, and comes to everything in the end.
func TestReading(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, true)
	c := newCLI(t, n)
	for _, s := range []string{"a", "b"} {
		c.in = strings.NewReader(strings.Repeat(strings.Repeat("x", 999)+"\n", 2000))
		c.ok("pub", s, "-")
	}
	stopNode(t, n)
	set, err := openLogs(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer set.fs.Close()
	r := set.readings(2)
	var last int64
	grows := func(when string) {
		now := r.done()
		if now < last || now > r.total {
			t.Errorf("%s: %d bytes of %d are read, after %d", when, now, r.total, last)
		}
		last = now
	}
	grows("before")
	err = set.each(func(dir string, l *storage.Log, err error) error {
		if err != nil {
			return err
		}
		before := last
		grows(dir + " opened")
		if err := new(logReport).verify(l); err != nil {
			return err
		}
		grows(dir + " verified")
		if read, size := last-before, r.sizes[dir]; strings.HasPrefix(dir, "partitions/") && (size < 1<<20 || read < size/2) {
			t.Errorf("verifying %s of %d bytes counts as %d", dir, size, read)
		}
		r.past(dir)
		grows(dir + " done")
		return nil
	})
	if err != nil || last != r.total {
		t.Errorf("%v; %d of %d bytes in the end", err, last, r.total)
	}
}
