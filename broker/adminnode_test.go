package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/broker/admin"
	"github.com/tidewire/tidewire/cluster"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
	"github.com/tidewire/tidewire/proto/wire"
)

// api is the admin API of a node, through its port.
type api struct {
	t testing.TB
	adminv1.StreamServiceClient
	adminv1.NodeServiceClient
	adminv1.ConfigServiceClient
	conn *grpc.ClientConn
	ctx  context.Context
}

func administer(t testing.TB, n *Node) *api {
	t.Helper()
	conn, err := grpc.NewClient(n.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return &api{t, adminv1.NewStreamServiceClient(conn), adminv1.NewNodeServiceClient(conn), adminv1.NewConfigServiceClient(conn), conn, ctx}
}

func (a *api) create(s *adminv1.Stream) *adminv1.Stream {
	a.t.Helper()
	r, err := a.CreateStream(a.ctx, &adminv1.CreateStreamRequest{Stream: s})
	if err != nil {
		a.t.Fatal(err)
	}
	return r.Stream
}

func (a *api) delete(name string) *adminv1.Stream {
	a.t.Helper()
	r, err := a.DeleteStream(a.ctx, &adminv1.DeleteStreamRequest{Name: name})
	if err != nil {
		a.t.Fatal(err)
	}
	return r.Stream
}

// refused checks the status, its reason and that it says what to do next.
func (a *api) refused(err error, code codes.Code, reason string) {
	a.t.Helper()
	st := status.Convert(err)
	var info *errdetails.ErrorInfo
	var help *errdetails.Help
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.Help:
			help = d
		}
	}
	if st.Code() != code || info.GetReason() != reason || info.GetDomain() != "tidewire" || !strings.HasPrefix(info.GetMetadata()["id"], "TW-") ||
		len(help.GetLinks()) != 1 || !strings.HasSuffix(help.Links[0].Url, strings.ToLower(info.Metadata["id"])) {
		a.t.Errorf("%v with %v, want %s %s", err, st.Details(), code, reason)
	}
}

