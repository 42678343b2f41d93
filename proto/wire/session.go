package wire

import (
	"encoding/binary"
	"time"
)

// Role says what the dialling side is.
type Role uint8

// The roles of version 1.
const (
	RoleClient Role = 1
	RolePeer   Role = 2 // another node of the cluster: only RAFT, PING, PONG, ERROR and GOAWAY follow
)

// Features are abilities beyond the version; each side ignores bits it does not know.
type Features uint32

// The features of version 1.
const (
	// FeatureConsumers: named consumers and CONSUMED.
	FeatureConsumers Features = 1
)

// Hello is the body of HELLO, the first frame, right behind Magic.
//
//	MinVersion u8 | MaxVersion u8 | Role u8 | Features u32 | FrameLimit u32 | Cluster 16 bytes |
//	Client string | Mechanism string | Credentials bytes
type Hello struct {
	MinVersion, MaxVersion uint8
	Role                   Role
	Features               Features
	FrameLimit             uint32   // largest frame Length the client takes; MinFrameLimit..MaxFrameLimit
	Cluster                [16]byte // the cluster it means to reach; zero: any
	Client                 string   // name and version of the software, for logs; at most MaxText bytes
	Mechanism              string   // of authentication; empty: none, or by TLS certificate
	Credentials            []byte   // first step of Mechanism
}

// AppendTo appends a HELLO frame.
func (h *Hello) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpHello, 0, corr)
	dst = append(dst, h.MinVersion, h.MaxVersion, byte(h.Role))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(h.Features))
	dst = binary.LittleEndian.AppendUint32(dst, h.FrameLimit)
	dst = append(dst, h.Cluster[:]...)
	dst = appendText(dst, h.Client, MaxText)
	dst = appendText(dst, h.Mechanism, MaxText)
	dst = appendBytes(dst, h.Credentials)
	return end(dst, at)
}

// Decode reads the body of a HELLO.
func (h *Hello) Decode(body []byte) error {
	d := decoder{what: "HELLO", b: body}
	h.MinVersion, h.MaxVersion = d.u8("min version"), d.u8("max version")
	h.Role = Role(d.u8("role"))
	h.Features = Features(d.u32("features"))
	h.FrameLimit = d.u32("frame limit")
	copy(h.Cluster[:], d.take(16, "cluster"))
	h.Client = d.text("client", MaxText)
	h.Mechanism = d.text("mechanism", MaxText)
	h.Credentials = d.bytes("credentials")
	switch {
	case d.err != nil:
	case h.MinVersion == 0 || h.MinVersion > h.MaxVersion:
		d.fail("version range %d..%d", h.MinVersion, h.MaxVersion)
	case h.Role != RoleClient && h.Role != RolePeer:
		d.fail("role %d is neither %d (client) nor %d (peer)", h.Role, RoleClient, RolePeer)
	case h.FrameLimit < MinFrameLimit || h.FrameLimit > MaxFrameLimit:
		d.fail("frame limit %d is outside %d..%d", h.FrameLimit, MinFrameLimit, MaxFrameLimit)
	}
	return d.done()
}

// Welcome is the body of WELCOME, which ends the handshake. Its limits hold for the connection.
//
//	Version u8 | Features u32 | Cluster 16 bytes | Node uvarint | FrameLimit u32 | BatchLimit u32 |
//	InFlightBatches uvarint | InFlightBytes uvarint | CreditLimit uvarint | Idle ms | Server string
type Welcome struct {
	Version         uint8    // the highest both sides speak
	Features        Features // the intersection
	Cluster         [16]byte
	Node            uint64
	FrameLimit      uint32        // largest frame Length the node takes; MinFrameLimit..MaxFrameLimit
	BatchLimit      uint32        // largest batch; MinBatchLimit..MaxBatch
	InFlightBatches uint32        // unacknowledged batches per producer and partition; 1..MaxInFlightBatches
	InFlightBytes   uint64        // unacknowledged bytes of batches on this connection; at least BatchLimit
	CreditLimit     uint64        // credit outstanding on this connection, over all subscriptions; at least 1
	Idle            time.Duration // a connection silent for so long is closed (CodeIdle): PING before; 0: never; whole ms
	Server          string
}

// AppendTo appends a WELCOME frame.
func (w *Welcome) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpWelcome, 0, corr)
	dst = append(dst, w.Version)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(w.Features))
	dst = append(dst, w.Cluster[:]...)
	dst = binary.AppendUvarint(dst, w.Node)
	dst = binary.LittleEndian.AppendUint32(dst, w.FrameLimit)
	dst = binary.LittleEndian.AppendUint32(dst, w.BatchLimit)
	dst = binary.AppendUvarint(dst, uint64(w.InFlightBatches))
	dst = binary.AppendUvarint(dst, w.InFlightBytes)
	dst = binary.AppendUvarint(dst, w.CreditLimit)
	dst = appendMs(dst, w.Idle)
	dst = appendText(dst, w.Server, MaxText)
	return end(dst, at)
}

