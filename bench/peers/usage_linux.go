package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what a process and the disk under it have done so far.
type usage struct {
	CPU       time.Duration // user and system, of all threads
	Resident  int64         // bytes of memory now
	Anonymous int64         // of these, not backed by files
	Device    int64         // bytes written to the disk, by anybody
}

// measureUsage reads it; what is dirty in the file system of dir is written first.
func measureUsage(pid int, dir string) (u usage, err error) {
	if u.CPU, err = cpuOf(pid); err != nil {
		return u, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range bytes.Lines(status) {
		for name, to := range map[string]*int64{"VmRSS:": &u.Resident, "RssAnon:": &u.Anonymous} {
			if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
				n, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
				if err != nil {
					return u, err
				}
				*to = n << 10
			}
		}
	}
	u.Device, err = deviceWritten(dir)
	return u, err
}

// cpuOf asks the process's own clock, which counts nanoseconds (clock_getcpuclockid(3)).
func cpuOf(pid int) (time.Duration, error) {
	const schedClock = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|schedClock, &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// deviceWritten is what the block device under dir has written, after all that is dirty; -1 if there is none.
func deviceWritten(dir string) (int64, error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	const sectors, sector = 6, 512 // Documentation/block/stat.rst
	n, err := strconv.ParseInt(string(bytes.Fields(b)[sectors]), 10, 64)
	return n * sector, err
}

// dropCaches empties the page cache, so that the next read comes from the disk.
func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// dieWithParent has the kernel end the process when this one ends.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