func TestAdminStreams(t *testing.T) {
	n := startNode(t, t.TempDir())
	a := administer(t, n)
	made := a.create(&adminv1.Stream{Name: "orders", Partitions: 2, Retention: &adminv1.Retention{MaxAge: durationpb.New(time.Hour), MaxBytes: 1 << 30}})
	if made.Id == 0 || made.Etag == "" || !slices.Equal(made.Subjects, []string{"orders", "orders.>"}) || made.Partitions != 2 || made.CreateTime == nil {
		t.Errorf("%v", made)
	}
	got, err := a.GetStream(a.ctx, &adminv1.GetStreamRequest{Name: "orders"})
	if err != nil || len(got.Stream.PartitionStates) != 2 || got.Stream.PartitionStates[1].Leader == 0 || got.Stream.Etag != made.Etag {
		t.Errorf("%v, %v", got, err)
	}
	a.create(&adminv1.Stream{Name: "other"})

	// Etags and masks.
	up := func(st *adminv1.Stream, mask ...string) (*adminv1.Stream, error) {
		r, err := a.UpdateStream(a.ctx, &adminv1.UpdateStreamRequest{Stream: st, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask}})
		return r.GetStream(), err
	}
	changed, err := up(&adminv1.Stream{Name: "orders", Etag: made.Etag, Retention: &adminv1.Retention{MaxRecords: 7, MaxBytes: 9}}, "retention.max_records")
	if err != nil || changed.Retention.MaxRecords != 7 || changed.Retention.MaxBytes != 1<<30 || changed.Retention.MaxAge.AsDuration() != time.Hour || changed.Etag == made.Etag {
		t.Fatalf("%v, %v", changed, err)
	}
	_, err = up(&adminv1.Stream{Name: "orders", Etag: made.Etag, Retention: &adminv1.Retention{}}, "retention")
	a.refused(err, codes.Aborted, "ETAG_MISMATCH")
	_, err = a.DeleteStream(a.ctx, &adminv1.DeleteStreamRequest{Name: "orders", Etag: made.Etag})
	a.refused(err, codes.Aborted, "ETAG_MISMATCH")
	if changed, err = up(&adminv1.Stream{Name: "orders", Retention: &adminv1.Retention{}}); err != nil || changed.Retention.MaxBytes != 0 {
		t.Errorf("without a mask: %v, %v", changed, err)
	}
	for what, tc := range map[string]struct {
		st     *adminv1.Stream
		mask   string
		code   codes.Code
		reason string
	}{
		"partitions":     {&adminv1.Stream{Name: "orders", Partitions: 3}, "partitions", codes.InvalidArgument, "BAD_REQUEST"},
		"replicas":       {&adminv1.Stream{Name: "orders", Replicas: 3}, "replicas", codes.InvalidArgument, "BAD_REQUEST"},
		"unknown field":  {&adminv1.Stream{Name: "orders"}, "colour", codes.InvalidArgument, "BAD_REQUEST"},
		"name":           {&adminv1.Stream{Name: "orders"}, "name", codes.InvalidArgument, "BAD_REQUEST"},
		"nameless":       {&adminv1.Stream{}, "retention", codes.InvalidArgument, "BAD_REQUEST"},
		"removal":        {&adminv1.Stream{Name: "orders", Subjects: []string{"orders"}}, "subjects", codes.FailedPrecondition, "UNSUPPORTED"},
		"overlap":        {&adminv1.Stream{Name: "orders", Subjects: []string{"orders", "orders.>", "other.x"}}, "subjects", codes.FailedPrecondition, "SUBJECT_OVERLAP"},
		"bad subject":    {&adminv1.Stream{Name: "orders", Subjects: []string{"orders", "orders.>", "a..b"}}, "subjects", codes.InvalidArgument, "BAD_NAME"},
		"nobody":         {&adminv1.Stream{Name: "nobody", Retention: &adminv1.Retention{}}, "retention", codes.NotFound, "UNKNOWN_STREAM"},
		"negative age":   {&adminv1.Stream{Name: "orders", Retention: &adminv1.Retention{MaxAge: durationpb.New(-1)}}, "retention", codes.InvalidArgument, "BAD_REQUEST"},
		"nothing to set": {&adminv1.Stream{Name: "orders"}, "", codes.InvalidArgument, "BAD_REQUEST"},
	} {
		var mask []string
		if tc.mask != "" {
			mask = []string{tc.mask}
		}
		_, err := up(tc.st, mask...)
		t.Log(what, err)
		a.refused(err, tc.code, tc.reason)
	}
	for _, tc := range []struct {
		st     *adminv1.Stream
		code   codes.Code
		reason string
	}{
		{nil, codes.InvalidArgument, "BAD_REQUEST"},
		{&adminv1.Stream{Name: "../etc"}, codes.InvalidArgument, "BAD_NAME"},
		{&adminv1.Stream{Name: "orders", Subjects: []string{"zz"}}, codes.AlreadyExists, "STREAM_EXISTS"},
		{&adminv1.Stream{Name: "b", Subjects: []string{"*.new"}}, codes.FailedPrecondition, "SUBJECT_OVERLAP"},
		{&adminv1.Stream{Name: "b", Partitions: 1 << 30}, codes.ResourceExhausted, "LIMIT"},
		{&adminv1.Stream{Name: "b", Replicas: 3}, codes.FailedPrecondition, "UNSUPPORTED"},
		{&adminv1.Stream{Name: "b", Replicas: 300}, codes.InvalidArgument, "BAD_REQUEST"},
	} {
		_, err := a.CreateStream(a.ctx, &adminv1.CreateStreamRequest{Stream: tc.st})
		a.refused(err, tc.code, tc.reason)
	}
	_, err = a.GetStream(a.ctx, &adminv1.GetStreamRequest{Name: "nobody"})
	a.refused(err, codes.NotFound, "UNKNOWN_STREAM")
	_, err = a.GetStream(a.ctx, &adminv1.GetStreamRequest{})
	a.refused(err, codes.InvalidArgument, "BAD_REQUEST")
	_, err = a.GetStream(a.ctx, &adminv1.GetStreamRequest{Id: 999})
	a.refused(err, codes.NotFound, "UNKNOWN_STREAM")
}

// A publisher may use a new subject as soon as the update is answered; who reads without needing a filter
// before does not see what it did not ask for; who asked for it follows.
func TestAdminUpdateSubjects(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.Dev = false })
	a := administer(t, n)
	a.create(&adminv1.Stream{Name: "orders"})
	p := connect(t, n)
	st := p.streamOf("orders.a")
	corr, _ := p.open(st, wire.Open{})
	p.send(wire.AppendPublish(nil, corr, batch(t, 0, message{subject: "orders.a", value: "1"})))
	p.acks(corr, 0, 1)
	narrow, wide := connect(t, n), connect(t, n)
	narrowCorr := narrow.subscribe(wire.Subscribe{Filter: "orders.>", Credit: 1 << 20})
	if got := narrow.receive(narrowCorr, 1); got[0].value != "1" {
		t.Error(got)
	}
	wideCorr := wide.subscribe(wire.Subscribe{Filter: "bills", Credit: 1 << 20})
	if _, err := a.UpdateStream(a.ctx, &adminv1.UpdateStreamRequest{Stream: &adminv1.Stream{Name: "orders", Subjects: []string{"orders", "orders.>", "bills"}}}); err != nil {
		t.Fatal(err)
	}
	p.send(wire.AppendPublish(nil, corr, batch(t, 1, message{subject: "bills", value: "2"})))
	p.send(wire.AppendPublish(nil, corr, batch(t, 2, message{subject: "orders.a", value: "3"})))
	p.acks(corr, 1, 3)
	if got := narrow.receive(narrowCorr, 1); got[0].value != "3" {
		t.Errorf("a reader of orders.> got %v", got)
	}
	if got := wide.receive(wideCorr, 1); got[0].value != "2" {
		t.Errorf("a reader of bills got %v", got)
	}
}

