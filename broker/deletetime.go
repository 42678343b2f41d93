package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"go.uber.org/zap"
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

	note func(now clockNote, durable bool) error // remembers over restarts

	lastWall time.Time // at the last look
	last     time.Duration
	doubted  bool
	since    time.Duration // by steady, if doubted

	noted     clockNote // what the last start was told, or note has taken since
	noteFails bool      // and did the last time
}

// clockNote is what a node remembers of its clock over restarts.
type clockNote struct {
	seen    time.Time // by the wall clock, at a look: at most noteEvery before the last one
	doubted bool
}

const (
	maxDrift   = time.Minute    // how far the clocks may part between two looks without a jump: NTP slews by less
	maxAbsence = 24 * time.Hour // how long a node may have been down without raising doubt about the clock
	noteEvery  = time.Minute
)

func newDeleteTime(wall func() time.Time, log *zap.Logger) *deleteTime {
	began := time.Now()
	return &deleteTime{wall: wall, steady: func() time.Duration { return time.Since(began) }, log: log}
}

// start takes what was noted before; nothing, if the node is new. A clock that is much ahead of the last look, by half the
// grace time if that is short, may have jumped while the node was down, or just before, whatever was stored by it since.
func (d *deleteTime) start(last clockNote, grace time.Duration) {
	d.lastWall, d.last, d.noted = d.wall().Round(0), d.steady(), last
	ahead := d.lastWall.Sub(last.seen)
	switch {
	case last.doubted:
		d.doubt("the clock was in doubt when the node stopped, or what was noted of it is lost")
	case !last.seen.IsZero() && ahead > min(maxAbsence, max(grace/2, maxDrift)):
		d.doubt(fmt.Sprintf("the clock is %s ahead of when the node last ran", ahead.Round(time.Second)))
	}
	d.remember()
}

// look sees whether the clock has jumped since the last one, and returns what it says.
func (d *deleteTime) look() time.Time {
	wall, now := d.wall().Round(0), d.steady() // Round takes the monotonic reading off
	jump := wall.Sub(d.lastWall) - (now - d.last)
	d.lastWall, d.last = wall, now
	if jump.Abs() > maxDrift {
		d.doubt(fmt.Sprintf("the clock jumped by %s", jump.Round(time.Second)))
	}
	d.remember()
	return wall
}

// trusted reports whether there is no doubt, or the clock had been steady since for that long at the last look.
func (d *deleteTime) trusted(settle time.Duration) bool {
	return !d.doubted || d.last-d.since >= settle
}

// settled ends the doubt.
func (d *deleteTime) settled() {
	d.doubted = false
	d.remember()
}

func (d *deleteTime) doubt(why string) {
	d.doubted, d.since = true, d.last
	d.log.Warn(why+": nothing is deleted for its age until the clock has been steady for a while; put it right if it is wrong",
		zap.Time("clock", d.lastWall))
}

// remember notes what a start must know. What could not be noted is noted at a later look.
func (d *deleteTime) remember() {
	changed := d.noted.doubted != d.doubted
	if !changed && d.lastWall.Sub(d.noted.seen).Abs() < noteEvery {
		return
	}
	now := clockNote{seen: d.lastWall, doubted: d.doubted}
	err := d.note(now, changed)
	if err == nil {
		d.noted = now
	} else if !d.noteFails {
		d.log.Warn("a restart would not know the clock of this node", zap.Error(err))
	}
	d.noteFails = err != nil
}

// clockFile holds the node's clockNote: a line of always the same length, which is written over itself.
const (
	clockFile   = "clock"
	clockLayout = "2006-01-02T15:04:05.000Z"
	clockBelief = "believed\n"
	clockDoubt  = "in doubt\n"
)

// readClock reads what was noted; nothing if the node is new. What is no note, or was lost, says so, and is a doubt.
func (d *dataDir) readClock() (clockNote, error) {
	f, err := d.fs.Open(clockFile)
	if errors.Is(err, fs.ErrNotExist) && d.minted {
		return clockNote{}, nil
	}
	if err != nil {
		return clockNote{doubted: true}, err
	}
	defer f.Close()
	b := make([]byte, len(clockLayout)+1+len(clockDoubt))
	n, _ := f.ReadAt(b, 0) // less than that is no note
	text, belief, _ := strings.Cut(string(b[:n]), " ")
	seen, err := time.Parse(clockLayout, text)
	if err == nil && belief != clockBelief && belief != clockDoubt {
		err = fmt.Errorf("%q is neither %q nor %q", belief, clockBelief, clockDoubt)
	}
	if err != nil {
		return clockNote{doubted: true}, fmt.Errorf("%s: %w", clockFile, err)
	}
	return clockNote{seen: seen, doubted: belief == clockDoubt}, nil
}

// writeClock notes it. What need not be durable may be an older note after a power cut: it makes a start doubt more, not less.
func (d *dataDir) writeClock(now clockNote, durable bool) (err error) {
	f, err := d.fs.Open(clockFile)
	if errors.Is(err, fs.ErrNotExist) {
		durable = true
		if f, err = d.fs.Create(clockFile); err == nil {
			err = d.fs.SyncDir(".")
		}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	belief := clockBelief
	if now.doubted {
		belief = clockDoubt
	}
	if _, err := f.WriteAt([]byte(now.seen.UTC().Format(clockLayout)+" "+belief), 0); err != nil || !durable {
		return err
	}
	return f.Sync()
}
