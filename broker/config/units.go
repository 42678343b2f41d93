package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads a duration that may also be of days or weeks: 30s, 10m, 36h, 7d, 2w.
func ParseDuration(s string) (time.Duration, error) {
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

// DurationText is d as ParseDuration would read it, in the largest unit that fits.
func DurationText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return "0s"
	case d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	case d%time.Hour == 0:
		return strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	case d%time.Minute == 0:
		return strconv.FormatInt(int64(d/time.Minute), 10) + "m"
	}
	return d.String()
}

// ParseBytes reads a number of bytes: 4096, 64KiB, 500MB, 1.5GiB.
func ParseBytes(s string) (uint64, error) {
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

// BytesText is n as ParseBytes would read it, in the largest unit that divides it.
func BytesText(n int64) string {
	for _, u := range []struct {
		factor int64
		name   string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n != 0 && n%u.factor == 0 {
			return strconv.FormatInt(n/u.factor, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}