// Who read a stream when it was deleted goes on where he stood if it comes back: nothing comes twice, and nothing old to who asked
// for what is next.
func TestSubscriptionsGoOnAfterUndelete(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.Dev = false })
	a := administer(t, n)
	a.create(&adminv1.Stream{Name: "orders", Partitions: 2})
	p := connect(t, n)
	st := p.streamOf("orders")
	p.fill(st, 0, values("orders", 3, "old %d"))
	first, next := connect(t, n), connect(t, n)
	firstCorr := first.subscribe(wire.Subscribe{Filter: "orders", Start: wire.Start{From: wire.FromFirst}})
	nextCorr := next.subscribe(wire.Subscribe{Filter: "orders", Start: wire.Start{From: wire.FromNext}})
	first.receive(firstCorr, 3)
	for i := range 3 {
		a.delete("orders")
		first.recvError(wire.CodeUnknownStream)
		next.recvError(wire.CodeUnknownStream)
		if _, err := a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Name: "orders"}); err != nil {
			t.Fatal(err)
		}
		p.fill(st, 0, values("orders", 1, "new %d"))
		for _, got := range [][]delivered{first.receive(firstCorr, 1), next.receive(nextCorr, 1)} {
			if len(got) != 1 || got[0].offset != uint64(3+i) {
				t.Fatalf("got %+v, want offset %d", got, 3+i)
			}
		}
	}
	gone := a.delete("orders")
	first.recvError(wire.CodeUnknownStream)
	next.recvError(wire.CodeUnknownStream)
	late := connect(t, n) // comes while it is deleted, and knows where it stood
	lateCorr := late.subscribe(wire.Subscribe{Filter: "orders", Start: wire.Start{From: wire.FromFirst}, Positions: []wire.Position{{Stream: st.ID, Partition: 0, Offset: 5}}})
	if _, err := a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Id: gone.Id}); err != nil {
		t.Fatal(err)
	}
	if got := late.receive(lateCorr, 1); got[0].offset != 5 {
		t.Errorf("got %+v, want offset 5", got)
	}
	gone = a.delete("orders")
	if _, err := a.PurgeStream(a.ctx, &adminv1.PurgeStreamRequest{Id: gone.Id}); err != nil {
		t.Fatal(err)
	}
	until(t, "nothing is remembered of a purged stream", func() bool {
		var left atomic.Int64
		onSession(n, func(s *session) { left.Add(int64(s.left)) })
		return left.Load() == 0
	})
	for _, p := range []*peer{first, next, p, late} {
		p.conn.Close()
	}
	until(t, "nothing of it is left", func() bool { return n.weight.Load() == 0 })
}

