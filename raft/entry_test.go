package raft

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/tidewire/tidewire/storage"
)

// sealed makes a data entry of batches with the given counts, of one producer.
func sealed(term storage.Term, number, follows uint64, counts ...uint32) []byte {
	b := make([]byte, entryHeaderBytes)
	h := entryHeader{kind: kindData, term: term, number: number, follows: follows, batches: uint32(len(counts)), time: int64(number)}
	for _, c := range counts {
		b = append(b, batch(9, number, 20)...)
		h.records += c
	}
	h.region = uint32(len(b) - entryHeaderBytes)
	sequence := number * 1000
	for _, c := range counts {
		b = appendDescriptor(b, Descriptor{Producer: 9, Epoch: 2, Sequence: sequence, Count: c})
		sequence += uint64(c)
	}
	h.put(b)
	return b
}

func TestEntryTellsItsBatches(t *testing.T) {
	payload := sealed(3, 5, 4, 2, 7)
	h, err := parseEntry(payload)
	must(t, err)
	if h.term != 3 || h.number != 5 || h.follows != 4 || h.batches != 2 || h.records != 9 || h.region != 40 || h.time != 5 {
		t.Fatalf("header %+v", h)
	}
	e := storage.Entry{Index: 8, Term: 3, Base: 100, Records: 9, Payload: payload}
	if got := Batches(e); !bytes.Equal(got, slices.Concat(batch(9, 5, 20), batch(9, 5, 20))) || cap(got) != len(got) {
		t.Fatalf("batches %x", got)
	}
	seq, err := Descriptors(e)
	must(t, err)
	got := slices.Collect(seq)
	want := []Descriptor{
		{Producer: 9, Epoch: 2, Sequence: 5000, Count: 2, Offset: 100},
		{Producer: 9, Epoch: 2, Sequence: 5002, Count: 7, Offset: 102},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("descriptors %+v, want %+v", got, want)
	}
	// A void entry and a control entry have none.
	e.Records = 0
	if Batches(e) != nil {
		t.Fatal("a void entry has batches")
	}
	if seq, err := Descriptors(e); err != nil || len(slices.Collect(seq)) != 0 {
		t.Fatal("a void entry has descriptors")
	}
}

func TestEntryRefusesWhatItCannotRead(t *testing.T) {
	good := sealed(3, 5, 4, 2, 7)
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for name, b := range map[string][]byte{
		"empty":                {},
		"short":                good[:entryHeaderBytes-1],
		"cut":                  good[:len(good)-1],
		"longer":               append(bytes.Clone(good), 0),
		"version 0":            change(0, 0),
		"version 2":            change(0, 2),
		"kind 0":               change(1, 0),
		"kind 3":               change(1, 3),
		"term 0":               change(2, 0),
		"number 0":             change(10, 0),
		"follows itself":       change(18, 5),
		"no batches":           change(26, 0),
		"other records":        change(30, 8),
		"region too large":     change(45, 0xff),
		"a batch without rows": change(len(good)-4, 0),
		"long log start":       append(encodeLogStart(7), 0),
	} {
		if _, err := parseEntry(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h, err := parseEntry(encodeLogStart(77))
	if err != nil || h.kind != kindLogStart || logStart(encodeLogStart(77)) != 77 {
		t.Fatalf("log start: %+v, %v", h, err)
	}
}

func FuzzEntry(f *testing.F) {
	f.Add(sealed(1, 1, 0, 1))
	f.Add(sealed(3, 5, 4, 2, 7))
	f.Add(encodeLogStart(12))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseEntry(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if h.kind == kindLogStart {
			if !bytes.Equal(encodeLogStart(logStart(b)), b) {
				t.Fatal("a log start does not encode to the same bytes")
			}
			return
		}
		again := bytes.Clone(b[:entryHeaderBytes+int(h.region)])
		h.put(again)
		e := storage.Entry{Records: h.records, Payload: b}
		seq, err := Descriptors(e)
		must(t, err)
		records := uint64(0)
		for d := range seq {
			again = appendDescriptor(again, d)
			records += uint64(d.Count)
		}
		if !bytes.Equal(again, b) || records != uint64(h.records) || len(Batches(e)) != int(h.region) {
			t.Fatal("an entry does not encode to the same bytes")
		}
	})
}
