package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const document = "../../docs/protocol.md"

// newYear is 2026-01-01T00:00:00Z, Unix ms: the time of day in all vectors.
const newYear = 1767225600000

var cluster = [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe}

// A vector is a frame, or a batch alone, whose bytes stand in testdata and in the document.
type vector struct {
	name string
	op   Op // 0: a batch
	corr uint32
	body body
}

var (
	oneSubject = batch{
		Sequence: 40, BaseTime: newYear, Subject: "orders",
		Records: []record{{Time: newYear, Value: "first"}, {Time: newYear + 5, Value: "second"}},
	}
	mixed = batch{
		Attributes: AttrMixed, Sequence: 42, BaseTime: newYear,
		Records: []record{
			{Time: newYear, Subject: "orders.new", Value: "a"},
			{Time: newYear - 1, Subject: "orders.paid", Value: "bc"},
			{Time: newYear + 300, Subject: "orders.new", Value: ""},
		},
	}
	filtered = batch{
		Attributes: AttrMixed | AttrFiltered, Sequence: 42, BaseTime: newYear, Span: 3,
		Records: []record{
			{Offset: 0, Time: newYear, Subject: "orders.new", Value: "a"},
			{Offset: 2, Time: newYear + 300, Subject: "orders.new", Value: ""},
		},
	}
	keyed = batch{
		Sequence: 45, BaseTime: newYear, Subject: "orders",
		Records: []record{
			{Time: newYear, Key: "customer-7", Headers: [][2]string{{"type", "order.v1"}, {"trace", "\x00\xff"}}, Value: `{"total":12}`},
			{Time: newYear, Value: "no key, no header"},
		},
	}
	compressed = batch{
		Attributes: AttrZstd, Sequence: 47, BaseTime: newYear, Subject: "orders",
		Records: []record{
			{Time: newYear, Value: "the same words again"}, {Time: newYear, Value: "the same words again"},
			{Time: newYear, Value: "the same words again"}, {Time: newYear, Value: "the same words again"},
		},
		Zstd: unhex("28b52ffd00000d01008401170000007468652073616d6520776f72647320616761696e0154140428d406"),
	}
	sixteen = batch{
		Sequence: 3_000_000, BaseTime: newYear, Subject: "orders",
		Records: []record{{Time: newYear, Value: "0123456789abcdef"}},
	}
	sixteenAck = Ack{Quorum: 2, Voters: 3, Sequence: 3_000_000, Count: 1, Offset: 5_000_000, Epoch: 7}
)

var (
	hello = &helloBody{Hello{
		MinVersion: 1, MaxVersion: 1, Role: RoleClient, FrameLimit: DefaultFrameLimit, Client: "example/1.0", Credentials: []byte{},
	}}
	welcome = &welcomeBody{Welcome{
		Version: 1, Cluster: cluster, Node: 1, FrameLimit: DefaultFrameLimit, BatchLimit: MaxBatch,
		InFlightBatches: 256, InFlightBytes: 16 << 20, CreditLimit: 64 << 20, Idle: 2 * time.Minute, Server: "tidewire/0.1.0",
	}}
	metadata = &metadataBody{Metadata{Select: SelectSubject, Name: "orders", Create: true}}
	topology = &topologyBody{Topology{
		MapVersion: 9,
		Nodes:      []NodeInfo{{ID: 1, Address: "127.0.0.1:7420", Bits: NodeSelf}},
		Streams: []StreamInfo{{
			ID: 5, Name: "orders", MapVersion: 8, Created: newYear, Replicas: 1,
			Retention: Retention{MaxAge: 7 * 24 * time.Hour}, Subjects: []string{"orders", "orders.>"},
			Partitions: []PartitionInfo{{Leader: 1, Epoch: 7, Start: 100, HighWatermark: 1140, Bytes: 65536}},
		}},
	}}
	open   = &openBody{Open{Stream: 5, Partition: 0, MapVersion: 8, Idempotent: true}}
	opened = &openedBody{Opened{Producer: 77, NextSequence: 0, LeaderEpoch: 7}}
)