// The records of an undeleted stream are what they were, also after a restart in between.
func TestAdminUndelete(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, func(c *Config) { c.Dev = false })
	a := administer(t, n)
	a.create(&adminv1.Stream{Name: "orders"})
	publish := func(n *Node, sequence uint64, value string) {
		p := connect(t, n)
		corr, o := p.open(p.streamOf("orders.a"), wire.Open{})
		_ = o
		p.send(wire.AppendPublish(nil, corr, batch(t, sequence, message{subject: "orders.a", value: value})))
		p.acks(corr, sequence, sequence+1)
	}
	read := func(n *Node, count int) (got []delivered) {
		p := connect(t, n)
		return p.receive(p.subscribe(wire.Subscribe{Filter: "orders.>", Credit: 1 << 20, Start: wire.Start{From: wire.FromFirst}}), count)
	}
	for i := range 20 {
		publish(n, 0, fmt.Sprintf("value %d", i))
	}
	before := read(n, 20)
	for range 3 { // at once, over and over: stopping and starting meet
		gone := a.delete("orders")
		if gone.DeleteTime == nil || gone.PurgeTime.AsTime().Sub(gone.DeleteTime.AsTime()) != 24*time.Hour {
			t.Fatalf("%v", gone)
		}
		back, err := a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Name: "orders"})
		if err != nil || back.Stream.DeleteTime != nil || back.Stream.Id != gone.Id {
			t.Fatal(back, err)
		}
		if got := read(n, 20); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Fatalf("read %v, before %v", got, before)
		}
	}
	_, err := a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Name: "orders"})
	a.refused(err, codes.FailedPrecondition, "NOT_DELETED")
	_, err = a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Name: "nobody"})
	a.refused(err, codes.NotFound, "UNKNOWN_STREAM")
	gone := a.delete("orders")
	stopNode(t, n)

	n = startNode(t, dir, func(c *Config) { c.Dev = false })
	a = administer(t, n)
	_, err = a.GetStream(a.ctx, &adminv1.GetStreamRequest{Name: "orders"})
	a.refused(err, codes.NotFound, "UNKNOWN_STREAM")
	got, err := a.GetStream(a.ctx, &adminv1.GetStreamRequest{Id: gone.Id})
	if err != nil || got.Stream.DeletedBytes == 0 {
		t.Errorf("%v, %v: its files take nothing", got, err)
	}
	got.GetStream().DeletedBytes = 0 // answers to changes do not tell it
	if !proto.Equal(got.GetStream(), gone) {
		t.Errorf("%v, want %v", got, gone)
	}
	taken := a.create(&adminv1.Stream{Name: "orders"})
	_, err = a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Id: gone.Id})
	a.refused(err, codes.AlreadyExists, "STREAM_EXISTS")
	if _, err := a.PurgeStream(a.ctx, &adminv1.PurgeStreamRequest{Id: taken.Id, Force: true}); err != nil {
		t.Fatal(err)
	}
	a.create(&adminv1.Stream{Name: "thief", Subjects: []string{"orders.a"}})
	_, err = a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Id: gone.Id})
	if a.refused(err, codes.FailedPrecondition, "SUBJECT_OVERLAP"); !strings.Contains(err.Error(), `"thief"`) {
		t.Error(err)
	}
	a.delete("thief")
	if _, err = a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Id: gone.Id, Etag: gone.Etag}); err != nil {
		t.Fatal(err)
	}
	if got := read(n, 20); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("after a restart: %v, before %v", got, before)
	}
	publish(n, 0, "and on")
	stopNode(t, n) // what the catalog applies again at start must not stop what lives now
	n = startNode(t, dir, func(c *Config) { c.Dev = false })
	if got := read(n, 21); got[20].value != "and on" {
		t.Error(got[20])
	}
}

func TestAdminPurge(t *testing.T) {
	n := startNode(t, t.TempDir())
	a := administer(t, n)
	st := a.create(&adminv1.Stream{Name: "orders"})
	group := n.catalog.State().Stream("orders").Partitions[0].Group
	_, err := a.PurgeStream(a.ctx, &adminv1.PurgeStreamRequest{Name: "orders"})
	a.refused(err, codes.FailedPrecondition, "NOT_DELETED")
	a.delete("orders")
	if !n.data.exists(partitionDir(group)) {
		t.Error("the records went with a soft delete")
	}
	if _, err := a.PurgeStream(a.ctx, &adminv1.PurgeStreamRequest{Name: "orders", ValidateOnly: true}); err != nil {
		t.Error(err)
	}
	if _, err := a.PurgeStream(a.ctx, &adminv1.PurgeStreamRequest{Id: st.Id}); err != nil {
		t.Fatal(err)
	}
	until(t, "the records of a purged stream are gone", func() bool { return !n.data.exists(partitionDir(group)) })
	_, err = a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Id: st.Id})
	a.refused(err, codes.NotFound, "UNKNOWN_STREAM")
}

