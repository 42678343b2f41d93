package wire

import (
	"errors"
	"fmt"
)

// ErrShort says that more bytes must arrive before there is a whole frame or batch.
var ErrShort = errors.New("wire: incomplete")

// ErrMalformed is what every decoding error but ErrShort unwraps to.
var ErrMalformed = errors.New("wire: malformed")

// MalformedError tells what is wrong with bytes that do not decode.
type MalformedError struct {
	What   string // the frame, batch or field, in the document's words
	Reason string
}

func (e *MalformedError) Error() string { return "wire: malformed " + e.What + ": " + e.Reason }
func (e *MalformedError) Unwrap() error { return ErrMalformed }

func malformed(what, format string, args ...any) error {
	return &MalformedError{What: what, Reason: fmt.Sprintf(format, args...)}
}

// TooLargeError is the malformation of a length above its limit, found before anything is allocated.
type TooLargeError struct {
	What        string
	Size, Limit uint64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("wire: %s of %d bytes, limit %d", e.What, e.Size, e.Limit)
}
func (e *TooLargeError) Unwrap() error { return ErrMalformed }

// ErrUnsupported is what a batch format or compression of a later version unwraps to: bytes that
// this version cannot read, though nothing is wrong with them.
var ErrUnsupported = errors.New("wire: unsupported")

// UnsupportedError tells what cannot be read. It unwraps to ErrUnsupported and to ErrMalformed.
type UnsupportedError struct {
	What  string
	Value uint64
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("wire: %s %d is not of protocol version %d", e.What, e.Value, Version)
}
func (e *UnsupportedError) Unwrap() []error { return []error{ErrUnsupported, ErrMalformed} }
