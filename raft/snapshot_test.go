package raft

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"
)

func sampleSnapshot() *snapshotBlob {
	return &snapshotBlob{
		index: 12, term: 3, configIndex: 1,
		configuration: hraft.EncodeConfiguration(hraft.Configuration{Servers: []hraft.Server{{ID: "1.1", Address: "1.1"}}}),
		mark:          mark{chain: chain{term: 3, number: 4}, end: 77},
		state:         []byte("state"),
	}
}

func TestSnapshotSurvivesAndDetectsEveryFlip(t *testing.T) {
	want := sampleSnapshot()
	b := want.encode()
	got, err := decodeSnapshot(b)
	must(t, err)
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for i := range b {
		flipped := bytes.Clone(b)
		flipped[i] ^= 0x40
		if _, err := decodeSnapshot(flipped); !errors.Is(err, ErrFormat) {
			t.Fatalf("a flip at byte %d: %v", i, err)
		}
		if _, err := decodeSnapshot(b[:i]); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
}

func FuzzSnapshot(f *testing.F) {
	f.Add(sampleSnapshot().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSnapshot(b)
		if err != nil {
			return
		}
		if !bytes.Equal(s.encode(), b) {
			t.Fatal("a snapshot does not encode to the same bytes")
		}
		_, _ = decodeConfiguration(s.configuration) // must not panic
	})
}

func sampleState() *partitionState {
	s := &partitionState{logStart: 5, end: 900, time: 1234, table: newProducerTable(defaultLimits)}
	s.table.expired = 3
	s.table.record(10, 1, seqRange{sequence: 0, count: 5, offset: 100, term: 2}, 10)
	s.table.record(11, 0, seqRange{sequence: 0, count: 1, offset: 105, term: 2}, 11)
	s.table.record(10, 1, seqRange{sequence: 5, count: 5, offset: 106, term: 3}, 12)
	s.table.record(10, 1, seqRange{sequence: 10, count: 1, offset: 50, term: 3}, 1000)
	return s
}

func TestStateSurvives(t *testing.T) {
	b := sampleState().encode()
	got, err := decodeState(b, defaultLimits)
	must(t, err)
	if !bytes.Equal(got.encode(), b) {
		t.Fatal("a state does not encode to the same bytes")
	}
	if got.table.ranges != 4 || got.table.oldest.id != 11 || got.table.newest.id != 10 || got.table.expired != 3 {
		t.Fatalf("table %+v", got.table)
	}
	empty, err := decodeState(nil, defaultLimits)
	if err != nil || empty.end != 0 || len(empty.table.producers) != 0 {
		t.Fatalf("the empty state: %+v, %v", empty, err)
	}
}

func FuzzState(f *testing.F) {
	f.Add(sampleState().encode())
	f.Add((&partitionState{table: newProducerTable(defaultLimits)}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if b == nil {
			return
		}
		s, err := decodeState(b, tableLimits{1000, 1000, time.Hour})
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if !bytes.Equal(s.encode(), b) {
			t.Fatal("a state does not encode to the same bytes")
		}
		for p := s.table.oldest; p != nil; p = p.newer {
			if len(p.kept()) == 0 {
				t.Fatal("a producer without ranges")
			}
		}
	})
}
