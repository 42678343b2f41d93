package raft

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"go.etcd.io/bbolt"
)

// memoryBox is a ballotBox that remembers its writes.
type memoryBox struct {
	first, second []byte
	writes        [][]byte
	fail          error
}

func (m *memoryBox) load(uint64) ([]byte, []byte, error) { return m.first, m.second, nil }

func (m *memoryBox) store(_ uint64, b []byte) error {
	if m.fail != nil {
		return m.fail
	}
	m.first, m.second = b, b
	m.writes = append(m.writes, b)
	return nil
}

func openBox(t *testing.T, m *memoryBox) *Stable {
	t.Helper()
	s, err := openStable(m, 1)
	must(t, err)
	return s
}

// hashicorp/raft #661: a crash between the two calls that persist a vote must not leave the term of one vote
// beside the candidate of another.
func TestVoteIsOneWrite(t *testing.T) {
	box := &memoryBox{}
	s := openBox(t, box)
	must(t, s.SetUint64([]byte(keyCurrentTerm), 4))
	must(t, s.SetUint64([]byte(keyLastVoteTerm), 4))
	must(t, s.Set([]byte(keyLastVoteCand), []byte("a")))
	writes := len(box.writes)
	must(t, s.SetUint64([]byte(keyLastVoteTerm), 5))
	if len(box.writes) != writes {
		t.Fatal("the term of a vote was written without its candidate")
	}
	// Crash here.
	crashed := openBox(t, &memoryBox{first: box.first, second: box.second})
	if term, _ := crashed.GetUint64([]byte(keyLastVoteTerm)); term != 4 {
		t.Fatalf("after a crash the vote is of term %d", term)
	}
	if who, _ := crashed.Get([]byte(keyLastVoteCand)); string(who) != "a" {
		t.Fatalf("after a crash the vote is for %q", who)
	}
	must(t, s.Set([]byte(keyLastVoteCand), []byte("b")))
	if len(box.writes) != writes+1 {
		t.Fatalf("a vote took %d writes", len(box.writes)-writes)
	}
	again := openBox(t, box)
	term, _ := again.GetUint64([]byte(keyLastVoteTerm))
	who, _ := again.Get([]byte(keyLastVoteCand))
	if term != 5 || string(who) != "b" {
		t.Fatalf("reopened, the vote is for %q in term %d", who, term)
	}
}

func TestStableSkipsWritesThatChangeNothing(t *testing.T) {
	box := &memoryBox{}
	s := openBox(t, box)
	for range 3 {
		must(t, s.SetUint64([]byte(keyCurrentTerm), 7))
	}
	if len(box.writes) != 1 {
		t.Fatalf("%d writes", len(box.writes))
	}
	must(t, s.advanceTerm(6))
	if term, _ := s.GetUint64([]byte(keyCurrentTerm)); term != 7 || len(box.writes) != 1 {
		t.Fatalf("the term went back to %d", term)
	}
}

func TestStableKeepsWhatWasDurableAfterAFailedWrite(t *testing.T) {
	box := &memoryBox{}
	s := openBox(t, box)
	must(t, s.SetUint64([]byte(keyCurrentTerm), 2))
	box.fail = errDisk
	wantErr(t, s.SetUint64([]byte(keyCurrentTerm), 3), errDisk)
	if term, _ := s.GetUint64([]byte(keyCurrentTerm)); term != 2 {
		t.Fatalf("term %d was never stored", term)
	}
}

func TestBallotDetectsEveryFlip(t *testing.T) {
	b := ballot{revision: 3, term: 9, voteTerm: 8, candidate: "2.1"}.encode(1)
	for i := range b {
		flipped := bytes.Clone(b)
		flipped[i] ^= 1
		if _, err := decodeBallot(1, flipped); err == nil {
			t.Fatalf("a flip at byte %d went unseen", i)
		}
	}
	if _, err := decodeBallot(2, b); !errors.Is(err, ErrFormat) {
		t.Fatalf("the vote of another group: %v", err)
	}
}

func FuzzBallot(f *testing.F) {
	f.Add(ballot{revision: 3, term: 9, voteTerm: 8, candidate: "2.1"}.encode(1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := decodeBallot(1, b); err == nil && !bytes.Equal(got.encode(1), b) {
			t.Fatal("a vote does not encode to the same bytes")
		}
	})
}

// openable is one of the two stores.
type openable interface {
	Group(uint64) (*Stable, error)
	Close() error
}

