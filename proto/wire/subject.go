package wire

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of names, in bytes.
const (
	MaxSubject    = 255 // a subject or filter
	MaxStreamName = 128
)

// ErrName is what every refused name, subject or filter unwraps to.
var ErrName = errors.New("wire: bad name")

// NameError tells which name was refused and why.
type NameError struct {
	Kind   string // "subject", "filter", "stream name"
	Name   string
	Reason string
}

func (e *NameError) Error() string {
	name := e.Name
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	return fmt.Sprintf("%s %q: %s", e.Kind, name, e.Reason)
}
func (e *NameError) Unwrap() error { return ErrName }

// ValidSubject reports why s is no subject: 1 to 255 bytes of UTF-8 in tokens between dots, no
// token empty; no white space, no control characters, none of * > / \.
func ValidSubject(s string) error { return checkTokens("subject", s, false) }

// ValidFilter reports why s is no filter: a subject in which a whole token may be *, which
// matches any one token, and the last may be >, which matches one or more.
func ValidFilter(s string) error { return checkTokens("filter", s, true) }

// text is what names come as: subjects of records are bytes, and are not copied to be looked at.
type text interface{ ~string | ~[]byte }

// checkTokens reports why s does not follow the grammar. It allocates only to say so.
func checkTokens[S text](kind string, s S, wildcards bool) error {
	if plain(s) {
		return nil
	}
	bad := func(format string, args ...any) error {
		return &NameError{kind, string(s), fmt.Sprintf(format, args...)}
	}
	if len(s) == 0 {
		return bad("is empty")
	}
	if len(s) > MaxSubject {
		return bad("has %d bytes, limit %d", len(s), MaxSubject)
	}
	start := 0 // of the token
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == '.' {
			if i == start {
				return bad("has an empty token")
			}
			start = i + 1
			continue
		}
		c := s[i]
		switch {
		case c == '*' || c == '>':
			whole := i == start && (i+1 == len(s) || s[i+1] == '.')
			switch {
			case !wildcards:
				return bad("has a wildcard %q: only filters may", c)
			case !whole:
				return bad("has %q inside a token: it must be a token of its own", c)
			case c == '>' && i+1 != len(s):
				return bad("has > before its last token")
			}
		case c == '/' || c == '\\':
			return bad("has a %q", c)
		case c <= ' ' || c == 0x7f:
			return bad("has a space or control character (%#x)", c)
		case c >= utf8.RuneSelf:
			var buf [utf8.UTFMax]byte
			r, size := utf8.DecodeRune(buf[:copy(buf[:], s[i:])])
			if r == utf8.RuneError && size == 1 {
				return bad("is not UTF-8")
			}
			if unicode.IsSpace(r) || unicode.IsControl(r) {
				return bad("has a space or control character (%U)", r)
			}
			i += size - 1
		}
	}
	return nil
}

// plain reports whether s is a subject of ASCII alone, which nearly every one is.
func plain[S text](s S) bool {
	if len(s) > MaxSubject {
		return false
	}
	dot := true // what stands before s[i]
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if dot {
				return false
			}
			dot = true
		case c <= ' ' || c >= 0x7f || c == '*' || c == '>' || c == '/' || c == '\\':
			return false
		default:
			dot = false
		}
	}
	return !dot
}

// ValidStreamName reports why s is no stream name: 1 to 128 of A-Z a-z 0-9 _ - and dot, no token
// between dots empty, so that a stream's name is always a subject too.
func ValidStreamName(s string) error {
	switch {
	case s == "":
		return &NameError{"stream name", s, "is empty"}
	case len(s) > MaxStreamName:
		return &NameError{"stream name", s, fmt.Sprintf("has %d bytes, limit %d", len(s), MaxStreamName)}
	case s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, ".."):
		return &NameError{"stream name", s, "has an empty token: it begins or ends with a dot, or has two in a row"}
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.' {
			continue
		}
		return &NameError{"stream name", s, fmt.Sprintf("has %q; allowed are A-Z a-z 0-9 _ - and dot", c)}
	}
	return nil
}

// Match reports whether filter matches subject; both are valid. It does not allocate, so the
// subject of a record can be asked about as it stands in the batch.
func Match[S ~string | ~[]byte](filter string, subject S) bool {
	i, j := 0, 0
	for ; i < len(filter); i++ {
		switch filter[i] {
		case '>':
			return j < len(subject)
		case '*':
			if j == len(subject) {
				return false
			}
			for j < len(subject) && subject[j] != '.' {
				j++
			}
		default:
			if j == len(subject) || subject[j] != filter[i] {
				return false
			}
			j++
		}
	}
	return j == len(subject)
}

// Overlap reports whether some subject is matched by both filters, a and b; both are valid.
func Overlap(a, b string) bool {
	for {
		x, aRest, aMore := strings.Cut(a, ".")
		y, bRest, bMore := strings.Cut(b, ".")
		if x == ">" || y == ">" {
			return true
		}
		if x != "*" && y != "*" && x != y || aMore != bMore {
			return false
		}
		if !aMore {
			return true
		}
		a, b = aRest, bRest
	}
}
