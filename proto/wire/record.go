package wire

import "unicode/utf8"

// MaxHeaderName is the largest header name, in bytes.
const MaxHeaderName = 255

// Header is one name and value beside a record. The name is UTF-8, 1 to MaxHeaderName bytes.
type Header struct{ Name, Value []byte }

// Record is one stored item. Its slices alias the raw records it was read from.
type Record struct {
	OffsetDelta uint32 // offset minus the batch's first
	Time        int64  // Unix ms, by the producer's clock
	Subject     []byte
	Key         []byte // empty: none
	Value       []byte
	headers     []byte
	headerCount int
}

// HeaderCount is the number of headers.
func (r *Record) HeaderCount() int { return r.headerCount }

// Headers yields the headers in the order the producer gave them.
func (r *Record) Headers(yield func(Header) bool) {
	d := decoder{what: "headers", b: r.headers}
	for range r.headerCount {
		h := Header{Name: d.bytes("name"), Value: d.bytes("value")}
		if d.err != nil || !yield(h) {
			return
		}
	}
}

func (r *Record) checkHeaders() error {
	d := decoder{what: "record", b: r.headers}
	for range r.headerCount {
		if name := d.bytes("header name"); d.err == nil && !validHeaderName(name) {
			d.fail("a header name of %d bytes: 1 to %d of UTF-8", len(name), MaxHeaderName)
		}
		d.bytes("header value")
	}
	return d.done()
}

func validHeaderName(name []byte) bool {
	return len(name) > 0 && len(name) <= MaxHeaderName && utf8.Valid(name)
}

// Iterator walks the records of one batch. It copies what it needs of the Batch, so that neither
// has to be on the heap.
type Iterator struct {
	rest     []byte
	subject  []byte
	baseTime int64
	last     int64 // offset delta of the last record read
	count    uint32
	span     uint32
	read     uint32 // records so far
	mixed    bool
	filtered bool
	err      error
}

// Iterate begins at the first record of raw (what Raw gave).
func (h *Batch) Iterate(raw []byte) Iterator {
	return Iterator{rest: raw, subject: h.Subject, baseTime: h.BaseTime, last: -1,
		count: h.Count, span: h.Span, mixed: h.Mixed(), filtered: h.Filtered()}
}

// Next reads the next record into r and reports whether there was one. After the last, Err
// tells whether the batch ended where it should.
func (it *Iterator) Next(r *Record) bool {
	if it.err != nil || it.read == it.count {
		if it.err == nil && len(it.rest) != 0 {
			it.err = malformed("batch", "%d bytes follow the last record", len(it.rest))
		}
		return false
	}
	if it.filtered {
		delta, n := uvarint(it.rest)
		if n <= 0 || delta >= uint64(it.span) || int64(delta) <= it.last {
			return it.fail("offset delta")
		}
		r.OffsetDelta, it.rest, it.last = uint32(delta), it.rest[n:], int64(delta)
	} else {
		r.OffsetDelta = it.read
	}
	length, n := uvarint(it.rest)
	if n <= 0 || length > uint64(len(it.rest)-n) {
		return it.fail("length")
	}
	end := n + int(length)
	b := it.rest[n:end:end] // a caller may append to Value
	it.rest = it.rest[end:]

	delta, n := varint(b)
	if n <= 0 {
		return it.fail("time delta")
	}
	b = b[n:]
	r.Time = it.baseTime + delta
	if it.mixed {
		if r.Subject, b = cut(b); len(r.Subject) == 0 || len(r.Subject) > MaxSubject {
			return it.fail("subject")
		}
	} else {
		r.Subject = it.subject
	}
	if len(b) >= 2 && b[0]|b[1] == 0 { // neither key nor headers, the usual case
		r.Key, r.Value = b[:0:0], b[2:]
		r.headers, r.headerCount = nil, 0
		it.read++
		return true
	}
	if r.Key, b = cut(b); b == nil {
		return it.fail("key")
	}
	count, n := uvarint(b)
	if n <= 0 || count > uint64(len(b)-n)/2 {
		return it.fail("header count")
	}
	b = b[n:]
	r.headerCount, r.headers = int(count), b
	for range count {
		for range 2 { // name, value
			if _, b = cut(b); b == nil {
				return it.fail("headers")
			}
		}
	}
	r.headers = r.headers[:len(r.headers)-len(b)]
	r.Value = b
	it.read++
	return true
}

// Err is what ended the walk early, or nil.
func (it *Iterator) Err() error { return it.err }

func (it *Iterator) fail(field string) bool {
	it.err = malformed("record", "%s of record %d does not decode", field, it.read)
	return false
}

// cut takes a bytes field off b. rest is nil if it does not decode, and never nil otherwise.
func cut(b []byte) (field, rest []byte) {
	n, size := uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil
	}
	end := size + int(n)
	return b[size:end:end], b[end:]
}
