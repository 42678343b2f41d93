package raft

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	hraft "github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/storage"
)

// logStore is a storage.Log as raft sees it (hraft.LogStore). It writes nothing but what StoreLogs is
// given, once, and forgets nothing: prefixes go through retention alone (storage.Log.Trim).
//
// StoreLogs and DeleteRange come from raft's main goroutine, GetLog from any.
type logStore struct {
	log    *storage.Log
	rule   entryRule
	commit func() storage.Index // highest index known committed
	// applied is the highest index handed to the machine: nothing up to it may be taken back.
	applied func() storage.Index
	// alone is the configuration that a group of a node without peers begins with and keeps; nil: it has peers. Where no
	// one has a better copy and no one is sent this one, a damaged entry may pass for one without payload, and the first
	// one for this configuration.
	alone []byte
	// fail ends the group: after a failed write nothing is known about what is on disk.
	fail   func(error)
	failed func() error
	rolled func() // a segment was sealed; must not block
	logger *zap.Logger

	booting atomic.Bool // NewRaft is reading the log

	// Below: raft's main goroutine only, once booted.
	chain     chain
	chainLost storage.Term // entries up to this term cannot be weighed (rebuildChain); 0: none
	scratch   []storage.Entry
	seals     uint64 // of the log, when StoreLogs last looked

	writes *writeTimes // nil: nobody measures
}

var (
	_ hraft.LogStore          = (*logStore)(nil)
	_ hraft.MonotonicLogStore = (*logStore)(nil)
)

// open rebuilds the chain from the log. Called before each run of raft.
func (s *logStore) open() error {
	atStart, err := s.chainAtStart()
	if err != nil {
		return err
	}
	b := s.log.Bounds()
	s.seals = b.Seals
	s.chain, s.chainLost, err = rebuildChain(s.log, s.rule, b, atStart)
	return err
}

// chainAtStart is the chain of the snapshot the log begins at; zero for a log that begins at index 1.
func (s *logStore) chainAtStart() (chain, error) {
	start, ok := logStartSnapshot(s.log)
	if !ok {
		return chain{}, nil
	}
	snap, err := s.log.LoadSnapshot(start.Index)
	if err != nil {
		return chain{}, err
	}
	blob, err := decodeSnapshot(snap.Data)
	if err != nil {
		return chain{}, err
	}
	return blob.mark.chain, nil
}

// logStartSnapshot is the snapshot right below the first entry of a log that was trimmed or installed.
func logStartSnapshot(log *storage.Log) (storage.SnapshotInfo, bool) {
	first := log.Bounds().First
	for _, info := range log.Snapshots() {
		if info.Index+1 == first {
			return info, true
		}
	}
	return storage.SnapshotInfo{}, false
}

// FirstIndex always answers 0, "no entries". Raft has two uses for it: compaction, which is off
// (TrailingLogs), and a gauge, for which every leader would read its oldest entry every ten seconds,
// cold and up to 1 MiB of it, in every group.
func (s *logStore) FirstIndex() (uint64, error) { return 0, nil }

// LastIndex is that of the last entry; 0 when there is none, also in a log that begins at a snapshot
// (raft then takes the snapshot's index and term for its last).
func (s *logStore) LastIndex() (uint64, error) {
	b := s.log.Bounds()
	if b.Last < b.First {
		return 0, nil
	}
	return uint64(b.Last), nil
}

// GetLog reads one entry into heap bytes that raft may keep. While NewRaft scans the log for
// configurations it gets headers, and payload only of those.
//
// A missing entry is hraft.ErrLogNotFound itself: raft compares with ==.
func (s *logStore) GetLog(index uint64, out *hraft.Log) error {
	i := storage.Index(index)
	var e storage.Entry
	var err error
	if s.booting.Load() {
		e, err = s.header(i)
	}
	if err == nil && (!s.booting.Load() || hraft.LogType(e.Type) == hraft.LogConfiguration) {
		e, err = s.log.Entry(i)
	}
	if errors.Is(err, storage.ErrCorrupt) {
		if e, err = s.header(i); err == nil {
			s.logger.Error("a damaged entry is passed over; what it held of records, and of their producers' sequences, is lost", zap.Uint64("index", index))
		}
	}
	switch {
	case err == nil:
		*out = hraft.Log{Index: index, Term: uint64(e.Term), Type: hraft.LogType(e.Type), Data: e.Payload}
		return nil
	case errors.Is(err, storage.ErrNotFound):
		// The snapshot the log begins at stands for its last entry: a follower is asked for the term
		// there when the first entry behind it arrives, and has no body to show.
		if start, ok := logStartSnapshot(s.log); ok && start.Index == i {
			*out = hraft.Log{Index: index, Term: uint64(start.Term), Type: hraft.LogNoop}
			return nil
		}
		return hraft.ErrLogNotFound
	}
	return err
}

