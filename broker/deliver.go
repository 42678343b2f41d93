package broker

import "time"

// Bounds of what a goroutine that is not the loop does in its place. What would take longer is better done beside it.
const (
	fewBatches  = 256
	fewWatches  = 4
	fewCursors  = 8
	fewSessions = 8
)

// deliverLocked releases mu, and has the loop's clients told of what was committed: by the loop or, if that waits for its sockets
// and there is little to tell, by the caller. Another thread takes long to wake where its core has gone to sleep meanwhile.
func (l *loop) deliverLocked() {
	if l.waking || l.wanted.Load() || !l.mail.little() || !l.own.TryLock() {
		l.wakeLocked()
		return
	}
	mail := l.takeMailLocked()
	l.mu.Unlock()
	l.lent = true
	l.began = time.Now()
	l.news(&mail)
	left := l.send()
	l.emptied(&mail)
	l.resumeLater()
	l.lent = false
	l.own.Unlock()
	if left {
		l.post(func() {}) // Run ends with a flush
	}
}

// little reports whether there is nothing but news, for few.
func (m *mailbox) little() bool {
	if len(m.reads)+len(m.calls) > 0 || len(m.done) > fewBatches || len(m.advanced) > fewWatches {
		return false
	}
	cursors := 0
	for _, w := range m.advanced {
		cursors += int(w.waiting.Load())
	}
	return cursors <= fewCursors
}

// send is flush for who is not the loop: past gnet. It reports whether something is left to the loop.
func (l *loop) send() (left bool) {
	touched, sent := l.touched, 0
	l.touched = l.touched[:0]
	for i, s := range touched {
		touched[i] = nil
		all := false
		if sent < fewSessions {
			s.contained(func(s *session) { all = s.send() })
			sent++
		}
		if !all {
			l.touched = append(l.touched, s)
		}
	}
	return len(l.touched) > 0
}

// send is flush for who is not the loop. It reports whether that was all there is to do: what the socket does not take at once
// is left to flush, and so is an end.
//
// It writes past gnet, and overtakes nothing: only the loop writes through gnet and looks right after what that has kept, so that
// where nothing is held gnet has nothing.
func (s *session) send() bool {
	if s.state == stateClosed {
		return true
	}
	if s.closing || s.held > 0 {
		return false
	}
	s.flushAcks()
	n := writeNow(s.conn.Fd(), s.out)
	s.progress.written += int64(n)
	if n < len(s.out) {
		s.out = append(s.out[:0], s.out[n:]...)
		return false
	}
	if s.out != nil {
		s.loop.release(s.out)
		s.out = nil
	}
	s.account()
	s.touched = false
	return true
}
