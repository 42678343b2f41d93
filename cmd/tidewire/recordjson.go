package main

import (
	"encoding/base64"
	"strconv"
	"time"
	"unicode/utf8"

	client "github.com/tidewire/tidewire/client/go"
)

// recordShown is what appendRecordJSON writes. It is for the schema alone.
type recordShown struct {
	Stream    string         `json:"stream" doc:"where it is stored"`
	Subject   string         `json:"subject" doc:"what it was published to"`
	Partition uint32         `json:"partition" doc:"where it is stored"`
	Offset    uint64         `json:"offset" doc:"where it is stored"`
	Epoch     uint64         `json:"epoch" doc:"of the leader that stored it"`
	Time      time.Time      `json:"time" doc:"of the record"`
	Key       string         `json:"key,omitempty" doc:"its key"`
	KeyBase64 string         `json:"key_base64,omitempty" doc:"instead of key, if that is no UTF-8"`
	Headers   []headersShown `json:"headers,omitempty" doc:"beside the value"`
	Value     string         `json:"value" doc:"as encoding says"`
	Encoding  string         `json:"encoding" doc:"utf8: value is as it was published; base64: it is no UTF-8"`
}

type headersShown struct {
	Name        string `json:"name" doc:"may come more than once"`
	Value       string `json:"value,omitempty" doc:"its value"`
	ValueBase64 string `json:"value_base64,omitempty" doc:"instead of value, if that is no UTF-8"`
}

// appendRecordJSON writes r as one JSON object and a newline:
//
//	{"stream":"orders","subject":"orders.new","partition":0,"offset":41,"epoch":1,"time":"…",
//	 "key":"k","headers":[{"name":"n","value":"v"}],"value":"hello","encoding":"utf8"}
//
// key and headers stand there if there are any. encoding is that of value: utf8 for a string as it is,
// base64 for bytes that are no UTF-8. Keys and header values that are no UTF-8 stand as key_base64 and value_base64.
func appendRecordJSON(dst []byte, r *client.Record) []byte {
	dst = append(dst, `{"stream":`...)
	dst = appendString(dst, r.Stream)
	dst = append(dst, `,"subject":`...)
	dst = appendString(dst, r.Subject)
	dst = append(dst, `,"partition":`...)
	dst = strconv.AppendUint(dst, uint64(r.Partition), 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendUint(dst, r.Offset, 10)
	dst = append(dst, `,"epoch":`...)
	dst = strconv.AppendUint(dst, r.Epoch, 10)
	dst = append(dst, `,"time":"`...)
	dst = r.Time().UTC().AppendFormat(dst, timeLayout)
	dst = append(dst, '"')
	if len(r.Key) > 0 {
		dst = appendMember(append(dst, ','), "key", r.Key)
	}
	if r.HeaderCount() > 0 {
		dst = append(dst, `,"headers":[`...)
		first := true
		for name, value := range r.Headers() {
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = append(dst, `{"name":`...)
			dst = appendString(dst, name)
			dst = append(appendMember(append(dst, ','), "value", value), '}')
		}
		dst = append(dst, ']')
	}
	dst = append(dst, `,"value":`...)
	if utf8.Valid(r.Value) {
		dst = append(appendString(dst, r.Value), `,"encoding":"utf8"}`...)
	} else {
		dst = append(appendBase64(dst, r.Value), `,"encoding":"base64"}`...)
	}
	return append(dst, '\n')
}

// appendMember writes "name":"bytes", or "name_base64":"…".
func appendMember(dst []byte, name string, b []byte) []byte {
	dst = append(append(dst, '"'), name...)
	if utf8.Valid(b) {
		return appendString(append(dst, `":`...), b)
	}
	return appendBase64(append(dst, `_base64":`...), b)
}

func appendBase64(dst, b []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(dst, '"'), b), '"')
}

// appendString writes s, which is UTF-8, as a JSON string.
func appendString[S ~string | ~[]byte](dst []byte, s S) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[start:]...), '"')
}
