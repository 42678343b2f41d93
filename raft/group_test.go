package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

func TestConfigOfRaft(t *testing.T) {
	alone := GroupConfig{Server: "1.1"}.withDefaults()
	if conf := alone.raftConfig(nil); hraft.ValidateConfig(conf) != nil || conf.LeaderLeaseTimeout < time.Hour {
		t.Fatalf("a leader without peers wakes every %v", conf.LeaderLeaseTimeout)
	}
	c := GroupConfig{Server: "1.1", Peers: &scriptedPeers{}}.withDefaults()
	conf := c.raftConfig(nil)
	must(t, hraft.ValidateConfig(conf))
	switch {
	case conf.HeartbeatTimeout != 2*time.Second, conf.ElectionTimeout != 2*time.Second, conf.CommitTimeout != time.Second,
		conf.LeaderLeaseTimeout != time.Second, conf.PreVoteDisabled, conf.ShutdownOnRemove, !conf.BatchApplyCh,
		conf.TrailingLogs != 1<<64-1, conf.SnapshotThreshold != 1<<64-1, !conf.NoLegacyTelemetry, conf.NoSnapshotRestoreOnStart,
		conf.MaxAppendEntries > 64:
		t.Fatalf("%+v", conf)
	}
	// What submit's proof needs.
	if reserved := MaxInFlight + 2; reserved > reservedSlots || minAppendEntries <= reservedSlots {
		t.Fatalf("%d places are reserved, %d are used", reservedSlots, reserved)
	}
	err := GroupConfig{MaxAppendEntries: 3}.Validate()
	for _, field := range []string{"Server", "Log", "Stable", "Machine", "Fatal", "MaxAppendEntries"} {
		if err == nil || !contains(err.Error(), field) {
			t.Errorf("%v does not tell of %s", err, field)
		}
	}
}

func contains(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			return true
		}
	}
	return false
}

// The group's own timers would let a lone voter wait 2-4 s.
func TestALoneVoterLeadsAtOnce(t *testing.T) {
	n := newNode(t)
	n.open()
	for range 2 { // empty, and restarted
		began := time.Now()
		g, _ := n.leader()
		took := time.Since(began)
		if took > time.Second {
			t.Fatalf("it took %s", took)
		}
		t.Logf("leads after %s", took)
		if q, v := g.Quorum(); q != 1 || v != 1 {
			t.Fatalf("quorum %d of %d", q, v)
		}
		if !g.IsLeader() || g.Leader() != "1.1" || g.Term() < 2 {
			t.Fatalf("leader %q, term %d", g.Leader(), g.Term())
		}
		must(t, g.Barrier(context.Background()))
		g.Stop()
		n.close()
		n.open()
	}
}

func BenchmarkLoneVoterLeads(b *testing.B) {
	n := newNode(b)
	n.open()
	for b.Loop() {
		g, _, err := n.startGroup()
		must(b, err)
		wait(b, g.Leading(), "leadership")
		b.StopTimer()
		g.Stop()
		b.StartTimer()
	}
}

func TestProposeAppliesAndAnswers(t *testing.T) {
	n := newNode(t)
	n.open()
	g, m := n.leader()
	var futures []Future
	for i := range 100 {
		futures = append(futures, g.Propose(t.Context(), fmt.Appendf(nil, "command %d", i)))
	}
	for i, f := range futures {
		v, err := f.Wait()
		must(t, err)
		if v != i+1 {
			t.Fatalf("command %d answered %v", i, v)
		}
	}
	_, err := g.Propose(t.Context(), nil).Wait()
	wantErr(t, err, ErrTooLarge)
	g.Stop()
	if len(m.applied) != 100 || m.applied[99] != "command 99" {
		t.Fatalf("applied %q", m.applied)
	}
	_, err = g.Propose(t.Context(), []byte("late")).Wait()
	wantErr(t, err, ErrClosed)
	wantErr(t, g.Barrier(context.Background()), ErrClosed)
	// The commands count as records, so that the log can be trimmed by offset.
	if end := n.log.Bounds().End; end != 100 {
		t.Fatalf("the log ends at offset %d", end)
	}
	// A clean stop leaves a snapshot of everything: the next start replays nothing.
	g, m = n.leader()
	g.Stop()
	if len(m.applied) != 100 || len(m.restored) != 2 {
		t.Fatalf("restored %d times, %d commands", len(m.restored), len(m.applied))
	}
}

