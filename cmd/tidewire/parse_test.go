package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
)

func TestParseFrom(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, zone)
	for _, x := range []struct {
		s    string
		want client.Start
	}{
		{"first", client.FromFirst()},
		{"last", client.FromLast()},
		{"next", client.FromNext()},
		{"0", client.FromOffset(0)},
		{"4711", client.FromOffset(4711)},
		{"18446744073709551615", client.FromOffset(1<<64 - 1)},
		{"10m", client.FromTime(now.Add(-10 * time.Minute))},
		{"1h30m", client.FromTime(now.Add(-90 * time.Minute))},
		{"7d", client.FromTime(now.Add(-7 * 24 * time.Hour))},
		{"2w", client.FromTime(now.Add(-14 * 24 * time.Hour))},
		{"2026-11-22T08:00:00Z", client.FromTime(time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC))},
		{"2026-11-22T08:00:00.25+01:00", client.FromTime(time.Date(2026, 11, 22, 7, 0, 0, 250e6, time.UTC))},
		{"2026-11-22T08:00:00", client.FromTime(time.Date(2026, 11, 22, 8, 0, 0, 0, zone))},
		{"2026-11-22 08:00:00", client.FromTime(time.Date(2026, 11, 22, 8, 0, 0, 0, zone))},
		{"2026-11-22", client.FromTime(time.Date(2026, 11, 22, 0, 0, 0, 0, zone))},
	} {
		got, err := parseFrom(x.s, now)
		if err != nil || got != x.want {
			t.Errorf("%q: %v, %v; want %v", x.s, got, err, x.want)
		}
	}
	for _, s := range []string{"", "-1", "-10m", "yesterday", "18446744073709551616", "2026-13-01", "d", "NaNd", "1e300d"} {
		if got, err := parseFrom(s, now); err == nil {
			t.Errorf("%q is taken for %v", s, got)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]uint64{
		"0": 0, "4096": 4096, "4096B": 4096, "64KiB": 64 << 10, "64Ki": 64 << 10, "64kib": 64 << 10, "64KB": 64000, "64k": 64000,
		"1.5MiB": 3 << 19, "10GiB": 10 << 30, "10 GB": 10e9, "2TiB": 2 << 40,
	} {
		if got, err := parseBytes(s); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "-1", "lots", "KiB", "5bib", "5mm", "5i", "1e30", "99999999TiB", "0x10", "NaN"} {
		if got, err := parseBytes(s); err == nil {
			t.Errorf("%q is taken for %d", s, got)
		}
	}
}

