package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

// The three values raft keeps, under the names it gives them.
const (
	keyCurrentTerm   = "CurrentTerm"
	keyLastVoteTerm  = "LastVoteTerm"
	keyLastVoteCand  = "LastVoteCand"
	maxCandidate     = 255
	ballotVersion    = 1
	ballotFixedBytes = 1 + 8 + 8 + 8 + 8 + 1 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ballot is a group's term and vote. It is stored as one record, in two copies, so that the term
// of a vote and its candidate can never be told apart by a crash:
//
//	Version u8 | Group u64 | Revision u64 | Term u64 | VoteTerm u64 | len u8, Candidate | CRC-32C u32
//
// Little-endian; the CRC covers everything before it. Revision counts writes: of two valid copies
// the higher one is the newer.
type ballot struct {
	revision  uint64
	term      uint64
	voteTerm  uint64
	candidate string
}

func (b ballot) encode(group uint64) []byte {
	out := make([]byte, 0, ballotFixedBytes+len(b.candidate))
	out = append(out, ballotVersion)
	out = binary.LittleEndian.AppendUint64(out, group)
	out = binary.LittleEndian.AppendUint64(out, b.revision)
	out = binary.LittleEndian.AppendUint64(out, b.term)
	out = binary.LittleEndian.AppendUint64(out, b.voteTerm)
	out = append(out, byte(len(b.candidate)))
	out = append(out, b.candidate...)
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
}

func decodeBallot(group uint64, b []byte) (ballot, error) {
	if len(b) < ballotFixedBytes {
		return ballot{}, malformed("vote", "%d bytes", len(b))
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return ballot{}, malformed("vote", "checksum %08x, computed %08x", sum, got)
	}
	if b[0] != ballotVersion {
		return ballot{}, &VersionError{What: "vote", Version: b[0], Reads: ballotVersion}
	}
	if of := binary.LittleEndian.Uint64(b[1:]); of != group {
		return ballot{}, malformed("vote", "it is that of group %d", of)
	}
	if int(b[33]) != len(b)-ballotFixedBytes {
		return ballot{}, malformed("vote", "candidate of %d bytes in a record of %d", b[33], len(b))
	}
	return ballot{
		revision:  binary.LittleEndian.Uint64(b[9:]),
		term:      binary.LittleEndian.Uint64(b[17:]),
		voteTerm:  binary.LittleEndian.Uint64(b[25:]),
		candidate: string(b[34 : len(b)-4]),
	}, nil
}

// ballotBox is where copies of ballots are kept durably.
type ballotBox interface {
	// load returns the copies as stored, nil for one that does not exist.
	load(group uint64) (first, second []byte, err error)
	// store returns when record is durable as both copies.
	store(group uint64, record []byte) error
}

// Stable is the term and vote of one group (hraft.StableStore). Reads are answered from memory,
// and a write that changes nothing is not made: NewRaft writes the current term back at each start.
//
// Raft persists a vote with two calls, its term and then its candidate. Two durable writes would
// leave, after a crash between them, the term of the new vote beside the candidate of an older one,
// and the group would confirm a vote it never gave (hashicorp/raft #661). So the term is held back
// and written together with the candidate. Nothing can have left the node in between: raft makes
// both calls in a row on one goroutine, and answers the candidate only afterwards.
type Stable struct {
	box   ballotBox
	group uint64

	mu       sync.Mutex
	current  ballot
	exists   bool   // something was ever stored
	heldTerm uint64 // LastVoteTerm waiting for its candidate; 0: none
}

var _ hraft.StableStore = (*Stable)(nil)

// openStable reads both copies and mends the one that is bad or older.
func openStable(box ballotBox, group uint64) (*Stable, error) {
	first, second, err := box.load(group)
	if err != nil {
		return nil, &StableError{Group: group, Reason: "unreadable", Cause: err}
	}
	s := &Stable{box: box, group: group}
	if first == nil && second == nil {
		return s, nil
	}
	one, errOne := decodeBallot(group, first)
	two, errTwo := decodeBallot(group, second)
	switch {
	case errOne != nil && errTwo != nil:
		return nil, &StableError{Group: group, Reason: "both copies are bad", Cause: errOne}
	case errOne != nil || (errTwo == nil && two.revision > one.revision):
		s.current = two
	default:
		s.current = one
	}
	s.exists = true
	if errOne != nil || errTwo != nil || one != two {
		if err := box.store(group, s.current.encode(group)); err != nil {
			return nil, &StableError{Group: group, Reason: "one copy is bad and could not be mended", Cause: errors.Join(errOne, errTwo, err)}
		}
	}
	return s, nil
}

// Voted reports whether the group has ever stored a term or vote, and so has had a log.
func (s *Stable) Voted() bool {
	_, exists := s.state()
	return exists
}

// Term is the highest term the group has been in; 0: none.
func (s *Stable) Term() uint64 {
	b, _ := s.state()
	return b.term
}

// update changes the ballot durably, or leaves it as it was.
func (s *Stable) updateLocked(next ballot) error {
	next.revision = s.current.revision
	if s.exists && next == s.current {
		return nil
	}
	next.revision++
	if err := s.box.store(s.group, next.encode(s.group)); err != nil {
		return fmt.Errorf("raft: storing term and vote of group %d: %w", s.group, &storage.FailedError{Op: "write of term and vote", Err: err})
	}
	s.current, s.exists = next, true
	return nil
}

// SetUint64 stores the current term; the term of a vote waits for its candidate.
func (s *Stable) SetUint64(key []byte, v uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch string(key) {
	case keyCurrentTerm:
		next := s.current
		next.term = v
		return s.updateLocked(next)
	case keyLastVoteTerm:
		s.heldTerm = v
		return nil
	}
	return fmt.Errorf("raft: unknown stable key %q", key)
}

// Set stores the candidate of a vote, and its term with it.
func (s *Stable) Set(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if string(key) != keyLastVoteCand {
		return fmt.Errorf("raft: unknown stable key %q", key)
	}
	if len(value) > maxCandidate {
		return fmt.Errorf("raft: candidate name of %d bytes, limit %d", len(value), maxCandidate)
	}
	next := s.current
	next.candidate = string(value)
	if s.heldTerm != 0 {
		next.voteTerm = s.heldTerm
	}
	if err := s.updateLocked(next); err != nil {
		return err
	}
	s.heldTerm = 0
	return nil
}

// GetUint64 returns what is durable, 0 if nothing was stored.
func (s *Stable) GetUint64(key []byte) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch string(key) {
	case keyCurrentTerm:
		return s.current.term, nil
	case keyLastVoteTerm:
		return s.current.voteTerm, nil
	}
	return 0, fmt.Errorf("raft: unknown stable key %q", key)
}

// Get returns the candidate voted for, nil if there was none.
func (s *Stable) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if string(key) != keyLastVoteCand {
		return nil, fmt.Errorf("raft: unknown stable key %q", key)
	}
	if s.current.candidate == "" {
		return nil, nil
	}
	return []byte(s.current.candidate), nil
}

// advanceTerm raises the term, never lowers it.
func (s *Stable) advanceTerm(term uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if term <= s.current.term {
		return nil
	}
	next := s.current
	next.term = term
	return s.updateLocked(next)
}

// state tells what is durable, and whether anything is.
func (s *Stable) state() (b ballot, exists bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.exists
}
