package wire

import (
	"encoding/binary"
	"time"
)

// Select says which streams a METADATA asks for.
type Select uint8

// The selections of version 1.
const (
	SelectAll     Select = 0 // every stream; Name is empty
	SelectStream  Select = 1 // the stream of that name
	SelectSubject Select = 2 // the stream that captures that subject
	SelectFilter  Select = 3 // every stream that captures a subject the filter matches
)

// Metadata is the body of METADATA, answered by TOPOLOGY.
//
//	Select u8 | Name string | Create bool
type Metadata struct {
	Select Select
	Name   string
	Create bool // with SelectSubject: create the stream if the node allows that (dev); otherwise UNKNOWN_STREAM
}

// AppendTo appends a METADATA frame.
func (m *Metadata) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpMetadata, 0, corr)
	dst = append(dst, byte(m.Select))
	dst = appendString(dst, m.Name)
	dst = appendBool(dst, m.Create)
	return end(dst, at)
}

// Decode reads the body of a METADATA.
func (m *Metadata) Decode(body []byte) error {
	d := decoder{what: "METADATA", b: body}
	m.Select = Select(d.u8("select"))
	m.Name = d.string("name")
	m.Create = d.bool("create")
	switch {
	case d.err != nil:
	case m.Select > SelectFilter:
		d.fail("select %d is undefined", m.Select)
	case m.Select == SelectAll && m.Name != "":
		d.fail("a name with select 0 (all)")
	case m.Create && m.Select != SelectSubject:
		d.fail("create without a subject")
	}
	return d.done()
}

// Topology is the body of TOPOLOGY: what the node knows, whole (answering METADATA) or what
// changed (pushed, Corr 0). An answer may span frames: FlagMore on all but the last.
//
//	MapVersion uvarint | nodes: uvarint count, NodeInfo… | streams: uvarint count, StreamInfo…
type Topology struct {
	MapVersion uint64 // of the catalog; grows with each change
	Nodes      []NodeInfo
	Streams    []StreamInfo
}

// NodeInfo is one node of the cluster.
//
//	ID uvarint | Address string | Bits u8
type NodeInfo struct {
	ID      uint64
	Address string // host:port for clients
	Bits    NodeBits
}

// NodeBits describe a node; undefined bits are zero.
type NodeBits uint8

// The bits of version 1.
const (
	NodeSelf     NodeBits = 1 // the node that says so
	NodeDraining NodeBits = 2
)

// StreamInfo is one stream and where its partitions are.
//
//	ID uvarint | Name string | Bits u8 | MapVersion uvarint | Created uvarint (Unix ms) | Replicas u8 |
//	MaxAge uvarint (ms) | MaxBytes uvarint | MaxRecords uvarint | subjects: uvarint count, string… |
//	partitions: uvarint count, PartitionInfo…
type StreamInfo struct {
	ID         uint64
	Name       string
	Bits       StreamBits
	MapVersion uint64 // of its partitions: OPEN says which one it was made with
	Created    uint64 // Unix ms
	Replicas   uint8
	Retention  Retention
	Subjects   []string        // the filters it captures; at most MaxStreamSubjects
	Partitions []PartitionInfo // at most MaxPartitions
}

// StreamBits describe a stream; undefined bits are zero.
type StreamBits uint8

// StreamDeleted marks a stream that is deleted but not yet purged.
const StreamDeleted StreamBits = 1

// Retention limits what a partition keeps; 0 is no limit.
type Retention struct {
	MaxAge     time.Duration // whole ms
	MaxBytes   uint64        // per partition
	MaxRecords uint64        // per partition
}

func (r Retention) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, wholeMs(r.MaxAge))
	dst = binary.AppendUvarint(dst, r.MaxBytes)
	return binary.AppendUvarint(dst, r.MaxRecords)
}

func (d *decoder) retention() (r Retention) {
	age := d.uvarint("max age")
	if age > uint64(1<<63-1)/uint64(time.Millisecond) {
		d.fail("max age %d ms exceeds the range", age)
		return r
	}
	r.MaxAge = time.Duration(age) * time.Millisecond
	r.MaxBytes = d.uvarint("max bytes")
	r.MaxRecords = d.uvarint("max records")
	return r
}

