package broker

import (
	"fmt"
	"time"

	"go.uber.org/zap"
)

// deleteTime decides whether the wall clock may be believed when it says that something is old
// enough to be deleted. A clock that jumped forward would otherwise take with it, within seconds,
// everything that retention by age or the grace time of a deleted stream still keeps. A jump is what the wall
// clock moved and the monotonic clock did not. After one, nothing is deleted for its age until the wall
// clock has gone steadily for the settling time; that gives a person the time to put it right, and costs only disk.
//
// The keeper alone uses it.
type deleteTime struct {
	wall   func() time.Time
	steady func() time.Duration // of a clock that never jumps
	log    *zap.Logger

	began     bool
	lastWall  time.Time
	last      time.Duration
	heldUntil time.Duration // by steady
}

// maxDrift is how far the clocks may part between two looks without a jump: NTP slews by less.
const maxDrift = time.Minute

func newDeleteTime(wall func() time.Time, log *zap.Logger) *deleteTime {
	began := time.Now()
	return &deleteTime{wall: wall, steady: func() time.Duration { return time.Since(began) }, log: log}
}

// start takes the broker time of the newest record on the node, Unix ms, or 0: a clock that is much
// ahead of it may have jumped while the node was down.
func (d *deleteTime) start(ms int64, settle time.Duration) {
	d.lastWall, d.last, d.began = d.wall().Round(0), d.steady(), true
	if ahead := d.lastWall.Sub(time.UnixMilli(ms)); ms > 0 && ahead > maxAbsence {
		d.hold(settle, fmt.Sprintf("the clock is %s ahead of the newest record here", ahead.Round(time.Second)))
	}
}

// maxAbsence is how old the newest record may be at a start without raising doubt about the clock.
const maxAbsence = 24 * time.Hour

// trusted reports whether things may be deleted for their age now.
func (d *deleteTime) trusted(settle time.Duration) bool {
	wall, now := d.wall().Round(0), d.steady() // Round takes the monotonic reading off
	if d.began {
		if jump := wall.Sub(d.lastWall) - (now - d.last); jump.Abs() > maxDrift {
			d.hold(settle, fmt.Sprintf("the clock jumped by %s", jump.Round(time.Second)))
		}
	}
	d.lastWall, d.last, d.began = wall, now, true
	return now >= d.heldUntil
}

func (d *deleteTime) hold(settle time.Duration, why string) {
	d.heldUntil = d.steady() + settle
	d.log.Warn(why+": nothing is deleted for its age until the clock has been steady for a while; put it right if it is wrong",
		zap.Time("clock", d.lastWall), zap.Duration("steady_for", settle))
}
