package main

import (
	"fmt"
	"strconv"
	"time"

	client "github.com/tidewire/tidewire/client/go"
)

// parseFrom reads where to begin: first, last, next, an offset, a time, or how long ago.
func parseFrom(s string, now time.Time) (client.Start, error) {
	switch s {
	case "first":
		return client.FromFirst(), nil
	case "last":
		return client.FromLast(), nil
	case "next":
		return client.FromNext(), nil
	}
	if offset, err := strconv.ParseUint(s, 10, 64); err == nil {
		return client.FromOffset(offset), nil
	}
	if ago, err := parseAge(s); err == nil && ago >= 0 {
		return client.FromTime(now.Add(-ago)), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return client.FromTime(t), nil
		}
	}
	return client.Start{}, fmt.Errorf("--from %q is no place to begin: give first, last, next, an offset (4711), "+
		"a time (2026-01-02T15:04:05Z) or how long ago (10m)", s)
}
