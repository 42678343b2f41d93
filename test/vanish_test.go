//go:build linux && faults

package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/test/harness"
)

// TestVanishedClients cuts the cable between a node and some of its clients, one that reads, one that says nothing, one in the
// middle of a frame: no packet of theirs arrives any more, and no kernel says so. The node lets go of all of them long
// before TCP, or the idle timeout, would, and says which rule it was; a client beside the node publishes throughout, and each
// of its records is acknowledged. When the cable is mended, the reader goes on where it was and misses nothing.
func TestVanishedClients(t *testing.T) {
	network := harness.NewNetwork(t)
	s := harness.NewServer(t, harness.Config{Address: network.Address(), Under: network.Under(), Flags: []string{"--insecure"}})
	near := harness.Connect(t, s.Address(), client.WithDialer(network.Near))
	ctx := harness.Context(t)
	if _, err := near.CreateStream(ctx, client.StreamConfig{Name: "gone"}); err != nil {
		t.Fatal(err)
	}

	// The neighbour publishes, one record a millisecond or so, until it is told to stop.
	stop, published := make(chan struct{}), make(chan int, 1)
	settle := sync.OnceValue(func() int { close(stop); return <-published })
	publishing, giveUp := context.WithCancel(context.Background())
	defer func() { giveUp(); settle() }()
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				published <- i
				return
			case <-tick.C:
			}
			if _, err := near.Publish(publishing, client.Message{Subject: "gone", Value: strconv.AppendInt(nil, int64(i), 10)}); err != nil {
				t.Errorf("the neighbour's record %d: %v", i, err)
				published <- i
				return
			}
		}
	}()

	far := harness.Connect(t, s.Address(), client.WithDialer(network.Far))
	sub, err := far.Subscribe(ctx, "gone", client.FromFirst())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := 0
	read := make(chan error, 1)
	reading, enough := context.WithCancel(context.Background())
	defer enough()
	go func() {
		defer close(read)
		for rec, err := range sub.All(reading) {
			if err == nil && (string(rec.Value) != strconv.Itoa(seen) || rec.Offset != uint64(seen)) {
				err = fmt.Errorf("record %q at offset %d, want %d", rec.Value, rec.Offset, seen)
			}
			if err != nil {
				if reading.Err() == nil {
					read <- err
				}
				return
			}
			mu.Lock()
			seen++
			mu.Unlock()
		}
	}()
	hello := (&wire.Hello{MinVersion: 1, MaxVersion: 1, Role: wire.RoleClient, FrameLimit: wire.DefaultFrameLimit, Client: "test"}).AppendTo([]byte(wire.Magic), 0)
	for _, rest := range [][]byte{nil, {100, 0, 0, 0}} { // silence; the length of a frame that never comes
		c, err := network.Far(ctx, s.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(append(hello, rest...)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 4<<10)); err != nil { // WELCOME
			t.Fatal(err)
		}
	}
	count := func(what string, from func() int, reached func(int) bool) {
		t.Helper()
		again := time.NewTicker(20 * time.Millisecond)
		defer again.Stop()
		for deadline := time.Now().Add(harness.Patience); ; <-again.C {
			n := from()
			if reached(n) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d\n%s", what, n, s.Log())
			}
		}
	}
	records := func() int { mu.Lock(); defer mu.Unlock(); return seen }
	metrics := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, // or it is a session too
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return network.Near(ctx, address) }}}
	sessions := func() int { return metric(t, metrics, s.Address(), "tidewire_sessions") }
	count("records before the cut", records, func(n int) bool { return n > 100 })
	if n := sessions(); n != 4 {
		t.Fatalf("%d sessions before the cut, want 4", n)
	}

	network.Cut()
	began := time.Now()
	count("sessions after the cut", sessions, func(n int) bool { return n == 1 })
	t.Logf("all that had vanished were let go after %s", time.Since(began).Round(100*time.Millisecond))
	if n := metric(t, metrics, s.Address(), `tidewire_dropped_connections_total{reason="vanished"}`); n < 1 {
		t.Errorf("%d connections counted as vanished: the reader's is missing", n)
	}

	network.Mend()
	count("sessions after the mend", sessions, func(n int) bool { return n == 2 })
	all := settle()
	count(fmt.Sprintf("records read of %d", all), records, func(n int) bool { return n >= all })
	enough()
	for err := range read {
		t.Error(err)
	}
	if n := records(); n != all {
		t.Errorf("%d records were read, %d acknowledged", n, all)
	}
}

// metric is one of a node's, or 0 if it is not there.
func metric(t *testing.T, c *http.Client, address, name string) int {
	t.Helper()
	resp, err := c.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 16<<20))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(f)
		}
	}
	return 0
}
