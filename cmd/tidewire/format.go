package main

import (
	"fmt"
	"strconv"
	"strings"

	client "github.com/tidewire/tidewire/client/go"
)

// format is a parsed --format: each piece appends its part of a record's line.
type format []func(dst []byte, r *client.Record) []byte

const (
	defaultFormat = `%v\n`
	wideFormat    = `%t  %S/%p  %o  %s  %k  %v\n`
)

const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// formatHelp lists what may stand in a format.
const formatHelp = `  %v value    %k key        %s subject   %h headers, name=value, with commas
  %o offset   %p partition  %S stream    %t time of the record, RFC 3339 in UTC
  %%  a percent sign; \n newline, \t tab, \r return, \0 zero byte, \\ backslash`

// parseFormat reads a format such as "%o\t%v\n".
func parseFormat(s string) (format, error) {
	var f format
	var literal []byte
	flush := func() {
		if text := literal; len(text) > 0 {
			f = append(f, func(dst []byte, _ *client.Record) []byte { return append(dst, text...) })
			literal = nil
		}
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '%' && s[i] != '\\' {
			literal = append(literal, s[i])
			continue
		}
		lead := s[i]
		if i++; i == len(s) {
			return nil, fmt.Errorf("--format %q ends with a single %c: write it twice, or one of\n%s", s, lead, formatHelp)
		}
		if lead == '\\' {
			at := strings.IndexByte(`ntr0\`, s[i])
			if at < 0 {
				return nil, fmt.Errorf(`--format %q has an unknown \%c; known are`+"\n%s", s, s[i], formatHelp)
			}
			literal = append(literal, "\n\t\r\x00\\"[at])
			continue
		}
		if s[i] == '%' {
			literal = append(literal, '%')
			continue
		}
		piece := field(s[i])
		if piece == nil {
			return nil, fmt.Errorf("--format %q has an unknown %%%c; known are\n%s", s, s[i], formatHelp)
		}
		flush()
		f = append(f, piece)
	}
	flush()
	return f, nil
}

func field(c byte) func([]byte, *client.Record) []byte {
	switch c {
	case 'v':
		return func(dst []byte, r *client.Record) []byte { return append(dst, r.Value...) }
	case 'k':
		return func(dst []byte, r *client.Record) []byte { return append(dst, r.Key...) }
	case 's':
		return func(dst []byte, r *client.Record) []byte { return append(dst, r.Subject...) }
	case 'S':
		return func(dst []byte, r *client.Record) []byte { return append(dst, r.Stream...) }
	case 'o':
		return func(dst []byte, r *client.Record) []byte { return strconv.AppendUint(dst, r.Offset, 10) }
	case 'p':
		return func(dst []byte, r *client.Record) []byte { return strconv.AppendUint(dst, uint64(r.Partition), 10) }
	case 't':
		return func(dst []byte, r *client.Record) []byte { return r.Time().UTC().AppendFormat(dst, timeLayout) }
	case 'h':
		return appendHeaders
	}
	return nil
}

func appendHeaders(dst []byte, r *client.Record) []byte {
	first := true
	for name, value := range r.Headers() {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(append(dst, name...), '='), value...)
	}
	return dst
}

// append writes one record.
func (f format) append(dst []byte, r *client.Record) []byte {
	for _, piece := range f {
		dst = piece(dst, r)
	}
	return dst
}
