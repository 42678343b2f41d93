package harness

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// Reader reads a node by the protocol alone, so that a check does not rest on the client library.
// It asks one thing at a time and is not safe for concurrent use.
type Reader struct {
	conn net.Conn
	buf  []byte // buf[r:w] is read and not decoded
	r, w int
	corr uint32
}

// readTimeout bounds every answer.
const readTimeout = 30 * time.Second

// DialReader connects and shakes hands.
func DialReader(address string) (*Reader, error) {
	conn, err := net.DialTimeout("tcp", address, readTimeout)
	if err != nil {
		return nil, err
	}
	r := &Reader{conn: conn, buf: make([]byte, 4+wire.DefaultFrameLimit)}
	hello := wire.Hello{MinVersion: wire.Version, MaxVersion: wire.Version, Role: wire.RoleClient,
		FrameLimit: wire.DefaultFrameLimit, Client: "tidewire-check"}
	f, err := r.ask(hello.AppendTo([]byte(wire.Magic), r.corr), wire.OpWelcome) // Corr 0: the connection itself
	if err == nil {
		var w wire.Welcome
		err = w.Decode(f.Body)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return r, nil
}

// Close ends the connection.
func (r *Reader) Close() error { return r.conn.Close() }

// ask sends a request whose Corr is r.corr and returns its answer, valid until the next.
func (r *Reader) ask(frame []byte, want wire.Op) (wire.Frame, error) {
	if err := r.conn.SetDeadline(time.Now().Add(readTimeout)); err != nil {
		return wire.Frame{}, err
	}
	if _, err := r.conn.Write(frame); err != nil {
		return wire.Frame{}, err
	}
	for {
		f, err := r.next()
		if err != nil {
			return f, err
		}
		switch {
		case f.Corr != r.corr && f.Op != wire.OpError:
			continue // a TOPOLOGY pushed, or GOAWAY
		case f.Op == wire.OpError:
			var e wire.Error
			if err := e.Decode(f.Body); err != nil {
				return f, err
			}
			return f, &e
		case f.Op != want:
			return f, fmt.Errorf("%s where %s belongs", f.Op, want)
		}
		return f, nil
	}
}

func (r *Reader) next() (wire.Frame, error) {
	for {
		f, n, err := wire.Decode(r.buf[r.r:r.w], wire.DefaultFrameLimit)
		if err == nil {
			r.r += n
			return f, nil
		}
		if !errors.Is(err, wire.ErrShort) {
			return f, err
		}
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
		m, err := r.conn.Read(r.buf[r.w:])
		r.w += m
		if m == 0 && err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the node closed the connection")
			}
			return f, err
		}
	}
}

// Stream describes a stream.
func (r *Reader) Stream(name string) (wire.StreamInfo, error) {
	r.corr++
	m := wire.Metadata{Select: wire.SelectStream, Name: name}
	f, err := r.ask(m.AppendTo(nil, r.corr), wire.OpTopology)
	if err != nil {
		return wire.StreamInfo{}, fmt.Errorf("stream %s: %w", name, err)
	}
	var top wire.Topology
	if err := top.Decode(f.Body); err != nil {
		return wire.StreamInfo{}, err
	}
	if len(top.Streams) != 1 {
		return wire.StreamInfo{}, fmt.Errorf("stream %s: described %d times", name, len(top.Streams))
	}
	return top.Streams[0], nil
}

// Each calls f with every record of [from, to) of a partition, in order, and checks on the way
// what must hold of any answer: runs and batches that follow one another without a gap, batches
// that pass their checksum, nothing above the high watermark. The record is valid until f returns.
func (r *Reader) Each(stream uint64, partition uint32, from, to uint64, f func(offset uint64, rec *wire.Record) error) error {
	var scratch []byte
	for at := from; at < to; {
		r.corr++
		ask := wire.Fetch{Stream: stream, Partition: partition, Start: wire.Start{From: wire.FromOffset, Value: at}, MaxBytes: 1 << 20}
		frame, err := r.ask(ask.AppendTo(nil, r.corr), wire.OpRecords)
		if err != nil {
			return fmt.Errorf("fetch partition %d from offset %d: %w", partition, at, err)
		}
		var h wire.RecordsHeader
		runs, err := h.Decode(frame.Body)
		if err != nil {
			return err
		}
		if len(runs) == 0 {
			return fmt.Errorf("fetch partition %d from offset %d of %d: nothing came (high watermark %d)", partition, at, to, h.HighWatermark)
		}
		for len(runs) > 0 && at < to {
			var run wire.Run
			if run, runs, err = wire.NextRun(runs); err != nil {
				return err
			}
			base := run.Base
			for batches := run.Batches; len(batches) > 0 && at < to; {
				var b wire.Batch
				if b, batches, err = wire.NextBatch(batches); err != nil {
					return err
				}
				if err := b.Verify(); err != nil {
					return fmt.Errorf("partition %d, batch at offset %d: %w", partition, base, err)
				}
				if base > at {
					return fmt.Errorf("partition %d: offsets %d to %d are missing from the answer", partition, at, base)
				}
				raw, err := b.Raw(scratch[:0])
				if err != nil {
					return err
				}
				if b.Compressed() {
					scratch = raw
				}
				it := b.Iterate(raw)
				var rec wire.Record
				for it.Next(&rec) {
					offset := base + uint64(rec.OffsetDelta)
					if offset < at || offset >= to {
						continue // a batch may begin before, and end after, what was asked for
					}
					if offset >= h.HighWatermark {
						return fmt.Errorf("partition %d: offset %d is not below the high watermark %d it came with", partition, offset, h.HighWatermark)
					}
					if offset != at {
						return fmt.Errorf("partition %d: offset %d follows %d", partition, offset, at)
					}
					if err := f(offset, &rec); err != nil {
						return err
					}
					at++
				}
				if err := it.Err(); err != nil {
					return fmt.Errorf("partition %d, batch at offset %d: %w", partition, base, err)
				}
				base += uint64(b.Span)
			}
		}
	}
	return nil
}

// AwaitGoaway reads until the node says that it goes away.
func (r *Reader) AwaitGoaway() (wire.Goaway, error) {
	var g wire.Goaway
	if err := r.conn.SetDeadline(time.Now().Add(readTimeout)); err != nil {
		return g, err
	}
	for {
		f, err := r.next()
		if err != nil {
			return g, err
		}
		if f.Op == wire.OpGoaway {
			return g, g.Decode(f.Body)
		}
	}
}

// Subscribe makes a subscription of credit bytes; Drain reads what it brings. Between the two the
// node may fill the connection with nobody reading it.
func (r *Reader) Subscribe(filter string, credit uint64) error {
	r.corr++
	sub := wire.Subscribe{Filter: filter, Credit: credit}
	_, err := r.ask(sub.AppendTo(nil, r.corr), wire.OpOK)
	return err
}

// Drain reads RECORDS of the last subscription until they used up its credit, and returns how many
// bytes of frames that were.
func (r *Reader) Drain(credit int) (bytes int, err error) {
	for bytes < credit {
		if err := r.conn.SetDeadline(time.Now().Add(readTimeout)); err != nil {
			return bytes, err
		}
		f, err := r.next()
		if err != nil {
			return bytes, err
		}
		switch {
		case f.Corr != r.corr:
		case f.Op != wire.OpRecords:
			return bytes, fmt.Errorf("%s where RECORDS belongs", f.Op)
		default:
			bytes += wire.HeaderBytes + len(f.Body)
		}
	}
	return bytes, nil
}
