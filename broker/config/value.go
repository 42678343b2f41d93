package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/internal/spelling"
)

// value is what somebody gave for a setting, and where.
type value struct {
	Text   string // exported, as koanf copies what it holds
	Origin string
}

// set reads v into c. What is wrong names the value and what it may be.
func (s *Setting) set(c *Config, v value) *Problem {
	shown := strconv.Quote(v.Text)
	if s.Secret {
		shown = "its value"
	}
	bad := func(id explain.ID, format string, args ...any) *Problem {
		return &Problem{id, v.Origin, s.Key + ": " + fmt.Sprintf(format, args...)}
	}
	if s.None && v.Text == "none" {
		s.put(c, -1)
		return nil
	}
	var n int64
	switch s.Kind {
	case Text:
		if len(s.OneOf) > 0 && !slices.Contains(s.OneOf, v.Text) {
			last := len(s.OneOf) - 1
			return bad(idType, "%s is not %s or %s", shown, strings.Join(s.OneOf[:last], ", "), s.OneOf[last])
		}
		*s.field(c).(*string) = v.Text
		return nil
	case Bool:
		b, ok := map[string]bool{"true": true, "false": false}[strings.ToLower(v.Text)]
		if !ok {
			return bad(idType, "%s is not true or false", shown)
		}
		*s.field(c).(*bool) = b
		return nil
	case Ratio:
		r, err := strconv.ParseFloat(v.Text, 64)
		if err != nil {
			return bad(idType, "%s is no number: give one above 0, up to 1", shown)
		}
		if !(r > 0 && r <= 1) { // 0 is how broker.Config says default
			return bad(idRange, "%s is not above 0 and up to 1", shown)
		}
		*s.field(c).(*float64) = r
		return nil
	case Count:
		var err error
		if n, err = strconv.ParseInt(v.Text, 10, 64); err != nil {
			return bad(idType, "%s is no whole number: give one from %s", shown, s.Range())
		}
	case Bytes:
		u, err := ParseBytes(v.Text)
		if err != nil {
			return bad(idType, "%s is no number of bytes: give 4096, 64KiB, 500MB or 10GiB", shown)
		}
		n = int64(min(u, 1<<63-1))
	case Duration:
		d, err := ParseDuration(v.Text)
		if err != nil {
			return bad(idType, "%s is no duration: give 30s, 10m, 36h, 7d or 2w", shown)
		}
		n = int64(d)
	}
	if n < s.Min {
		return bad(idRange, "%s is below %s: give %s", shown, s.number(s.Min), s.Range())
	}
	if n > s.Max {
		return bad(idRange, "%s is above %s: give %s", shown, s.number(s.Max), s.Range())
	}
	s.put(c, n)
	return nil
}

// put sets a Count, Bytes or Duration.
func (s *Setting) put(c *Config, n int64) {
	switch p := s.field(c).(type) {
	case *int:
		*p = int(n)
	case *int64:
		*p = n
	case *time.Duration:
		*p = time.Duration(n)
	}
}

// nearest is the key most like key, or "" if none is like it.
func nearest(key string) string {
	best, at := "", 1+len(key)/3
	for i := range table {
		k := table[i].Key
		d := spelling.Distance(key, k)
		if _, name, ok := strings.Cut(k, "."); ok {
			d = min(d, 1+spelling.Distance(key[strings.LastIndexByte(key, '.')+1:], name)) // right name, wrong section
		}
		if d < at || d == at && best == "" {
			best, at = k, d
		}
	}
	return best
}
