package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// seedFrames are the frames of all vectors and dialogues.
func seedFrames(f *testing.F) (frames []Frame) {
	for _, v := range vectors {
		if v.op != 0 {
			frames = append(frames, mustDecode(f, readHex(f, v.name)))
		}
	}
	return frames
}

func mustDecode(t testing.TB, b []byte) Frame {
	t.Helper()
	f, n, err := Decode(b, MaxFrameLimit)
	if err != nil || n != len(b) {
		t.Fatalf("%d of %d bytes, %v", n, len(b), err)
	}
	return f
}

// allocated is how many bytes of heap do takes; other goroutines may add a little.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// allocationSlack is what a decoder may allocate whatever it is given: its struct, an error, and
// what the fuzzing engine does meanwhile.
const allocationSlack = 256 << 10

// However a stream of frames is split, the same frames come out, and encode to the same bytes.
func FuzzFrames(f *testing.F) {
	var all []byte
	for _, frame := range seedFrames(f) {
		all = frame.AppendTo(all)
	}
	f.Add(all, []byte{1, 2, 3, 200})
	f.Add(all[:len(all)-3], []byte{0})
	f.Add([]byte{6, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, []byte{4})
	f.Add([]byte{6, 0, 0, 0, 200, 0xf1, 1, 2, 3, 4}, []byte{9, 1})
	f.Fuzz(func(t *testing.T, stream, splits []byte) {
		const limit = 1 << 16
		take := func(b []byte) (frames []Frame, n int, err error) {
			for {
				var f Frame
				var size int
				if f, size, err = Decode(b[n:], limit); err != nil {
					return frames, n, err
				}
				if again := f.AppendTo(nil); !bytes.Equal(again, b[n:n+size]) {
					t.Fatalf("%x encodes again to %x", b[n:n+size], again)
				}
				f.Body = bytes.Clone(f.Body)
				frames = append(frames, f)
				n += size
			}
		}
		want, _, wantErr := take(stream)
		var got []Frame
		var gotErr error = ErrShort
		var buf []byte
		for rest := stream; errors.Is(gotErr, ErrShort) && len(rest) > 0; {
			n := len(rest)
			if len(splits) > 0 {
				n, splits = min(n, 1+int(splits[0])), splits[1:]
			}
			buf, rest = append(buf, rest[:n]...), rest[n:]
			var more []Frame
			var used int
			more, used, gotErr = take(buf)
			got, buf = append(got, more...), buf[used:]
		}
		if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(gotErr, wantErr) {
			t.Fatalf("split: %d frames, %v; whole: %d frames, %v", len(got), gotErr, len(want), wantErr)
		}
	})
}

// No body makes a decoder panic or allocate out of proportion; what it accepts has no other encoding.
func FuzzBody(f *testing.F) {
	for _, frame := range seedFrames(f) {
		f.Add(uint8(frame.Op), frame.Body)
	}
	f.Add(uint8(OpTopology), []byte{1, 0, 0x80, 0x80, 0x80, 0x80, 0x10})
	f.Add(uint8(OpSub), append([]byte{1, 'a', 0, 0, 1, 0, 0xff, 1}, make([]byte, 255*3)...))
	f.Fuzz(func(t *testing.T, op uint8, p []byte) {
		b := newBody(Op(op))
		if b == nil {
			return
		}
		if Op(op) == OpPublish || Op(op) == OpRecords {
			p = bytes.Clone(p)
			resealAll(p)
		}
		var err error
		// Decompression may take MaxBatch for each compressed batch; bodies of others do not compress.
		limit := allocationSlack + 64*uint64(len(p)) + MaxBatch*uint64(1+len(p)/MinBatch)
		if Op(op) != OpPublish && Op(op) != OpRecords {
			limit = allocationSlack + 32*uint64(len(p))
		}
		if n := allocated(func() { err = b.Decode(p) }); n > limit {
			t.Fatalf("%s of %d bytes allocates %d", Op(op), len(p), n)
		}
		if err != nil {
			var name *NameError
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrChecksum) && !errors.As(err, &name) {
				t.Fatalf("error of a foreign kind: %v", err)
			}
			return
		}
		again := mustDecode(t, b.frame(nil, Op(op), 1))
		if !bytes.Equal(again.Body, p) {
			t.Fatalf("%s %x encodes again to %x", Op(op), p, again.Body)
		}
	})
}