func TestAdminValidateOnlyAndRequestIDs(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir)
	a := administer(t, n)
	before := n.catalog.State()
	r, err := a.CreateStream(a.ctx, &adminv1.CreateStreamRequest{Stream: &adminv1.Stream{Name: "x"}, ValidateOnly: true, RequestId: "1"})
	if err != nil || r.Stream.Name != "x" || r.Stream.Id != 0 || r.Stream.Partitions != 1 {
		t.Errorf("%v, %v", r, err)
	}
	_, err = a.CreateStream(a.ctx, &adminv1.CreateStreamRequest{Stream: &adminv1.Stream{Name: "a b"}, ValidateOnly: true})
	a.refused(err, codes.InvalidArgument, "BAD_NAME")
	if n.catalog.State() != before {
		t.Error("validate_only left a trace")
	}
	request := &adminv1.CreateStreamRequest{Stream: &adminv1.Stream{Name: "x"}, RequestId: "1"}
	first, err := a.CreateStream(a.ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	a.delete("x")
	again, err := a.CreateStream(a.ctx, request)
	if err != nil || !proto.Equal(first, again) {
		t.Errorf("%v, %v; first %v", again, err, first)
	}
	a.create(&adminv1.Stream{Name: "secret"})
	if _, err := a.DeleteStream(a.ctx, &adminv1.DeleteStreamRequest{Name: "secret", RequestId: "0"}); err != nil {
		t.Fatal(err)
	}
	before = n.catalog.State()
	other := administer(t, n) // somebody else, who has the same ids by chance
	for what, call := range map[string]func(id string) error{
		"create": func(id string) error {
			_, err := other.CreateStream(a.ctx, &adminv1.CreateStreamRequest{Stream: &adminv1.Stream{Name: "y"}, RequestId: id})
			return err
		},
		"create otherwise": func(id string) error {
			_, err := other.CreateStream(a.ctx, &adminv1.CreateStreamRequest{Stream: &adminv1.Stream{Name: "x", Partitions: 2}, RequestId: id})
			return err
		},
		"update": func(id string) error {
			_, err := other.UpdateStream(a.ctx, &adminv1.UpdateStreamRequest{Stream: &adminv1.Stream{Name: "y", Retention: &adminv1.Retention{}}, RequestId: id})
			return err
		},
		"delete": func(id string) error {
			_, err := other.DeleteStream(a.ctx, &adminv1.DeleteStreamRequest{Name: "x", RequestId: id})
			return err
		},
		"undelete": func(id string) error {
			_, err := other.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{Name: "x", RequestId: id})
			return err
		},
		"purge": func(id string) error {
			_, err := other.PurgeStream(a.ctx, &adminv1.PurgeStreamRequest{Name: "x", RequestId: id})
			return err
		},
	} {
		for _, id := range []string{"0", "1"} {
			err := call(id)
			if a.refused(err, codes.InvalidArgument, "REQUEST_ID_REUSED"); err == nil || strings.Contains(fmt.Sprint(err, status.Convert(err).Proto()), "secret") {
				t.Errorf("%s: %v tells of somebody else's stream", what, err)
			}
		}
	}
	if n.catalog.State() != before {
		t.Error("a request id that belongs to another request left a trace")
	}
	_, err = a.CreateStream(a.ctx, &adminv1.CreateStreamRequest{Stream: &adminv1.Stream{Name: "y"}, RequestId: strings.Repeat("x", 65)})
	a.refused(err, codes.InvalidArgument, "BAD_REQUEST")
	purge := &adminv1.PurgeStreamRequest{Name: "x", RequestId: "2"}
	gone, err := a.PurgeStream(a.ctx, purge)
	if err != nil {
		t.Fatal(err)
	}
	stopNode(t, n)
	a = administer(t, startNode(t, dir))
	if again, err := a.PurgeStream(a.ctx, purge); err != nil || !proto.Equal(gone, again) {
		t.Errorf("after a restart: %v, %v; first %v", again, err, gone)
	}
}

// A change whose stream did not start is not answered with OK when it is asked again, until the stream has started.
func TestAdminReplayStartsTheStream(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, func(c *Config) { c.KeepInterval = time.Hour }) // nobody else starts it
	a := administer(t, n)
	group := func(name string) string {
		return filepath.Join(dir, partitionDir(n.catalog.State().Stream(name).Partitions[0].Group))
	}
	a.create(&adminv1.Stream{Name: "first"})
	first := group("first")
	create := &adminv1.CreateStreamRequest{Stream: &adminv1.Stream{Name: "second"}, RequestId: "1"}
	undelete := &adminv1.UndeleteStreamRequest{Name: "first", RequestId: "2"}
	last, err := strconv.Atoi(filepath.Base(first))
	if err != nil {
		t.Fatal(err)
	}
	inTheWay := filepath.Join(filepath.Dir(first), strconv.Itoa(last+1))
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := a.CreateStream(a.ctx, create)
		a.refused(err, codes.Internal, "INTERNAL")
	}
	if got := group("second"); got != inTheWay {
		t.Fatalf("the stream is in %s, the file in its way %s", got, inTheWay)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CreateStream(a.ctx, create); err != nil || !n.serves(n.catalog.State().Stream("second")) {
		t.Errorf("create, asked again: %v, and the stream is not served", err)
	}

	a.delete("first")
	until(t, "the deleted stream is taken out", func() bool { return len(n.partitions.all()) == 1 })
	unlock, err := n.partitions.lock(a.ctx, n.catalog.State().DeletedStreams("first")[0].ID) // whoever closes it has that
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := os.Rename(first, first+".away"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := a.UndeleteStream(a.ctx, undelete); err == nil {
			t.Error("undelete says OK without the records")
		}
	}
	if err := os.Rename(first+".away", first); err != nil {
		t.Fatal(err)
	}
	if _, err := a.UndeleteStream(a.ctx, undelete); err != nil || !n.serves(n.catalog.State().Stream("first")) {
		t.Errorf("undelete, asked again: %v, and the stream is not served", err)
	}
}

