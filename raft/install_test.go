package raft

import (
	"testing"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

func installRequest(term, last, lastTerm uint64) *hraft.InstallSnapshotRequest {
	return &hraft.InstallSnapshotRequest{
		RPCHeader: header("1.1"), SnapshotVersion: hraft.SnapshotVersionMax, Term: term,
		LastLogIndex: last, LastLogTerm: lastTerm,
		Configuration: hraft.EncodeConfiguration(twoServers), ConfigurationIndex: 1,
	}
}

// bodyOf is a snapshot's body with a recorder's state.
func bodyOf(end storage.Offset, applied ...string) []byte {
	m := &recorder{applied: applied}
	state, _ := m.Snapshot()
	return (&snapshotBlob{mark: mark{end: end}, state: state}).body()
}

// hashicorp/raft #697 and the stale vote beside it: after the install the follower takes the next entry, and refuses
// its vote to a candidate that lacks what the snapshot covers.
func TestInstallIsCrashInstallRestart(t *testing.T) {
	n := newNode(t)
	n.open()
	g, m := n.follower(t)
	// Ten entries of term 1 that will turn out to conflict with what was committed.
	for i := uint64(3); i <= 10; i++ {
		if !appendTo(t, g, 1, i-1, 1, 0, command(i, 1, []byte("old"))).Success {
			t.Fatal("append refused")
		}
	}
	resp, err := g.Install(installRequest(2, 5, 2), bodyOf(3, "a", "b", "c"))
	must(t, err)
	if !resp.Success || resp.Term != 2 {
		t.Fatalf("install: %+v", resp)
	}
	if last := m.restored[len(m.restored)-1]; last != "a\x00b\x00c\x00" {
		t.Fatalf("the machine was given %q", last)
	}
	if b := n.log.Bounds(); b.First != 6 || b.Last != 5 || b.Start != 3 || b.End != 3 {
		t.Fatalf("the log holds %+v", b)
	}
	if !appendTo(t, g, 3, 5, 2, 5, command(6, 3, []byte("d"))).Success {
		t.Fatal("the entry behind the snapshot was refused")
	}
	if askVote(t, g, 4, 12, 1) {
		t.Fatal("the follower voted for a candidate without what it has committed")
	}
	if !askVote(t, g, 5, 6, 3) {
		t.Fatal("the follower refuses a candidate that has all")
	}
	// What it applies goes on from the snapshot, and a restart finds all of it.
	if !appendTo(t, g, 6, 6, 3, 6).Success {
		t.Fatal("commit refused")
	}
	g.Stop()
	if got := m.applied; len(got) != 4 || got[3] != "d" {
		t.Fatalf("applied %q", got)
	}
	n.close()
	n.open()
	again, m, err := n.startGroup(func(c *GroupConfig) { c.Server, c.Join = "2.1", true })
	must(t, err)
	defer again.Stop()
	if got := m.applied; len(got) != 4 || got[3] != "d" {
		t.Fatalf("after a restart: %q", got)
	}
	if again.Term() != 6 {
		t.Fatalf("after a restart the term is %d", again.Term())
	}
}

func TestInstallOfWhatIsHeldChangesNothing(t *testing.T) {
	n := newNode(t)
	n.open()
	g, _ := n.follower(t)
	for i := uint64(3); i <= 6; i++ {
		appendTo(t, g, 1, i-1, 1, 0, command(i, 1, []byte("x")))
	}
	before := g.current()
	// Behind the log's end, of the same term: rule 6 keeps the suffix, which may have been acknowledged.
	resp, err := g.Install(installRequest(1, 4, 1), bodyOf(2, "x", "x"))
	must(t, err)
	if !resp.Success || n.log.Bounds().Last != 6 || g.current() != before {
		t.Fatalf("%+v, log %+v", resp, n.log.Bounds())
	}
	// An older term is refused.
	resp, err = g.Install(installRequest(0, 40, 1), bodyOf(2))
	must(t, err)
	if resp.Success || resp.Term != 1 || g.current() != before {
		t.Fatalf("%+v", resp)
	}
	// Nonsense is refused before anything is touched.
	if _, err := g.Install(installRequest(2, 40, 2), []byte("short")); err == nil || g.current() != before {
		t.Fatal("a broken snapshot was installed")
	}
	bad := installRequest(2, 40, 2)
	bad.Configuration = []byte{0xc1}
	if _, err := g.Install(bad, bodyOf(2)); err == nil || g.current() != before {
		t.Fatal("a broken configuration was installed")
	}
}

func TestAFailedInstallEndsTheGroup(t *testing.T) {
	n := newNode(t)
	n.open()
	g, _ := n.follower(t)
	n.fs.breakSync()
	if _, err := g.Install(installRequest(2, 40, 2), bodyOf(2)); err == nil {
		t.Fatal("it succeeded")
	}
	wantErr(t, g.Failed(), ErrFailed)
	wantErr(t, <-n.fatal, errDisk)
}

func TestInstalledPartitionContinuesOffsetsAndChain(t *testing.T) {
	// A leader's partition with a snapshot, handed to an empty follower.
	leader := newNode(t)
	leader.open()
	p := leader.partition().lead()
	for i := range uint64(5) {
		p.publish(&Pending{Producer: 4, Sequence: 3 * i, Count: 3}, batch(4, i, 30))
	}
	p.Close()
	infos := leader.log.Snapshots()
	if len(infos) == 0 {
		t.Fatal("a clean stop took no snapshot")
	}
	newest := infos[len(infos)-1]
	snaps := &snapshotStore{log: leader.log}
	blob, err := snaps.load(newest.Index)
	must(t, err)

	n := newNode(t)
	n.open()
	g, _, err := n.startGroup(func(c *GroupConfig) {
		c.Server, c.Join, c.rule = "2.1", true, partitionRule{}
		c.Machine = (*partitionMachine)(newPartition(PartitionConfig{Log: n.log}))
	})
	must(t, err)
	defer g.Stop()
	resp, err := g.Install(installRequest(9, uint64(newest.Index), uint64(newest.Term)), blob.body())
	must(t, err)
	if !resp.Success {
		t.Fatal("install failed")
	}
	// The leader's next entry of the same term names the one before, which the follower never saw.
	term := uint64(newest.Term)
	next := uint64(newest.Index) + 1
	follows := blob.mark.chain.number
	if !appendTo(t, g, 9, next-1, term, 0, command(next, term, sealed(newest.Term, follows+1, follows, 2))).Success {
		t.Fatal("append refused")
	}
	h, err := n.log.Header(storage.Index(next))
	must(t, err)
	if h.Base != 15 || h.Records != 2 {
		t.Fatalf("the entry behind the snapshot has offset %d and %d records", h.Base, h.Records)
	}
}
