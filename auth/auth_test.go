package auth

import (
	"errors"
	"net/netip"
	"testing"
)

func TestAllowClients(t *testing.T) {
	id := &Identity{Method: "none", Remote: netip.MustParseAddrPort("127.0.0.1:5000")}
	for _, action := range []Action{Publish, Read, Describe, CreateStream, DeleteStream} {
		if err := (AllowClients{}).Authorize(id, action, []byte("orders")); err != nil {
			t.Errorf("%s: %v", action, err)
		}
	}
	err := AllowClients{}.Authorize(id, Peer, nil)
	var denied *DeniedError
	if !errors.Is(err, ErrDenied) || !errors.As(err, &denied) || denied.Identity != "anonymous@127.0.0.1:5000" {
		t.Errorf("a client may be a peer: %v", err)
	}
}
