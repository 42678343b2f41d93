package client

import (
	"encoding/binary"
	"errors"
	"io"
	"net"

	"github.com/tidewire/tidewire/proto/wire"
)

const (
	// readBytes is the size of the read buffer. Frames that lie in it whole are handled in place. It
	// holds thousands of ACKs, and is a quarter of the RECORDS frames that nodes aim at, so that most
	// of those is read where it stays.
	readBytes = 64 << 10
	// A frame of directBytes or more that is not there whole is read straight into a buffer of
	// its own, so that the bulk of RECORDS is copied by the kernel alone.
	directBytes = 16 << 10
)

// frameReader cuts the bytes of a connection into frames.
type frameReader struct {
	nc    net.Conn
	limit int
	buf   []byte
	r, w  int    // buf[r:w] is read and not yet handed out
	idle  func() // called before a read that may block
	got   func() // called after one that brought something
}

// next gives the next frame. It is valid until the call after; with own, until that is freed.
func (r *frameReader) next() (f wire.Frame, own *buffer, err error) {
	for {
		f, n, err := wire.Decode(r.buf[r.r:r.w], r.limit)
		if err == nil {
			r.r += n
			return f, nil, nil
		}
		if !errors.Is(err, wire.ErrShort) {
			return wire.Frame{}, nil, err
		}
		have := r.w - r.r
		if have == 0 {
			r.r, r.w = 0, 0
		} else if have >= 4 {
			size := 4 + int(binary.LittleEndian.Uint32(r.buf[r.r:])) // Decode has checked it against the limit
			if size >= directBytes {
				return r.direct(size)
			}
			if r.r+size > len(r.buf) {
				r.compact()
			}
		} else if r.r+4 > len(r.buf) {
			r.compact()
		}
		r.idle()
		m, err := r.nc.Read(r.buf[r.w:])
		r.w += m
		if m > 0 {
			r.got()
		} else if err != nil {
			if err == io.EOF && have > 0 {
				err = io.ErrUnexpectedEOF
			}
			return wire.Frame{}, nil, err
		}
	}
}

func (r *frameReader) compact() {
	r.w = copy(r.buf, r.buf[r.r:r.w])
	r.r = 0
}

func (r *frameReader) direct(size int) (wire.Frame, *buffer, error) {
	own := getBuffer(size)
	n := copy(own.b, r.buf[r.r:r.w])
	r.r, r.w = 0, 0
	r.idle()
	for n < size {
		m, err := r.nc.Read(own.b[n:])
		n += m
		if m > 0 {
			r.got()
		} else if err != nil {
			own.free()
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return wire.Frame{}, nil, err
		}
	}
	f, _, err := wire.Decode(own.b, r.limit)
	if err != nil {
		own.free()
		return wire.Frame{}, nil, err
	}
	return f, own, nil
}
