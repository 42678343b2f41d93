package wire

import (
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// One decoder and one encoder serve the process: DecodeAll and EncodeAll are safe for
// concurrent use and keep no state between calls. They are made on first use, as most
// programs never compress. There are more decoders than a node has event loops and readers: one that waited for
// another's decoder would block its loop.
var (
	zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.NumCPU()+16), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxMemory(MaxBatch), zstd.WithDecoderMaxWindow(MaxBatch), zstd.WithDecoderLowmem(true))
		if err != nil {
			panic(err) // the options are constants
		}
		return d
	})
	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(MaxBatch), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err)
		}
		return e
	})
)

// decompress gives the want bytes that src, one zstd frame, decompresses to: in scratch, or in
// memory of its own if they do not fit. A frame that would give more is refused once it has
// filled want bytes, so the cost of a lie is want, at most MaxBatch.
func decompress(scratch, src []byte, want int) ([]byte, error) {
	if err := oneZstdFrame(src); err != nil {
		return nil, err
	}
	if cap(scratch) < want {
		scratch = make([]byte, 0, want)
	}
	raw, err := zstdDecoder().DecodeAll(src, scratch[:0:want])
	if err != nil {
		return nil, malformed("batch", "zstd: %v", err)
	}
	if len(raw) != want {
		return nil, malformed("batch", "%d raw bytes where raw length says %d", len(raw), want)
	}
	return scratch[:want], nil // DecodeAll with a limit by capacity never moves its destination
}

// oneZstdFrame checks that src is one frame without a dictionary from its first byte to its last
// (RFC 8878 §3.1.1): zstd libraries disagree about what several frames, or bytes behind the
// first, decompress to, and a batch means the same to every reader.
func oneZstdFrame(src []byte) error {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return malformed("batch", "zstd: %v", err)
	}
	if h.Skippable || h.DictionaryID != 0 {
		return malformed("batch", "zstd: a skippable frame, or one with a dictionary")
	}
	for rest := src[h.HeaderSize:]; ; {
		if len(rest) < 3 {
			return malformed("batch", "zstd: cut short")
		}
		block := uint32(rest[0]) | uint32(rest[1])<<8 | uint32(rest[2])<<16
		size := int(block >> 3)
		if block>>1&3 == 1 { // RLE: one byte, repeated
			size = 1
		}
		last := block&1 == 1
		if last && h.HasCheckSum {
			size += 4
		}
		if len(rest) < 3+size {
			return malformed("batch", "zstd: cut short")
		}
		if rest = rest[3+size:]; last {
			if len(rest) != 0 {
				return malformed("batch", "zstd: %d bytes follow the frame", len(rest))
			}
			return nil
		}
	}
}

func compress(dst, raw []byte) []byte { return zstdEncoder().EncodeAll(raw, dst) }
