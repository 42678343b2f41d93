package main

import (
	"fmt"
	"time"

	"github.com/tidewire/tidewire/broker/config"
)

// age is a flag's duration that also knows days and weeks: 36h, 7d, 2w.
type age time.Duration

func (a *age) String() string {
	if *a == 0 {
		return ""
	}
	return time.Duration(*a).String()
}
func (a *age) Type() string { return "DURATION" }

func (a *age) Set(s string) error {
	d, err := parseAge(s)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%q is not above 0; leave the flag out to keep records for ever", s)
	}
	*a = age(d)
	return err
}

func parseAge(s string) (time.Duration, error) { return config.ParseDuration(s) }

// ageText is d as parseAge would read it, in the largest unit that fits.
func ageText(d time.Duration) string { return config.DurationText(d) }

// byteCount is a flag's number of bytes: 4096, 64KiB, 10GB.
type byteCount uint64

func (b *byteCount) String() string {
	if *b == 0 {
		return ""
	}
	return size(uint64(*b))
}
func (b *byteCount) Type() string { return "BYTES" }

func (b *byteCount) Set(s string) error {
	n, err := parseBytes(s)
	*b = byteCount(n)
	return err
}

func parseBytes(s string) (uint64, error) { return config.ParseBytes(s) }
