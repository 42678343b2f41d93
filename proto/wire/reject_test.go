package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes string
		want  error // nil: some *TooLargeError
	}{
		{"nothing", "", ErrShort},
		{"half a length", "0600", ErrShort},
		{"no header", "06000000" + "0400", ErrShort},
		{"no body", "0700000004000000" + "0000", ErrShort},
		{"length 5", "05000000" + "0400000000", ErrMalformed},
		{"zeros", "00000000", ErrMalformed},
		{"op 0", "06000000" + "000000000000", ErrMalformed},
		{"flag 2", "06000000" + "110200000000", ErrMalformed},
		{"more of a PING", "06000000" + "040100000000", ErrMalformed},
		{"above the limit", "e9030000", nil},
		{"far above the limit", "ffffffff", nil},
	} {
		_, n, err := Decode(unhex(c.bytes), 1000)
		var tooLarge *TooLargeError
		if n != 0 || c.want != nil && !errors.Is(err, c.want) || c.want == nil && !errors.As(err, &tooLarge) {
			t.Errorf("%s: %d, %v", c.name, n, err)
		}
	}
	for name, frame := range map[string]string{
		"an op of the future":              "06000000" + "c80100000000",
		"a version of the future, flagged": "06000000" + "041100000000",
		"more of a TOPOLOGY":               "06000000" + "110100000000",
	} {
		if f, n, err := Decode(unhex(frame), 1000); err != nil || n != 10 {
			t.Errorf("%s: %+v, %d, %v", name, f, n, err)
		}
	}
}

