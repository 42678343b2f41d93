package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Network is two network namespaces with a cable between them, a pair of veths: a node lives at the near end, at
// Address, together with clients that reach it by loopback; others come through the cable, which can be cut.
type Network struct {
	t         testing.TB
	near, far string // names of the namespaces
}

// What the two ends are called, in a network that nobody else has.
const (
	nearAddress = "10.77.7.1"
	farAddress  = "10.77.7.2"
	cable       = "cable"
)

// NewNetwork makes the namespaces. They go with the test, and what runs in them must have gone by then.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("needs ip: install the package iproute2")
	}
	name := fmt.Sprintf("tidewire-%d", os.Getpid())
	n := &Network{t, name + "-near", name + "-far"}
	for _, end := range []string{n.near, n.far} {
		n.ip("netns", "add", end)
		t.Cleanup(func() { n.ip("netns", "delete", end) })
		n.ip("-n", end, "link", "set", "lo", "up")
	}
	n.ip("-n", n.near, "link", "add", cable, "type", "veth", "peer", "name", cable, "netns", n.far)
	for _, end := range [][2]string{{n.near, nearAddress}, {n.far, farAddress}} {
		n.ip("-n", end[0], "address", "add", end[1]+"/30", "dev", cable)
		n.ip("-n", end[0], "link", "set", cable, "up")
	}
	return n
}

// Address is one for a node that runs Under.
func (n *Network) Address() string { return net.JoinHostPort(nearAddress, "7420") }

// Under is the command that runs a process at the near end.
func (n *Network) Under() []string { return []string{"ip", "netns", "exec", n.near} }

// Near dials as somebody beside the node.
func (n *Network) Near(ctx context.Context, address string) (net.Conn, error) {
	return dialFrom(ctx, n.near, address)
}

// Far dials through the cable.
func (n *Network) Far(ctx context.Context, address string) (net.Conn, error) {
	return dialFrom(ctx, n.far, address)
}

// Cut has all that is sent through the cable vanish, in both directions: it goes to an Ethernet address that nobody has. No
// kernel is told, as none is when a machine loses its power or a switch its mind.
func (n *Network) Cut() {
	const nobody = "02:00:00:00:00:99"
	n.ip("-n", n.near, "neighbour", "replace", farAddress, "lladdr", nobody, "nud", "permanent", "dev", cable)
	n.ip("-n", n.far, "neighbour", "replace", nearAddress, "lladdr", nobody, "nud", "permanent", "dev", cable)
}

// Mend undoes Cut.
func (n *Network) Mend() {
	n.ip("-n", n.near, "neighbour", "delete", farAddress, "dev", cable)
	n.ip("-n", n.far, "neighbour", "delete", nearAddress, "dev", cable)
}

func (n *Network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s (needs root, and a kernel with network namespaces and veth)", strings.Join(args, " "), err, out)
	}
}

// dialFrom dials an address given by number from a namespace: a socket belongs to that of the thread which makes it.
func dialFrom(ctx context.Context, namespace, address string) (net.Conn, error) {
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		f, err := os.Open(filepath.Join("/run/netns", namespace))
		if err != nil {
			done <- dialled{nil, err}
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- dialled{nil, fmt.Errorf("setns: %w", err)}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		done <- dialled{conn, err}
	}()
	d := <-done
	return d.conn, d.err
}
