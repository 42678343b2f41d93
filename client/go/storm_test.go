package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// model is a node in memory that keeps to the protocol, and is as unkind as the protocol allows:
// by a printed seed it loses connections before and after it stored what they brought, refuses
// batches, and pushes in odd pieces.
type model struct {
	t  *testing.T
	mu sync.Mutex

	rng        *rand.Rand
	partitions []modelPartition
	changed    chan struct{} // closed and replaced when something is appended
	kind       bool          // no more faults
	faults     int
}

type modelPartition struct {
	batches [][]byte
	base    []uint64
	end     uint64
	next    map[uint64]uint64            // by producer: sequence expected
	stored  map[uint64]map[uint64]uint64 // by producer: offset by sequence
}

func newModel(t *testing.T, partitions int, seed uint64) *model {
	m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 0)), changed: make(chan struct{})}
	for range partitions {
		m.partitions = append(m.partitions, modelPartition{next: map[uint64]uint64{}, stored: map[uint64]map[uint64]uint64{}})
	}
	return m
}

// fault says once in n calls that something shall go wrong.
func (m *model) fault(n int) bool {
	if m.kind || m.rng.IntN(n) != 0 {
		return false
	}
	m.faults++
	return true
}

func (m *model) dial(context.Context, string) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault(4) {
		return nil, errors.New("no route today")
	}
	ours, theirs := net.Pipe()
	s := &modelConn{m: m, nc: theirs, producers: map[uint32]*modelProducer{}, out: make(chan []byte, 1<<16), done: make(chan struct{})}
	go s.read()
	go s.write()
	return ours, nil
}

type modelConn struct {
	m         *model
	nc        net.Conn
	producers map[uint32]*modelProducer
	out       chan []byte
	done      chan struct{}
	credit    map[uint32]chan int64
}

type modelProducer struct {
	partition uint32
	id        uint64
}

func (s *modelConn) write() {
	for {
		select {
		case b := <-s.out:
			if _, err := s.nc.Write(b); err != nil {
				return
			}
		case <-s.done:
			return
		}
	}
}

func (s *modelConn) read() {
	defer close(s.done)
	defer s.nc.Close()
	if _, err := io.ReadFull(s.nc, make([]byte, len(wire.Magic))); err != nil {
		return
	}
	s.credit = map[uint32]chan int64{}
	var buf []byte
	chunk := make([]byte, 32<<10)
	for {
		f, n, err := wire.Decode(buf, wire.DefaultFrameLimit)
		if err != nil {
			if !errors.Is(err, wire.ErrShort) {
				s.m.t.Errorf("the client sent: %v", err)
				return
			}
			m, err := s.nc.Read(chunk)
			if err != nil {
				return
			}
			buf = append(buf, chunk[:m]...)
			continue
		}
		f.Body = slices.Clone(f.Body)
		buf = buf[n:]
		if !s.handle(f) {
			return
		}
	}
}

// handle serves one frame; false hangs up.
func (s *modelConn) handle(f wire.Frame) bool {
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	switch f.Op {
	case wire.OpHello:
		s.out <- (&wire.Welcome{
			Version: 1, Node: 1, FrameLimit: wire.DefaultFrameLimit, BatchLimit: wire.MaxBatch, InFlightBatches: 8,
			InFlightBytes: 1 << 20, CreditLimit: 1 << 20,
		}).AppendTo(nil, f.Corr)
	case wire.OpPing:
		s.out <- wire.Ping{}.AppendTo(nil, wire.OpPong, f.Corr)
	case wire.OpMetadata:
		if m.fault(10) {
			return false
		}
		s.out <- topologyOf(orders(len(m.partitions))).AppendTo(nil, f.Corr, 0)
	case wire.OpOpen:
		var o wire.Open
		o.Decode(f.Body)
		if m.fault(10) {
			s.out <- (&wire.Error{Code: wire.CodeNotLeader, Bits: wire.ErrorRetriable | wire.ErrorEndsCorr}).AppendTo(nil, f.Corr)
			return true
		}
		if o.Producer == 0 {
			o.Producer = m.rng.Uint64()>>1 | 1
		}
		s.producers[f.Corr] = &modelProducer{o.Partition, o.Producer}
		s.out <- (&wire.Opened{Producer: o.Producer, Epoch: o.Epoch, NextSequence: m.partitions[o.Partition].next[o.Producer]}).AppendTo(nil, f.Corr)
		return !m.fault(20)
	case wire.OpClose:
		delete(s.producers, f.Corr)
		s.out <- wire.AppendEmpty(nil, wire.OpOK, f.Corr)
	case wire.OpPublish:
		return s.publish(f)
	case wire.OpSub:
		var sub wire.Subscribe
		if err := sub.Decode(f.Body); err != nil {
			m.t.Error(err)
		}
		credit := make(chan int64, 1<<12)
		s.credit[f.Corr] = credit
		s.out <- wire.AppendEmpty(nil, wire.OpOK, f.Corr)
		go s.push(f.Corr, &sub, credit)
	case wire.OpCredit:
		var c wire.Credit
		c.Decode(f.Body)
		s.credit[f.Corr] <- int64(c.Bytes)
	case wire.OpUnsub:
		s.out <- wire.AppendEmpty(nil, wire.OpOK, f.Corr)
	default:
		m.t.Errorf("the client sent %s", f.Op)
	}
	return true
}

