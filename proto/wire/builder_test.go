package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Whatever is appended comes out of the batch again, in order; what is refused leaves no trace.
func builderRoundTrip(t *rapid.T) {
	subjects := rapid.SampledFrom([]string{"orders", "orders.new", "a", strings.Repeat("long", 60), "größe", "bad..subject", ""})
	if rapid.Bool().Draw(t, "one subject") {
		subjects = rapid.Just("orders.new")
	}
	bytesOf := func(max int) *rapid.Generator[string] {
		return rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, max), func(b []byte) string { return string(b) })
	}
	limit := rapid.SampledFrom([]int{0, 40, 200, 1000, 5000, MaxBatch, 2 * MaxBatch}).Draw(t, "limit")
	prefix := []byte(bytesOf(12).Draw(t, "prefix"))

	var b Builder
	b.Reset(bytes.Clone(prefix), limit)
	want := batch{Sequence: rapid.Uint64Max(1<<60).Draw(t, "sequence")}
	for range rapid.IntRange(1, 60).Draw(t, "records") {
		r := record{
			Time:    newYear + rapid.OneOf(rapid.Int64Range(-100, 100), rapid.Int64()).Draw(t, "time"),
			Subject: subjects.Draw(t, "subject"), Key: bytesOf(20).Draw(t, "key"), Value: bytesOf(300).Draw(t, "value"),
		}
		var headers []Header
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			name := rapid.SampledFrom([]string{"trace", "h", "größe", strings.Repeat("n", 255), "", "\xff"}).Draw(t, "name")
			value := bytesOf(10).Draw(t, "header value")
			r.Headers = append(r.Headers, [2]string{name, value})
			headers = append(headers, Header{[]byte(name), []byte(value)})
		}
		size, count := b.Size(), b.Count()
		err := b.Append(r.Subject, []byte(r.Key), []byte(r.Value), headers, r.Time)
		if err == nil {
			want.Records = append(want.Records, r)
			continue
		}
		if b.Size() != size || b.Count() != count {
			t.Fatalf("%v: the batch had %d bytes, %d records, and has %d, %d", err, size, count, b.Size(), b.Count())
		}
		checkRefusal(t, err, r, headers, limit, count)
	}
	if len(want.Records) == 0 {
		return
	}
	want.BaseTime, want.Subject = want.Records[0].Time, want.Records[0].Subject
	for _, r := range want.Records {
		if r.Subject != want.Subject {
			want.Attributes = AttrMixed
		}
	}
	if want.Attributes == AttrMixed {
		want.Subject = ""
	} else {
		for i := range want.Records {
			want.Records[i].Subject = ""
		}
	}
	checkBuilt(t, &b, want, prefix, limit, rapid.Bool().Draw(t, "zstd"))
}

// checkRefusal: an error must be deserved, and be the same for a record that stands alone.
func checkRefusal(t *rapid.T, err error, r record, headers []Header, limit, count int) {
	var alone Builder
	alone.Reset(nil, limit)
	aloneErr := alone.Append(r.Subject, []byte(r.Key), []byte(r.Value), headers, r.Time)
	if errors.Is(err, ErrFull) {
		if aloneErr != nil || count == 0 {
			t.Fatalf("full with %d records, and alone: %v", count, aloneErr)
		}
		return
	}
	if !reflect.DeepEqual(err, aloneErr) {
		t.Fatalf("%v, and alone: %v", err, aloneErr)
	}
}

func checkBuilt(t *rapid.T, b *Builder, want batch, prefix []byte, limit int, zstd bool) {
	size := b.Size()
	out := b.Finish(want.Sequence, zstd)
	if !bytes.HasPrefix(out, prefix) {
		t.Fatal("what stood before the batch was changed")
	}
	out = out[len(prefix):]
	h, err := ParseBatch(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Bytes) != len(out) || len(out) > limit || !zstd && len(out) != size {
		t.Fatalf("batch of %d bytes in %d; size said %d, limit %d", len(h.Bytes), len(out), size, limit)
	}
	if !h.Compressed() && !bytes.Equal(out, want.encode()) {
		t.Fatalf("built\n%x, want\n%x", out, want.encode())
	}
	got, err := readBatch(h)
	if err != nil {
		t.Fatal(err)
	}
	if got.Attributes&AttrZstd != 0 {
		if len(out) >= size {
			t.Fatalf("compressed from %d to %d bytes", size, len(out))
		}
		got.Attributes &^= AttrZstd
		got.Zstd = nil
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("read back\n%+v, want\n%+v", got, want)
	}
}

func TestBuilderRoundTrip(t *testing.T) { rapid.Check(t, builderRoundTrip) }
func FuzzBuilder(f *testing.F)          { f.Fuzz(rapid.MakeFuzz(builderRoundTrip)) }

