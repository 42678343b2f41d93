package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	demoFileBytes = 4 << 20 // larger ones are no source and no document
	demoTextBytes = 64 << 20
	demoLineBytes = 1_000_000 // what surely fits a record
)

// demoText is what the demo publishes: a file of lines, and how often it was published.
type demoText struct {
	path   string
	files  int
	named  string // the one file, if one was named
	lines  uint64
	bytes  int64
	passes uint64
}

func (t *demoText) String() string {
	what := plural(t.lines, "line") + ", " + size(t.bytes)
	if t.named != "" {
		return what + " of " + t.named
	}
	return fmt.Sprintf("%s of %s in this directory", what, plural(t.files, "text file"))
}

func (t *demoText) records() uint64 { return t.lines * t.passes }

// collectText puts the text into the file path: the one called name, or all text files here.
func collectText(name, path string) (*demoText, error) {
	t := &demoText{path: path, named: name}
	out, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if name != "" {
		if err = shortLines(name); err == nil {
			err = t.add(out, name)
		}
	} else {
		err = t.addAll(out)
	}
	if err != nil {
		return nil, err
	}
	if t.lines == 0 {
		return nil, errors.New("there is not one line")
	}
	return t, out.Close()
}

// add appends one file; its last line gets a newline if it has none.
func (t *demoText) add(out io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	count := &lineCounter{w: out}
	if _, err := io.Copy(count, f); err != nil {
		return err
	}
	if count.bytes > 0 && count.last != '\n' {
		if _, err := count.Write([]byte{'\n'}); err != nil {
			return err
		}
	}
	t.files++
	t.lines += count.lines
	t.bytes += count.bytes
	return nil
}

type lineCounter struct {
	w     io.Writer
	lines uint64
	bytes int64
	last  byte
}

func (c *lineCounter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	if n > 0 {
		c.lines += uint64(bytes.Count(b[:n], []byte{'\n'}))
		c.bytes += int64(n)
		c.last = b[n-1]
	}
	return n, err
}

func (t *demoText) addAll(out io.Writer) error {
	names, err := trackedFiles()
	if err != nil || len(names) == 0 {
		if names, err = allFiles(); err != nil {
			return err
		}
	}
	for _, name := range names {
		if t.bytes >= demoTextBytes {
			break
		}
		if isText(name) {
			if err := t.add(out, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// trackedFiles asks git.
func trackedFiles() ([]string, error) {
	out, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 }), nil
}

// allFiles walks, past what is hidden.
func allFiles() (names []string, err error) {
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // what cannot be read is no text of ours
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.Type().IsRegular():
			names = append(names, path)
		}
		return nil
	})
	return names, err
}

// isText tells text from anything else as git does: no zero byte at the beginning.
func isText(name string) bool {
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > demoFileBytes {
		return false
	}
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, 8000))
	return err == nil && len(head) > 0 && bytes.IndexByte(head, 0) < 0 && shortLines(name) == nil
}

// shortLines reports a line that fits no record.
func shortLines(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	l := newLineReader(f, demoLineBytes)
	for {
		if _, err := l.next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("line %s: %w", count(l.line), err)
		}
	}
}

// feed writes the text to w, with repeat as often as makes a million records or takes five seconds.
func (t *demoText) feed(w io.Writer, repeat bool) error {
	began := time.Now()
	for {
		f, err := os.Open(t.path)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		t.passes++
		if !repeat || t.records() >= demoRecords || time.Since(began) > demoTime {
			return nil
		}
	}
}