// Decode reads the body of a WELCOME.
func (w *Welcome) Decode(body []byte) error {
	d := decoder{what: "WELCOME", b: body}
	w.Version = d.u8("version")
	w.Features = Features(d.u32("features"))
	copy(w.Cluster[:], d.take(16, "cluster"))
	w.Node = d.uvarint("node")
	w.FrameLimit = d.u32("frame limit")
	w.BatchLimit = d.u32("batch limit")
	w.InFlightBatches = d.uvarint32("batches in flight")
	w.InFlightBytes = d.uvarint("bytes in flight")
	w.CreditLimit = d.uvarint("credit limit")
	w.Idle = d.ms("idle")
	w.Server = d.text("server", MaxText)
	switch {
	case d.err != nil:
	case w.Version == 0:
		d.fail("version 0")
	case w.FrameLimit < MinFrameLimit || w.FrameLimit > MaxFrameLimit:
		d.fail("frame limit %d is outside %d..%d", w.FrameLimit, MinFrameLimit, MaxFrameLimit)
	case w.BatchLimit < MinBatchLimit || w.BatchLimit > MaxBatch:
		d.fail("batch limit %d is outside %d..%d", w.BatchLimit, MinBatchLimit, MaxBatch)
	case w.InFlightBatches < 1 || w.InFlightBatches > MaxInFlightBatches:
		d.fail("%d batches in flight are outside 1..%d", w.InFlightBatches, MaxInFlightBatches)
	case w.InFlightBytes < uint64(w.BatchLimit):
		d.fail("%d bytes in flight are less than the batch limit %d", w.InFlightBytes, w.BatchLimit)
	case w.CreditLimit == 0:
		d.fail("credit limit 0")
	}
	return d.done()
}

// Auth is the body of AUTH: a challenge of the node, or the client's answer to one.
//
//	Mechanism string | Data bytes
type Auth struct {
	Mechanism string
	Data      []byte
}

// AppendTo appends an AUTH frame.
func (a *Auth) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpAuth, 0, corr)
	dst = appendText(dst, a.Mechanism, MaxText)
	dst = appendBytes(dst, a.Data)
	return end(dst, at)
}

// Decode reads the body of an AUTH.
func (a *Auth) Decode(body []byte) error {
	d := decoder{what: "AUTH", b: body}
	a.Mechanism = d.text("mechanism", MaxText)
	a.Data = d.bytes("data")
	return d.done()
}

// Goaway is the body of GOAWAY: the node takes no new request, finishes what it has, and closes.
//
//	Code u16 | Drain ms | Address string | Message string
type Goaway struct {
	Code    Code          // why; CodeShutdown, say
	Drain   time.Duration // until it closes the connection; whole ms
	Address string        // where to go instead; empty: any other node, or the same one later
	Message string
}

// AppendTo appends a GOAWAY frame; corr is 0.
func (g *Goaway) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpGoaway, 0, corr)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(g.Code))
	dst = appendMs(dst, g.Drain)
	dst = appendText(dst, g.Address, MaxText)
	dst = appendText(dst, g.Message, MaxMessage)
	return end(dst, at)
}

// Decode reads the body of a GOAWAY.
func (g *Goaway) Decode(body []byte) error {
	d := decoder{what: "GOAWAY", b: body}
	g.Code = Code(d.u16("code"))
	g.Drain = d.ms("drain")
	g.Address = d.text("address", MaxText)
	g.Message = d.text("message", MaxMessage)
	if d.err == nil && g.Code == 0 {
		d.fail("code 0")
	}
	return d.done()
}

// Ping is the body of PING and PONG: eight bytes that come back as they were sent.
//
//	Data u64
type Ping struct{ Data uint64 }

// AppendTo appends a PING frame, or the PONG that answers one.
func (p Ping) AppendTo(dst []byte, op Op, corr uint32) []byte {
	dst = appendHeader(dst, op, 0, corr, 8)
	return binary.LittleEndian.AppendUint64(dst, p.Data)
}

// Decode reads the body of a PING or PONG.
func (p *Ping) Decode(body []byte) error {
	d := decoder{what: "PING", b: body}
	p.Data = d.u64("data")
	return d.done()
}

// AppendEmpty appends a frame of an op without a body: OK, CLOSE, UNSUBSCRIBE.
func AppendEmpty(dst []byte, op Op, corr uint32) []byte {
	return appendHeader(dst, op, 0, corr, 0)
}

// DecodeEmpty checks the body of an op that has none.
func DecodeEmpty(f Frame) error {
	if len(f.Body) != 0 {
		return malformed(f.Op.String(), "a body of %d bytes where none belongs", len(f.Body))
	}
	return nil
}

// Raft is the body of RAFT, which only peers exchange: one message of one Raft group.
//
//	Group uvarint | Kind u8 | Payload: the rest
//
// Corr ties an answer to its request within the connection and direction.
type Raft struct {
	Group   uint64
	Kind    uint8 // of the message; numbered where the transport is built
	Payload []byte
}

// AppendTo appends a RAFT frame.
func (r *Raft) AppendTo(dst []byte, corr uint32) []byte {
	dst, at := begin(dst, OpRaft, 0, corr)
	dst = binary.AppendUvarint(dst, r.Group)
	dst = append(dst, r.Kind)
	dst = append(dst, r.Payload...)
	return end(dst, at)
}

// Decode reads the body of a RAFT.
func (r *Raft) Decode(body []byte) error {
	d := decoder{what: "RAFT", b: body}
	r.Group = d.uvarint("group")
	r.Kind = d.u8("kind")
	r.Payload = d.rest()
	return d.done()
}
