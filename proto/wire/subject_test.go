package wire

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, c := range []struct {
		name                    string
		subject, filter, stream bool
	}{
		{"orders", true, true, true},
		{"orders.new", true, true, true},
		{"a", true, true, true},
		{"Orders_2-x", true, true, true},
		{"", false, false, false},
		{".", false, false, false},
		{".a", false, false, false},
		{"a.", false, false, false},
		{"a..b", false, false, false},
		{"*", false, true, false},
		{">", false, true, false},
		{"a.*", false, true, false},
		{"*.*", false, true, false},
		{"a.*.b", false, true, false},
		{"a.>", false, true, false},
		{"a.>.b", false, false, false},
		{">.a", false, false, false},
		{"a*", false, false, false},
		{"*a", false, false, false},
		{"a.b>", false, false, false},
		{"**", false, false, false},
		{">>", false, false, false},
		{"a b", false, false, false},
		{"a\tb", false, false, false},
		{"a\x00b", false, false, false},
		{"a\x7fb", false, false, false},
		{"a/b", false, false, false},
		{`a\b`, false, false, false},
		{"größe", true, true, false},
		{"数.量", true, true, false},
		{"a\u00a0b", false, false, false}, // no-break space
		{"a\u0085b", false, false, false}, // next line, a control character
		{"a\u2003b", false, false, false}, // em space
		{"a\u3000", false, false, false},
		{"a\u200bb", true, true, false}, // zero width space is, by Unicode, no space
		{"a\ufffdb", true, true, false},
		{"a\xffb", false, false, false},
		{"a\xc0\xaeb", false, false, false}, // an overlong dot
		{"a$#@!b:c,d", true, true, false},
		{long, true, true, false},
		{long + "x", false, false, false},
		{long[:128], true, true, true},
		{long[:129], true, true, false},
	} {
		for kind, check := range map[string]struct {
			got  error
			want bool
		}{
			"subject": {ValidSubject(c.name), c.subject},
			"filter":  {ValidFilter(c.name), c.filter},
			"stream":  {ValidStreamName(c.name), c.stream},
		} {
			if (check.got == nil) != check.want {
				t.Errorf("%q as a %s: %v, want valid %t", c.name, kind, check.got, check.want)
			}
			var name *NameError
			if check.got != nil && (!errors.Is(check.got, ErrName) || !errors.As(check.got, &name) || name.Name != c.name) {
				t.Errorf("%q as a %s: error of a foreign kind: %v", c.name, kind, check.got)
			}
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		filter, subject string
		want            bool
	}{
		{"orders", "orders", true},
		{"orders", "order", false},
		{"orders", "orders2", false},
		{"orders", "orders.new", false},
		{"orders.new", "orders", false},
		{"orders.*", "orders.new", true},
		{"orders.*", "orders", false},
		{"orders.*", "orders.new.big", false},
		{"*.new", "orders.new", true},
		{"*.new", "new", false},
		{"*", "orders", true},
		{"*", "a.b", false},
		{"a.*.c", "a.b.c", true},
		{"a.*.c", "a.b.d", false},
		{"orders.>", "orders", false},
		{"orders.>", "orders.new", true},
		{"orders.>", "orders.new.big", true},
		{"orders.>", "orders2.new", false},
		{">", "a", true},
		{">", "a.b.c", true},
		{"*.>", "a", false},
		{"*.>", "a.b.c", true},
	} {
		if got := Match(c.filter, c.subject); got != c.want {
			t.Errorf("Match(%q, %q) = %t", c.filter, c.subject, got)
		}
		if got := Match(c.filter, []byte(c.subject)); got != c.want {
			t.Errorf("Match(%q, []byte(%q)) = %t", c.filter, c.subject, got)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"orders", "orders", true},
		{"orders", "orders.>", false},
		{"orders", ">", true},
		{"orders", "*", true},
		{"orders.>", "orders.new", true},
		{"orders.>", "orders.*.big", true},
		{"orders.>", "order.>", false},
		{"orders.*", "*.new", true},
		{"orders.*", "*.new.*", false},
		{"a.*.c", "a.b.*", true},
		{"a.*.c", "a.b.d", false},
		{"a.*", "a.b.c", false},
		{"*.>", "a", false},
		{">", ">", true},
	} {
		if Overlap(c.a, c.b) != c.want || Overlap(c.b, c.a) != c.want {
			t.Errorf("Overlap(%q, %q) = %t, turned round %t", c.a, c.b, Overlap(c.a, c.b), Overlap(c.b, c.a))
		}
	}
}

