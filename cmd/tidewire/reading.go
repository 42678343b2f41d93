package main

import (
	"fmt"
	"path"
	"slices"
	"sync"
	"time"
)

// sizes are the bytes of the files of each log, and of all.
func (s *logSet) sizes() (of map[string]int64, total int64) {
	of = map[string]int64{}
	for _, dir := range s.dirs {
		names, _ := s.fs.List(dir) // what cannot be read is said when it is opened
		for _, name := range names {
			if n, err := s.fs.Size(path.Join(dir, name)); err == nil {
				of[dir] += n
			}
		}
		total += of[dir]
	}
	return of, total
}

// reading tells how much of a logSet is read, log by log. Each byte is read so many times.
type reading struct {
	set   *logSet
	times int64
	sizes map[string]int64
	total int64

	mu     sync.Mutex
	before int64 // bytes of the logs that are done
	at     int64 // fs.read when the present log was begun
	size   int64 // of the present log
}

// readings begins to tell how much of s is read by work that reads everything so many times.
func (s *logSet) readings(times int64) *reading {
	r := &reading{set: s, times: times, at: s.fs.read.Load()}
	r.sizes, r.total = s.sizes()
	if len(s.dirs) > 0 {
		r.size = r.sizes[s.dirs[0]]
	}
	return r
}

// past says that dir's log is done.
func (r *reading) past(dir string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before += r.sizes[dir]
	r.at, r.size = r.set.fs.read.Load(), 0
	if i := slices.Index(r.set.dirs, dir) + 1; i < len(r.set.dirs) {
		r.size = r.sizes[r.set.dirs[i]]
	}
}

// done is how many bytes are read; it never goes back, nor beyond the total.
func (r *reading) done() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.before + min((r.set.fs.read.Load()-r.at)/r.times, r.size)
}

// progress shows how far it is, in bytes with their rate.
func (r *reading) progress(a *app, verb string) *progress {
	began := time.Now()
	return a.progress(verb, r.total, func() (int64, string) {
		n := r.done()
		return n, fmt.Sprintf("%s of %s, %s/s", size(n), size(r.total), size(int64(float64(n)/max(time.Since(began).Seconds(), 0.001))))
	})
}