func (s *modelConn) publish(f wire.Frame) bool {
	m := s.m
	p := s.producers[f.Corr]
	if p == nil {
		s.out <- (&wire.Error{Code: wire.CodeState, Bits: wire.ErrorEndsCorr}).AppendTo(nil, f.Corr)
		return true
	}
	part := &m.partitions[p.partition]
	b, err := wire.ParseBatch(f.Body)
	if err != nil || b.Verify() != nil {
		m.t.Errorf("a damaged batch: %v", err)
		return false
	}
	refuse := func(e wire.Error) bool {
		e.Bits |= wire.ErrorOneBatch
		e.Sequence = b.Sequence
		s.out <- e.AppendTo(nil, f.Corr)
		return true
	}
	if m.fault(40) {
		return false // lost before it was stored
	}
	next := part.next[p.id]
	offset, duplicate := part.stored[p.id][b.Sequence]
	switch {
	case duplicate:
	case b.Sequence < next:
		m.t.Errorf("sequence %d overlaps, %d is next", b.Sequence, next)
		return false
	case b.Sequence > next:
		return refuse(wire.Error{Code: wire.CodeSequenceGap, Bits: wire.ErrorRetriable, Value: next})
	case m.fault(30):
		return refuse(wire.Error{Code: wire.CodeOverloaded, Bits: wire.ErrorRetriable})
	case m.fault(60):
		delete(s.producers, f.Corr)
		s.out <- (&wire.Error{Code: wire.CodeNotLeader, Bits: wire.ErrorRetriable | wire.ErrorEndsCorr}).AppendTo(nil, f.Corr)
		return true
	default:
		unknown := m.fault(40)
		if !unknown || m.rng.IntN(2) == 0 {
			offset = part.end
			part.batches = append(part.batches, b.Bytes)
			part.base = append(part.base, offset)
			part.end += uint64(b.Count)
			part.next[p.id] = b.Sequence + uint64(b.Count)
			if part.stored[p.id] == nil {
				part.stored[p.id] = map[uint64]uint64{}
			}
			part.stored[p.id][b.Sequence] = offset
			close(m.changed)
			m.changed = make(chan struct{})
		}
		if unknown {
			return refuse(wire.Error{Code: wire.CodeUnknownOutcome, Bits: wire.ErrorRetriable})
		}
	}
	if m.fault(40) {
		return false // lost after it was stored
	}
	s.out <- (&wire.Ack{Quorum: 1, Voters: 1, Sequence: b.Sequence, Count: uint64(b.Count), Offset: offset, Epoch: 1}).AppendTo(nil, f.Corr)
	return true
}

func (s *modelConn) push(corr uint32, sub *wire.Subscribe, credit <-chan int64) {
	m := s.m
	next := make([]uint64, len(m.partitions))
	for _, p := range sub.Positions {
		next[p.Partition] = p.Offset
	}
	have := int64(sub.Credit)
	for {
		m.mu.Lock()
		changed := m.changed
		var frame []byte
		if have > 0 {
			for i := range m.partitions {
				if p := &m.partitions[i]; next[i] < p.end {
					at, _ := slices.BinarySearch(p.base, next[i]+1)
					first := at - 1 // the batch that holds next
					last := min(len(p.batches), at+m.rng.IntN(3))
					end := p.end
					if last < len(p.batches) {
						end = p.base[last]
					}
					frame = recordsFrame(corr, uint32(i), p.base[first], end, p.batches[first:last]...)
					next[i] = end
					break
				}
			}
		}
		hangUp := frame != nil && m.fault(30)
		m.mu.Unlock()
		if frame != nil {
			have -= int64(len(frame))
			select {
			case s.out <- frame:
			case <-s.done:
				return
			}
			if hangUp {
				s.nc.Close()
				return
			}
			continue
		}
		select {
		case c := <-credit:
			have += c
		case <-changed:
		case <-s.done:
			return
		}
	}
}

