package storage

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

const (
	// minGrowth and maxGrowth bound how many zeros a segment without a spare file is extended by at a time: an idle
	// partition costs little disk, a busy one few changes of file length (each of which makes a sync slower). A
	// write of minGrowth or more (less in small segments) gains nothing from zeros ahead of it: it would only write everything
	// twice.
	minGrowth = 64 << 10
	maxGrowth = 1 << 20

	// busyTime is how fast a quarter of a segment must fill for the log to ask the pool for a spare.
	busyTime = 15 * time.Second
)

// Append writes entries, which continue the log, and returns when they are durable: one pwritev and one fdatasync, or
// one each per segment touched. It sets Base in them. commit is the highest index known to be committed; it is kept as
// a hint for the next start.
//
// The hot tail keeps the payloads: they must never be changed, nor reused, afterwards. Readers see the entries when
// Append returns, or a moment before.
//
// Errors: ErrSequence and ErrTooLarge, with nothing written; ErrClosed. Any other error is a *FailedError: the log
// takes no more writes. Some of the entries may then be on disk, but none were acknowledged.
func (l *Log) Append(entries []Entry, commit Index) error {
	if len(entries) == 0 {
		return nil
	}
	if err := l.beginWrite(); err != nil {
		return err
	}
	defer l.writeMu.Unlock()
	if err := l.checkSequence(entries); err != nil {
		return err
	}
	l.writing.Store(sinceEpoch()) // timed, without a closure to allocate
	defer l.writing.Store(0)
	for len(entries) > 0 {
		s, err := l.makeRoom(frameSize(len(entries[0].Payload)))
		if err != nil {
			return err
		}
		n, err := l.appendTo(s, entries, commit)
		if err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// checkSequence makes sure that entries continue the log and assigns their offsets.
func (l *Log) checkSequence(entries []Entry) error {
	l.mu.RLock()
	at := l.tail
	l.mu.RUnlock()
	for i := range entries {
		e := &entries[i]
		switch {
		case e.Index != at.index+1:
			return fmt.Errorf("%w: entry %d after %d", ErrSequence, e.Index, at.index)
		case e.Term < at.term:
			return fmt.Errorf("%w: entry %d of term %d after term %d", ErrSequence, e.Index, e.Term, at.term)
		case len(e.Payload) > MaxPayloadBytes:
			return fmt.Errorf("%w: entry %d has %d bytes", ErrTooLarge, e.Index, len(e.Payload))
		}
		e.Base = at.offset
		at.index, at.term, at.offset = e.Index, e.Term, at.offset+Offset(e.Records)
	}
	return nil
}

// appendTo writes as many entries as fit into the active segment s, at least one, and returns how many.
func (l *Log) appendTo(s *segment, entries []Entry, commit Index) (int, error) {
	l.mu.RLock()
	at, room := l.tail, maxItems-l.index.n
	l.mu.RUnlock()
	n, size := 0, int64(0)
	for ; n < min(len(entries), room); n++ {
		f := frameSize(len(entries[n].Payload))
		if n > 0 && at.position+size+f > s.meta.capacity {
			break
		}
		size += f
	}
	entries = entries[:n]
	if err := l.grow(s, at.position, at.position+size); err != nil {
		return 0, l.fail("extend segment", err)
	}
	end := l.encode(s, entries, at, commit)
	if _, err := s.file.WriteVAt(l.vector, at.position); err != nil {
		return 0, l.fail("write", err)
	}
	clear(l.vector)
	var began time.Time
	if l.cfg.Observer != nil {
		began = time.Now()
	}
	if err := l.cfg.Syncs.sync(s.file); err != nil {
		return 0, l.fail("sync", err)
	}
	if l.cfg.Observer != nil {
		l.cfg.Observer.Appended(n, size, time.Since(began))
	}
	l.publish(entries, at, end, commit)
	s.writes++
	l.askForSpare(s, end.position)
	return n, nil
}

// encode fills l.vector with the frames of entries, to be written at at, and returns the state after them. Headers and
// padding lie in l.headers; payloads are written from where they are.
func (l *Log) encode(s *segment, entries []Entry, at mark, commit Index) mark {
	if need := len(entries) * (frameBytes + frameAlign); cap(l.headers) < need {
		l.headers = make([]byte, 0, 2*need)
	}
	l.headers, l.vector = l.headers[:0], l.vector[:0]
	synced := uint32(at.position)
	from := 0 // where the header bytes not yet in the vector begin: a frame's padding goes with the next header
	for i := range entries {
		e := &entries[i]
		f := frame{
			length: uint32(len(e.Payload)), previous: at.crc, records: e.Records, index: e.Index, term: e.Term,
			base: e.Base, time: e.Time, commit: commit, synced: synced, kind: e.Type,
		}
		head := len(l.headers)
		l.headers = l.headers[:head+frameBytes]
		f.encode(l.headers[head:], s.seed, e.Payload)
		if len(e.Payload) > 0 {
			l.vector = append(l.vector, l.headers[from:], e.Payload)
			from = len(l.headers)
			l.headers = append(l.headers, zeroPad[:padding(len(e.Payload))]...)
		}
		at = mark{position: at.position + f.size(), index: e.Index, term: e.Term, offset: f.end(), crc: f.crc}
	}
	if from < len(l.headers) {
		l.vector = append(l.vector, l.headers[from:])
	}
	return at
}

// publish lets readers see entries, which are durable.
func (l *Log) publish(entries []Entry, at, end mark, commit Index) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range entries {
		e := &entries[i]
		l.index.add(item{base: e.Base, time: e.Time, term: e.Term, position: uint32(at.position),
			length: uint32(len(e.Payload)), records: e.Records, kind: e.Type})
		at.position += frameSize(len(e.Payload))
		l.hot.push(e)
	}
	l.tail = end
	l.commit = min(max(l.commit, commit), end.index)
}

// grow makes sure that there are zeros behind what is about to be written to [from, end). It goes first, and always to
// whole blocks: a file whose length is odd was cut by somebody else.
func (l *Log) grow(s *segment, from, end int64) error {
	target := s.clear(end)
	if target <= s.ready {
		return nil
	}
	if !s.large(end - from) {
		step := min(max(s.ready, s.leastGrowth()), maxGrowth)
		target = max(min(roundUp(target, step), s.meta.capacity), target)
	} else if last := roundUp(end, indexBlock) - indexBlock; from <= s.ready && last > s.ready {
		s.ready = last // the write itself fills everything before the last block
	}
	return l.zero(s, target)
}

// zero writes zeros from where what is ready of s ends up to end.
func (l *Log) zero(s *segment, end int64) error {
	if l.cfg.Observer != nil && end > s.ready {
		l.cfg.Observer.Grew(end - s.ready)
	}
	if err := writeZeros(s.file, s.ready, end); err != nil {
		return err
	}
	s.ready = max(s.ready, end)
	return nil
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// askForSpare asks the pool for the file of the next segment when this one fills quickly, and with writes that are
// small enough to gain by it.
func (l *Log) askForSpare(s *segment, position int64) {
	if l.cfg.Pool == nil || s.spareAsked || position < s.meta.capacity/4 {
		return
	}
	s.spareAsked = true
	if time.Since(s.began) < busyTime && !s.large(position/s.writes) {
		fills := int64(l.index.n)*s.meta.capacity < maxItems*position // before it has too many entries
		l.cfg.Pool.want(l.nextCapacity(s.meta.capacity, fills))
	}
}

// makeRoom returns an active segment in which an entry of size bytes fits: the one there is, or a new one.
func (l *Log) makeRoom(size int64) (*segment, error) {
	l.mu.RLock()
	s, at, n := l.activeLocked(), l.tail, l.index.n
	l.mu.RUnlock()
	if s != nil && at.position+size <= s.meta.capacity && n < maxItems {
		return s, nil
	}
	return l.roll(size)
}

// Roll seals the active segment, if it holds anything, so that retention may take it. The next Append begins another.
func (l *Log) Roll() error {
	if err := l.beginWrite(); err != nil {
		return err
	}
	defer l.writeMu.Unlock()
	l.mu.RLock()
	s, at := l.activeLocked(), l.tail
	l.mu.RUnlock()
	if s == nil || at.position == headerBytes {
		return nil
	}
	return l.timed(func() error {
		if err := l.commitManifest(func(m *manifest) { m.segments[len(m.segments)-1].sealed = true }); err != nil {
			return err
		}
		l.seal(s)
		l.cfg.OnRoll()
		return nil
	})
}

// roll seals the active segment, if any, and begins one in which size bytes fit. Sealing and beginning are one commit.
func (l *Log) roll(size int64) (*segment, error) {
	l.mu.RLock()
	old, at, entries := l.activeLocked(), l.tail, l.index.n
	l.mu.RUnlock()
	next := segmentMeta{id: l.manifest.nextFile, salt: newSalt(), first: at.index + 1, base: at.offset, before: at.term, maxTime: math.MinInt64}
	if n := len(l.manifest.segments); n > 0 {
		last := &l.manifest.segments[n-1]
		used, full := last.end.position, true
		if !last.sealed {
			used, full = at.position, entries < maxItems // what ends for its many entries would fill no larger one
		}
		next.capacity = l.nextCapacity(last.capacity, full && used > last.capacity/2)
	} else {
		next.capacity = l.nextCapacity(0, true)
	}
	next.capacity = max(next.capacity, roundUp(headerBytes+size, indexBlock))
	s, err := l.createSegment(next)
	if err != nil {
		return nil, l.fail("create segment", err)
	}
	next = s.meta
	err = l.commitManifest(func(m *manifest) {
		if old != nil {
			m.segments[len(m.segments)-1].sealed = true
		}
		m.segments = append(m.segments, next)
		m.nextFile++
	})
	if err != nil {
		s.release()
		return nil, err
	}
	if old != nil {
		l.seal(old)
	}
	l.mu.Lock()
	l.segments = append(l.segments, s)
	l.index = newDense(next.first)
	l.tail.position, l.tail.crc = headerBytes, s.seed
	l.mu.Unlock()
	if old != nil {
		l.cfg.OnRoll()
	}
	return s, nil
}

// nextCapacity is what follows a segment of the given capacity: twice as much, once it was filled.
func (l *Log) nextCapacity(capacity int64, filled bool) int64 {
	switch {
	case capacity == 0:
		return min(firstSegmentBytes, l.cfg.SegmentBytes)
	case filled:
		return min(2*capacity, l.cfg.SegmentBytes)
	}
	return min(capacity, l.cfg.SegmentBytes)
}

// seal makes s, which the manifest has sealed at the end of the log, read-only in memory too, and writes its index.
func (l *Log) seal(s *segment) {
	items := l.index.sparse() // only writers change the index, so there is no need for mu yet
	l.mu.Lock()
	s.meta.sealed, s.meta.end, s.meta.maxTime = true, l.tail, l.index.maxTime
	l.index = newDense(l.tail.index + 1)
	l.countSealedLocked()
	l.seals++
	l.mu.Unlock()
	s.writeIndex(encodeIndex(s.id.id, s.seed, items))
	s.release() // the writer's hold
}

// createSegment makes the file of a new segment, durably, from one of the pool if that has any. The writer holds it.
func (l *Log) createSegment(meta segmentMeta) (*segment, error) {
	s := l.newSegment(meta)
	got := nothing
	if l.cfg.Pool != nil {
		var err error
		if got, err = l.cfg.Pool.take(meta.capacity, s.name()); err != nil {
			return nil, err
		}
	}
	switch got {
	case aSpare:
		s.ready = meta.capacity
	case usedFile:
		s.meta.reused = true
	case nothing:
		f, err := l.fs.Create(s.name())
		if err != nil {
			return nil, err
		}
		s.file = f
	}
	if err := s.hold(); err != nil {
		return nil, err
	}
	if err := l.writeHeader(s); err != nil {
		s.release()
		return nil, err
	}
	s.meta.end = s.beginning()
	s.began = time.Now()
	return s, nil
}

// writeHeader writes the header of a new segment, so that it and the file's name survive a crash.
func (l *Log) writeHeader(s *segment) error {
	if err := l.grow(s, 0, headerBytes); err != nil {
		return err
	}
	var b [headerBytes]byte
	s.id.encodeHeader(b[:])
	if _, err := s.file.WriteAt(b[:], 0); err != nil {
		return err
	}
	if err := l.cfg.Syncs.sync(s.file); err != nil {
		return err
	}
	return l.fs.SyncDir(l.dir)
}

// newSegment returns the segment that meta describes, not yet open.
func (l *Log) newSegment(meta segmentMeta) *segment {
	id := identity{cluster: l.cfg.Cluster, partition: l.cfg.Partition, id: meta.id, salt: meta.salt}
	return &segment{
		fs: l.fs, dir: l.dir, id: id, seed: id.seed(), meta: meta, began: time.Now(),
		recycle: func(name string) { giveAway(l.fs, l.cfg.Pool, name) },
	}
}

func newSalt() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return binary.LittleEndian.Uint64(b[:])
}
