package broker

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tidewire/tidewire/proto/wire"
)

// vanish has the kernel throw away all that comes for the connection, acknowledgements included: the other side
// sees what it sees of a machine that lost its power.
func vanish(t *testing.T, p *peer) {
	t.Helper()
	raw, err := p.conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	filter := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &filter[0]})
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
}

// Half-open connections end whether something waits for the client (it is sent again) or not (keepalive).
func TestVanishedClients(t *testing.T) {
	n := startNode(t, t.TempDir())
	producer := connect(t, n)
	st := producer.streamOf("gone")
	reader, idle := connect(t, n), connect(t, n)
	reader.subscribe(wire.Subscribe{Filter: "gone"})
	vanish(t, reader)
	vanish(t, idle)
	producer.fill(st, 0, values("gone", 3, "%d"))
	until(t, "both known to be gone", func() bool { return n.connections.Load() == 1 })
	if n.closures[closedVanished].Load() != 1 {
		t.Error("the reader's end was not counted")
	}
	alive(t, producer)
}