var vectors = []vector{
	{"hello", OpHello, 0, hello},
	{"welcome", OpWelcome, 0, welcome},
	{"auth", OpAuth, 0, &authBody{Auth{Mechanism: "TOKEN", Data: []byte("s3cret")}}},
	{"ping", OpPing, 0, &pingBody{Ping{0x0123456789abcdef}}},
	{"pong", OpPong, 0, &pingBody{Ping{0x0123456789abcdef}}},
	{"goaway", OpGoaway, 0, &goawayBody{Goaway{Code: CodeShutdown, Drain: 10 * time.Second, Address: "127.0.0.1:7421", Message: "the node is stopping"}}},
	{"error", OpError, 3, &errorBody{Error{
		Code: CodeSequenceGap, Bits: ErrorRetriable | ErrorOneBatch, RetryAfter: 5 * time.Millisecond,
		Sequence: 44, Value: 42, Message: "resend from 42",
	}}},
	{"ok", OpOK, 3, &emptyBody{}},
	{"metadata", OpMetadata, 1, metadata},
	{"topology", OpTopology, 1, topology},
	{"stream_create", OpCreate, 2, &createBody{CreateStream{
		Name: "orders", Partitions: 4, Replicas: 3,
		Retention: Retention{MaxAge: time.Hour, MaxBytes: 1 << 30, MaxRecords: 1_000_000}, Subjects: []string{"orders.*"},
	}}},
	{"stream_delete", OpDelete, 2, &deleteBody{DeleteStream{Name: "orders", Purge: true}}},
	{"open", OpOpen, 3, open},
	{"opened", OpOpened, 3, opened},
	{"publish", OpPublish, 3, &publishBody{sixteen}},
	{"ack", OpAck, 3, &ackBody{sixteenAck}},
	{"close", OpClose, 3, &emptyBody{}},
	{"fetch", OpFetch, 4, &fetchBody{Fetch{
		Stream: 5, Start: Start{FromOffset, 1140}, MaxBytes: 256 << 10, MaxWait: 500 * time.Millisecond, Read: ReadMinOffset, MinOffset: 1140,
	}}},
	{"records", OpRecords, 4, &recordsBody{
		Header: RecordsHeader{Stream: 5, LogStart: 100, HighWatermark: 1145, First: 1140, Next: 1145},
		Runs: []run{
			{Base: 1140, Epoch: 7, Time: newYear + 12, Batches: []batch{oneSubject}},
			{Base: 1142, Epoch: 7, Time: newYear + 14, Batches: []batch{filtered}},
		},
	}},
	{"subscribe", OpSub, 6, &subBody{Subscribe{
		Filter: "orders.>", Start: Start{From: FromFirst}, Credit: 1 << 20, Positions: []Position{{5, 0, 1142}},
	}}},
	{"credit", OpCredit, 6, &creditBody{Credit{262144}}},
	{"unsubscribe", OpUnsub, 6, &emptyBody{}},
	{"consumed", OpConsumed, 6, &consumedBody{Consumed{Stream: 5, Offset: 1142, Count: 3, Outcome: OutcomeRetry, Delay: time.Second}}},
	{"raft", OpRaft, 8, &raftBody{Raft{Group: 300, Kind: 1, Payload: []byte("...")}}},
	{"batch_one_subject", 0, 0, &publishBody{oneSubject}},
	{"batch_mixed", 0, 0, &publishBody{mixed}},
	{"batch_key_headers", 0, 0, &publishBody{keyed}},
	{"batch_zstd", 0, 0, &publishBody{compressed}},
	{"batch_filtered", 0, 0, &publishBody{filtered}},
}

func TestVectors(t *testing.T) {
	covered := map[Op]bool{}
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			want := readHex(t, v.name)
			if v.op == 0 {
				checkBatchVector(t, v.body.(*publishBody).batch, want)
				return
			}
			covered[v.op] = true
			if got := v.body.frame(nil, v.op, v.corr); !bytes.Equal(got, want) {
				t.Errorf("encodes to\n%x, the vector is\n%x", got, want)
			}
			f, n, err := Decode(want, DefaultFrameLimit)
			if err != nil || n != len(want) || f.Op != v.op || f.Corr != v.corr || f.Flags != 0 || f.Version != 0 {
				t.Fatalf("decodes to %+v, %d of %d bytes, %v", f, n, len(want), err)
			}
			if again := f.AppendTo(nil); !bytes.Equal(again, want) {
				t.Errorf("the decoded frame encodes to %x", again)
			}
			got := newBody(v.op)
			if err := got.Decode(f.Body); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, v.body) {
				t.Errorf("decodes to\n%+v, want\n%+v", got, v.body)
			}
		})
	}
	for op := range 256 {
		if Op(op).Known() && !covered[Op(op)] {
			t.Errorf("no vector for %s", Op(op))
		}
	}
}

func checkBatchVector(t *testing.T, b batch, want []byte) {
	if got := b.encode(); !bytes.Equal(got, want) {
		t.Errorf("encodes to\n%x, the vector is\n%x", got, want)
	}
	h, err := ParseBatch(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readBatch(h)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, b) {
		t.Errorf("decodes to\n%+v, want\n%+v", got, b)
	}
	if b.Attributes&(AttrZstd|AttrFiltered) == 0 {
		if built := build(t, &b); !bytes.Equal(built, want) {
			t.Errorf("the builder makes\n%x, the vector is\n%x", built, want)
		}
	}
}

// build makes b with the Builder.
func build(t testing.TB, b *batch) []byte {
	t.Helper()
	var builder Builder
	builder.Reset(nil, MaxBatch)
	for _, r := range b.Records {
		var headers []Header
		for _, h := range r.Headers {
			headers = append(headers, Header{[]byte(h[0]), []byte(h[1])})
		}
		subject := b.Subject
		if b.Attributes&AttrMixed != 0 {
			subject = r.Subject
		}
		if err := builder.Append(subject, []byte(r.Key), []byte(r.Value), headers, r.Time); err != nil {
			t.Fatal(err)
		}
	}
	return builder.Finish(b.Sequence, b.Attributes&AttrZstd != 0)
}

