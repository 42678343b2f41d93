// Package auth says who someone is and what they may do. It does no I/O on the paths of records.
//
// Every path that shows or changes something asks an Authorizer once, with the identity that
// stands on the session and the thing it is about.
package auth

import (
	"errors"
	"fmt"
	"net/netip"
)

// Identity is who a session belongs to. It does not change while the session lives.
type Identity struct {
	Name   string // empty: anonymous
	Method string // how it was established: "none", a mechanism, or "tls"
	Remote netip.AddrPort
}

// String gives the name, or the address of someone anonymous.
func (id *Identity) String() string {
	if id.Name != "" {
		return id.Name
	}
	return "anonymous@" + id.Remote.String()
}

// Action is what someone wants to do.
type Action string

// The actions there are. What each one's resource is stands beside it.
const (
	Publish      Action = "publish"       // a subject
	Read         Action = "read"          // a subject, or a filter
	Describe     Action = "describe"      // a stream, or empty for the list of them
	CreateStream Action = "create-stream" // a stream
	UpdateStream Action = "update-stream" // a stream
	DeleteStream Action = "delete-stream" // a stream; its purge too

	DescribeNode   Action = "describe-node"   // empty: a node, its health, the list of its services
	DescribeConfig Action = "describe-config" // empty
	ReloadConfig   Action = "reload-config"   // empty

	Peer Action = "peer" // empty: to speak Raft as a node of the cluster
)

// Authorizer decides. Its methods are called on event loops: they must not block.
type Authorizer interface {
	// Authorize returns nil, or an error that unwraps to ErrDenied. resource is only valid
	// during the call.
	Authorize(id *Identity, action Action, resource []byte) error
}

// ErrDenied is what a refusal unwraps to.
var ErrDenied = errors.New("auth: denied")

// DeniedError tells who was refused what.
type DeniedError struct {
	Identity string
	Action   Action
	Resource string
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("%s may not %s %q", e.Identity, e.Action, e.Resource)
}
func (e *DeniedError) Unwrap() error { return ErrDenied }

// AllowClients lets every client do everything, and nobody be a peer. It is for a node that
// only those can reach who may: one bound to loopback.
type AllowClients struct{}

// Authorize implements Authorizer.
func (AllowClients) Authorize(id *Identity, action Action, resource []byte) error {
	if action == Peer {
		return &DeniedError{id.String(), action, string(resource)}
	}
	return nil
}
