package wire

import "fmt"

// Op is the kind of a frame.
type Op uint8

// The ops of version 1. Numbers are never reused.
const (
	OpHello    Op = 1 // to node: version range, role, limits, credentials
	OpWelcome  Op = 2 // to client: the version and limits agreed
	OpAuth     Op = 3 // both: a step of authentication between HELLO and WELCOME
	OpPing     Op = 4 // both
	OpPong     Op = 5 // both: answers PING
	OpGoaway   Op = 6 // to client: finish and reconnect elsewhere
	OpError    Op = 7 // both: a typed error
	OpOK       Op = 8 // to client: done, nothing to tell
	OpMetadata Op = 16
	OpTopology Op = 17 // to client: answers METADATA and STREAM_CREATE; pushed with Corr 0
	OpCreate   Op = 18 // STREAM_CREATE
	OpDelete   Op = 19 // STREAM_DELETE
	OpOpen     Op = 32 // to node: bind a producer to a partition
	OpOpened   Op = 33
	OpPublish  Op = 34 // to node: one batch
	OpAck      Op = 35 // to client: a range of sequences is durable
	OpClose    Op = 36 // to node: end a producer
	OpFetch    Op = 48
	OpRecords  Op = 49 // to client: answers FETCH; pushed to subscriptions
	OpSub      Op = 50 // SUBSCRIBE
	OpCredit   Op = 51 // to node: more bytes may be pushed
	OpUnsub    Op = 52 // UNSUBSCRIBE
	OpConsumed Op = 53 // to node: a consumer is done with records (FeatureConsumers)
	OpRaft     Op = 64 // between peers
)

var opNames = [256]string{
	OpHello: "HELLO", OpWelcome: "WELCOME", OpAuth: "AUTH", OpPing: "PING", OpPong: "PONG",
	OpGoaway: "GOAWAY", OpError: "ERROR", OpOK: "OK", OpMetadata: "METADATA", OpTopology: "TOPOLOGY",
	OpCreate: "STREAM_CREATE", OpDelete: "STREAM_DELETE", OpOpen: "OPEN", OpOpened: "OPENED",
	OpPublish: "PUBLISH", OpAck: "ACK", OpClose: "CLOSE", OpFetch: "FETCH", OpRecords: "RECORDS",
	OpSub: "SUBSCRIBE", OpCredit: "CREDIT", OpUnsub: "UNSUBSCRIBE", OpConsumed: "CONSUMED", OpRaft: "RAFT",
}

// String gives the name docs/protocol.md uses.
func (o Op) String() string {
	if o.Known() {
		return opNames[o]
	}
	return fmt.Sprintf("OP(%d)", uint8(o))
}

// Known reports whether version 1 defines o.
func (o Op) Known() bool { return opNames[o] != "" }
