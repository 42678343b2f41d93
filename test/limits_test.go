//go:build linux && faults

package test

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/test/harness"
)

// TestOutOfFiles lets more than two thousand connections come to a node that may have 256 files open, and keeps
// hundreds of them. A client that was there first publishes throughout; the node never ends, refuses
// by a typed error, and takes connections again by itself.
func TestOutOfFiles(t *testing.T) {
	if _, err := exec.LookPath("prlimit"); err != nil {
		t.Fatal("needs prlimit: install the package util-linux")
	}
	const files = 256
	s := harness.NewServer(t, harness.Config{Under: []string{"prlimit", "--nofile=" + strconv.Itoa(files) + ":" + strconv.Itoa(files)}})
	seed := harness.Seed(t)
	j := harness.NewJournal(seed, "neighbour", 2)
	j.NewStream(t, s.Address())
	p := harness.StartPump(t, j, s.Address(), harness.PumpConfig{})
	c := harness.Connect(t, s.Address())
	await(t, j, s, 1000)

	var mu sync.Mutex
	var held []net.Conn
	refused, dropped := 0, 0
	storm := func(n int) {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range n / 16 {
					c, err := net.Dial("tcp", s.Address())
					if err != nil {
						t.Error(err)
						return
					}
					_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // who was taken hears nothing
					e, err := readError(c)
					mu.Lock()
					switch {
					case errors.Is(err, os.ErrDeadlineExceeded) && len(held) < 2*files:
						held = append(held, c)
						c = nil
					case err != nil:
						dropped++
					case e.Code == wire.CodeOverloaded && e.Retriable():
						refused++
					default:
						t.Errorf("refused with %v", &e)
					}
					mu.Unlock()
					if c != nil {
						_ = c.Close()
					}
				}
			})
		}
		wg.Wait()
	}
	for range 2 { // those held have 5 s to say who they are, so that there is always room for some
		storm(1200)
		await(t, j, s, 1000)
	}
	if refused == 0 {
		t.Error("no connection was refused: the limit was never reached")
	}
	if open := openFiles(t, s.Pid()); open > files {
		t.Errorf("%d files are open, limit %d", open, files)
	}

	// More partitions than files: refused with a typed error, and nothing is harmed.
	if _, err := c.CreateStream(harness.Context(t), client.StreamConfig{Name: "many", Partitions: 200}); !errors.Is(err, client.ErrLimit) {
		t.Errorf("200 partitions with %d files: %v", files, err)
	}

	for _, c := range held {
		_ = c.Close()
	}
	harness.Connect(t, s.Address()) // again, by itself
	await(t, j, s, 1000)
	p.Finish(t)
	j.MustCheck(t, s.Address())
	noFailures(t, j)
	harness.Report(t, "out of files", "%d connections refused, %d dropped beside %d held, with %d files: the neighbour published on", refused, dropped, len(held), files)
}

// TestAcceptFails lets every accept fail for want of a descriptor: who is connected notices nothing.
func TestAcceptFails(t *testing.T) {
	for _, errno := range []string{"EMFILE", "ENFILE", "ENOBUFS"} {
		t.Run(errno, func(t *testing.T) {
			s := harness.NewServer(t, harness.Config{})
			j := harness.NewJournal(harness.Seed(t), "accept", 1)
			j.NewStream(t, s.Address())
			p := harness.StartPump(t, j, s.Address(), harness.PumpConfig{})
			await(t, j, s, 100)
			faults := harness.Inject(t, s.Pid(), "accept4", errno)
			for range 20 {
				c, err := net.Dial("tcp", s.Address())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			await(t, j, s, 1000)
			p.Finish(t)
			s.Kill()
			if faults.Count(t) == 0 {
				t.Error("no accept was made to fail")
			}
		})
	}
}

// readError reads one ERROR frame.
func readError(c net.Conn) (e wire.Error, err error) {
	var buf []byte
	for {
		f, _, err := wire.Decode(buf, wire.DefaultFrameLimit)
		if err == nil {
			return e, e.Decode(f.Body)
		}
		if !errors.Is(err, wire.ErrShort) {
			return e, err
		}
		b := make([]byte, 4096)
		n, err := c.Read(b)
		if n == 0 && err == nil {
			err = io.ErrNoProgress
		}
		if err != nil {
			return e, err
		}
		buf = append(buf, b[:n]...)
	}
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	names, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
