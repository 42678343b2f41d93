package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Volume is a file system of its own, ext4 on a loop device, whose power can be cut.
//
// A cut is the ioctl EXT4_IOC_SHUTDOWN with NOLOGFLUSH (fs/ext4/ioctl.c): from that instant every
// call fails with EIO and nothing more reaches the device, neither dirty pages nor the journal in
// memory. After the next mount there is what had been synced, and of the rest whatever the kernel
// happened to have written. It is what a machine finds after losing power, a disk that honours
// flushes provided.
type Volume struct {
	t     testing.TB
	dir   string // holds the image, the mount point and the lock
	loop  *os.File
	mount bool // mounted
}

const (
	ext4Shutdown           = 0x8004587d // EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
	ext4ShutdownNoLogFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH

	volumesDir  = "tidewire-volumes" // below the directory for temporary files
	unmountTime = 20 * time.Second
)

var removeLeftovers = sync.OnceValue(removeDeadVolumes)

// NewVolume makes and mounts a volume of that many bytes (its image is sparse). It goes with the test;
// one that a killed run left behind goes when the next run makes its first.
//
// It needs root, loop devices and mkfs.ext4, and fails the test if it lacks them.
func NewVolume(t testing.TB, bytes int64) *Volume {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("fault tests mount file systems and must run as root; without the tag faults they are left out")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Fatal("fault tests need mkfs.ext4: install the package e2fsprogs")
	}
	if err := removeLeftovers(); err != nil {
		t.Fatalf("remove volumes of an earlier run: %v", err)
	}
	base := filepath.Join(os.TempDir(), volumesDir)
	if err := os.MkdirAll(base, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, "")
	if err != nil {
		t.Fatal(err)
	}
	v := &Volume{t: t, dir: dir}
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(v.close(), removeVolume(dir), lock.Close()); err != nil {
			t.Errorf("volume: %v", err)
		}
	})
	if err := v.format(bytes); err != nil {
		t.Fatalf("volume: %v", err)
	}
	v.Mount()
	return v
}

// Dir is where the file system is mounted.
func (v *Volume) Dir() string { return filepath.Join(v.dir, "mnt") }

func (v *Volume) format(bytes int64) error {
	image := filepath.Join(v.dir, "image")
	f, err := os.OpenFile(image, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(bytes); err != nil {
		return err
	}
	// Inode tables and journal are written now, so that a background thread does not write them later.
	mkfs := exec.Command("mkfs.ext4", "-q", "-F", "-L", "tidewire-test", "-m", "0",
		"-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-J", "size=4", image)
	if out, err := mkfs.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w\n%s", err, out)
	}
	if err := os.Mkdir(v.Dir(), 0o755); err != nil {
		return err
	}
	v.loop, err = attachLoop(f)
	return err
}

// attachLoop binds a free loop device to f. The device lets go of f by itself once it is closed
// and unmounted, whoever does that.
func attachLoop(f *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("no loop devices: %w", err)
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("LOOP_CTL_GET_FREE: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		cfg := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		if err == nil {
			return dev, nil
		}
		_ = dev.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else took it in between
			return nil, fmt.Errorf("LOOP_CONFIGURE: %w", err)
		}
	}
}

// Mount mounts the file system; after a cut the kernel replays the journal here.
func (v *Volume) Mount() {
	v.t.Helper()
	if err := unix.Mount(v.loop.Name(), v.Dir(), "ext4", unix.MS_NOATIME, ""); err != nil {
		v.t.Fatalf("mount %s: %v", v.loop.Name(), err)
	}
	v.mount = true
}

// Unmount waits until nobody uses the file system, and unmounts it.
func (v *Volume) Unmount() {
	v.t.Helper()
	if err := v.unmount(); err != nil {
		v.t.Fatal(err)
	}
}

func (v *Volume) unmount() error {
	if !v.mount {
		return nil
	}
	if err := unmountPath(v.Dir()); err != nil {
		return err
	}
	v.mount = false
	return nil
}

// unmountPath tries until the last file is closed: the kernel closes those of a killed process
// after it is reaped, and tells nobody.
func unmountPath(path string) error {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(unmountTime); ; <-again.C {
		err := unix.Unmount(path, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// Cut cuts the power: from now on nothing reaches the disk. The process that runs on it is still
// to be ended, then Unmount and Mount.
func (v *Volume) Cut() {
	v.t.Helper()
	f, err := os.Open(v.Dir())
	if err != nil {
		v.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, ext4ShutdownNoLogFlush); err != nil {
		v.t.Fatalf("EXT4_IOC_SHUTDOWN: %v", err)
	}
}

// Sync writes everything there is to the disk.
func (v *Volume) Sync() {
	v.t.Helper()
	f, err := os.Open(v.Dir())
	if err != nil {
		v.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		v.t.Fatalf("syncfs: %v", err)
	}
}

// Free is how many bytes may still be written.
func (v *Volume) Free() int64 {
	v.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(v.Dir(), &st); err != nil {
		v.t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

func (v *Volume) close() error {
	err := v.unmount()
	if v.loop != nil {
		err = errors.Join(err, v.loop.Close())
	}
	return err
}

// lockDir marks a volume's directory as used by this process, until it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removeDeadVolumes removes the volumes of processes that are no more.
func removeDeadVolumes() error {
	base := filepath.Join(os.TempDir(), volumesDir)
	entries, err := os.ReadDir(base)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(base, e.Name())
		lock, err := lockDir(dir)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // of a run that goes on
		}
		if err == nil {
			err = errors.Join(unmountLeftover(filepath.Join(dir, "mnt")), removeVolume(dir), lock.Close())
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, err)...)
}

func unmountLeftover(path string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	if !strings.Contains(string(mounts), " "+path+" ") {
		return nil
	}
	return unmountPath(path)
}

func removeVolume(dir string) error {
	// Not RemoveAll: should the file system still be mounted, nothing in it may go.
	err := os.Remove(filepath.Join(dir, "mnt"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, name := range []string{"image", "lock"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.Remove(dir)
}
