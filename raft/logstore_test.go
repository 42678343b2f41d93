package raft

import (
	"bytes"
	"testing"

	hraft "github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/storage"
)

// storeFor puts a partition's log store on the node's log, without a group around it.
func storeFor(t *testing.T, n *testNode) *logStore {
	t.Helper()
	s := &logStore{
		log: n.log, rule: partitionRule{}, rolled: func() {}, logger: zap.NewNop(),
		commit:  func() storage.Index { return 0 },
		applied: func() storage.Index { return 0 },
		failed:  func() error { return nil },
		fail:    func(err error) { n.fatal <- err },
	}
	must(t, s.open())
	return s
}

func command(index, term uint64, data []byte) *hraft.Log {
	return &hraft.Log{Index: index, Term: term, Type: hraft.LogCommand, Data: data}
}

func noop(index, term uint64) *hraft.Log {
	return &hraft.Log{Index: index, Term: term, Type: hraft.LogNoop}
}

// records lists the records of each entry of the log.
func records(t *testing.T, l *storage.Log) []uint32 {
	t.Helper()
	var out []uint32
	b := l.Bounds()
	for i := b.First; i <= b.Last; i++ {
		h, err := l.Header(i)
		must(t, err)
		out = append(out, h.Records)
	}
	return out
}

func wantRecords(t *testing.T, l *storage.Log, want ...uint32) {
	t.Helper()
	got := records(t, l)
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = got[i] == want[i]
	}
	if !same {
		t.Fatalf("records %v, want %v", got, want)
	}
}

func TestVoidEntries(t *testing.T) {
	for _, c := range []struct {
		name string
		logs []*hraft.Log
		want []uint32
	}{
		{"in order", []*hraft.Log{
			noop(1, 1), command(2, 1, sealed(1, 1, 0, 3)), command(3, 1, sealed(1, 2, 1, 4)),
		}, []uint32{0, 3, 4}},
		{"N was refused during a transfer, N+1 was appended, both come again", []*hraft.Log{
			noop(1, 1), command(2, 1, sealed(1, 1, 0, 3)),
			command(3, 1, sealed(1, 3, 2, 9)), // 2 was refused
			command(4, 1, sealed(1, 2, 1, 5)), command(5, 1, sealed(1, 3, 2, 9)),
		}, []uint32{0, 3, 0, 5, 9}},
		{"the first of a term was refused", []*hraft.Log{
			noop(1, 1), command(2, 1, sealed(1, 2, 1, 3)), command(3, 1, sealed(1, 1, 0, 3)),
		}, []uint32{0, 0, 3}},
		{"an entry of an older term arrives late", []*hraft.Log{
			noop(1, 1), command(2, 1, sealed(1, 1, 0, 3)),
			noop(3, 2), command(4, 2, sealed(1, 2, 1, 4)),
		}, []uint32{0, 3, 0, 0}},
		{"a new term begins anew", []*hraft.Log{
			noop(1, 1), command(2, 1, sealed(1, 1, 0, 3)), command(3, 1, sealed(1, 2, 1, 3)),
			noop(4, 2), command(5, 2, sealed(2, 1, 0, 6)), command(6, 2, sealed(2, 2, 1, 7)),
		}, []uint32{0, 3, 3, 0, 6, 7}},
		{"the same entry twice counts once", []*hraft.Log{
			noop(1, 1), command(2, 1, sealed(1, 1, 0, 3)), command(3, 1, sealed(1, 1, 0, 3)), command(4, 1, sealed(1, 2, 1, 1)),
		}, []uint32{0, 3, 0, 1}},
		{"control entries stand outside", []*hraft.Log{
			noop(1, 1), command(2, 1, sealed(1, 1, 0, 3)), command(3, 1, encodeLogStart(1)), command(4, 1, sealed(1, 2, 1, 1)),
		}, []uint32{0, 3, 0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// One by one, all at once, and reopened after every entry: the same offsets.
			one := newNode(t)
			one.open()
			s := storeFor(t, one)
			for _, l := range c.logs {
				must(t, s.StoreLog(l))
			}
			wantRecords(t, one.log, c.want...)

			all := newNode(t)
			all.open()
			must(t, storeFor(t, all).StoreLogs(c.logs))
			wantRecords(t, all.log, c.want...)

			again := newNode(t)
			for _, l := range c.logs {
				again.open()
				must(t, storeFor(t, again).StoreLog(l))
				again.close()
			}
			again.open()
			wantRecords(t, again.log, c.want...)

			if a, b := one.log.Bounds().End, again.log.Bounds().End; a != b || a != all.log.Bounds().End {
				t.Fatalf("the logs end at %d and %d", a, b)
			}
		})
	}
}

func TestVoidEntriesHaveNoTime(t *testing.T) {
	n := newNode(t)
	n.open()
	s := storeFor(t, n)
	must(t, s.StoreLogs([]*hraft.Log{command(1, 1, sealed(1, 2, 1, 1)), command(2, 1, sealed(1, 1, 0, 1))}))
	for i, want := range []int64{0, 1} {
		h, err := n.log.Header(storage.Index(i + 1))
		must(t, err)
		if h.Time != want {
			t.Fatalf("entry %d has time %d, want %d", i+1, h.Time, want)
		}
	}
}

func TestChainIsRebuiltAfterTruncation(t *testing.T) {
	n := newNode(t)
	n.open()
	s := storeFor(t, n)
	must(t, s.StoreLogs([]*hraft.Log{
		noop(1, 1), command(2, 1, sealed(1, 1, 0, 1)), command(3, 1, sealed(1, 2, 1, 1)), command(4, 1, sealed(1, 3, 2, 1)),
	}))
	must(t, s.DeleteRange(3, 4))
	// The leader of term 2 goes on from its own first entry; were the chain that of entry 4, this would be void.
	must(t, s.StoreLogs([]*hraft.Log{command(3, 1, sealed(1, 2, 1, 8)), noop(4, 2), command(5, 2, sealed(2, 1, 0, 5))}))
	wantRecords(t, n.log, 0, 1, 8, 0, 5)
}

