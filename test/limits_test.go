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

// TestSmallCgroup has clients do what they can to have a node of 128 MiB killed for its memory: unfinished frames,
// subscribers and askers that do not read, batches that inflate, a flood of publishes. It goes on serving. What they do takes
// memory at once; more of them would only take the processors from whoever else is tested beside this.
func TestSmallCgroup(t *testing.T) {
	const memory = 128 << 20
	group := harness.NewMemoryGroup(t, memory)
	s := harness.NewServer(t, harness.Config{Under: group.Under()})
	j := harness.NewJournal(harness.Seed(t), "small", 4)
	j.NewStream(t, s.Address())
	p := harness.StartPump(t, j, s.Address(), harness.PumpConfig{})
	await(t, j, s, 1000)

	c := harness.Connect(t, s.Address())
	if _, err := c.CreateStream(harness.Context(t), client.StreamConfig{Name: "bomb", Subjects: []string{"bomb.>"}}); err != nil {
		t.Fatal(err)
	}
	r, err := harness.DialReader(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	st, err := r.Stream("bomb")
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}

	stop := make(chan struct{})
	var hostile sync.WaitGroup
	attack := func(times int, f func(a *attacker)) {
		for range times {
			hostile.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if a := attack(s.Address()); a != nil {
						f(a)
						_ = a.Close()
					}
				}
			})
		}
	}
	big := wire.AppendPublish(nil, 1, make([]byte, wire.MaxBatch))
	attack(24, func(a *attacker) { // most of a frame, and silence
		a.send(big[:len(big)-100])
		a.wait(2 * time.Second)
	})
	attack(12, func(a *attacker) { // reads nothing of what it has given credit for
		a.send((&wire.Subscribe{Filter: ">", Start: wire.Start{From: wire.FromFirst}, Credit: 32 << 20}).AppendTo(nil, 1))
		a.wait(2 * time.Second)
	})
	attack(3, func(a *attacker) { // asks and asks, and reads nothing
		var asks []byte
		for i := range uint32(2000) {
			asks = (&wire.Metadata{Select: wire.SelectAll}).AppendTo(asks, 1+i)
		}
		for range 200 {
			a.send(asks)
		}
	})
	attack(2, func(a *attacker) { // the same with the smallest question there is
		var pings []byte
		for i := range uint64(10_000) {
			pings = wire.Ping{Data: i}.AppendTo(pings, wire.OpPing, 0)
		}
		for range 200 {
			a.send(pings)
		}
	})
	var bomb wire.Builder
	bomb.Reset(nil, wire.MaxBatch)
	for range 3 {
		if err := bomb.Append("bomb.a", nil, make([]byte, 300<<10), nil, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := bomb.Append("bomb.b", nil, nil, nil, 1); err != nil { // mixed: opened for each reader with a filter
		t.Fatal(err)
	}
	zipped := wire.AppendPublish(nil, 1, bomb.Finish(0, true))
	attack(4, func(a *attacker) {
		a.send((&wire.Open{Stream: st.ID, MapVersion: st.MapVersion}).AppendTo(nil, 1))
		for range 2000 {
			a.send(zipped)
		}
	})
	attack(6, func(a *attacker) {
		a.send((&wire.Subscribe{Filter: "bomb.b", Start: wire.Start{From: wire.FromFirst}, Credit: 32 << 20}).AppendTo(nil, 1))
		a.wait(2 * time.Second)
	})

	most := int64(0)
	for range 6 { // each waits for the neighbour's acknowledgements
		await(t, j, s, 50)
		most = max(most, group.Resident(t))
	}
	close(stop)
	hostile.Wait()
	await(t, j, s, 1000)
	p.Finish(t)
	j.MustCheck(t, s.Address())
	noFailures(t, j)
	harness.Report(t, "small cgroup", "a node of %d MiB under attack held %d MiB at most, was not killed and published on", memory>>20, most>>20)
}

// attacker is a connection that said HELLO, and means no good.
type attacker struct{ net.Conn }

func attack(address string) *attacker {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil
	}
	a := &attacker{c}
	h := wire.Hello{MinVersion: 1, MaxVersion: 1, Role: wire.RoleClient, FrameLimit: wire.DefaultFrameLimit, Client: "attacker"}
	a.send(h.AppendTo([]byte(wire.Magic), 0))
	return a
}

// send writes what it can within a moment; a node that closes or takes no more is what this is about.
func (a *attacker) send(b []byte) {
	_ = a.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = a.Write(b)
}

// wait reads, in silence, until the node ends the connection or that time is over; at most a few bytes.
func (a *attacker) wait(most time.Duration) {
	_ = a.SetReadDeadline(time.Now().Add(most))
	for range 10 {
		if _, err := a.Read(make([]byte, 100)); err != nil {
			return
		}
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
