//go:build !linux

package bench

import "time"

func exactSleeps() func() { return func() {} }

func nap(d time.Duration) { time.Sleep(d) }
