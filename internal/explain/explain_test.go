package explain

import (
	"strings"
	"testing"

	"github.com/tidewire/tidewire/proto/wire"
)

func TestCatalogue(t *testing.T) {
	all := All()
	for i, e := range all {
		if i > 0 && all[i-1].ID == e.ID {
			t.Errorf("%s is there twice", e.ID)
		}
		if e.ID < 1000 || e.ID > 6999 {
			t.Errorf("%s is in no group", e.ID)
		}
		if e.Name == "" || strings.HasSuffix(e.Name, ".") || strings.ToLower(e.Name[:1]) != e.Name[:1] && !strings.HasPrefix(e.Name, "TLS") {
			t.Errorf("%s: the name %q is to be a few words, as within a sentence", e.ID, e.Name)
		}
		for what, s := range map[string]string{"cause": e.Cause, "remedy": e.Remedy} {
			if len(s) < 10 || !strings.HasSuffix(s, ".") || s[:1] != strings.ToUpper(s[:1]) && s[0] != '`' {
				t.Errorf("%s: the %s %q is no sentence", e.ID, what, s)
			}
		}
		if got, ok := Lookup(e.ID); !ok || got != e {
			t.Errorf("%s is not found", e.ID)
		}
		for _, s := range []string{e.ID.String(), strings.ToLower(e.ID.String()), strings.TrimPrefix(e.ID.String(), "TW-")} {
			if id, err := Parse(s); err != nil || id != e.ID {
				t.Errorf("%q is %v, %v", s, id, err)
			}
		}
	}
	for _, s := range []string{"", "TW-", "TW", "TW-x", "-", "99999999999999", "ls"} {
		if id, err := Parse(s); err == nil {
			t.Errorf("%q is taken for %s", s, id)
		}
	}
}

// Every code of the wire has an entry, and no entry is without a code.
func TestWireCodes(t *testing.T) {
	for code := range uint16(999) {
		_, explained := Lookup(Wire(code))
		if known := !strings.HasPrefix(wire.Code(code).String(), "CODE("); known != explained {
			t.Errorf("code %d, %s: known is %v, explained %v", code, wire.Code(code), known, explained)
		}
	}
}
