package raft

import (
	"io"
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"
)

// transport is one run of a group's view of the network. It has no Close: Shutdown of one group
// would call it, and the links behind Peers are shared by all.
type transport struct {
	group *Group
	peers Peers

	consumer chan hraft.RPC
	stop     chan struct{} // closed before Shutdown: nothing is delivered any more
	stopOnce sync.Once

	booted func() // called when NewRaft has read the log and is about to start its goroutines
}

var (
	_ hraft.Transport   = (*transport)(nil)
	_ hraft.WithPreVote = (*transport)(nil) // without it pre-vote is silently off
)

func newTransport(g *Group, booted func()) *transport {
	return &transport{
		group:    g,
		peers:    g.cfg.Peers,
		consumer: make(chan hraft.RPC),
		stop:     make(chan struct{}),
		booted:   booted,
	}
}

func (t *transport) Consumer() <-chan hraft.RPC { return t.consumer }

func (t *transport) LocalAddr() hraft.ServerAddress { return hraft.ServerAddress(t.group.cfg.Server) }

// EncodePeer and DecodePeer: a server's address is its id.
func (t *transport) EncodePeer(id hraft.ServerID, _ hraft.ServerAddress) []byte { return []byte(id) }
func (t *transport) DecodePeer(b []byte) hraft.ServerAddress                    { return hraft.ServerAddress(b) }

// SetHeartbeatHandler drops the handler. Raft's fast path runs appendEntries on the transport's
// goroutine and sets term and state while the main goroutine is in the middle of a write or an
// election: two leaders in a term, or two entries at one index and term (hashicorp/raft #695).
// Heartbeats take the same channel as every other request.
//
// NewRaft makes this call after it scanned the log and before it starts a goroutine, which is the
// exact end of booting: from here on GetLog answers with payload.
func (t *transport) SetHeartbeatHandler(func(hraft.RPC)) { t.booted() }

// deliver hands one request to raft's main goroutine and waits for the answer.
func (t *transport) deliver(request any) (any, error) {
	answer := make(chan hraft.RPCResponse, 1)
	select {
	case t.consumer <- hraft.RPC{Command: request, RespChan: answer}:
	case <-t.stop:
		return nil, ErrClosed
	}
	// Raft answers each request it took before it looks at its shutdown channel again.
	r := <-answer
	return r.Response, r.Error
}

func (t *transport) close() { t.stopOnce.Do(func() { close(t.stop) }) }

// call sends a request, unless the group has failed: what a group whose disk failed believes of its
// own term and vote may differ from what is durable, so no word of it may leave the node.
func (t *transport) call(to hraft.ServerID, request, response any, body io.Reader) error {
	if err := t.group.Failed(); err != nil {
		return err
	}
	return t.peers.Call(t.group.cfg.ID, ServerID(to), request, response, body)
}

// AppendEntries sends entries or a heartbeat. Heartbeats come from a goroutine of their own and know
// nothing of the disk: a leader whose disk hangs would keep its followers from electing another for
// ever (hashicorp/raft #666), so heartbeats stop while a write takes too long.
func (t *transport) AppendEntries(id hraft.ServerID, _ hraft.ServerAddress, req *hraft.AppendEntriesRequest, resp *hraft.AppendEntriesResponse) error {
	if isHeartbeat(req) && t.group.writeAge() > t.group.cfg.DiskStall {
		return &PeerError{Group: t.group.cfg.ID, Server: ServerID(id), reason: ErrDiskStalled}
	}
	return t.call(id, req, resp, nil)
}

// isHeartbeat: raft's heartbeat goroutine sends only header, term and leader.
func isHeartbeat(req *hraft.AppendEntriesRequest) bool {
	return len(req.Entries) == 0 && req.PrevLogEntry == 0 && req.LeaderCommitIndex == 0
}

// AppendEntriesPipeline asks Peers for a pipeline; a failed group gets none.
func (t *transport) AppendEntriesPipeline(id hraft.ServerID, _ hraft.ServerAddress) (hraft.AppendPipeline, error) {
	if t.group.Failed() != nil {
		return nil, hraft.ErrPipelineReplicationNotSupported
	}
	return t.peers.Pipeline(t.group.cfg.ID, ServerID(id))
}

func (t *transport) RequestVote(id hraft.ServerID, _ hraft.ServerAddress, req *hraft.RequestVoteRequest, resp *hraft.RequestVoteResponse) error {
	return t.call(id, req, resp, nil)
}

func (t *transport) RequestPreVote(id hraft.ServerID, _ hraft.ServerAddress, req *hraft.RequestPreVoteRequest, resp *hraft.RequestPreVoteResponse) error {
	return t.call(id, req, resp, nil)
}

func (t *transport) TimeoutNow(id hraft.ServerID, _ hraft.ServerAddress, req *hraft.TimeoutNowRequest, resp *hraft.TimeoutNowResponse) error {
	return t.call(id, req, resp, nil)
}

// InstallSnapshot sends the log-start snapshot, a few KB; entries follow as ordinary appends.
func (t *transport) InstallSnapshot(id hraft.ServerID, _ hraft.ServerAddress, req *hraft.InstallSnapshotRequest, resp *hraft.InstallSnapshotResponse, body io.Reader) error {
	return t.call(id, req, resp, body)
}

// timeoutNow makes this server a candidate at once, as a leader handing over to it would. A lone voter
// needs no one's consent, and its own timers would let it wait 2-4 s at every start.
func (t *transport) timeoutNow() error {
	_, err := t.deliver(&hraft.TimeoutNowRequest{RPCHeader: hraft.RPCHeader{
		ProtocolVersion: hraft.ProtocolVersionMax,
		ID:              []byte(t.group.cfg.Server),
		Addr:            []byte(t.group.cfg.Server),
	}})
	return err
}

// defaultDiskStall is how long a write may run before heartbeats stop.
const defaultDiskStall = 5 * time.Second
