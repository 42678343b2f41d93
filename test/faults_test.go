//go:build linux && faults

package test

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/test/harness"
)

// TestFailedWrite lets every sync, or every write, of the log fail from a moment on at which nothing
// is in flight. What is published after that moment must not be acknowledged, not once, and the node
// must say so with its exit code. Trying again is no way out: the kernel marks pages clean whose
// write failed, and the second fdatasync succeeds (Rebello et al., USENIX ATC 2020).
func TestFailedWrite(t *testing.T) {
	for _, fault := range []struct {
		call, errno string
		code        int
	}{
		{"fdatasync", "EIO", harness.ExitFailedWrite},
		{"fdatasync", "ENOSPC", harness.ExitFull},
		{"pwritev", "EIO", harness.ExitFailedWrite},
		{"pwritev", "ENOSPC", harness.ExitFull},
		{"pwritev", "EROFS", harness.ExitReadOnly},
	} {
		t.Run(fault.call+" "+fault.errno, func(t *testing.T) { failedWrite(t, fault.call, fault.errno, fault.code) })
	}
}

func failedWrite(t *testing.T, call, errno string, want int) {
	s := harness.NewServer(t, harness.Config{})
	c := harness.Connect(t, s.Address())
	ctx := harness.Context(t)
	before, err := c.Publish(ctx, client.Message{Subject: "sync.before", Value: []byte("on disk")})
	if err != nil {
		t.Fatal(err)
	}

	faults := harness.Inject(t, s.Pid(), call, errno)
	told := make(chan error, 100)
	for range cap(told) {
		err := c.PublishAsync(ctx, client.Message{Subject: "sync.after", Value: []byte("never on disk, as far as anyone knows")},
			func(_ client.Ack, err error) {
				if err == nil {
					err = errAcked
				}
				told <- err
			})
		if err != nil {
			t.Fatal(err)
		}
	}
	if code := s.ExitCode(); code != want {
		t.Errorf("exit code %d after %s failed, want %d", code, call, want)
	}
	_ = c.Close() // ends what is unacknowledged, and waits for the callbacks
	for range cap(told) {
		if err := <-told; errors.Is(err, errAcked) {
			t.Fatalf("a record was acknowledged after %s had failed", call)
		}
	}
	if n := faults.Count(t); n == 0 {
		t.Fatalf("the node ended, but no %s was made to fail", call)
	}

	s.Start()
	c = harness.Connect(t, s.Address())
	records, err := c.Fetch(ctx, before.Stream, before.Partition, client.FromOffset(before.Offset))
	if err != nil {
		t.Fatal(err)
	}
	if len(records.Records) == 0 || string(records.Records[0].Value) != "on disk" {
		t.Fatal("the record acknowledged before the fault is not there")
	}
	if _, err := c.Publish(ctx, client.Message{Subject: "sync.before", Value: []byte("again")}); err != nil {
		t.Errorf("after the fault is gone: %v", err)
	}
}

var errAcked = errors.New("acknowledged")

// TestFailedSyncUnderLoad lets every fdatasync fail under load, and when the node has ended cuts the
// power: what only looked written is gone then, so an acknowledgement that rested on it shows.
func TestFailedSyncUnderLoad(t *testing.T) {
	seed := harness.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 3))
	volume := harness.NewVolume(t, 768<<20)
	s := harness.NewServer(t, harness.Config{Dir: filepath.Join(volume.Dir(), "data")})
	j := harness.NewJournal(seed, "failing", 3)
	j.NewStream(t, s.Address())
	var pumps []*harness.Pump
	for _, records := range []int{1, 16} {
		pumps = append(pumps, harness.StartPump(t, j, s.Address(), harness.PumpConfig{BatchRecords: records}))
	}
	for range 3 {
		await(t, j, s, 1+rng.Int64N(5000))
		faults := harness.Inject(t, s.Pid(), "fdatasync", "EIO")
		if code := s.ExitCode(); code != harness.ExitFailedWrite {
			t.Fatalf("exit code %d after a failed sync, want %d", code, harness.ExitFailedWrite)
		}
		if faults.Count(t) == 0 {
			t.Fatal("the node ended, but no call was made to fail")
		}
		cutPower(volume, s)
		s.Start()
		v := j.MustCheck(t, s.Address())
		t.Logf("%d acknowledged, %d read back", v.Acked, v.Records)
	}
	await(t, j, s, 1)
	for _, p := range pumps {
		p.Finish(t)
	}
	j.MustCheck(t, s.Address())
	noFailures(t, j)
}

