package raft

import (
	"io"

	hraft "github.com/hashicorp/raft"
)

// ServerID names a server in a group's configuration: node and incarnation, "3.1". It stands for the
// address too: where the server is at present is the business of Peers, not of the Raft log.
type ServerID string

// Peers carries the requests of all groups to other nodes: the seam between Raft and the network.
// A node on its own has none (NoPeers).
//
// Calls come from many goroutines, several per group, and may block; a failed call is tried again by
// Raft. The answer is written to response, which has the type that belongs to the request:
//
//	*hraft.AppendEntriesRequest    *hraft.AppendEntriesResponse
//	*hraft.RequestVoteRequest      *hraft.RequestVoteResponse
//	*hraft.RequestPreVoteRequest   *hraft.RequestPreVoteResponse
//	*hraft.TimeoutNowRequest       *hraft.TimeoutNowResponse
//	*hraft.InstallSnapshotRequest  *hraft.InstallSnapshotResponse, with the snapshot in body (else nil)
//
// The payload of entries in a request is borrowed for ever and never to be changed: the log's hot
// tail holds the same bytes. What arrives at the other node goes to Group.Deliver.
type Peers interface {
	Call(group uint64, to ServerID, request, response any, body io.Reader) error

	// Pipeline returns a pipeline of appends to one server, or hraft.ErrPipelineReplicationNotSupported.
	// The pipeline must fail every later append once one was refused (hashicorp/raft #612: a sender
	// that waits for a decoder which has left blocks for ever).
	Pipeline(group uint64, to ServerID) (hraft.AppendPipeline, error)
}

// NoPeers is the Peers of a node on its own: every call fails with ErrNoPeer.
type NoPeers struct{}

// Call fails with ErrNoPeer.
func (NoPeers) Call(group uint64, to ServerID, _, _ any, _ io.Reader) error {
	return &PeerError{Group: group, Server: to, reason: ErrNoPeer}
}

// Pipeline says that there is none.
func (NoPeers) Pipeline(uint64, ServerID) (hraft.AppendPipeline, error) {
	return nil, hraft.ErrPipelineReplicationNotSupported
}
