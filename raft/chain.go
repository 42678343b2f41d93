package raft

import (
	"errors"
	"fmt"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

// chain is the place an entry must follow to own offsets: the last entry that was not void, of the
// term of the last one that was not void (package comment, "Void entries").
type chain struct {
	term   storage.Term
	number uint64
}

// next is the Number that a data entry of term must follow.
func (c chain) next(term storage.Term) uint64 {
	if c.term == term {
		return c.number
	}
	return 0
}

// admits reports whether an entry with this header, logged in term, is valid.
func (c chain) admits(term storage.Term, h entryHeader) bool {
	return h.kind == kindData && h.term == term && h.follows == c.next(term)
}

// entryRule decides, in log order and alike on every replica, what an entry of the machine counts for.
type entryRule interface {
	// weigh returns how many records the entry holds, its broker time, and the chain after it.
	weigh(c chain, term storage.Term, payload []byte) (records uint32, ms int64, after chain, err error)
	// mark returns the chain after a valid entry, from its payload. Error: ErrFormat.
	mark(term storage.Term, payload []byte) (chain, error)
}

// commandRule is the rule of ordinary machines: each command counts as one record, so that the log
// of the catalog can be trimmed by offset like any other.
type commandRule struct{}

func (commandRule) weigh(c chain, _ storage.Term, _ []byte) (uint32, int64, chain, error) {
	return 1, 0, c, nil
}

func (commandRule) mark(storage.Term, []byte) (chain, error) { return chain{}, nil }

// partitionRule is the rule of partitions.
type partitionRule struct{}

func (partitionRule) weigh(c chain, term storage.Term, payload []byte) (uint32, int64, chain, error) {
	h, err := parseEntry(payload)
	if err != nil {
		return 0, 0, c, err
	}
	if !c.admits(term, h) {
		// Void, or control. Neither has a time: a void entry comes again, and in the log
		// time must never run backwards.
		return 0, 0, c, nil
	}
	return h.records, h.time, chain{term: term, number: h.number}, nil
}

func (partitionRule) mark(term storage.Term, payload []byte) (chain, error) {
	h, err := parseHeader(payload)
	if err == nil && h.kind != kindData {
		err = malformed("entry", "kind %d holds no records", h.kind)
	}
	if err != nil {
		return chain{}, err
	}
	return chain{term: term, number: h.number}, nil
}

// rebuildChain finds the chain after the last entry of the log by walking back to the last valid
// entry. atStart is the chain of the snapshot the log begins at.
//
// lost is not 0 if damage hides the answer: then entries of a term up to lost cannot be weighed. That is
// no obstacle to a group that elects anew, as the chain starts again with each term.
func rebuildChain(log entryReader, rule entryRule, b storage.Bounds, atStart chain) (c chain, lost storage.Term, err error) {
	for i := b.Last; i >= b.First && i > 0; i-- {
		h, err := log.Header(i)
		if errors.Is(err, storage.ErrCorrupt) {
			return chain{}, b.LastTerm, nil
		}
		if err != nil {
			return chain{}, 0, err
		}
		if hraft.LogType(h.Type) != hraft.LogCommand || h.Records == 0 {
			continue
		}
		e, err := log.Entry(i)
		if errors.Is(err, storage.ErrCorrupt) {
			return chain{}, b.LastTerm, nil
		}
		if err != nil {
			return chain{}, 0, err
		}
		if c, err = rule.mark(e.Term, e.Payload); err != nil {
			return chain{}, 0, fmt.Errorf("raft: index %d, which holds %d records: %w", i, h.Records, err)
		}
		return c, 0, nil
	}
	return atStart, 0, nil
}

// entryReader is what rebuildChain reads: a *storage.Log.
type entryReader interface {
	Header(storage.Index) (storage.Entry, error)
	Entry(storage.Index) (storage.Entry, error)
}
