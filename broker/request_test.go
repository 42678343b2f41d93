package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
)

// A client repeats by itself what is retriable: a change of streams that may be done is not.
func TestChangeThatMayBeDoneIsNotRepeated(t *testing.T) {
	n := startNode(t, t.TempDir())
	for _, x := range []struct {
		partly bool
		err    error
		open   bool
	}{
		{false, fmt.Errorf("catalog: create: %w", context.Canceled), true},
		{false, fmt.Errorf("catalog: create: %w", context.DeadlineExceeded), true},
		{false, fmt.Errorf("catalog: create: %w", raft.ErrFailed), true},
		{true, errors.New("open /var/lib/tidewire/partitions/7: no"), true},
		{false, fmt.Errorf("a: %w", cluster.ErrStreamExists), false},
		{false, fmt.Errorf("a: %w", raft.ErrNotLeader), false},
	} {
		err := n.undecided(x.partly, x.err)
		e, ok := err.(*wire.Error)
		if !x.open {
			if err != x.err {
				t.Errorf("%v became %v", x.err, err)
			}
			continue
		}
		if !ok || e.Code != wire.CodeUnknownOutcome || e.Retriable() || strings.Contains(e.Message, "/var/lib") {
			t.Errorf("%v: %v", x.err, err)
		}
	}
	if err := n.undecided(true, nil); err != nil {
		t.Error(err)
	}
}