func TestChainIsTakenFromTheSnapshotTheLogBeginsAt(t *testing.T) {
	n := newNode(t)
	n.open()
	blob := sampleSnapshot() // index 12, term 3, chain 3/4, end 77
	must(t, n.log.Reset(storage.Snapshot{Index: 12, Term: 3, Offset: 77, Data: blob.encode()}))
	s := storeFor(t, n)
	must(t, s.StoreLogs([]*hraft.Log{command(13, 3, sealed(3, 6, 5, 2)), command(14, 3, sealed(3, 5, 4, 2))}))
	wantRecords(t, n.log, 0, 2)
	if h, err := n.log.Header(14); err != nil || h.Base != 77 {
		t.Fatalf("the first record after the snapshot has offset %d (%v)", h.Base, err)
	}
}

func TestGetLogGivesHeadersWhileBooting(t *testing.T) {
	n := newNode(t)
	n.open()
	s := storeFor(t, n)
	configuration := hraft.EncodeConfiguration(hraft.Configuration{Servers: []hraft.Server{{ID: "1.1", Address: "1.1"}}})
	data := sealed(1, 1, 0, 3)
	must(t, s.StoreLogs([]*hraft.Log{{Index: 1, Term: 1, Type: hraft.LogConfiguration, Data: configuration}, command(2, 1, data)}))
	s.booting.Store(true)
	var l hraft.Log
	must(t, s.GetLog(2, &l))
	if l.Data != nil || l.Index != 2 || l.Term != 1 || l.Type != hraft.LogCommand {
		t.Fatalf("booting: %+v", l)
	}
	must(t, s.GetLog(1, &l))
	if !bytes.Equal(l.Data, configuration) || l.Type != hraft.LogConfiguration {
		t.Fatalf("booting, a configuration: %+v", l)
	}
	s.booting.Store(false)
	must(t, s.GetLog(2, &l))
	if !bytes.Equal(l.Data, data) {
		t.Fatalf("after booting: %+v", l)
	}
}

func TestMissingEntryIsRaftsOwnError(t *testing.T) {
	n := newNode(t)
	n.open()
	s := storeFor(t, n)
	var l hraft.Log
	for _, booting := range []bool{false, true} {
		s.booting.Store(booting)
		if err := s.GetLog(1, &l); err != hraft.ErrLogNotFound { //nolint:errorlint // raft compares with ==
			t.Fatalf("empty log: %v", err)
		}
	}
	s.booting.Store(false)
	must(t, s.StoreLog(noop(1, 1)))
	for _, i := range []uint64{0, 2, 99} {
		if err := s.GetLog(i, &l); err != hraft.ErrLogNotFound { //nolint:errorlint
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	var store hraft.LogStore = s
	if m, ok := store.(hraft.MonotonicLogStore); !ok || !m.IsMonotonic() {
		t.Fatal("the log store is not monotonic")
	}
}

func TestTheSnapshotAtTheCutAnswersForItsEntry(t *testing.T) {
	n := newNode(t)
	n.open()
	must(t, n.log.Reset(storage.Snapshot{Index: 12, Term: 3, Offset: 77, Data: sampleSnapshot().encode()}))
	s := storeFor(t, n)
	if last, err := s.LastIndex(); last != 0 || err != nil {
		t.Fatalf("an empty log ends at %d (%v)", last, err)
	}
	var l hraft.Log
	must(t, s.GetLog(12, &l))
	if l.Index != 12 || l.Term != 3 || l.Type != hraft.LogNoop || l.Data != nil {
		t.Fatalf("the entry at the cut: %+v", l)
	}
	if err := s.GetLog(11, &l); err != hraft.ErrLogNotFound { //nolint:errorlint
		t.Fatalf("below the cut: %v", err)
	}
}

func TestDeleteRangeOnlyCutsASuffixThatWasNotApplied(t *testing.T) {
	for _, c := range []struct {
		name      string
		low, high uint64
		applied   storage.Index
	}{
		{"prefix", 1, 2, 0},
		{"middle", 2, 3, 0},
		{"past the end", 2, 9, 0},
		{"applied", 2, 4, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			n.open()
			s := storeFor(t, n)
			s.applied = func() storage.Index { return c.applied }
			must(t, s.StoreLogs([]*hraft.Log{noop(1, 1), noop(2, 1), noop(3, 1), noop(4, 1)}))
			if err := s.DeleteRange(c.low, c.high); err == nil {
				t.Fatal("it was done")
			}
			if len(n.fatal) != 1 {
				t.Fatal("the group goes on")
			}
			wantRecords(t, n.log, 0, 0, 0, 0)
		})
	}
}

func TestStoreLogsRefusesWhatItCannotRead(t *testing.T) {
	n := newNode(t)
	n.open()
	s := storeFor(t, n)
	newer := sealed(1, 1, 0, 1)
	newer[0] = 2
	wantErr(t, s.StoreLog(command(1, 1, newer)), ErrFormat)
	if len(n.fatal) != 1 || n.log.Bounds().Last != 0 {
		t.Fatal("an entry of a newer version was stored, or the group goes on")
	}
	// One that a newer version has stored is not damage, and must not be called so: somebody would put an older copy back.
	must(t, n.log.Append([]storage.Entry{{Index: 1, Term: 1, Type: uint8(hraft.LogCommand), Records: 1, Payload: newer}}, 0))
	wantErr(t, s.open(), storage.ErrVersion)
}