// resealAll gives the batches it finds in p a right CRC, as no fuzzer guesses one.
func resealAll(p []byte) {
	for i := 0; i+MinBatch <= len(p); i++ {
		if b, err := ParseBatch(p[i:]); err == nil {
			seal(b.Bytes)
			i += len(b.Bytes) - 1
		}
	}
}

// A batch that passes Check has one encoding, and cutting it keeps exactly what was chosen.
func FuzzBatch(f *testing.F) {
	for _, v := range vectors {
		if v.op == 0 {
			f.Add(readHex(f, v.name), uint64(5))
		}
	}
	f.Fuzz(func(t *testing.T, p []byte, choice uint64) {
		p = bytes.Clone(p)
		resealAll(p)
		h, err := ParseBatch(p)
		if err != nil {
			return
		}
		raw, err := h.Raw(nil)
		if err != nil {
			return
		}
		it := h.Iterate(raw)
		var rec Record
		n := uint32(0)
		for ; it.Next(&rec); n++ {
			rec.Headers(func(Header) bool { return true })
		}
		// All records may come, and bytes behind them be what is wrong.
		if n > h.Count || it.Err() == nil && n < h.Count {
			t.Fatalf("%d records of %d, %v", n, h.Count, it.Err())
		}
		if it.Next(&rec) {
			t.Fatal("a record after the end")
		}
		if h.Check(raw) != nil {
			return
		}
		if it.Err() != nil {
			t.Fatalf("passes Check, and iterating it ends with %v", it.Err())
		}
		whole, err := readBatch(h)
		if err != nil {
			t.Fatalf("passes Check, and then: %v", err)
		}
		if again := whole.encode(); !bytes.Equal(again, h.Bytes) {
			t.Fatalf("%x encodes again to %x", h.Bytes, again)
		}
		checkFiltered(t, h, raw, whole, choice)
	})
}