// stores opens either store, and damages copies in its file.
var stores = []struct {
	name   string
	open   func(path string) (openable, error)
	damage func(tx *bbolt.Tx, copies int) error
}{
	{
		"partitions",
		func(path string) (openable, error) { return OpenStable(path) },
		func(tx *bbolt.Tx, copies int) error {
			for _, name := range [][]byte{firstCopies, secondCopies}[:copies] {
				if err := flip(tx.Bucket(name), ballotKey(1)); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		"catalog",
		func(path string) (openable, error) { return OpenCatalogStable(path) },
		func(tx *bbolt.Tx, copies int) error {
			for _, key := range [][]byte{catalogFirst, catalogSecond}[:copies] {
				if err := flip(tx.Bucket([]byte("conf")), key); err != nil {
					return err
				}
			}
			return nil
		},
	},
}

func flip(b *bbolt.Bucket, key []byte) error {
	v := bytes.Clone(b.Get(key))
	if v == nil {
		return fmt.Errorf("no value under %q", key)
	}
	v[20] ^= 1
	return b.Put(key, v)
}

func TestStableStores(t *testing.T) {
	for _, s := range stores {
		t.Run(s.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "stable.db")
			store, err := s.open(path)
			must(t, err)
			g, err := store.Group(1)
			must(t, err)
			if _, exists := g.state(); exists {
				t.Fatal("a new group has a vote")
			}
			if v, err := g.Get([]byte(keyLastVoteCand)); len(v) != 0 || err != nil {
				t.Fatalf("no candidate: %q, %v", v, err)
			}
			must(t, g.SetUint64([]byte(keyCurrentTerm), 5))
			must(t, g.SetUint64([]byte(keyLastVoteTerm), 5))
			must(t, g.Set([]byte(keyLastVoteCand), []byte("3.7")))
			must(t, store.Close())

			check := func() {
				t.Helper()
				store, err := s.open(path)
				must(t, err)
				defer store.Close()
				g, err := store.Group(1)
				must(t, err)
				if b, _ := g.state(); b.term != 5 || b.voteTerm != 5 || b.candidate != "3.7" {
					t.Fatalf("reopened: %+v", b)
				}
			}
			spoil := func(copies int) {
				t.Helper()
				db, err := bbolt.Open(path, 0o600, nil)
				must(t, err)
				must(t, db.Update(func(tx *bbolt.Tx) error { return s.damage(tx, copies) }))
				must(t, db.Close())
			}
			check()
			spoil(1)
			check() // from the other copy, and mended
			spoil(1)
			check()
			spoil(2)
			store, err = s.open(path)
			must(t, err)
			defer store.Close()
			_, err = store.Group(1)
			wantErr(t, err, ErrStable)
			if e, ok := errors.AsType[*StableError](err); !ok || e.Group != 1 {
				t.Fatalf("%v is not a *StableError of group 1", err)
			}
		})
	}
}

// A crash between the catalog's two writes leaves the first copy newer.
func TestCatalogStableTakesTheNewerCopy(t *testing.T) {
	older := ballot{revision: 4, term: 4}.encode(1)
	newer := ballot{revision: 5, term: 5, voteTerm: 5, candidate: "1.1"}.encode(1)
	box := &memoryBox{first: newer, second: older}
	s := openBox(t, box)
	if b, _ := s.state(); b.term != 5 || b.candidate != "1.1" {
		t.Fatalf("took %+v", b)
	}
	if !bytes.Equal(box.second, newer) {
		t.Fatal("the older copy was not mended")
	}
}

func TestStableGroupsAreApartAndForgotten(t *testing.T) {
	store, err := OpenStable(filepath.Join(t.TempDir(), "stable.db"))
	must(t, err)
	defer store.Close()
	for id := range uint64(5) {
		g, err := store.Group(id)
		must(t, err)
		must(t, g.SetUint64([]byte(keyCurrentTerm), id+10))
	}
	must(t, store.Forget(3))
	for id := range uint64(5) {
		g, err := store.Group(id)
		must(t, err)
		b, exists := g.state()
		if exists != (id != 3) || exists && b.term != id+10 {
			t.Fatalf("group %d: %+v, %v", id, b, exists)
		}
	}
	// One process at a time.
	if _, err := OpenStable(store.db.Path()); err == nil {
		t.Fatal("the file was opened twice")
	}
}

// BenchmarkElectionStorm is what a node writes when a thousand groups elect at once: each a term, then a vote.
func BenchmarkElectionStorm(b *testing.B) {
	for _, groups := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			store, err := OpenStable(filepath.Join(b.TempDir(), "stable.db"))
			must(b, err)
			defer store.Close()
			all := make([]*Stable, groups)
			for i := range all {
				all[i], err = store.Group(uint64(i))
				must(b, err)
			}
			term := uint64(0)
			for b.Loop() {
				term++
				var done sync.WaitGroup
				for _, s := range all {
					done.Go(func() {
						if err := errors.Join(
							s.SetUint64([]byte(keyCurrentTerm), term),
							s.SetUint64([]byte(keyLastVoteTerm), term),
							s.Set([]byte(keyLastVoteCand), []byte("1.1")),
						); err != nil {
							panic(err)
						}
					})
				}
				done.Wait()
			}
		})
	}
}
