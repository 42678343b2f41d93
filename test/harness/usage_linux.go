package harness

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// clockTick is the unit of CPU times in /proc: USER_HZ, 100 on every architecture Go runs on.
const clockTick = 10 * time.Millisecond

// usage reads /proc.
func usage(pid int) (u Usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// proc_pid_stat(5): the name is in parentheses and may hold anything; utime and stime are fields 14 and 15.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return u, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
	}
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return u, err
		}
		u.CPU += time.Duration(n) * clockTick
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range bytes.Lines(status) {
		for name, to := range map[string]*int64{"VmRSS:": &u.Resident, "VmHWM:": &u.Peak} {
			if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
				n, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
				if err != nil {
					return u, err
				}
				*to = n << 10
			}
		}
	}
	return u, nil
}

// writeCalls is how many write calls the process has made; 0 if it is gone.
func writeCalls(pid int) (n int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("syscw: ")); ok {
			n, _ = strconv.ParseInt(string(bytes.TrimSpace(rest)), 10, 64)
		}
	}
	return n
}