// PartitionInfo is one partition, as the node that answers sees it; its place in the list is its number.
//
//	Leader uvarint | Epoch uvarint | Start uvarint | HighWatermark uvarint | Bytes uvarint
type PartitionInfo struct {
	Leader        uint64 // node id; 0: none known
	Epoch         uint64 // leader epoch
	Start         uint64 // log start offset
	HighWatermark uint64
	Bytes         uint64 // on this node's disk; 0 if it holds no replica
}

// AppendTo appends one TOPOLOGY frame.
func (t *Topology) AppendTo(dst []byte, corr uint32, flags Flags) []byte {
	dst, at := begin(dst, OpTopology, flags, corr)
	dst = binary.AppendUvarint(dst, t.MapVersion)
	dst = binary.AppendUvarint(dst, uint64(len(t.Nodes)))
	for i := range t.Nodes {
		n := &t.Nodes[i]
		dst = binary.AppendUvarint(dst, n.ID)
		dst = appendText(dst, n.Address, MaxText)
		dst = append(dst, byte(n.Bits))
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.Streams)))
	for i := range t.Streams {
		dst = t.Streams[i].append(dst)
	}
	return end(dst, at)
}

// topologyFrame is the size past which AppendFrames begins another frame, in bytes.
const topologyFrame = 256 << 10

// AppendFrames appends the topology as one or more TOPOLOGY frames that fit any frame limit: all
// nodes and the first streams in the first, FlagMore on all but the last.
func (t *Topology) AppendFrames(dst []byte, corr uint32) []byte {
	part := Topology{MapVersion: t.MapVersion, Nodes: t.Nodes}
	size, first := 0, 0
	for i := range t.Streams {
		s := &t.Streams[i]
		size += 64 + len(s.Name) + 30*len(s.Partitions)
		for _, subject := range s.Subjects {
			size += 2 + len(subject)
		}
		if size >= topologyFrame && i+1 < len(t.Streams) {
			part.Streams = t.Streams[first : i+1]
			dst = part.AppendTo(dst, corr, FlagMore)
			part.Nodes, size, first = nil, 0, i+1
		}
	}
	part.Streams = t.Streams[first:]
	return part.AppendTo(dst, corr, 0)
}

func (s *StreamInfo) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, s.ID)
	dst = appendString(dst, s.Name)
	dst = append(dst, byte(s.Bits))
	dst = binary.AppendUvarint(dst, s.MapVersion)
	dst = binary.AppendUvarint(dst, s.Created)
	dst = append(dst, s.Replicas)
	dst = s.Retention.append(dst)
	dst = binary.AppendUvarint(dst, uint64(len(s.Subjects)))
	for _, subject := range s.Subjects {
		dst = appendString(dst, subject)
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.Partitions)))
	for _, p := range s.Partitions {
		dst = binary.AppendUvarint(dst, p.Leader)
		dst = binary.AppendUvarint(dst, p.Epoch)
		dst = binary.AppendUvarint(dst, p.Start)
		dst = binary.AppendUvarint(dst, p.HighWatermark)
		dst = binary.AppendUvarint(dst, p.Bytes)
	}
	return dst
}

// Decode reads the body of a TOPOLOGY.
func (t *Topology) Decode(body []byte) error {
	d := decoder{what: "TOPOLOGY", b: body}
	*t = Topology{MapVersion: d.uvarint("map version")}
	nodes := d.count("nodes", 3)
	t.Nodes = sized[NodeInfo](nodes)
	for range nodes {
		n := NodeInfo{ID: d.uvarint("node id"), Address: d.text("address", MaxText), Bits: NodeBits(d.u8("node bits"))}
		if n.Bits&^(NodeSelf|NodeDraining) != 0 {
			d.fail("undefined node bits %#x", uint8(n.Bits))
		}
		if d.err != nil {
			return d.err
		}
		t.Nodes = append(t.Nodes, n)
	}
	streams := d.count("streams", 11)
	t.Streams = sized[StreamInfo](streams)
	for range streams {
		s := d.stream()
		if d.err != nil {
			return d.err
		}
		t.Streams = append(t.Streams, s)
	}
	return d.done()
}

