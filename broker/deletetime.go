package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/storage"
)

// deleteTime decides whether the wall clock may be believed when it says that something is old
// enough to be deleted. A clock that jumped forward would otherwise take with it, within seconds,
// everything that retention by age or the grace time of a deleted stream still keeps. A jump is what the wall
// clock moved and the monotonic clock did not. After one the clock is in doubt: no record is deleted for its age until the wall
// clock has gone steadily for the settling time, no deleted stream until it has for the grace time as well, as its deletion
// may have been stamped by a clock that was wrong. That gives a person the time to put it right, and costs only disk.
// A restart does not end the doubt, but begins it anew: what was stored meanwhile speaks for the clock as it is.
//
// The keeper alone uses it.
type deleteTime struct {
	wall   func() time.Time
	steady func() time.Duration // of a clock that never jumps
	log    *zap.Logger

	note func(doubt bool) // remembers over restarts whether there is doubt; may be nil

	began    bool
	lastWall time.Time
	last     time.Duration
	doubted  bool
	since    time.Duration // by steady, if doubted
}

// maxDrift is how far the clocks may part between two looks without a jump: NTP slews by less.
const maxDrift = time.Minute

func newDeleteTime(wall func() time.Time, log *zap.Logger) *deleteTime {
	began := time.Now()
	return &deleteTime{wall: wall, steady: func() time.Duration { return time.Since(began) }, log: log}
}

// start takes the time of the newest thing on the node that has one, Unix ms, or 0, and whether there was doubt when it
// stopped. A clock that is much ahead of that, by half the grace time if that is short, may have jumped while the node was down.
func (d *deleteTime) start(ms int64, grace time.Duration, doubt bool) {
	d.lastWall, d.last, d.began = d.wall().Round(0), d.steady(), true
	ahead := d.lastWall.Sub(time.UnixMilli(ms))
	switch {
	case doubt:
		d.doubt("the clock was in doubt when the node stopped")
	case ms > 0 && ahead > min(maxAbsence, max(grace/2, maxDrift)):
		d.doubt(fmt.Sprintf("the clock is %s ahead of the newest record or stream here", ahead.Round(time.Second)))
	}
}

// maxAbsence is how old the newest thing may be at a start without raising doubt about the clock.
const maxAbsence = 24 * time.Hour

// look sees whether the clock has jumped since the last one.
func (d *deleteTime) look() {
	wall, now := d.wall().Round(0), d.steady() // Round takes the monotonic reading off
	if d.began {
		if jump := wall.Sub(d.lastWall) - (now - d.last); jump.Abs() > maxDrift {
			d.doubt(fmt.Sprintf("the clock jumped by %s", jump.Round(time.Second)))
		}
	}
	d.lastWall, d.last, d.began = wall, now, true
}

// trusted reports whether there is no doubt, or the clock had been steady since for that long at the last look.
func (d *deleteTime) trusted(settle time.Duration) bool {
	return !d.doubted || d.last-d.since >= settle
}

// settled ends the doubt.
func (d *deleteTime) settled() {
	if d.doubted {
		d.doubted = false
		d.remember(false)
	}
}

func (d *deleteTime) doubt(why string) {
	d.doubted, d.since = true, d.steady()
	d.remember(true) // before anything is stored by this clock that a start would believe
	d.log.Warn(why+": nothing is deleted for its age until the clock has been steady for a while; put it right if it is wrong",
		zap.Time("clock", d.lastWall))
}

func (d *deleteTime) remember(doubt bool) {
	if d.note != nil {
		d.note(doubt)
	}
}

// doubtFile is there while the clock is in doubt. Its bytes mean nothing.
const doubtFile = "clock-in-doubt"

func (n *Node) clockDoubted() bool {
	_, err := n.data.fs.Size(doubtFile)
	return !errors.Is(err, fs.ErrNotExist)
}

// noteDoubt makes the file, or removes it.
func (n *Node) noteDoubt(doubt bool) {
	if doubt == n.clockDoubted() {
		return
	}
	var err error
	if doubt {
		var f storage.File
		if f, err = n.data.fs.Create(doubtFile); err == nil {
			err = errors.Join(f.Close(), n.data.fs.SyncDir("."))
		}
	} else {
		err = n.data.fs.Remove(doubtFile)
	}
	if err != nil {
		n.log.Warn("that the clock is in doubt is not remembered over a restart, or for longer than it is", zap.Error(err))
	}
}
