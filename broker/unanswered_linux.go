package broker

import (
	"time"

	"golang.org/x/sys/unix"
)

// unacknowledged is how many bytes the kernel keeps that the peer's has not acknowledged: what it has not sent, too.
func unacknowledged(fd int) int64 {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return int64(n)
}

// unanswered is for how long the peer's kernel has said nothing although something that was sent to it is
// unacknowledged and was sent again; 0 if there is no such thing. A peer that only does not read acknowledges.
func unanswered(fd int) time.Duration {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || info.Unacked == 0 || info.Retransmits == 0 {
		return 0
	}
	return time.Duration(info.Last_ack_recv) * time.Millisecond
}
