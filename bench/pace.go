package bench

import (
	"context"
	"runtime"
	"time"
)

// pacer says when each record is meant to be sent: record i at i/rate after the start.
type pacer struct {
	interval float64 // nanoseconds; 0: flat out
	offset   float64 // of the first record, so that connections do not send in step
}

func newPacer(rate float64, connection, connections int) pacer {
	if rate <= 0 {
		return pacer{}
	}
	return pacer{interval: 1e9 / rate * float64(connections), offset: 1e9 / rate * float64(connection)}
}

// due is when record i is meant to be sent, in nanoseconds on the run's clock.
func (p *pacer) due(i uint64) int64 { return int64(p.offset + p.interval*float64(i)) }

// clock is a run's: nanoseconds since it began.
type clock struct{ began time.Time }

func (c clock) now() int64 { return int64(time.Since(c.began)) }

// until sleeps until the clock says t, unless ctx ends before. The caller has locked its thread with
// pinned: Go's own timers are late by up to a millisecond when nothing else runs, which would be
// counted as latency.
func (c clock) until(ctx context.Context, t int64) {
	for ctx.Err() == nil {
		left := time.Duration(t - c.now())
		if left <= 0 {
			return
		}
		nap(min(left, 100*time.Millisecond)) // short enough to see ctx end
	}
}

// pinned runs f on a thread of its own, whose sleeps are exact.
func pinned(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer exactSleeps()()
	f()
}
