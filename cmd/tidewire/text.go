package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
)

// count gives n with commas: 1,234,567.
func count[N int | int64 | uint64 | uint32](n N) string {
	s := strconv.FormatUint(uint64(n), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size gives bytes as a person says them: 1.5 MiB.
func size[N int | int64 | uint64](n N) string {
	f, unit := float64(n), 0
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for f >= 1024 && unit < len(units)-1 {
		f /= 1024
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", uint64(n))
	}
	return fmt.Sprintf("%.*f %s", decimals(f), f, units[unit])
}

// rate gives something a second, three digits: 1.25 M/s.
func rate(f float64) string {
	switch {
	case math.IsInf(f, 0) || math.IsNaN(f):
		return "-"
	case f >= 1e6:
		return fmt.Sprintf("%.*f M/s", decimals(f/1e6), f/1e6)
	case f >= 1e4:
		return fmt.Sprintf("%.*f k/s", decimals(f/1e3), f/1e3)
	}
	return fmt.Sprintf("%.*f/s", decimals(f), f)
}

// span gives a duration with three digits: 412 µs, 1.25 ms.
func span(d time.Duration) string {
	switch f := float64(d); {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return fmt.Sprintf("%.*f s", decimals(f/1e9), f/1e9)
	case d >= time.Millisecond:
		return fmt.Sprintf("%.*f ms", decimals(f/1e6), f/1e6)
	}
	return fmt.Sprintf("%.*f µs", min(1, decimals(float64(d)/1e3)), float64(d)/1e3)
}

// decimals keeps three digits in sight.
func decimals(f float64) int {
	switch {
	case f >= 100:
		return 0
	case f >= 10:
		return 1
	}
	return 2
}

// plural: 1 record, 2 records.
func plural[N int | int64 | uint64 | uint32](n N, one string) string {
	return numbered(n, one, one+"s")
}

// numbered: 1 batch, 2 batches.
func numbered[N int | int64 | uint64 | uint32](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

// writeJSON writes v as one object, for programs.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
