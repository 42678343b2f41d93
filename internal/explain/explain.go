// Package explain is the catalogue of what can go wrong for a person who uses or runs Tidewire:
// each error that is shown to one has a number, a cause and a remedy here. `tidewire explain
// TW-1020` prints an entry, docs/reference/errors.md is all of them.
//
// Numbers are never reused. 1000 to 1999 are the wire protocol's codes, 1000 + code; 2000 on
// configuration; 3000 on a node that does not start; 4000 on a node that stops or refuses while it
// runs; 5000 on connections, as the command line meets them; 6000 on everything else it does, wrong
// usage among it.
package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ID is the number of an entry.
type ID int

// String gives the number as people write it: TW-1020.
func (id ID) String() string { return fmt.Sprintf("TW-%04d", int(id)) }

// Wire is the entry of a code of the wire protocol.
func Wire(code uint16) ID { return ID(1000 + int(code)) }

// Entry says what an error is about. Cause and Remedy are sentences, or several lines of them.
type Entry struct {
	ID     ID
	Name   string // a few words, as a heading
	Cause  string // why it happens
	Remedy string // what to do
}

// catalogue is every entry, by number; each group stands in a file of its own.
var catalogue = slices.SortedFunc(slices.Values(slices.Concat(wireEntries, configEntries, adminEntries, nodeEntries, connectionEntries, commandEntries)), func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })

// All gives the entries in the order of their numbers.
func All() []Entry { return slices.Clone(catalogue) }

// Lookup gives the entry of a number.
func Lookup(id ID) (Entry, bool) {
	i, found := slices.BinarySearchFunc(catalogue, id, func(e Entry, id ID) int { return cmp.Compare(e.ID, id) })
	if !found {
		return Entry{}, false
	}
	return catalogue[i], true
}

// Parse reads a number as people write it: TW-1020, tw1020 or 1020, or as it stands in an error, with a colon.
func Parse(s string) (ID, error) {
	digits := strings.TrimLeft(strings.TrimPrefix(strings.TrimRight(strings.ToUpper(strings.TrimSpace(s)), ":"), "TW"), "-")
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is no number of an error: give one such as TW-1020", s)
	}
	return ID(n), nil
}