// Names, matching and overlap do as the document says, read word for word.
func FuzzNames(f *testing.F) {
	for _, s := range [][2]string{{"orders.new", "orders.*"}, {"a.b.c", "a.>"}, {"a..b", ">"}, {"größe", "*"}, {"*.b", "a.*"}, {"a\u2003b", "a\xff"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, s := range []string{a, b} {
			if got, want := ValidSubject(s) == nil, naiveTokens(s, false); got != want {
				t.Fatalf("subject %q: %t, want %t", s, got, want)
			}
			if got, want := ValidFilter(s) == nil, naiveTokens(s, true); got != want {
				t.Fatalf("filter %q: %t, want %t", s, got, want)
			}
			if (checkTokens("subject", []byte(s), false) == nil) != (ValidSubject(s) == nil) {
				t.Fatalf("%q is judged otherwise as bytes", s)
			}
			if ValidStreamName(s) == nil && ValidSubject(s) != nil {
				t.Fatalf("stream name %q is no subject", s)
			}
		}
		if ValidFilter(b) != nil {
			return
		}
		if ValidSubject(a) == nil {
			if got, want := Match(b, a), naiveMatch(b, a); got != want {
				t.Fatalf("Match(%q, %q) = %t, want %t", b, a, got, want)
			}
			if Match(b, a) != Match(b, []byte(a)) || Match(b, a) && !Overlap(b, a) {
				t.Fatalf("Match(%q, %q) contradicts itself", b, a)
			}
		}
		if ValidFilter(a) == nil && strings.Count(a+b, ".") < 8 {
			if got, want := Overlap(a, b), naiveOverlap(a, b); got != want || Overlap(b, a) != want {
				t.Fatalf("Overlap(%q, %q) = %t, want %t", a, b, got, want)
			}
		}
	})
}

func naiveTokens(s string, wildcards bool) bool {
	if s == "" || len(s) > 255 || !utf8.ValidString(s) {
		return false
	}
	// The characters the document lists.
	const space = "\u0020\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r <= 0x9f || strings.ContainsRune(space+`/\`, r) {
			return false
		}
	}
	tokens := strings.Split(s, ".")
	for i, token := range tokens {
		switch {
		case token == "":
			return false
		case token == "*" || token == ">" && i == len(tokens)-1:
			if !wildcards {
				return false
			}
		case strings.ContainsAny(token, "*>"):
			return false
		}
	}
	return true
}

func naiveMatch(filter, subject string) bool {
	tokens := strings.Split(filter, ".")
	for i, token := range tokens {
		switch token {
		case "*":
			tokens[i] = `[^.]+`
		case ">":
			tokens[i] = `.+`
		default:
			tokens[i] = regexp.QuoteMeta(token)
		}
	}
	return regexp.MustCompile(`(?s)^` + strings.Join(tokens, `\.`) + `$`).MatchString(subject)
}

// naiveOverlap tries every subject that could tell: each token one of either filter's, or neither's.
func naiveOverlap(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	var try func(prefix []string) bool
	try = func(prefix []string) bool {
		if s := strings.Join(prefix, "."); len(prefix) > 0 && naiveMatch(a, s) && naiveMatch(b, s) {
			return true
		}
		i := len(prefix)
		if i == max(len(x), len(y)) {
			return false
		}
		candidates := []string{"neither"}
		for _, tokens := range [][]string{x, y} {
			if i < len(tokens) && tokens[i] != "*" && tokens[i] != ">" {
				candidates = append(candidates, tokens[i])
			}
		}
		for _, c := range candidates {
			if try(append(prefix[:i:i], c)) {
				return true
			}
		}
		return false
	}
	return try(nil)
}