// One field wrong in a body that is otherwise right.
func TestBodiesRefuse(t *testing.T) {
	ack := func(a Ack) body { return &ackBody{a} }
	welcomeWith := func(change func(*Welcome)) body { w := *welcome; change(&w.Welcome); return &w }
	helloWith := func(change func(*Hello)) body { h := *hello; change(&h.Hello); return &h }
	for name, c := range map[string]struct {
		op   Op
		body body
	}{
		"hello version 0":            {OpHello, helloWith(func(h *Hello) { h.MinVersion = 0 })},
		"hello versions reversed":    {OpHello, helloWith(func(h *Hello) { h.MinVersion = 2 })},
		"hello role 0":               {OpHello, helloWith(func(h *Hello) { h.Role = 0 })},
		"hello small frames":         {OpHello, helloWith(func(h *Hello) { h.FrameLimit = MinFrameLimit - 1 })},
		"hello large frames":         {OpHello, helloWith(func(h *Hello) { h.FrameLimit = MaxFrameLimit + 1 })},
		"welcome version 0":          {OpWelcome, welcomeWith(func(w *Welcome) { w.Version = 0 })},
		"welcome small frames":       {OpWelcome, welcomeWith(func(w *Welcome) { w.FrameLimit = MaxBatch })},
		"welcome no batches":         {OpWelcome, welcomeWith(func(w *Welcome) { w.InFlightBatches = 0 })},
		"welcome too many batches":   {OpWelcome, welcomeWith(func(w *Welcome) { w.InFlightBatches = 257 })},
		"welcome no whole batch":     {OpWelcome, welcomeWith(func(w *Welcome) { w.InFlightBytes = MaxBatch - 1 })},
		"welcome large batches":      {OpWelcome, welcomeWith(func(w *Welcome) { w.BatchLimit = MaxBatch + 1 })},
		"welcome no credit":          {OpWelcome, welcomeWith(func(w *Welcome) { w.CreditLimit = 0 })},
		"error 0":                    {OpError, &errorBody{Error{}}},
		"error with undefined bits":  {OpError, &errorBody{Error{Code: 1, Bits: 16}}},
		"goaway 0":                   {OpGoaway, &goawayBody{Goaway{}}},
		"metadata select 4":          {OpMetadata, &metadataBody{Metadata{Select: 4}}},
		"metadata all with a name":   {OpMetadata, &metadataBody{Metadata{Name: "x"}}},
		"metadata create a filter":   {OpMetadata, &metadataBody{Metadata{Select: SelectFilter, Name: "x", Create: true}}},
		"topology node bits":         {OpTopology, &topologyBody{Topology{Nodes: []NodeInfo{{Bits: 4}}}}},
		"topology stream bits":       {OpTopology, &topologyBody{Topology{Streams: []StreamInfo{{Bits: 2}}}}},
		"topology empty subject":     {OpTopology, &topologyBody{Topology{Streams: []StreamInfo{{Subjects: []string{""}}}}}},
		"topology partitions":        {OpTopology, &topologyBody{Topology{Streams: []StreamInfo{{Partitions: make([]PartitionInfo, MaxPartitions+1)}}}}},
		"create too many subjects":   {OpCreate, &createBody{CreateStream{Subjects: strings.Split(strings.Repeat("xx,", MaxStreamSubjects)+"x", ",")}}},
		"open id, not idempotent":    {OpOpen, &openBody{Open{Producer: 1}}},
		"open epoch without an id":   {OpOpen, &openBody{Open{Idempotent: true, Epoch: 1}}},
		"ack of nothing":             {OpAck, ack(Ack{Quorum: 1, Voters: 1})},
		"ack on no quorum":           {OpAck, ack(Ack{Voters: 1, Count: 1})},
		"ack on more than voters":    {OpAck, ack(Ack{Quorum: 2, Voters: 1, Count: 1})},
		"ack past all sequences":     {OpAck, ack(Ack{Quorum: 1, Voters: 1, Count: 2, Sequence: math.MaxUint64})},
		"ack past all offsets":       {OpAck, ack(Ack{Quorum: 1, Voters: 1, Count: 2, Offset: math.MaxUint64})},
		"records to before":          {OpRecords, &recordsBody{Header: RecordsHeader{First: 1}}},
		"fetch from 5":               {OpFetch, &fetchBody{Fetch{Start: Start{From: 5}}}},
		"fetch first with a value":   {OpFetch, &fetchBody{Fetch{Start: Start{Value: 1}}}},
		"fetch read 3":               {OpFetch, &fetchBody{Fetch{Read: 3}}},
		"fetch committed, minimum":   {OpFetch, &fetchBody{Fetch{MinOffset: 1}}},
		"subscribe without credit":   {OpSub, &subBody{Subscribe{Filter: "x"}}},
		"credit 0":                   {OpCredit, &creditBody{}},
		"consumed outcome 0":         {OpConsumed, &consumedBody{Consumed{Count: 1}}},
		"consumed done with a delay": {OpConsumed, &consumedBody{Consumed{Count: 1, Outcome: OutcomeDone, Delay: time.Second}}},
		"consumed nothing":           {OpConsumed, &consumedBody{Consumed{Outcome: OutcomeDone}}},
	} {
		f := mustDecode(t, c.body.frame(nil, c.op, 1))
		if f.Op != c.op {
			t.Errorf("%s: the frame is a %s", name, f.Op)
		}
		if err := newBody(c.op).Decode(f.Body); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A body of any op is refused when a byte is missing, and when one is too many. The last field of
// RAFT, and the runs of RECORDS, go to the end of the frame.
func TestBodiesEndWhereTheyEnd(t *testing.T) {
	for _, v := range vectors {
		if v.op == 0 || v.op == OpRaft {
			continue
		}
		whole := mustDecode(t, readHex(t, v.name)).Body
		if err := newBody(v.op).Decode(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s with a byte too many: %v", v.name, err)
		}
		for n := range whole {
			if v.op == OpRecords && n == 9 {
				continue // RECORDS without runs
			}
			if err := newBody(v.op).Decode(whole[:n]); !errors.Is(err, ErrMalformed) && !(v.op == OpRecords && err == nil) {
				t.Errorf("%s cut to %d bytes: %v", v.name, n, err)
			}
		}
	}
}

func TestVarintsAreMinimal(t *testing.T) {
	for _, c := range []struct {
		hex  string
		want uint64
		n    int
	}{
		{"00", 0, 1}, {"7f", 127, 1}, {"8001", 128, 2}, {"ffffffffffffffffff01", math.MaxUint64, 10},
		{"", 0, 0}, {"80", 0, 0}, {"ffffff", 0, 0},
		{"8000", 0, -1}, {"ff00", 0, -1}, {"808000", 0, -1}, {"ffffffffffffffffff02", 0, -1}, {"8080808080808080808001", 0, -1},
	} {
		if v, n := uvarint(unhex(c.hex)); v != c.want || n != c.n {
			t.Errorf("%s: %d, %d", c.hex, v, n)
		}
	}
	for _, v := range []int64{0, -1, 1, 63, -64, 64, math.MaxInt64, math.MinInt64} {
		b := binary.AppendVarint(nil, v)
		if got, n := varint(b); got != v || n != len(b) || n != uvarintLen(zigzag(v)) {
			t.Errorf("%d comes back as %d, %d of %d bytes", v, got, n, len(b))
		}
	}
}

// What an encoder is given must not make a frame that its decoder refuses.
func TestEncodersCut(t *testing.T) {
	long := strings.Repeat("ä", 2000) + "\xff"
	for name, c := range map[string]struct {
		op   Op
		body body
	}{
		"error":   {OpError, &errorBody{Error{Code: CodeInternal, RetryAfter: math.MaxInt64, Leader: long, Message: long}}},
		"goaway":  {OpGoaway, &goawayBody{Goaway{Code: CodeShutdown, Drain: -time.Second, Address: long, Message: "\xff"}}},
		"hello":   {OpHello, helloNamed(long)},
		"welcome": {OpWelcome, welcomeNamed(long)},
	} {
		f := mustDecode(t, c.body.frame(nil, c.op, 0))
		if err := newBody(c.op).Decode(f.Body); err != nil || len(f.Body) > MaxHelloFrame {
			t.Errorf("%s: %d bytes, %v", name, len(f.Body), err)
		}
	}
	for d, want := range map[time.Duration]time.Duration{
		0: 0, 1: time.Millisecond, time.Millisecond: time.Millisecond, time.Millisecond + 1: 2 * time.Millisecond,
		-time.Hour: 0, math.MaxInt64: math.MaxUint32 * time.Millisecond,
	} {
		var f Fetch
		if err := f.Decode(mustDecode(t, (&Fetch{MaxWait: d}).AppendTo(nil, 1)).Body); err != nil || f.MaxWait != want {
			t.Errorf("a wait of %d ns arrives as %s, %v", d, f.MaxWait, err)
		}
	}
}

func helloNamed(s string) body   { h := *hello; h.Client, h.Mechanism = s, s; return &h }
func welcomeNamed(s string) body { w := *welcome; w.Server, w.Idle = s, math.MaxInt64; return &w }

func TestParsePublish(t *testing.T) {
	good := readHex(t, "batch_mixed")
	if b, err := ParsePublish(good); err != nil || b.Count != 3 || b.Span != 3 || b.Sequence != 42 {
		t.Errorf("%+v, %v", b, err)
	}
	format := bytes.Clone(good)
	format[8] = 2
	lz4 := bytes.Clone(good)
	lz4[9] |= 3
	for name, c := range map[string]struct {
		body []byte
		want error
	}{
		"nothing":          {nil, ErrMalformed},
		"a byte missing":   {good[:len(good)-1], ErrMalformed},
		"a byte too many":  {append(bytes.Clone(good), 0), ErrMalformed},
		"two batches":      {append(bytes.Clone(good), good...), ErrMalformed},
		"filtered":         {readHex(t, "batch_filtered"), ErrMalformed},
		"format 2":         {format, ErrUnsupported},
		"compression 3":    {lz4, ErrUnsupported},
		"a length of 2^32": {[]byte("\xff\xff\xff\xff\x00"), ErrMalformed},
	} {
		if _, err := ParsePublish(c.body); !errors.Is(err, c.want) || !errors.Is(err, ErrMalformed) || errors.Is(err, ErrShort) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A flipped bit anywhere in a batch is refused, or was in what the CRC does not cover: the length.
func TestEveryFlippedBitIsSeen(t *testing.T) {
	for _, v := range vectors {
		if v.op != 0 {
			continue
		}
		good := readHex(t, v.name)
		for bit := range 8 * len(good) {
			bad := bytes.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			if b, err := ParseBatch(bad); err == nil && b.Verify() == nil {
				t.Errorf("%s: bit %d", v.name, bit)
			}
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	text := func(s string) []record { return []record{{Value: s}} }
	for name, c := range map[string]struct {
		batch batch
		want  error
	}{
		"a subject that is none":    {batch{Subject: "a..b", Records: text("x")}, ErrName},
		"a filter for a subject":    {batch{Subject: "a.*", Records: text("x")}, ErrName},
		"mixed, a subject is none":  {batch{Attributes: AttrMixed, Records: []record{{Subject: "ok"}, {Subject: "a b"}}}, ErrName},
		"mixed, no subject":         {batch{Attributes: AttrMixed, Records: []record{{Subject: ""}}}, ErrMalformed},
		"a nameless header":         {batch{Subject: "a", Records: []record{{Headers: [][2]string{{"", "v"}}}}}, ErrMalformed},
		"a header of no UTF-8":      {batch{Subject: "a", Records: []record{{Headers: [][2]string{{"\xff", "v"}}}}}, ErrMalformed},
		"a long header name":        {batch{Subject: "a", Records: []record{{Headers: [][2]string{{strings.Repeat("n", 256), "v"}}}}}, ErrMalformed},
		"filtered, out of order":    {batch{Attributes: AttrFiltered, Subject: "a", Span: 9, Records: []record{{Offset: 3}, {Offset: 2}}}, ErrMalformed},
		"filtered, offset twice":    {batch{Attributes: AttrFiltered, Subject: "a", Span: 9, Records: []record{{Offset: 3}, {Offset: 3}}}, ErrMalformed},
		"filtered, beyond the span": {batch{Attributes: AttrFiltered, Subject: "a", Span: 9, Records: []record{{Offset: 9}}}, ErrMalformed},
	} {
		h, err := ParseBatch(c.batch.encode())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := h.Check(h.records); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The count in the header and the records that follow must agree.
	good := readHex(t, "batch_one_subject")
	for _, count := range []byte{1, 3} {
		good[10] = count
		h, err := ParseBatch(good)
		if err != nil || !errors.Is(h.Check(h.records), ErrMalformed) {
			t.Errorf("2 records where the count says %d: %v", count, err)
		}
	}
}

func TestTopologyFrames(t *testing.T) {
	want := Topology{MapVersion: 3, Nodes: []NodeInfo{{ID: 1, Address: "a:1", Bits: NodeSelf}}}
	for i := range 3000 {
		want.Streams = append(want.Streams, StreamInfo{
			ID: uint64(i), Name: strings.Repeat("n", 128), Replicas: 1,
			Subjects: []string{strings.Repeat("s", 255)}, Partitions: make([]PartitionInfo, 1+i%20),
		})
	}
	var got Topology
	frames, more := 0, true
	for b := want.AppendFrames(nil, 7); len(b) > 0; frames++ {
		f, n, err := Decode(b, MinFrameLimit)
		if err != nil || f.Corr != 7 || !more {
			t.Fatalf("frame %d: Corr %d, more %t, %v", frames, f.Corr, more, err)
		}
		more = f.Flags == FlagMore
		var part Topology
		if err := part.Decode(f.Body); err != nil || part.MapVersion != 3 {
			t.Fatal(err)
		}
		got.Nodes = append(got.Nodes, part.Nodes...)
		got.Streams = append(got.Streams, part.Streams...)
		b = b[n:]
	}
	got.MapVersion = 3
	if more || frames < 3 || !bytes.Equal(got.AppendTo(nil, 0, 0), want.AppendTo(nil, 0, 0)) {
		t.Errorf("%d frames, more to come %t, %d streams of %d", frames, more, len(got.Streams), len(want.Streams))
	}
	// The largest stream there is fits the smallest frame limit, and an empty topology is one frame.
	largest := Topology{Streams: []StreamInfo{{Name: strings.Repeat("n", 128), Partitions: make([]PartitionInfo, MaxPartitions)}}}
	for range MaxStreamSubjects {
		largest.Streams[0].Subjects = append(largest.Streams[0].Subjects, strings.Repeat("s", 255))
	}
	for i := range largest.Streams[0].Partitions {
		largest.Streams[0].Partitions[i] = PartitionInfo{math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxUint64}
	}
	for _, topology := range []Topology{largest, {}} {
		b := topology.AppendFrames(nil, 1)
		if f, n, err := Decode(b, MinFrameLimit); err != nil || n != len(b) || f.Flags != 0 || new(Topology).Decode(f.Body) != nil {
			t.Errorf("%d of %d bytes, flags %d, %v", n, len(b), f.Flags, err)
		}
	}
}

// An Error is found by its code, however it was wrapped.
func TestErrorIs(t *testing.T) {
	err := error(&Error{Code: CodeNotLeader, Bits: ErrorRetriable, Leader: "a:1", Message: "ask a:1"})
	if !errors.Is(err, &Error{Code: CodeNotLeader}) || errors.Is(err, &Error{Code: CodeDenied}) {
		t.Error("errors.Is does not go by the code")
	}
	if err.Error() != "NOT_LEADER: ask a:1" || Code(999).String() != "CODE(999)" || Op(200).String() != "OP(200)" {
		t.Errorf("%v, %v, %v", err, Code(999), Op(200))
	}
}
