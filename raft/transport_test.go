package raft

import (
	"io"
	"sync/atomic"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/tidewire/tidewire/storage"
)

// recorder is a machine that remembers what it was given.
type recorder struct {
	applied  []string
	restored []string
}

func (r *recorder) Apply(e storage.Entry) any {
	r.applied = append(r.applied, string(e.Payload))
	return len(r.applied)
}

func (r *recorder) Snapshot() ([]byte, error) {
	var b []byte
	for _, a := range r.applied {
		b = append(append(b, a...), 0)
	}
	return b, nil
}

func (r *recorder) Restore(b []byte) error {
	r.applied, r.restored = nil, append(r.restored, string(b))
	for from, i := 0, 0; i < len(b); i++ {
		if b[i] == 0 {
			r.applied = append(r.applied, string(b[from:i]))
			from = i + 1
		}
	}
	return nil
}

// startGroup starts a group of a recorder on the node.
func (n *testNode) startGroup(change ...func(*GroupConfig)) (*Group, *recorder, error) {
	m := &recorder{}
	cfg := GroupConfig{
		ID: 1, Server: "1.1", Log: n.log, Stable: n.group(), Machine: m,
		Fatal: func(err error) { n.fatal <- err },
	}
	for _, c := range change {
		c(&cfg)
	}
	g, err := StartGroup(cfg)
	return g, m, err
}

// leader starts a group of its own and waits until it leads.
func (n *testNode) leader(change ...func(*GroupConfig)) (*Group, *recorder) {
	n.tb.Helper()
	g, m, err := n.startGroup(change...)
	must(n.tb, err)
	wait(n.tb, g.Leading(), "leadership")
	return g, m
}

// follower starts server 2.1 of a group of two, led by 1.1 in term 1, and gives it the first two entries.
func (n *testNode) follower(t *testing.T, change ...func(*GroupConfig)) (*Group, *recorder) {
	t.Helper()
	g, m, err := n.startGroup(append(change, func(c *GroupConfig) { c.Server, c.Join = "2.1", true })...)
	must(t, err)
	t.Cleanup(g.Stop)
	configuration := hraft.EncodeConfiguration(twoServers)
	resp := appendTo(t, g, 1, 0, 0, 0,
		&hraft.Log{Index: 1, Term: 1, Type: hraft.LogConfiguration, Data: configuration}, noop(2, 1))
	if !resp.Success {
		t.Fatal("the follower refuses its first entries")
	}
	return g, m
}

var twoServers = hraft.Configuration{Servers: []hraft.Server{
	{Suffrage: hraft.Voter, ID: "1.1", Address: "1.1"}, {Suffrage: hraft.Voter, ID: "2.1", Address: "2.1"},
}}

func header(id string) hraft.RPCHeader {
	return hraft.RPCHeader{ProtocolVersion: hraft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(id)}
}

// appendTo delivers entries as leader 1.1 of term would.
func appendTo(t *testing.T, g *Group, term, prev, prevTerm, commit uint64, logs ...*hraft.Log) *hraft.AppendEntriesResponse {
	t.Helper()
	resp, err := g.Deliver(&hraft.AppendEntriesRequest{
		RPCHeader: header("1.1"), Term: term, PrevLogEntry: prev, PrevLogTerm: prevTerm, LeaderCommitIndex: commit, Entries: logs,
	})
	must(t, err)
	return resp.(*hraft.AppendEntriesResponse)
}

// askVote asks for a vote as 1.1, which hands leadership over so that no known leader stands in the way.
func askVote(t *testing.T, g *Group, term, last, lastTerm uint64) bool {
	t.Helper()
	resp, err := g.Deliver(&hraft.RequestVoteRequest{
		RPCHeader: header("1.1"), Term: term, LastLogIndex: last, LastLogTerm: lastTerm, LeadershipTransfer: true,
	})
	must(t, err)
	return resp.(*hraft.RequestVoteResponse).Granted
}

// hashicorp/raft #695: the handler raft offers must never be called.
func TestHeartbeatsTakeTheOrdinaryWay(t *testing.T) {
	n := newNode(t)
	n.open()
	g, _ := n.follower(t)
	tr := g.current().trans
	tr.SetHeartbeatHandler(func(hraft.RPC) { t.Error("a heartbeat took the fast path") })
	if !appendTo(t, g, 1, 0, 0, 0).Success {
		t.Fatal("the heartbeat was refused")
	}
}

func TestTransportDoesPreVoteAndHasNoClose(t *testing.T) {
	var tr any = &transport{}
	if _, ok := tr.(hraft.WithPreVote); !ok {
		t.Fatal("pre-vote is silently off")
	}
	if _, ok := tr.(hraft.WithClose); ok {
		t.Fatal("Shutdown of one group would close what all share")
	}
	n := newNode(t)
	n.open()
	peers := &scriptedPeers{}
	g, _ := n.follower(t, func(c *GroupConfig) { c.Peers = peers })
	tr2 := g.current().trans
	var resp hraft.RequestPreVoteResponse
	must(t, tr2.RequestPreVote("1.1", "1.1", &hraft.RequestPreVoteRequest{Term: 3}, &resp))
	if !resp.Granted || peers.calls.Load() != 1 {
		t.Fatal("the request did not reach the peer")
	}
	// And incoming: an older log gets none.
	answer, err := g.Deliver(&hraft.RequestPreVoteRequest{RPCHeader: header("1.1"), Term: 9, LastLogIndex: 1, LastLogTerm: 1})
	must(t, err)
	if answer.(*hraft.RequestPreVoteResponse).Granted {
		t.Fatal("a pre-vote was granted to a candidate that is behind")
	}
}