// header returns an entry without its payload. Where no one else can have a copy, a damaged range passes for
// commands without payload: the first holds all the offsets that are lost, the others none. There is no one to
// disagree about it, and the offsets behind the damage stay what they were. Entry 1 is a configuration, and there is one only
// that it can be.
func (s *logStore) header(i storage.Index) (storage.Entry, error) {
	h, err := s.log.Header(i)
	damage, ok := errors.AsType[*storage.CorruptError](err)
	if !ok || s.alone == nil {
		return h, err
	}
	if i == 1 {
		return storage.Entry{Index: 1, Term: 1, Type: uint8(hraft.LogConfiguration), Base: damage.Start, Payload: s.alone}, nil
	}
	h = storage.Entry{Index: i, Term: 1, Type: uint8(hraft.LogCommand), Base: damage.End}
	if i == max(damage.FirstIndex, 2) {
		h.Base, h.Records = damage.Start, uint32(damage.End-damage.Start)
	}
	if b := s.log.Bounds(); i == b.Last {
		h.Term = b.LastTerm
	} else if before, err := s.log.Header(damage.FirstIndex - 1); err == nil {
		h.Term = before.Term
	}
	return h, nil
}

// StoreLog stores one entry.
func (s *logStore) StoreLog(l *hraft.Log) error { return s.StoreLogs([]*hraft.Log{l}) }

// StoreLogs weighs the entries and writes them with one pwritev and one fdatasync; when it returns
// nil they are durable. The log keeps the Data of each: nobody may change it afterwards, ever.
//
// Any error ends the group. Raft itself would go on after one, with a wrong idea of its last index.
func (s *logStore) StoreLogs(logs []*hraft.Log) error {
	if err := s.failed(); err != nil {
		return err
	}
	c := s.chain
	s.scratch = s.scratch[:0]
	for _, l := range logs {
		if len(l.Extensions) > 0 {
			return s.refuse(fmt.Errorf("raft: index %d has extensions, for which the log has no place", l.Index))
		}
		e := storage.Entry{
			Index:   storage.Index(l.Index),
			Term:    storage.Term(l.Term),
			Type:    uint8(l.Type),
			Payload: l.Data,
		}
		if l.Type == hraft.LogCommand {
			if s.chainLost >= e.Term {
				return s.refuse(fmt.Errorf("raft: index %d: damage hides which entry of term %d was the last", l.Index, l.Term))
			}
			var err error
			if e.Records, e.Time, c, err = s.rule.weigh(c, e.Term, l.Data); err != nil {
				return s.refuse(fmt.Errorf("raft: index %d: %w", l.Index, err))
			}
		}
		s.scratch = append(s.scratch, e)
	}
	var began time.Time
	if s.writes != nil {
		began = time.Now()
	}
	if err := s.log.Append(s.scratch, s.commit()); err != nil {
		return s.refuse(fmt.Errorf("raft: appending index %d: %w", logs[0].Index, err))
	}
	if s.writes != nil {
		s.writes.add(logs[0].Index, logs[len(logs)-1].Index, began, time.Now())
	}
	clear(s.scratch)
	s.chain = c
	s.noticeRoll()
	return nil
}

// noticeRoll tells when a segment was sealed. (storage's OnRoll says the same, but it is set when the log
// is opened, and the log is there before the group.)
func (s *logStore) noticeRoll() {
	if n := s.log.Bounds().Seals; n != s.seals {
		s.seals = n
		s.rolled()
	}
}

func (s *logStore) refuse(err error) error {
	s.fail(err)
	return err
}

// DeleteRange removes the entries [low, high], and only as raft does on a conflict: a suffix that was
// never committed. Whatever else is asked for is refused and ends the group.
func (s *logStore) DeleteRange(low, high uint64) error {
	if err := s.failed(); err != nil {
		return err
	}
	b := s.log.Bounds()
	from := storage.Index(low)
	if storage.Index(high) != b.Last || from < b.First || from <= s.applied() {
		return s.refuse(fmt.Errorf("raft: refusing to delete [%d, %d] of a log [%d, %d] applied up to %d",
			low, high, b.First, b.Last, s.applied()))
	}
	if err := s.log.TruncateSuffix(from); err != nil {
		return s.refuse(fmt.Errorf("raft: truncating from index %d: %w", low, err))
	}
	if err := s.open(); err != nil {
		return s.refuse(fmt.Errorf("raft: after truncating from index %d: %w", low, err))
	}
	return nil
}

// IsMonotonic says that gaps in the index are not tolerated. Raft asks only in installSnapshot and
// Restore, which never run.
func (s *logStore) IsMonotonic() bool { return true }
