package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
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
		err = fmt.Errorf("%q is not above 0", s)
	}
	*a = age(d)
	return err
}

func parseAge(s string) (time.Duration, error) {
	days := map[byte]float64{'d': 1, 'w': 7}
	if s != "" && days[s[len(s)-1]] != 0 {
		n, err := strconv.ParseFloat(s[:len(s)-1], 64)
		hours := n * 24 * days[s[len(s)-1]]
		if err != nil || math.IsNaN(n) || math.Abs(hours) > math.MaxInt64/float64(time.Hour) {
			return 0, fmt.Errorf("%q is no duration: give 30s, 10m, 36h, 7d or 2w", s)
		}
		return time.Duration(hours * float64(time.Hour)), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration: give 30s, 10m, 36h, 7d or 2w", s)
	}
	return d, nil
}

// ageText is d as parseAge would read it, in the largest unit that fits.
func ageText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d%day == 0:
		return strconv.Itoa(int(d/day)) + "d"
	case d%time.Hour == 0:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	case d%time.Minute == 0:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	}
	return d.String()
}

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

func parseBytes(s string) (uint64, error) {
	bad := fmt.Errorf("%q is no number of bytes: give 4096, 64KiB, 500MB or 10GiB", s)
	digits := strings.TrimRight(strings.ToLower(s), "kmgtib ")
	unit := strings.TrimSpace(strings.ToLower(s)[len(digits):])
	factor := uint64(1)
	if unit = strings.TrimSuffix(unit, "b"); unit != "" {
		power := strings.IndexByte("kmgt", unit[0]) + 1
		switch {
		case power == 0:
			return 0, bad
		case unit[1:] == "i":
			factor = 1 << (10 * power)
		case unit[1:] == "":
			factor = uint64(math.Pow10(3 * power))
		default:
			return 0, bad
		}
	}
	if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
		if n > math.MaxUint64/factor {
			return 0, bad
		}
		return n * factor, nil
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(f >= 0) || f*float64(factor) >= math.MaxInt64 {
		return 0, bad
	}
	return uint64(f * float64(factor)), nil
}