// Many goroutines publish while one reads, and everything that may go wrong does: each record is stored
// and read exactly once, each goroutine's in its order within a partition.
func TestStorm(t *testing.T) {
	const publishers, each, partitions = 8, 400, 3
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	m := newModel(t, partitions, seed)
	var c *Client
	for c == nil { // the model may refuse the very first dial
		c, _ = Connect(t.Context(), "model:1", WithDialer(m.dial), WithBackoff(time.Microsecond, time.Millisecond), WithMaxBatchRecords(7))
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sub, err := c.Subscribe(ctx, "orders.>", FromFirst(), Window(2000))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]Ack{}
	for g := range publishers {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprintf("%d-%d", g, i%5)
				value := fmt.Sprintf("%d %d", g, i)
				msg := Message{Subject: "orders.new", Key: []byte(key), Value: []byte(value)}
				note := func(a Ack, err error) {
					if err != nil {
						t.Errorf("%s: %v", value, err)
					}
					mu.Lock()
					acked[value] = a
					mu.Unlock()
				}
				if i%50 == 0 {
					a, err := c.Publish(ctx, msg)
					note(a, err)
				} else if err := c.PublishAsync(ctx, msg, note); err != nil {
					t.Error(err)
				}
			}
			if err := c.Flush(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	got := map[string]Ack{}
	last := map[string]int{}
	for rec, err := range sub.All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		value := string(rec.Value)
		if _, twice := got[value]; twice {
			t.Fatalf("%q at %d and %d", value, got[value].Offset, rec.Offset)
		}
		got[value] = Ack{Partition: rec.Partition, Offset: rec.Offset}
		var g, i int
		fmt.Sscan(value, &g, &i)
		order := fmt.Sprintf("%d/%d", rec.Partition, g)
		if before, ok := last[order]; ok && before > i {
			t.Fatalf("%q after %d in partition %d", value, before, rec.Partition)
		}
		last[order] = i
		if len(got) == publishers*each {
			break
		}
	}
	wg.Wait()
	for value, a := range got {
		if b := acked[value]; b.Offset != a.Offset || b.Partition != a.Partition {
			t.Errorf("%q is at %d/%d, acknowledged at %d/%d", value, a.Partition, a.Offset, b.Partition, b.Offset)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kind = true
	total := uint64(0)
	for i := range m.partitions {
		total += m.partitions[i].end
	}
	if total != publishers*each {
		t.Errorf("%d records stored, %d published", total, publishers*each)
	}
	t.Logf("%d faults", m.faults)
}

// Any split of the bytes gives the same frames.
func TestReaderSplits(t *testing.T) {
	var stream []byte
	var want []int
	for _, size := range []int{0, 1, 100, directBytes - 20, directBytes, readBytes - 5, readBytes, readBytes + 1, 300, 1 << 20, 7, 0} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(i)
		}
		stream = wire.Frame{Op: wire.OpRecords, Corr: uint32(len(want) + 1), Body: body}.AppendTo(stream)
		want = append(want, size)
	}
	for _, most := range []int{1, 7, 4096, 1 << 20, len(stream)} {
		ours, theirs := net.Pipe()
		go func() {
			for rest := stream; len(rest) > 0; {
				n := min(len(rest), 1+rand.IntN(most))
				if most == 1 && len(rest) < len(stream)-500 {
					n = min(len(rest), 30000) // byte by byte would take for ever
				}
				theirs.Write(rest[:n])
				rest = rest[n:]
			}
			theirs.Write([]byte{1, 2})
			theirs.Close()
		}()
		r := frameReader{nc: ours, limit: wire.DefaultFrameLimit, buf: make([]byte, readBytes), idle: func() {}, got: func() {}}
		for i, size := range want {
			f, own, err := r.next()
			if err != nil {
				t.Fatal(err)
			}
			if f.Corr != uint32(i+1) || len(f.Body) != size || size > 0 && f.Body[size-1] != byte(size-1) {
				t.Fatalf("frame %d: corr %d, %d bytes, want %d", i, f.Corr, len(f.Body), size)
			}
			own.free()
		}
		if _, _, err := r.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	}
}

// renumber gives the same bytes as building with that sequence.
func TestRenumber(t *testing.T) {
	b := &batch{buf: append(make([]byte, wire.HeaderBytes), aBatch("a", "b")...)}
	b.renumber(1 << 40)
	parsed, err := wire.ParseBatch(b.buf[wire.HeaderBytes:])
	if err != nil || parsed.Verify() != nil || parsed.Sequence != 1<<40 || binary.LittleEndian.Uint64(b.buf[wire.HeaderBytes+12:]) != 1<<40 {
		t.Fatal(parsed, err)
	}
}

// What a program pulls in with this package: the standard library, proto/wire and zstd.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if path != "github.com/tidewire/tidewire/client/go" && path != "github.com/tidewire/tidewire/proto/wire" &&
			!strings.HasPrefix(path, "github.com/klauspost/compress") {
			t.Errorf("imports %s", path)
		}
	}
}
