package harness

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
)

// FreeAddress gives a loopback address for a node that will come back at it after a restart.
//
// A port the kernel hands out (port 0) would not do: it is from the range of outgoing connections,
// and a client that dials it while the node is down may be given that very port as its own, connect
// to itself (RFC 9293, 3.5: simultaneous open), and keep the node from binding. So it is taken from below.
func FreeAddress(t testing.TB) string {
	t.Helper()
	const first = 10_000
	last := 32_768
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if low, _, ok := bytes.Cut(b, []byte{'\t'}); ok {
			if n, err := strconv.Atoi(string(low)); err == nil && n > first+1000 {
				last = n
			}
		}
	}
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first))
		l, err := net.Listen("tcp", address)
		if err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return address
		}
	}
	t.Fatal("no free port below the range of outgoing connections")
	return ""
}