func TestARestartReplaysOnlyAboveTheSnapshot(t *testing.T) {
	n := newNode(t)
	n.open()
	g, _ := n.leader()
	propose := func(g *Group, from, to int) {
		for i := from; i < to; i++ {
			_, err := g.Propose(t.Context(), fmt.Appendf(nil, "%d", i)).Wait()
			must(t, err)
		}
	}
	propose(g, 0, 10)
	g.takeSnapshot(g.current())
	propose(g, 10, 15)
	killed := n.copyKilled()
	g.Stop()

	killed.open()
	g, m := killed.leader()
	g.Stop()
	if len(m.applied) != 15 || m.applied[14] != "14" {
		t.Fatalf("applied %q", m.applied)
	}
	// The last write tells that the one before it was committed: raft is left with that one alone.
	if len(m.restored) != 2 || m.restored[0] != commands(10) || m.restored[1] != commands(14) {
		t.Fatalf("restored %q: the snapshot of 10 commands was expected, and what 4 more of the log make of it", m.restored)
	}
}

// commands is the state after the first n of TestARestartReplaysOnlyAboveTheSnapshot.
func commands(n int) (state string) {
	for i := range n {
		state += fmt.Sprintf("%d\x00", i)
	}
	return state
}

func TestBootstrapCanBeDoneAgainAfterACrash(t *testing.T) {
	n := newNode(t)
	n.open()
	must(t, n.group().SetUint64([]byte(keyCurrentTerm), 1)) // and then the power failed
	g, _ := n.leader()
	g.Stop()
}

func TestAGroupThatLostSomethingDoesNotStart(t *testing.T) {
	start := func(n *testNode) error {
		g, _, err := n.startGroup()
		if err == nil {
			g.Stop()
		}
		return err
	}
	prepared := func(t *testing.T) *testNode {
		n := newNode(t)
		n.open()
		g, _ := n.leader()
		_, err := g.Propose(t.Context(), []byte("x")).Wait()
		must(t, err)
		g.Stop()
		n.close()
		return n
	}
	t.Run("its vote", func(t *testing.T) {
		n := prepared(t)
		must(t, os.Remove(filepath.Join(n.dir, "stable.db")))
		n.open()
		wantErr(t, start(n), ErrStable)
	})
	t.Run("its last vote", func(t *testing.T) {
		n := prepared(t)
		n.open()
		must(t, n.stable.Forget(1))
		must(t, n.group().SetUint64([]byte(keyCurrentTerm), 1)) // the log has entries of term 2
		wantErr(t, start(n), ErrStable)
	})
	t.Run("its log", func(t *testing.T) {
		n := prepared(t)
		must(t, os.RemoveAll(filepath.Join(n.dir, "partitions")))
		n.open()
		err := start(n)
		wantErr(t, err, ErrLogLost)
		if e, ok := errors.AsType[*LogLostError](err); !ok || e.Group != 1 {
			t.Fatalf("%v is not a *LogLostError", err)
		}
	})
	t.Run("both copies of its vote", func(t *testing.T) {
		n := prepared(t)
		n.open()
		b := ballot{}.encode(2) // another group's
		must(t, n.stable.store(1, b))
		_, err := n.stable.Group(1)
		wantErr(t, err, ErrStable)
	})
}

