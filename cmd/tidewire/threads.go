package main

import (
	"context"
	"runtime"
	"time"
)

// threads says how many threads the scheduler runs Go code on (GOMAXPROCS). A goroutine in fdatasync keeps its place
// until the runtime notices, and with several of them at once the rest starves beside them: there is one more for each sync that
// runs beside the first. Not more than that: each that has nothing to do is woken in vain and looks for work or marks garbage,
// on cores that the loops need. (Two cores, 4 threads to 2: 128 B in batches 1.12 to 1.19 with 2, end to end p50 0.89 to 0.96;
// 16 and 256 partitions 0.85 to 0.9 with 2.)
type threads struct {
	cores int
	now   int
	quiet int // looks in a row at which fewer would have been enough
	least int // that would have been enough for all of those
}

const (
	threadsLook  = time.Second
	threadsQuiet = 10 // looks before there are fewer
)

// enough is how many there should be where so many syncs have run at once.
func (t *threads) enough(syncs int) int {
	return max(2, t.cores) + max(0, min(syncs-1, t.cores, 16))
}

// look is told how many syncs have run at once, at most, since the last look.
func (t *threads) look(syncs int) {
	switch want := t.enough(syncs); {
	case want >= t.now:
		t.now, t.quiet, t.least = want, 0, 0
	default:
		t.least = max(t.least, want)
		if t.quiet++; t.quiet == threadsQuiet {
			t.now, t.quiet, t.least = t.least, 0, 0
		}
	}
}

// spread keeps to as many threads as syncs ask for, until ctx ends. GOMAXPROCS in the environment wins.
func spread(ctx context.Context, getenv func(string) string, syncs func() int) {
	if getenv("GOMAXPROCS") != "" {
		return
	}
	t := &threads{cores: runtime.GOMAXPROCS(0)} // those that the cgroup lets it use
	every := time.NewTicker(threadsLook)
	defer every.Stop()
	for {
		if t.look(syncs()); t.now != runtime.GOMAXPROCS(0) {
			runtime.GOMAXPROCS(t.now)
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}