func TestBuilderFull(t *testing.T) {
	var b Builder
	b.Reset(nil, MaxBatch)
	for range math.MaxUint16 {
		if err := b.Append("s", nil, nil, nil, newYear); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Append("s", nil, nil, nil, newYear); !errors.Is(err, ErrFull) {
		t.Errorf("65,536th record: %v", err)
	}
	h, err := ParseBatch(b.Finish(0, false))
	if err != nil || h.Count != math.MaxUint16 || h.Check(h.records) != nil {
		t.Errorf("%d records, %v", h.Count, err)
	}

	// The largest record there is fills a batch to its last byte, first or not; a byte more fits none.
	largest := make([]byte, MaxBatch-batchFixed-1-3-3) // subject; length; time, key, headers
	for _, first := range []bool{true, false} {
		b.Reset(nil, MaxBatch)
		wantErr := error(nil)
		if !first {
			if err := b.Append("s", nil, nil, nil, newYear+1<<40); err != nil {
				t.Fatal(err)
			}
			wantErr = ErrFull
		}
		var tooLarge *TooLargeError
		if err := b.Append("s", nil, append(largest, 0), nil, newYear); !errors.As(err, &tooLarge) {
			t.Errorf("first %t, a byte too many: %v", first, err)
		}
		if err := b.Append("s", nil, largest, nil, newYear); !errors.Is(err, wantErr) {
			t.Errorf("first %t, the largest record: %v", first, err)
		}
		if first && b.Size() != MaxBatch {
			t.Errorf("the batch has %d bytes", b.Size())
		}
	}
}

// The largest batch there is, cut for a reader who sees all but one record, is still a batch.
func TestLargestFiltered(t *testing.T) {
	b := batch{Attributes: AttrMixed, BaseTime: newYear}
	value := strings.Repeat("v", 9)
	size := MaxBatch
	for i := range math.MaxUint16 {
		r := record{Time: newYear, Subject: "s", Value: value}
		if i == 0 {
			r.Subject = "t"
		}
		if size -= 15; size < 0 {
			t.Fatal("the records do not fit")
		}
		b.Records = append(b.Records, r)
	}
	b.Records[1].Value += strings.Repeat("v", size-2) // the length of this record takes two bytes more
	raw := b.raw()
	if len(raw) != MaxBatch {
		t.Fatalf("%d raw bytes", len(raw))
	}
	b.Attributes |= AttrZstd
	b.Zstd = compress(nil, raw)
	h, err := ParseBatch(b.encode())
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = h.Raw(nil); err != nil {
		t.Fatal(err)
	}
	out, err := AppendFiltered(nil, &h, raw, func(r *Record) bool { return string(r.Subject) == "s" })
	if err != nil {
		t.Fatal(err)
	}
	cut, err := ParseBatch(out)
	if err != nil || cut.Count != math.MaxUint16-1 || cut.Span != math.MaxUint16 || len(out) <= MaxBatch {
		t.Fatalf("%d bytes, %d records of %d, %v", len(out), cut.Count, cut.Span, err)
	}
	if err := cut.Check(cut.records); err != nil {
		t.Error(err)
	}
	frame, at := BeginRecords(nil, 1, &RecordsHeader{Stream: math.MaxUint64, Partition: math.MaxUint32,
		LogStart: math.MaxUint64, HighWatermark: math.MaxUint64, First: math.MaxUint64, Next: math.MaxUint64})
	frame = (&Run{math.MaxUint64, math.MaxUint64, math.MaxUint64, out}).AppendTo(frame)
	if frame = EndRecords(frame, at); len(frame)-4 > MinFrameLimit {
		t.Errorf("a frame of %d bytes, limit %d", len(frame)-4, MinFrameLimit)
	}
	// Unfiltered, so large a batch is none.
	out[9] &^= byte(AttrFiltered)
	seal(out)
	var tooLarge *TooLargeError
	if _, err := ParseBatch(out); !errors.As(err, &tooLarge) {
		t.Errorf("unfiltered: %v", err)
	}
}

func TestFinishEmptyPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Finish of an empty batch returned")
		}
	}()
	var b Builder
	b.Reset(nil, MaxBatch)
	b.Finish(0, false)
}

func TestPutPublishHeader(t *testing.T) {
	var b Builder
	b.Reset(make([]byte, HeaderBytes), MaxBatch)
	if err := b.Append("orders", nil, []byte("0123456789abcdef"), nil, newYear); err != nil {
		t.Fatal(err)
	}
	frame := b.Finish(sixteen.Sequence, false)
	PutPublishHeader(frame, 3, len(frame)-HeaderBytes)
	if want := readHex(t, "publish"); !bytes.Equal(frame, want) {
		t.Errorf("%x, want %x", frame, want)
	}
}

func ExampleBuilder() {
	var b Builder
	b.Reset(make([]byte, HeaderBytes), MaxBatch)
	for _, value := range []string{"first", "second"} {
		if err := b.Append("orders", nil, []byte(value), nil, newYear); err != nil {
			fmt.Println(err)
			return
		}
	}
	frame := b.Finish(0, false)
	PutPublishHeader(frame, 1, len(frame)-HeaderBytes)

	f, _, _ := Decode(frame, DefaultFrameLimit)
	batch, _ := ParsePublish(f.Body)
	raw, _ := batch.Raw(nil)
	it := batch.Iterate(raw)
	for rec := (Record{}); it.Next(&rec); {
		fmt.Printf("%s %s %s\n", f.Op, rec.Subject, rec.Value)
	}
	// Output:
	// PUBLISH orders first
	// PUBLISH orders second
}