func TestAdminPages(t *testing.T) {
	n := startNode(t, t.TempDir())
	a := administer(t, n)
	for i := range 250 {
		if _, err := n.catalog.CreateStream(a.ctx, specNamed(fmt.Sprintf("s%03d", i))); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	r := &adminv1.ListStreamsRequest{PageSize: 40, NamePrefix: "s"}
	for pages := 0; ; pages++ {
		page, err := a.ListStreams(a.ctx, r)
		if err != nil || len(page.Streams) > 40 {
			t.Fatal(err)
		}
		for _, st := range page.Streams {
			names = append(names, st.Name)
		}
		if page.NextPageToken == "" {
			break
		}
		switch r.PageToken = page.NextPageToken; pages {
		case 0:
			a.delete("s039") // where the page ended
			a.delete("s100")
			a.create(&adminv1.Stream{Name: "s000a"}) // behind us
			a.create(&adminv1.Stream{Name: "s200a"})
			a.create(&adminv1.Stream{Name: "t"})
		}
	}
	if len(names) != 250 || !slices.IsSorted(names) || slices.Contains(names, "s100") || !slices.Contains(names, "s200a") || len(slices.Compact(names)) != 250 {
		t.Errorf("%d names: %v", len(names), names)
	}
	all, err := a.ListStreams(a.ctx, &adminv1.ListStreamsRequest{PageSize: 1 << 30, ShowDeleted: true, ShowPartitions: true})
	if err != nil || len(all.Streams) != 253 || all.NextPageToken != "" || len(all.Streams[252].PartitionStates) != 1 {
		t.Errorf("%d, %v", len(all.GetStreams()), err)
	}
	for _, bad := range []*adminv1.ListStreamsRequest{{PageSize: -1}, {PageToken: "x"}, {PageToken: r.PageToken, NamePrefix: "t"}, {PageToken: r.PageToken, NamePrefix: "s", ShowDeleted: true}} {
		_, err := a.ListStreams(a.ctx, bad)
		a.refused(err, codes.InvalidArgument, "BAD_REQUEST")
	}
}

// settings is a configuration as the loader would show it.
type settings struct{ err error }

func (s *settings) Settings() []admin.Setting {
	return []admin.Setting{{Key: "limits.connections", Value: "10", Default: "20", Origin: "flag", Doc: "how many", Reloadable: true},
		{Key: "tls.key_password", Value: "hunter2", Default: "hunter1", Secret: true}}
}
func (s *settings) Reload(context.Context) ([]string, []string, error) {
	return []string{"limits.connections"}, []string{"address"}, s.err
}

func TestAdminNodeAndConfig(t *testing.T) {
	n := startNode(t, t.TempDir())
	a := administer(t, n)
	a.create(&adminv1.Stream{Name: "x", Partitions: 2})
	r, err := a.GetNode(a.ctx, &adminv1.GetNodeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if i := r.Node; i.Id != 1 || i.Incarnation != 1 || i.ClusterId != n.identity.ClusterHex || i.Version != Version || i.Streams != 1 || i.Partitions != 2 ||
		!slices.Equal(i.Addresses, []string{n.Addr().String()}) || i.Connections < 1 || i.Draining || i.Uptime.AsDuration() <= 0 ||
		i.Disk.TotalBytes < i.Disk.FreeBytes || i.Disk.FreeBytes == 0 || !slices.ContainsFunc(i.Limits, func(l *adminv1.Limit) bool {
		return l.Name == "credit" && l.Value == n.config().Credit && l.Unit == "bytes"
	}) {
		t.Errorf("%v", i)
	}
	_, err = a.GetConfig(a.ctx, &adminv1.GetConfigRequest{})
	a.refused(err, codes.FailedPrecondition, "NO_SETTINGS")
	_, err = a.ReloadConfig(a.ctx, &adminv1.ReloadConfigRequest{})
	a.refused(err, codes.FailedPrecondition, "NO_SETTINGS")

	source := &settings{}
	a = administer(t, startNode(t, t.TempDir(), func(c *Config) { c.Settings = source }))
	c, err := a.GetConfig(a.ctx, &adminv1.GetConfigRequest{})
	if err != nil || len(c.Settings) != 2 || c.Settings[0].Value != "10" || strings.Contains(c.String(), "hunter") {
		t.Errorf("%v, %v", c, err)
	}
	if c, err = a.GetConfig(a.ctx, &adminv1.GetConfigRequest{KeyPrefix: "limits."}); err != nil || len(c.Settings) != 1 {
		t.Errorf("%v, %v", c, err)
	}
	l, err := a.ReloadConfig(a.ctx, &adminv1.ReloadConfigRequest{})
	if err != nil || !slices.Equal(l.Changed, []string{"limits.connections"}) || !slices.Equal(l.RestartNeeded, []string{"address"}) {
		t.Errorf("%v, %v", l, err)
	}
	source.err = errors.New("limits.connections: -1 is below 1")
	_, err = a.ReloadConfig(a.ctx, &adminv1.ReloadConfigRequest{})
	if a.refused(err, codes.FailedPrecondition, "BAD_SETTINGS"); !strings.Contains(err.Error(), "-1 is below 1") {
		t.Error(err)
	}
}

func TestAdminHealthAndReflection(t *testing.T) {
	n := startNode(t, t.TempDir())
	a := administer(t, n)
	health := healthpb.NewHealthClient(a.conn)
	for _, service := range []string{"", "tidewire.admin.v1.StreamService", "tidewire.admin.v1.NodeService", "tidewire.admin.v1.ConfigService"} {
		if r, err := health.Check(a.ctx, &healthpb.HealthCheckRequest{Service: service}); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v, %v", service, r, err)
		}
	}
	mirror, err := reflectpb.NewServerReflectionClient(a.conn).ServerReflectionInfo(a.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := mirror.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if r, err := mirror.Recv(); err != nil || len(r.GetListServicesResponse().GetService()) < 5 {
		t.Errorf("%v, %v", r, err)
	}
	_ = mirror.CloseSend()

	watch, err := health.Watch(a.ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatal(r, err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- n.Stop(context.Background()) }()
	if r, err := watch.Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("while draining: %v, %v", r, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A message above the limit is refused before it is taken, and the connection lives on.
func TestAdminLargeRequest(t *testing.T) {
	a := administer(t, startNode(t, t.TempDir()))
	_, err := a.GetStream(a.ctx, &adminv1.GetStreamRequest{Name: strings.Repeat("x", 10<<20)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
	if _, err := a.GetNode(a.ctx, &adminv1.GetNodeRequest{}); err != nil {
		t.Error(err)
	}
}

// nobody refuses everything and remembers what it was asked.
type nobody struct{ asked chan auth.Action }

func (d *nobody) Authorize(id *auth.Identity, action auth.Action, resource []byte) error {
	d.asked <- action
	return &auth.DeniedError{Identity: id.String(), Action: action, Resource: string(resource)}
}

func TestAdminAsksForLeave(t *testing.T) {
	deny := &nobody{make(chan auth.Action, 100)}
	a := administer(t, startNode(t, t.TempDir(), func(c *Config) { c.Authorizer = deny }))
	for i, call := range []func() error{
		func() error { _, err := a.CreateStream(a.ctx, &adminv1.CreateStreamRequest{}); return err },
		func() error { _, err := a.GetStream(a.ctx, &adminv1.GetStreamRequest{}); return err },
		func() error { _, err := a.ListStreams(a.ctx, &adminv1.ListStreamsRequest{}); return err },
		func() error { _, err := a.UpdateStream(a.ctx, &adminv1.UpdateStreamRequest{}); return err },
		func() error { _, err := a.DeleteStream(a.ctx, &adminv1.DeleteStreamRequest{}); return err },
		func() error { _, err := a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{}); return err },
		func() error { _, err := a.PurgeStream(a.ctx, &adminv1.PurgeStreamRequest{}); return err },
		func() error { _, err := a.GetNode(a.ctx, &adminv1.GetNodeRequest{}); return err },
		func() error { _, err := a.GetConfig(a.ctx, &adminv1.GetConfigRequest{}); return err },
		func() error { _, err := a.ReloadConfig(a.ctx, &adminv1.ReloadConfigRequest{}); return err },
		func() error {
			w, err := healthpb.NewHealthClient(a.conn).Watch(a.ctx, &healthpb.HealthCheckRequest{})
			if err == nil {
				_, err = w.Recv()
			}
			return err
		},
		func() error {
			w, err := reflectpb.NewServerReflectionClient(a.conn).ServerReflectionInfo(a.ctx)
			if err == nil {
				_, err = w.Recv()
			}
			return err
		},
	} {
		a.refused(call(), codes.PermissionDenied, "DENIED")
		if len(deny.asked) != i+1 {
			t.Errorf("call %d asked %d times", i, len(deny.asked)-i)
		}
	}
}

// Junk behind the preface of HTTP/2 ends that connection, not the API.
// raw sends bytes as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (raw) Unmarshal([]byte, any) error   { return nil }
func (raw) Name() string                  { return "proto" }

// Every name that is none is refused by every method that makes or finds something under it, as the caller's mistake, with the
// field that is wrong; and none leaves a trace.
func TestAdminIllegalNames(t *testing.T) {
	n := startNode(t, t.TempDir())
	a := administer(t, n)
	a.create(&adminv1.Stream{Name: "orders"})
	before := n.catalog.State()
	violates := func(what string, err error) {
		t.Helper()
		var fields *errdetails.BadRequest
		for _, d := range status.Convert(err).Details() {
			if b, ok := d.(*errdetails.BadRequest); ok {
				fields = b
			}
		}
		if status.Code(err) != codes.InvalidArgument || len(fields.GetFieldViolations()) != 1 || fields.FieldViolations[0].Field == "" || fields.FieldViolations[0].Description == "" {
			t.Errorf("%s: %v with %v, want InvalidArgument with a field", what, err, fields)
		}
	}
	illegal := []string{"", ".", "..", "a..b", ".a", "a.", "../../etc/passwd", "/etc", "a/b", `a\b`, "C:", "a b", "a\tb", "a\nb", "a\x00b", "\x00", "\x1b[31m", "a\u007fb",
		"a\u0085b", "a\u2028b", "ünder", "\u202egnp", "a*", "*", ">", "a.>", strings.Repeat("x", 129), strings.Repeat("x", 300), strings.Repeat("x.", 150) + "x"}
	for _, name := range illegal {
		_, err := a.CreateStream(a.ctx, &adminv1.CreateStreamRequest{Stream: &adminv1.Stream{Name: name}})
		violates(fmt.Sprintf("create %q", name), err)
		_, err = a.CreateStream(a.ctx, &adminv1.CreateStreamRequest{Stream: &adminv1.Stream{Name: name}, ValidateOnly: true})
		violates(fmt.Sprintf("create %q, validate_only", name), err)
	}
	for _, subject := range []string{"", ".", "a..b", ".a", "a.", "../x", "a/b", `a\b`, "a b", "a\tb", "a\nb", "a\x00b", "a\u007fb", "a\u0085b", "a\u2028b", "a*", "a>", ">.a", "a.>.b",
		strings.Repeat("x", 300), strings.Repeat("x.", 150) + "x"} {
		_, err := a.CreateStream(a.ctx, &adminv1.CreateStreamRequest{Stream: &adminv1.Stream{Name: "fine", Subjects: []string{subject}}})
		violates(fmt.Sprintf("create with subject %q", subject), err)
		_, err = a.UpdateStream(a.ctx, &adminv1.UpdateStreamRequest{Stream: &adminv1.Stream{Name: "orders", Subjects: []string{"orders", "orders.>", subject}}})
		violates(fmt.Sprintf("update with subject %q", subject), err)
	}
	for what, err := range map[string]error{
		"get": func() error { _, err := a.GetStream(a.ctx, &adminv1.GetStreamRequest{}); return err }(),
		"update": func() error {
			_, err := a.UpdateStream(a.ctx, &adminv1.UpdateStreamRequest{Stream: &adminv1.Stream{Retention: &adminv1.Retention{}}})
			return err
		}(),
		"delete":   func() error { _, err := a.DeleteStream(a.ctx, &adminv1.DeleteStreamRequest{}); return err }(),
		"undelete": func() error { _, err := a.UndeleteStream(a.ctx, &adminv1.UndeleteStreamRequest{}); return err }(),
		"purge":    func() error { _, err := a.PurgeStream(a.ctx, &adminv1.PurgeStreamRequest{}); return err }(),
	} {
		violates(what+" without a name", err)
	}

	// Not UTF-8, which no client's library sends: the name of a stream in a CreateStreamRequest, and a name itself.
	inStream, named := []byte("\x0a\x05\x0a\x03a\xffb"), []byte("\x0a\x03a\xffb")
	for method, request := range map[string][]byte{"CreateStream": inStream, "UpdateStream": inStream, "GetStream": named, "DeleteStream": named, "UndeleteStream": named,
		"PurgeStream": named, "ListStreams": []byte("\xff\xff\xff")} {
		var answer []byte
		err := a.conn.Invoke(a.ctx, "/tidewire.admin.v1.StreamService/"+method, request, &answer, grpc.ForceCodec(raw{}))
		violates(method+" with bytes that are not UTF-8", err)
		a.refused(err, codes.InvalidArgument, "BAD_REQUEST")
	}
	if n.catalog.State() != before {
		t.Error("a refused name left a trace")
	}
}

func TestAdminJunk(t *testing.T) {
	n := startNode(t, t.TempDir())
	conn, err := net.Dial("tcp", n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = conn.Write(append([]byte(http2Preface), bytes.Repeat([]byte{0xff}, 4096)...))
	for buf := make([]byte, 4096); err == nil; {
		_, err = conn.Read(buf)
	}
	if _, err := administer(t, n).GetNode(context.Background(), &adminv1.GetNodeRequest{}); err != nil {
		t.Error(err)
	}
}

func specNamed(name string) cluster.StreamSpec { return cluster.StreamSpec{Name: name} }
