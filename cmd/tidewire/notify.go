package main

import (
	"fmt"
	"net"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// supervisor is who started the process, if it wants to be told how it goes: systemd's sd_notify(3).
type supervisor struct {
	address string // NOTIFY_SOCKET: a path, or @ and an abstract name; empty: nobody
	log     *zap.Logger
}

// send tells one state. One that cannot be told is logged, and harms nothing else.
func (s *supervisor) send(state string) {
	if s.address == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: strings.TrimSpace(s.address), Net: "unixgram"})
	if err == nil {
		_, err = c.Write([]byte(state))
		c.Close()
	}
	if err != nil {
		s.log.Warn("the supervisor could not be told", zap.String("state", state), zap.Error(err))
	}
}

// reloading says that a reload begins; Type=notify-reload wants the time with it.
func (s *supervisor) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	s.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}