// Fail-stop: a failed write reaches Fatal, once, and nothing is acknowledged any more.
func TestAFailedWriteEndsTheGroup(t *testing.T) {
	n := newNode(t)
	n.open()
	g, m := n.leader()
	_, err := g.Propose(t.Context(), []byte("before")).Wait()
	must(t, err)
	n.fs.breakSync()
	_, err = g.Propose(t.Context(), []byte("lost")).Wait()
	wantErr(t, err, ErrUnknownOutcome)
	wantErr(t, <-n.fatal, errDisk)
	wantErr(t, g.Failed(), ErrFailed)
	_, err = g.Propose(t.Context(), []byte("after")).Wait()
	wantErr(t, err, ErrFailed)
	wantErr(t, g.Barrier(context.Background()), ErrFailed)
	g.Stop()
	if len(m.applied) != 1 {
		t.Fatalf("applied %q", m.applied)
	}
	if len(n.fatal) != 0 {
		t.Fatal("Fatal was called twice")
	}
}

func TestAFailedVoteEndsTheGroup(t *testing.T) {
	n := newNode(t)
	n.open()
	box := &memoryBox{}
	s, err := openStable(box, 1)
	must(t, err)
	g, _ := n.follower(t, func(c *GroupConfig) { c.Stable = s })
	box.fail = errDisk
	_, err = g.Deliver(&hraft.RequestVoteRequest{RPCHeader: header("1.1"), Term: 3, LastLogIndex: 9, LastLogTerm: 3, LeadershipTransfer: true})
	wantErr(t, err, ErrFailed)
	wantErr(t, <-n.fatal, errDisk)
	if b, _ := s.state(); b.term != 1 {
		t.Fatalf("term %d is not on disk", b.term)
	}
}

func TestAFailedSnapshotEndsTheGroup(t *testing.T) {
	n := newNode(t)
	n.open()
	g, _ := n.leader()
	_, err := g.Propose(t.Context(), []byte("x")).Wait()
	must(t, err)
	n.fs.breakSync()
	g.takeSnapshot(g.current())
	wantErr(t, <-n.fatal, errDisk)
	g.Stop()
}

// Raft takes for applied what a failed group has left out: no snapshot may say so.
func TestAFailedGroupTakesNoSnapshot(t *testing.T) {
	n := newNode(t)
	n.open()
	g, _ := n.leader()
	_, err := g.Propose(t.Context(), []byte("x")).Wait()
	must(t, err)
	g.fail(errDisk)
	wantErr(t, <-n.fatal, errDisk)
	if err := g.current().raft.Snapshot().Error(); err == nil || !contains(err.Error(), errDisk.Error()) {
		t.Errorf("a snapshot: %v", err)
	}
	g.Stop()
	if s := n.log.Snapshots(); len(s) > 0 {
		t.Fatalf("snapshots %v", s)
	}
}

func TestCompactDropsTheLogBelowTheSnapshotBefore(t *testing.T) {
	n := newNode(t)
	n.config = func(c *storage.Config) { c.SegmentBytes = 4 << 10 }
	n.open()
	g, _ := n.leader(func(c *GroupConfig) { c.Compact = true })
	fill := func() {
		for range 20 {
			_, err := g.Propose(t.Context(), bytes.Repeat([]byte("x"), 1000)).Wait()
			must(t, err)
		}
		g.takeSnapshot(g.current())
	}
	fill()
	fill()
	fill()
	first := n.log.Bounds().First
	if first <= 1 {
		t.Fatal("nothing was dropped")
	}
	g.Stop()
	g, m := n.leader()
	g.Stop()
	if len(m.applied) != 60 {
		t.Fatalf("%d commands after a restart", len(m.applied))
	}
}

// A run can be replaced under load: what raft refuses meanwhile is refused, nothing hangs.
func TestRestartOfRaft(t *testing.T) {
	n := newNode(t)
	n.open()
	g, m := n.leader()
	for range 3 {
		_, err := g.Propose(t.Context(), []byte("x")).Wait()
		must(t, err)
		g.restart(g.current())
		wait(t, g.Leading(), "leadership")
	}
	g.Stop()
	if len(m.applied) != 3 {
		t.Fatalf("applied %q", m.applied)
	}
}