func (d *decoder) stream() (s StreamInfo) {
	s.ID = d.uvarint("stream id")
	s.Name = d.string("stream name")
	s.Bits = StreamBits(d.u8("stream bits"))
	s.MapVersion = d.uvarint("stream map version")
	s.Created = d.uvarint("created")
	s.Replicas = d.u8("replicas")
	s.Retention = d.retention()
	s.Subjects = d.subjects()
	if s.Bits&^StreamDeleted != 0 {
		d.fail("undefined stream bits %#x", uint8(s.Bits))
	}
	n := d.count("partitions", 5)
	if n > MaxPartitions {
		d.fail("%d partitions, limit %d", n, MaxPartitions)
		return s
	}
	s.Partitions = sized[PartitionInfo](n)
	for range n {
		s.Partitions = append(s.Partitions, PartitionInfo{
			Leader:        d.uvarint("leader"),
			Epoch:         d.uvarint("epoch"),
			Start:         d.uvarint("log start"),
			HighWatermark: d.uvarint("high watermark"),
			Bytes:         d.uvarint("bytes"),
		})
	}
	return s
}

func (d *decoder) subjects() (out []string) {
	n := d.count("subjects", 2)
	if n > MaxStreamSubjects {
		d.fail("%d subjects, limit %d", n, MaxStreamSubjects)
		return nil
	}
	out = sized[string](n)
	for range n {
		if s := d.text("subject", MaxSubject); s != "" {
			out = append(out, s)
		} else {
			d.fail("an empty subject")
		}
	}
	return out
}

// sized makes a slice for n items that count allowed; nil for none.
func sized[T any](n int) []T {
	if n == 0 {
		return nil
	}
	return make([]T, 0, n)
}

// CreateStream is the body of STREAM_CREATE, answered by a TOPOLOGY that holds the stream.
//
//	Name string | Partitions uvarint | Replicas u8 | MaxAge uvarint (ms) | MaxBytes uvarint |
//	MaxRecords uvarint | subjects: uvarint count, string…
type CreateStream struct {
	Name       string
	Partitions uint32 // 0: 1; at most MaxPartitions
	Replicas   uint8  // 0: the cluster's default
	Retention  Retention
	Subjects   []string // filters, at most MaxStreamSubjects; none: Name and Name.>
}

// AppendTo appends a STREAM_CREATE frame.
func (c *CreateStream) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpCreate, 0, corr)
	dst = appendString(dst, c.Name)
	dst = binary.AppendUvarint(dst, uint64(c.Partitions))
	dst = append(dst, c.Replicas)
	dst = c.Retention.append(dst)
	dst = binary.AppendUvarint(dst, uint64(len(c.Subjects)))
	for _, s := range c.Subjects {
		dst = appendString(dst, s)
	}
	return end(dst, at)
}

// Decode reads the body of a STREAM_CREATE.
func (c *CreateStream) Decode(body []byte) error {
	d := decoder{what: "STREAM_CREATE", b: body}
	c.Name = d.string("name")
	c.Partitions = d.uvarint32("partitions")
	c.Replicas = d.u8("replicas")
	c.Retention = d.retention()
	c.Subjects = d.subjects()
	return d.done()
}

// DeleteStream is the body of STREAM_DELETE, answered by OK.
//
//	Name string | Purge bool
type DeleteStream struct {
	Name  string
	Purge bool // remove the data now; otherwise after the grace time
}

// AppendTo appends a STREAM_DELETE frame.
func (s *DeleteStream) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpDelete, 0, corr)
	dst = appendString(dst, s.Name)
	dst = appendBool(dst, s.Purge)
	return end(dst, at)
}

// Decode reads the body of a STREAM_DELETE.
func (s *DeleteStream) Decode(body []byte) error {
	d := decoder{what: "STREAM_DELETE", b: body}
	s.Name = d.string("name")
	s.Purge = d.bool("purge")
	return d.done()
}