// TestDiskFull fills the disk under load, by publishing and by another file. The node refuses publishes before
// the disk is full and serves readers; when there is room again publishing goes on by itself, in the
// same process, and everything acknowledged is there.
func TestDiskFull(t *testing.T) {
	t.Run("ext4", func(t *testing.T) { diskFull(t, harness.NewVolume(t, 160<<20).Dir()) })
	t.Run("tmpfs", func(t *testing.T) {
		dir := harness.Dir(t)
		if err := unix.Mount("tidewire", dir, "tmpfs", 0, "size=160m"); err != nil {
			t.Fatalf("tmpfs: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		diskFull(t, dir)
	})
}

func diskFull(t *testing.T, dir string) {
	seed := harness.Seed(t)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast, 64<<20)
	s := harness.NewServer(t, harness.Config{Dir: filepath.Join(dir, "data")})
	j := harness.NewJournal(seed, "full", 2)
	j.NewStream(t, s.Address())
	p := harness.StartPump(t, j, s.Address(), harness.PumpConfig{BatchRecords: 64})

	const stalled = 5 * time.Second // of no acknowledgement at all: the node refuses
	round := func(what string) {
		var err error
		for err == nil {
			err = j.AwaitAcks(j.Acks()+1000, s.Exited(), stalled)
		}
		select {
		case <-s.Exited():
			t.Fatalf("%s: the node ended with %d on a disk that was filled by what it took", what, s.ExitCode())
		default:
		}
		acked, free := j.Acks(), free(t, dir)
		if full := metric(t, http.DefaultClient, s.Address(), "tidewire_disk_full"); full != 1 {
			t.Errorf("%s: tidewire_disk_full is %d while publishes are refused", what, full)
		}
		if total := int64(160 << 20); free < total/40 {
			t.Errorf("%s: %d bytes are free, and 5 %% should be kept", what, free)
		}
		j.MustCheck(t, s.Address())
		fill(t, ballast+"2", free/2) // somebody else goes on filling
		j.MustCheck(t, s.Address())
		for _, name := range []string{ballast, ballast + "2"} {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		await(t, j, s, 5_000)
		harness.Report(t, "disk full", "%s: refused with %d bytes free after %d acknowledged records; with room again it went on by itself", what, free, acked)
	}
	round("once")
	fill(t, ballast, free(t, dir)/2)
	round("again")
	p.Finish(t)
	j.MustCheck(t, s.Address())
	noFailures(t, j)
	deleteOnAFullDisk(t, s, dir, ballast)
}

// deleteOnAFullDisk has others take the last byte: streams can be deleted all the same, which gives space back.
func deleteOnAFullDisk(t *testing.T, s *harness.Server, dir, ballast string) {
	t.Helper()
	ctx, c := harness.Context(t), harness.Connect(t, s.Address())
	for _, name := range []string{"gone", "kept"} {
		if _, err := c.CreateStream(ctx, client.StreamConfig{Name: name}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Publish(ctx, client.Message{Subject: name, Value: []byte(name)}); err != nil {
			t.Fatal(err)
		}
	}
	reserve := filepath.Join(dir, "data", "reserve")
	poll(t, s, "the reserve is made", func() bool { _, err := os.Stat(reserve); return err == nil })
	_ = os.Remove(ballast)
	fill(t, ballast, free(t, dir)-512<<10) // the node takes some meanwhile
	poll(t, s, "the reserve is given up", func() bool { _, err := os.Stat(reserve); return err != nil })
	if err := c.DeleteStream(ctx, "gone", true); err != nil {
		t.Fatalf("deleting a stream on a full disk: %v", err)
	}
	f, err := c.Fetch(ctx, "kept", 0, client.FromFirst())
	if err != nil || len(f.Records) != 1 || string(f.Records[0].Value) != "kept" {
		t.Fatalf("reading beside it: %v, %v", f, err)
	}
	select {
	case <-s.Exited():
		t.Fatalf("the node ended with %d", s.ExitCode())
	default:
	}
}

// poll looks until ok, as long as the node runs.
func poll(t *testing.T, s *harness.Server, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(harness.Patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-s.Exited():
			t.Fatalf("%s: the node ended with %d", what, s.ExitCode())
		case <-late:
			t.Fatalf("%s: not within %v", what, harness.Patience)
		}
	}
}

// fill makes a file of that many bytes.
func fill(t *testing.T, name string, bytes int64) {
	t.Helper()
	b, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := unix.Fallocate(int(b.Fd()), 0, 0, bytes); err != nil {
		t.Fatalf("fallocate: %v", err)
	}
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// TestDiskLost takes the data directory from under a running node: it ends, by a code that says why.
func TestDiskLost(t *testing.T) {
	for _, tc := range []struct {
		name string
		code int
		lose func(t *testing.T, v *harness.Volume, s *harness.Server)
	}{
		{"removed", harness.ExitLost, func(t *testing.T, _ *harness.Volume, s *harness.Server) {
			err := os.RemoveAll(s.Dir())
			for deadline := time.Now().Add(harness.Patience); errors.Is(err, unix.ENOTEMPTY) && time.Now().Before(deadline); {
				err = os.RemoveAll(s.Dir()) // the node made a file meanwhile
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
		{"replaced", harness.ExitLost, func(t *testing.T, _ *harness.Volume, s *harness.Server) {
			if err := errors.Join(os.Rename(s.Dir(), s.Dir()+".away"), os.Mkdir(s.Dir(), 0o755)); err != nil {
				t.Fatal(err)
			}
		}},
		{"unmounted", harness.ExitLost, func(t *testing.T, v *harness.Volume, s *harness.Server) {
			if err := unix.Unmount(v.Dir(), unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(v.Mount) // for the volume's own end
		}},
		{"read-only", harness.ExitReadOnly, func(t *testing.T, v *harness.Volume, s *harness.Server) {
			// A bind mount of its own can be read-only while files of the file system are open for writing.
			if err := unix.Mount(v.Dir(), v.Dir(), "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(v.Dir(), 0); err != nil {
					t.Error(err)
				}
			})
			if err := unix.Mount("", v.Dir(), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := harness.NewVolume(t, 64<<20)
			s := harness.NewServer(t, harness.Config{Dir: filepath.Join(v.Dir(), "data")})
			tc.lose(t, v, s)
			if code := s.ExitCode(); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
		})
	}
}
