package raft

import "time"

// company has the next entry wait for those who were just answered. Who has so many batches in flight sends the next when the first
// are acknowledged. If what was gathered meanwhile went at once, they would miss it by a round trip and travel with the one behind:
// two halves would take turns, and each batch would wait for two syncs. Up to companyBytes a sync takes about as long as one of a few
// bytes, so that to wait for them, for less than a sync, makes all of them faster. (64 in flight on one connection, a batch a record,
// where a sync takes 0.5 ms: a third fewer syncs and a tenth more records; where others use the disk too, half as many again.)
//
// It is a guess, as they may have nothing more to say. The wait ends when as many batches are there as can be expected, or with the
// time that an entry takes, and a guess that was wrong is not made again for some entries: 1, 3, 7 and so on, 63 at most. Where few are
// expected it ends with half of that time: they gain less, and as many may come by chance. (A wait of half an entry for all had every
// third entry of 64 in flight go too early. This costs three connections with 1,000 records a second each, which gain nothing by company
// and now and then wait for one another: p50 1.11 ms, where a wait of half an entry had 0.99.)
type company struct {
	expected int         // batches; 0: nobody waits
	until    time.Time   // the wait ends
	timer    *time.Timer // made by the first wait
	wrong    int         // entries that did not wait after the last guess that was wrong; 0: the last was right
	rest     int         // of those that are still to come
}

const (
	companyBytes = 64 << 10
	fewBatches   = 4                     // less are few
	leastWait    = 50 * time.Microsecond // timers are no finer
	mostRest     = 63
)

// tookLocked takes how long an entry took, from seal to apply, into the average. One that took more than four times
// as long shows that the disk stood still, or that there was no leader, and not what entries take: it counts as so much.
func (p *Partition) tookLocked(d time.Duration) {
	p.latency += (min(d, 4*p.latency+time.Millisecond) - p.latency) / 8
}

// expectLocked is told of an entry that will be answered in a moment, and decides whether the next one waits.
func (p *Partition) expectLocked(o *outgoing) {
	c := &p.company
	batches, wait := len(o.pendings), p.latency
	if p.open != nil {
		batches += len(p.open.pendings)
	}
	if batches < fewBatches {
		wait /= 2
	}
	if batches == 1 || len(p.inFlight)+len(p.full) > 0 || int64(len(o.buf))+p.queued > companyBytes || wait < leastWait {
		return
	}
	if c.rest > 0 {
		c.rest--
		return
	}
	c.expected, c.until = batches, time.Now().Add(wait)
	if c.timer == nil {
		c.timer = time.AfterFunc(wait, p.endWait)
	} else {
		c.timer.Reset(wait)
	}
}

// endWait is called when the time of a wait is over.
func (p *Partition) endWait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &p.company
	if c.expected == 0 || time.Now().Before(c.until) { // it came too late: that wait has ended, perhaps another has begun
		return
	}
	c.expected = 0
	c.wrong = min(2*c.wrong+1, mostRest)
	c.rest = c.wrong
	p.pumpLocked()
}

// waitsLocked reports whether the entry that is being gathered waits for company, and ends the wait when that is complete.
func (p *Partition) waitsLocked() bool {
	c := &p.company
	switch {
	case c.expected == 0:
		return false
	case !p.closed && len(p.full) == 0 && (p.open == nil || len(p.open.pendings) < c.expected):
		return true
	}
	c.expected, c.wrong = 0, 0
	c.timer.Stop()
	return false
}