// checkFiltered cuts h to the records whose bit in choice is set.
func checkFiltered(t *testing.T, h Batch, raw []byte, whole batch, choice uint64) {
	keep := func(offset uint32) bool { return choice>>(offset%64)&1 == 1 }
	prefix := []byte("prefix")
	out, err := AppendFiltered(bytes.Clone(prefix), &h, raw, func(r *Record) bool { return keep(r.OffsetDelta) })
	if err != nil || !bytes.HasPrefix(out, prefix) {
		t.Fatalf("%v, %q", err, out[:min(len(out), 10)])
	}
	want := batch{Attributes: whole.Attributes&^AttrZstd | AttrFiltered, Sequence: whole.Sequence,
		BaseTime: whole.BaseTime, Subject: whole.Subject, Span: h.Span}
	for i, r := range whole.Records {
		if !h.Filtered() {
			r.Offset = uint32(i)
		}
		if keep(r.Offset) {
			want.Records = append(want.Records, r)
		}
	}
	switch out = out[len(prefix):]; len(want.Records) {
	case 0:
		if len(out) != 0 {
			t.Fatalf("%d bytes of no records", len(out))
		}
	case len(whole.Records):
		if !bytes.Equal(out, h.Bytes) {
			t.Fatal("all records were kept, and the batch is another")
		}
	default:
		if !bytes.Equal(out, want.encode()) {
			t.Fatalf("cut to\n%x, want\n%x", out, want.encode())
		}
		if _, err := ParseBatch(out); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever claims to be zstd, decompressing it takes at most the raw length told, and gives that or an error.
func FuzzZstd(f *testing.F) {
	for _, p := range zstdBombs() {
		f.Add(p, uint32(MaxBatch))
		f.Add(p, uint32(10))
	}
	good := readHex(f, "batch_zstd")
	f.Add(good[len(good)-42:], uint32(96))
	f.Fuzz(func(t *testing.T, p []byte, rawLength uint32) {
		if len(p) > MaxBatch/2 {
			return
		}
		zstdDecoder() // made once
		b := batch{Attributes: AttrZstd, Subject: "a", Records: []record{{}}, Zstd: p}.sealed(rawLength)
		h, err := ParseBatch(b)
		if rawLength > MaxBatch {
			if err == nil {
				t.Fatalf("raw length %d is accepted", rawLength)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		var raw []byte
		// The decoder's own tables, made once for each of its few states, are part of the slack.
		if n := allocated(func() { raw, err = h.Raw(nil) }); n > uint64(rawLength)+4*MaxBatch {
			t.Fatalf("%d bytes of zstd, raw length %d: allocates %d", len(p), rawLength, n)
		}
		if err == nil && len(raw) != int(rawLength) {
			t.Fatalf("%d raw bytes where raw length says %d", len(raw), rawLength)
		}
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("error of a foreign kind: %v", err)
		}
	})
}

// sealed encodes b with another raw length than its records have.
func (b batch) sealed(rawLength uint32) []byte {
	out := b.encode()
	binary.LittleEndian.PutUint32(out[batchFixed+len(b.Subject):], rawLength)
	seal(out)
	return out
}

// zstdBombs are compressed bodies that lie, or say more than one thing.
func zstdBombs() map[string][]byte {
	const header = "28b52ffd"
	rle := func(blocks int, size uint32) []byte { // each block: size times the byte 'x'
		out := append(unhex(header), 0, 10<<3) // window 1 MiB, content size not told
		for i := range blocks {
			block := size<<3 | 1<<1
			if i == blocks-1 {
				block |= 1
			}
			out = append(out, byte(block), byte(block>>8), byte(block>>16), 'x')
		}
		return out
	}
	one := rle(1, 10)
	bigWindow := rle(1, 10)
	bigWindow[5] = 30 << 3
	return map[string][]byte{
		"8 GiB in 256 KiB":       rle(1<<16, 128<<10),
		"10 bytes too many":      rle(2, 10),
		"two frames":             append(bytes.Clone(one), one...),
		"a skippable frame":      append(unhex("502a4d18"+"03000000"+"010203"), one...),
		"bytes behind the frame": append(bytes.Clone(one), 0),
		"window of 1 TiB":        bigWindow,
		"content size of 4 GiB":  append(unhex(header+"a0"+"ffffffff"), one[6:]...),
		"empty":                  nil,
		"cut short":              one[:len(one)-1],
	}
}

func TestZstdBombs(t *testing.T) {
	for name, p := range zstdBombs() {
		t.Run(name, func(t *testing.T) {
			h, err := ParseBatch(batch{Attributes: AttrZstd, Subject: "a", Records: []record{{}}, Zstd: p}.sealed(15))
			if err != nil {
				t.Fatal(err)
			}
			if raw, err := h.Raw(nil); !errors.Is(err, ErrMalformed) {
				t.Errorf("%d bytes, %v", len(raw), err)
			}
		})
	}
	h, err := ParseBatch(batch{Attributes: AttrZstd, Subject: "a", Records: []record{{}}, Zstd: zstdBombs()["10 bytes too many"]}.sealed(20))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := h.Raw(nil); err != nil || string(raw) != strings.Repeat("x", 20) {
		t.Errorf("the same frame with the right raw length: %q, %v", raw, err)
	}
}

// The checked-in corpora are there: what fuzzing once found stays tested.
func TestSeedCorpora(t *testing.T) {
	for _, name := range []string{"FuzzFrames", "FuzzBody", "FuzzBatch", "FuzzZstd", "FuzzNames", "FuzzBuilder"} {
		if files, err := os.ReadDir(filepath.Join("testdata", "fuzz", name)); err != nil || len(files) == 0 {
			t.Errorf("%s: %d files, %v", name, len(files), err)
		}
	}
}