func TestAge(t *testing.T) {
	for s, want := range map[string]time.Duration{"90s": 90 * time.Second, "36h": 36 * time.Hour, "7d": 7 * 24 * time.Hour, "1.5d": 36 * time.Hour, "2w": 14 * 24 * time.Hour} {
		if got, err := parseAge(s); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	for d, want := range map[time.Duration]string{48 * time.Hour: "2d", 36 * time.Hour: "36h", 90 * time.Minute: "90m", 90 * time.Second: "1m30s"} {
		if got := ageText(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestText(t *testing.T) {
	for _, x := range []struct{ got, want string }{
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1,000"}, {count(uint64(1<<64 - 1)), "18,446,744,073,709,551,615"},
		{size(0), "0 B"}, {size(1023), "1023 B"}, {size(1024), "1.00 KiB"}, {size(150 << 10), "150 KiB"}, {size(uint64(1<<64 - 1)), "16.0 EiB"},
		{rate(3.14159), "3.14/s"}, {rate(999), "999/s"}, {rate(9999), "9999/s"}, {rate(12345), "12.3 k/s"}, {rate(1.5e6), "1.50 M/s"},
		{span(0), "0.0 µs"}, {span(1500), "1.5 µs"}, {span(412 * time.Microsecond), "412 µs"}, {span(1250 * time.Microsecond), "1.25 ms"},
		{span(12 * time.Second), "12.0 s"}, {span(90 * time.Second), "1m30s"},
		{plural(1, "record"), "1 record"}, {plural(0, "record"), "0 records"}, {numbered(2, "batch", "batches"), "2 batches"},
		{quoted([]byte("a\n\xff"), false), `"a\n\xff"`}, {quoted(bytes.Repeat([]byte("x"), 81), false), `"` + strings.Repeat("x", 80) + `"… 81 bytes`},
	} {
		if x.got != x.want {
			t.Errorf("got %q, want %q", x.got, x.want)
		}
	}
}

func TestParseFormat(t *testing.T) {
	r := &client.Record{Stream: "S", Subject: "s.t", Partition: 3, Offset: 4711, Key: []byte("k\xff"), Value: []byte("v\n%v")}
	for f, want := range map[string]string{
		"":                 "",
		"plain":            "plain",
		defaultFormat:      "v\n%v\n",
		"%v%v":             "v\n%vv\n%v",
		"%S/%p:%o %s":      "S/3:4711 s.t",
		"%k|%h|":           "k\xff||",
		`%%v \\ \n\t\r\0.`: "%v \\ \n\t\r\x00.",
		"%t":               "1970-01-01T00:00:00.000Z",
		"grün %o €":        "grün 4711 €",
	} {
		p, err := parseFormat(f)
		if err != nil {
			t.Errorf("%q: %v", f, err)
		} else if got := string(p.append(nil, r)); got != want {
			t.Errorf("%q gives %q, want %q", f, got, want)
		}
	}
}

func TestRecordJSON(t *testing.T) {
	r := &client.Record{Stream: "S", Subject: "s.t", Partition: 3, Offset: 4711, Epoch: 2, Key: []byte("k\xff"), Value: []byte("a\"b")}
	want := `{"stream":"S","subject":"s.t","partition":3,"offset":4711,"epoch":2,"time":"1970-01-01T00:00:00.000Z","key_base64":"a/8=","value":"a\"b","encoding":"utf8"}` + "\n"
	if got := string(appendRecordJSON(nil, r)); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	var m map[string]any
	if err := json.Unmarshal(appendRecordJSON(nil, &client.Record{}), &m); err != nil || m["value"] != "" {
		t.Errorf("%v, %v", m, err)
	}
}

func BenchmarkFormat(b *testing.B) {
	f, err := parseFormat(defaultFormat)
	if err != nil {
		b.Fatal(err)
	}
	r := &client.Record{Value: bytes.Repeat([]byte("x"), 128)}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = f.append(dst[:0], r)
	}
}

func BenchmarkRecordJSON(b *testing.B) {
	r := &client.Record{Stream: "S", Subject: "s.t", Value: bytes.Repeat([]byte("x"), 128)}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = appendRecordJSON(dst[:0], r)
	}
}

func TestParseFormatRefuses(t *testing.T) {
	for _, s := range []string{"%", `\`, "%q", `\x`, "%v%"} {
		if _, err := parseFormat(s); err == nil || !strings.Contains(err.Error(), "%v value") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestLineReader(t *testing.T) {
	long := strings.Repeat("x", 300<<10)
	for _, x := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{"a", []string{"a"}},
		{"a\n", []string{"a"}},
		{"\n\na\r\n", []string{"", "", "a\r"}},
		{"a\n\x00\xff\nb", []string{"a", "\x00\xff", "b"}},
		{long + "\nb\n" + long, []string{long, "b", long}},
	} {
		l := newLineReader(strings.NewReader(x.in), 400<<10)
		var got []string
		for {
			b, err := l.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(b))
		}
		if !reflect.DeepEqual(got, x.want) {
			t.Errorf("%.20q: %d lines, want %d", x.in, len(got), len(x.want))
		}
	}
}

func TestLineReaderLimit(t *testing.T) {
	for _, limit := range []int{10, 1000, 256 << 10, 300 << 10, 1 << 20} {
		exact, over := strings.Repeat("x", limit), strings.Repeat("x", limit+1)
		l := newLineReader(strings.NewReader(exact+"\n"+over+"\n"), limit)
		if b, err := l.next(); err != nil || len(b) != limit {
			t.Errorf("limit %d: %d bytes, %v", limit, len(b), err)
		}
		if _, err := l.next(); err == nil || !strings.Contains(err.Error(), count(limit)) || l.line != 2 {
			t.Errorf("limit %d, line %d: %v", limit, l.line, err)
		}
	}
	// An endless line is given up after the limit, not read into memory.
	if _, err := newLineReader(endless{}, 1<<20).next(); err == nil {
		t.Error("an endless line is a line")
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

func TestAppendString(t *testing.T) {
	for _, s := range []string{"", "plain", `a"b\c`, "tab\tnew\nret\r", "\x00\x1f\x7f", "grün €😀", "<&>"} {
		var back string
		if err := json.Unmarshal(appendString(nil, s), &back); err != nil || back != s {
			t.Errorf("%q: %s, %v", s, appendString(nil, s), err)
		}
	}
}

// Output keeps order, writes everything and reports a failed write.
func TestOutput(t *testing.T) {
	var b bytes.Buffer
	o := newOutput(&b)
	want := ""
	for i := range 1000 {
		line := strings.Repeat("x", i) + "\n"
		want += line
		if err := o.append(func(dst []byte) []byte { return append(dst, line...) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.close(); err != nil || b.String() != want {
		t.Errorf("%d bytes, %v; want %d", b.Len(), err, len(want))
	}

	o = newOutput(broken{})
	big := make([]byte, outputBytes)
	var err error
	for range 10 { // it must neither block nor go on for ever
		if err = o.append(func(dst []byte) []byte { return append(dst, big...) }); err != nil {
			break
		}
	}
	if err == nil {
		err = o.close()
	} else if closeErr := o.close(); closeErr == nil {
		t.Error("close forgets the error")
	}
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error is %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