// scriptedPeers grants every request.
type scriptedPeers struct{ calls atomic.Int32 }

func (p *scriptedPeers) Call(_ uint64, _ ServerID, _, response any, _ io.Reader) error {
	p.calls.Add(1)
	switch r := response.(type) {
	case *hraft.RequestPreVoteResponse:
		r.Granted = true
	case *hraft.AppendEntriesResponse:
		r.Success = true
	}
	return nil
}

func (p *scriptedPeers) Pipeline(uint64, ServerID) (hraft.AppendPipeline, error) {
	return nil, hraft.ErrPipelineReplicationNotSupported
}

// hashicorp/raft #697: raft's installSnapshot must never run.
func TestSnapshotsAreNotDelivered(t *testing.T) {
	n := newNode(t)
	n.open()
	g, _ := n.follower(t)
	_, err := g.Deliver(&hraft.InstallSnapshotRequest{RPCHeader: header("1.1"), Term: 9, LastLogIndex: 90, LastLogTerm: 9})
	wantErr(t, err, ErrRefused)
	if g.Term() != 1 {
		t.Fatalf("raft saw it: term %d", g.Term())
	}
	_, err = g.Deliver("anything else")
	wantErr(t, err, ErrRefused)
}

func TestNoPeers(t *testing.T) {
	n := newNode(t)
	n.open()
	g, _ := n.follower(t)
	tr := g.current().trans
	wantErr(t, tr.AppendEntries("1.1", "1.1", &hraft.AppendEntriesRequest{}, &hraft.AppendEntriesResponse{}), ErrNoPeer)
	wantErr(t, tr.RequestVote("1.1", "1.1", &hraft.RequestVoteRequest{}, &hraft.RequestVoteResponse{}), ErrNoPeer)
	wantErr(t, tr.RequestPreVote("1.1", "1.1", &hraft.RequestPreVoteRequest{}, &hraft.RequestPreVoteResponse{}), ErrNoPeer)
	wantErr(t, tr.TimeoutNow("1.1", "1.1", &hraft.TimeoutNowRequest{}, &hraft.TimeoutNowResponse{}), ErrNoPeer)
	wantErr(t, tr.InstallSnapshot("1.1", "1.1", &hraft.InstallSnapshotRequest{}, &hraft.InstallSnapshotResponse{}, nil), ErrNoPeer)
	if _, err := tr.AppendEntriesPipeline("1.1", "1.1"); err != hraft.ErrPipelineReplicationNotSupported { //nolint:errorlint // as raft compares
		t.Fatal(err)
	}
}

// hashicorp/raft #666: a leader whose disk hangs must not go on heartbeating.
func TestAHungDiskStopsHeartbeats(t *testing.T) {
	n := newNode(t)
	n.open()
	peers := &scriptedPeers{}
	g, _ := n.follower(t, func(c *GroupConfig) { c.Peers, c.DiskStall = peers, time.Nanosecond })
	tr := g.current().trans
	heartbeat := func() error {
		return tr.AppendEntries("1.1", "1.1", &hraft.AppendEntriesRequest{Term: 1}, &hraft.AppendEntriesResponse{})
	}
	must(t, heartbeat())
	held, release := n.fs.holdSync()
	done := make(chan struct{})
	go func() {
		defer close(done)
		appendTo(t, g, 1, 2, 1, 0, noop(3, 1))
	}()
	<-held
	wantErr(t, heartbeat(), ErrDiskStalled)
	// Entries still go: the follower's disk is not at fault.
	must(t, tr.AppendEntries("1.1", "1.1", &hraft.AppendEntriesRequest{Term: 1, PrevLogEntry: 1}, &hraft.AppendEntriesResponse{}))
	release()
	wait(t, done, "the append")
	must(t, heartbeat())
}

func TestAFailedGroupSaysNothing(t *testing.T) {
	n := newNode(t)
	n.open()
	peers := &scriptedPeers{}
	g, _ := n.follower(t, func(c *GroupConfig) { c.Peers = peers })
	n.fs.breakSync()
	_, err := g.Deliver(&hraft.AppendEntriesRequest{
		RPCHeader: header("1.1"), Term: 1, PrevLogEntry: 2, PrevLogTerm: 1, Entries: []*hraft.Log{noop(3, 1)},
	})
	wantErr(t, err, ErrFailed)
	wantErr(t, <-n.fatal, errDisk)
	_, err = g.Deliver(&hraft.RequestVoteRequest{RPCHeader: header("1.1"), Term: 7, LastLogIndex: 90, LastLogTerm: 7})
	wantErr(t, err, ErrFailed)
	tr := g.current().trans
	before := peers.calls.Load()
	wantErr(t, tr.RequestVote("1.1", "1.1", &hraft.RequestVoteRequest{}, &hraft.RequestVoteResponse{}), ErrFailed)
	if _, err := tr.AppendEntriesPipeline("1.1", "1.1"); err == nil || peers.calls.Load() != before {
		t.Fatal("a failed group still reaches its peers")
	}
}