// The filtered vector is what the broker makes of the mixed one for a reader of orders.new.
func TestFilteredVector(t *testing.T) {
	h, err := ParseBatch(readHex(t, "batch_mixed"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := h.Raw(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := AppendFiltered(nil, &h, raw, func(r *Record) bool { return Match("orders.new", r.Subject) })
	if want := readHex(t, "batch_filtered"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v\n%x, want\n%x", err, got, want)
	}
}

// A turn is one thing said in a dialogue: bytes from one side.
type turn struct {
	fromNode bool
	bytes    []byte
}

func dialogues() map[string][]turn {
	ask := func(b body, op Op, corr uint32) turn { return turn{false, b.frame(nil, op, corr)} }
	answer := func(b body, op Op, corr uint32) turn { return turn{true, b.frame(nil, op, corr)} }
	first := turn{false, hello.frame([]byte(Magic), OpHello, 0)}
	one := batch{Sequence: 0, BaseTime: newYear, Subject: "orders",
		Records: []record{{Time: newYear, Value: "0123456789abcdef"}}}
	return map[string][]turn{
		"dialogue_producer": {
			first, answer(welcome, OpWelcome, 0),
			ask(metadata, OpMetadata, 1), answer(topology, OpTopology, 1),
			ask(open, OpOpen, 2), answer(opened, OpOpened, 2),
			ask(&publishBody{one}, OpPublish, 2),
			answer(&ackBody{Ack{Quorum: 1, Voters: 1, Sequence: 0, Count: 1, Offset: 1140, Epoch: 7}}, OpAck, 2),
			ask(&emptyBody{}, OpClose, 2), answer(&emptyBody{}, OpOK, 2),
		},
		"dialogue_consumer": {
			first, answer(welcome, OpWelcome, 0),
			ask(&subBody{Subscribe{Filter: "orders", Start: Start{From: FromOffset, Value: 1140}, Credit: 1 << 20}}, OpSub, 1),
			answer(&emptyBody{}, OpOK, 1),
			answer(&recordsBody{
				Header: RecordsHeader{Stream: 5, LogStart: 100, HighWatermark: 1141, First: 1140, Next: 1141},
				Runs:   []run{{Base: 1140, Epoch: 7, Time: newYear + 2, Batches: []batch{one}}},
			}, OpRecords, 1),
			ask(&creditBody{Credit{84}}, OpCredit, 1),
			ask(&emptyBody{}, OpUnsub, 1), answer(&emptyBody{}, OpOK, 1),
		},
	}
}

func TestDialogues(t *testing.T) {
	for name, want := range dialogues() {
		got := readDialogue(t, name)
		if len(got) != len(want) {
			t.Errorf("%s: %d turns, want %d", name, len(got), len(want))
			continue
		}
		for i := range want {
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Errorf("%s, turn %d is\n%v %x, want\n%v %x", name, i+1, got[i].fromNode, got[i].bytes, want[i].fromNode, want[i].bytes)
			}
		}
	}
}

// What a consumer gives back is what the frame of records took.
func TestDialogueCredit(t *testing.T) {
	turns := dialogues()["dialogue_consumer"]
	var credit Credit
	f, _, err := Decode(turns[5].bytes, DefaultFrameLimit)
	if err != nil || credit.Decode(f.Body) != nil || credit.Bytes != uint64(len(turns[4].bytes)) {
		t.Errorf("credit of %d bytes for a frame of %d (%v)", credit.Bytes, len(turns[4].bytes), err)
	}
}

// Every vector stands in the document, to the letter.
func TestDocumentPrintsVectors(t *testing.T) {
	doc, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) != len(vectors)+len(dialogues()) {
		t.Errorf("%d files for %d vectors and %d dialogues (%v)", len(files), len(vectors), len(dialogues()), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(doc, append([]byte("```\n"), append(text, "```\n"...)...)) {
			t.Errorf("%s does not print %s", document, file)
		}
	}
}

// readHex reads a vector: two hex digits a byte; # begins a comment.
func readHex(t testing.TB, name string) []byte {
	t.Helper()
	var out []byte
	for _, turn := range readDialogue(t, name) {
		out = append(out, turn.bytes...)
	}
	return out
}

// readDialogue reads a vector in which > begins what the client says and < what the node says.
func readDialogue(t testing.TB, name string) (turns []turn) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	turns = []turn{{}}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		for _, field := range strings.Fields(line) {
			if field == ">" || field == "<" {
				turns = append(turns, turn{fromNode: field == "<"})
				continue
			}
			last := &turns[len(turns)-1]
			last.bytes = append(last.bytes, unhex(field)...)
		}
	}
	if len(turns[0].bytes) == 0 {
		turns = turns[1:]
	}
	return turns
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(fmt.Sprintf("%q: %v", s, err))
	}
	return b
}
