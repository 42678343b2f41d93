// Package wire encodes and decodes the frames of docs/protocol.md, version 1. It does no I/O.
//
// A connection begins with the four bytes of Magic, sent once by the side that dialled. Then
// both sides send frames; integers are little-endian:
//
//	0        4    5              6        10
//	+--------+----+--------------+--------+--- ... ---+
//	| Length | Op | Version:Flags| Corr   | Body      |
//	+--------+----+--------------+--------+--- ... ---+
//
//	Length  u32  bytes that follow this field: 6 + len(Body), at most the receiver's frame limit
//	Op      u8   kind of frame; 0 is invalid, so zeroed bytes never decode
//	Version u4   version of this op's body (high half of the byte); 0 in protocol version 1
//	Flags   u4   see Flags (low half); undefined bits are zero
//	Corr    u32  the conversation this frame belongs to, chosen by the client; 0 is the connection itself
//
// A conversation is one request and its answer, one opened producer, or one subscription. Its
// number is free again after the frame that ends it.
//
// Every body has exactly one encoding: varints are minimal, reserved bits zero, and no byte
// follows the last field. What a decoder accepts, encoding gives back to the byte.
//
// Decoders alias their input: a decoded frame, batch or record is valid for as long as the
// bytes it was decoded from. They never panic, and allocate no more than a small multiple of
// the bytes they were given; decompression, at most MaxBatch.
package wire

// Magic opens every connection. Its first byte starts no text, no TLS record and no HTTP request.
const Magic = "\xd7TWP"

// Version of the protocol this package speaks.
const Version = 1

// Sizes that are part of the protocol, in bytes.
const (
	HeaderBytes = 10 // the frame header, Length included

	// MaxHelloFrame limits a frame before the handshake is done.
	MaxHelloFrame = 4 << 10
	// MaxBatch is the largest batch a producer makes, its Length field included; also the largest
	// raw body of a compressed one.
	MaxBatch = 1 << 20
	// MinBatchLimit is the smallest batch limit a node may announce.
	MinBatchLimit = 64 << 10
	// MaxFilteredBatch is the largest batch a broker cuts for a reader: the raw body of any batch,
	// and up to three bytes of offset delta before each of 65,535 records.
	MaxFilteredBatch = MaxBatch + 256<<10
	// MinFrameLimit is the smallest frame limit a side may announce: any batch and what RECORDS puts around it.
	MinFrameLimit = MaxFilteredBatch + 4<<10
	// DefaultFrameLimit is the frame limit announced unless configured otherwise.
	DefaultFrameLimit = MaxBatch + 512<<10
	// MaxFrameLimit is the largest frame limit a side may announce.
	MaxFrameLimit = 64 << 20

	// MaxText limits client and server names, mechanisms and addresses; MaxMessage the message of
	// an ERROR or GOAWAY. Longer ones are cut when they are encoded.
	MaxText    = 255
	MaxMessage = 1024
)

// Other limits that are part of the protocol.
const (
	// MaxInFlightBatches is how many unacknowledged batches one producer may have in one partition.
	MaxInFlightBatches = 256
	// MaxPartitions is how many partitions a stream may have, MaxStreamSubjects how many filters it
	// may capture: so the description of one stream always fits a frame.
	MaxPartitions     = 4096
	MaxStreamSubjects = 256
)

var (
	_ = [1]struct{}{}[HeaderBytes-(4+1+1+4)] // compile-time: the picture above is 10 bytes
	_ = [1]struct{}{}[max(0, batchFixed+MaxSubject+2+MaxBatch+3*65535-MaxFilteredBatch)]
)
