package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidewire/tidewire/internal/explain"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

func TestAdminProblem(t *testing.T) {
	detailed, err := status.New(codes.NotFound, "no such stream").WithDetails(&errdetails.ErrorInfo{Metadata: map[string]string{"id": "TW-1020"}})
	if err != nil {
		t.Fatal(err)
	}
	newer, err := status.New(codes.Aborted, "what?").WithDetails(&errdetails.ErrorInfo{Metadata: map[string]string{"id": "TW-9999"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		err error
		id  explain.ID
		why string
	}{
		{detailed.Err(), explain.Wire(20), "no such stream"},
		{newer.Err(), explain.StreamRequest, "what?"},
		{status.Error(codes.Unimplemented, "unknown method"), explain.NoAdminService, "unknown method"},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), explain.Timeout, "no answer in time"},
		{status.Error(codes.Unavailable, "closing"), explain.Disconnected, "closing"},
		{errors.New("other"), explain.StreamRequest, "other"},
	} {
		p, ok := errors.AsType[*problem](adminProblem(explain.StreamRequest, "not done", x.err))
		if said := p.said(); !ok || said.ID != x.id.String() || said.Why != x.why || said.What != "not done" || said.Do == "" {
			t.Errorf("%v: %+v", x.err, said)
		}
	}
}

// pages is a StreamService with streams, one a page.
type pages struct {
	adminv1.StreamServiceClient
	streams []*adminv1.Stream
}

func (p *pages) ListStreams(_ context.Context, r *adminv1.ListStreamsRequest, _ ...grpc.CallOption) (*adminv1.ListStreamsResponse, error) {
	if !r.ShowDeleted {
		return nil, status.Error(codes.InvalidArgument, "the deleted ones were not asked for")
	}
	at, _ := strconv.Atoi(r.PageToken)
	out := &adminv1.ListStreamsResponse{Streams: p.streams[at : at+1]}
	if at+1 < len(p.streams) {
		out.NextPageToken = strconv.Itoa(at + 1)
	}
	return out, nil
}

func TestDeletedStreams(t *testing.T) {
	gone := timestamppb.New(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	got, err := deletedStreams(t.Context(), &pages{streams: []*adminv1.Stream{{Name: "a", DeleteTime: gone}, {Name: "b"}, {Name: "c", DeleteTime: gone}}})
	if err != nil || len(got) != 2 || got[0].Name != "a" || got[1].Name != "c" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAdminJSON(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.UTC)
	got := adminJSON(&adminv1.Stream{Name: "n", Id: 7, Subjects: []string{"n", "n.>"}, Replicas: 3, CreateTime: timestamppb.New(at), DeleteTime: timestamppb.New(at),
		PurgeTime: timestamppb.New(at.Add(time.Hour)), DeletedBytes: 12, Retention: &adminv1.Retention{MaxAge: durationpb.New(time.Hour), MaxBytes: 5, MaxRecords: 6},
		PartitionStates: []*adminv1.Partition{{Number: 0, Leader: 1, Epoch: 2, StartOffset: 3, HighWatermark: 10, Bytes: 11}}})
	short := at.Truncate(time.Millisecond)
	later := short.Add(time.Hour)
	want := streamJSON{Name: "n", ID: 7, Subjects: []string{"n", "n.>"}, Created: at, Replicas: 3, MaxAge: 3600, MaxBytes: 5, MaxRecords: 6, Deleted: true,
		DeletedAt: &short, PurgeAt: &later, Records: 7, Bytes: 12, Partitions: []partitionJSON{{Number: 0, First: 3, Next: 10, Bytes: 11, Leader: 1, Epoch: 2}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestLimitAge(t *testing.T) {
	for s, want := range map[string]time.Duration{"none": 0, "0": 0, "7d": 7 * 24 * time.Hour} {
		var a limitAge
		if err := a.Set(s); err != nil || time.Duration(a.age) != want {
			t.Errorf("%q: %v, %v", s, a.age, err)
		}
	}
	if err := new(limitAge).Set("-1h"); err == nil {
		t.Error("-1h is taken")
	}
}

// A stream is changed, deleted, brought back with its records, and purged: on a real node.
func TestStreamLifecycle(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), false))
	var story strings.Builder
	step := func(args string) {
		r := c.run(strings.Fields(args)...)
		fmt.Fprintf(&story, "$ tidewire %s\n%s%s", args, scrub(r.out), scrub(r.err))
		if r.code != 0 {
			fmt.Fprintf(&story, "exit code %d\n", r.code)
		}
	}
	step("stream create orders --max-bytes 1GiB")
	step("pub orders hello")
	step("stream edit orders")
	step("stream edit orders --max-age 30d")
	step("stream edit orders --yes --max-age 30d --max-bytes 0 --add-subject returns.> --add-subject orders")
	step("stream edit orders --yes=other --max-records 5")
	step("stream edit orders --yes=orders --max-age none --max-records 5 -o json")
	step("stream edit orders --add-subject a..b")
	step("stream edit nope --max-bytes 1")
	step("stream ls --deleted")
	step("stream ls --deleted -o json")
	step("stream undelete orders")
	step("stream purge orders --yes")
	step("stream rm orders --yes")
	step("stream ls --deleted")
	step("stream ls --deleted --names")
	step("stream ls --deleted -o yaml")
	step("__complete stream undelete o")
	step("stream show orders")
	step("stream rm orders --yes")
	step("stream edit orders --yes --max-records 5")
	step("stream create returns")
	step("stream undelete orders")
	step("stream rm returns --yes --purge")
	step("stream undelete orders")
	step("sub orders --count 1")
	step("stream rm orders --yes -o json")
	step("stream purge orders")
	step("stream purge orders --yes")
	step("stream purge orders --yes")
	step("stream undelete orders -o json")
	step("stream purge")
	step("stream undelete orders --id 7")
	golden(t, "lifecycle.txt", story.String())
}

// Of two deleted streams of one name the number says which; what confirms is the name all the same. Deleted streams say
// what they take on disk.
func TestDeletedOfOneName(t *testing.T) {
	c := newCLI(t, startNode(t, t.TempDir(), false))
	for range 2 {
		c.ok("stream", "create", "s")
		c.ok("pub", "s", "hello")
		c.ok("stream", "rm", "s", "--yes")
	}
	var gone []streamJSON
	if err := json.Unmarshal([]byte(c.ok("stream", "ls", "--deleted", "-o", "json")), &gone); err != nil || len(gone) != 2 {
		t.Fatalf("%v, %v", gone, err)
	}
	for _, j := range gone {
		if j.Bytes == 0 {
			t.Errorf("%+v takes nothing", j)
		}
	}
	first, second := fmt.Sprint(gone[1].ID), fmt.Sprint(gone[0].ID)
	for _, verb := range []string{"undelete s", "purge s --yes"} {
		c.fails(exitUsage, append([]string{"stream"}, strings.Fields(verb)...), "TW-4101", "2 deleted streams", "--id "+first+"`", "--id "+second+"`")
	}
	c.fails(exitUsage, []string{"stream", "purge", "--id", first, "--yes=" + first}, "TW-6015", "--yes names "+first)
	c.typed = true
	c.typing("n\n").fails(exitError, []string{"stream", "purge", "--id", first}, "Purge stream s, number "+first, "was not touched")
	c.ok("context", "add", "prod", "--server", c.env["TIDEWIRE_SERVER"], "--protected")
	c.fails(exitUsage, []string{"stream", "purge", "--id", first, "--yes"}, "TW-6030")
	c.fails(exitUsage, []string{"stream", "purge", "--id", first, "--yes=" + first}, "TW-6030")
	c.ok("stream", "purge", "--id", first, "--yes=s")
	c.fails(exitError, []string{"stream", "purge", "--id", first, "--yes=s"}, "TW-1020", "stream ls --deleted")
	c.ok("stream", "undelete", "s")
	c.fails(exitError, []string{"stream", "undelete", "--id", second}, "TW-4104", "nothing: it is there")
	c.fails(exitError, []string{"stream", "purge", "--id", second, "--yes=s"}, "TW-4104", "stream rm s --purge")
}

// meanwhile is somebody at a terminal who does something before the answer.
type meanwhile struct {
	do     func()
	answer *strings.Reader
}

func (m *meanwhile) Read(b []byte) (int, error) {
	if m.do != nil {
		m.do()
		m.do = nil
	}
	return m.answer.Read(b)
}

// A stream that took the name while the question stood is not the one that was asked about.
func TestRemoveWhatWasAskedAbout(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	c := newCLI(t, n)
	for _, args := range [][]string{{"stream", "rm", "s"}, {"stream", "rm", "s", "--purge"}} {
		c.ok("stream", "create", "s")
		asked := *c
		asked.typed = true
		asked.in = &meanwhile{func() {
			c.ok("stream", "rm", "s", "--purge", "--yes")
			c.ok("stream", "create", "s")
		}, strings.NewReader("y\n")}
		if r := asked.run(args...); r.code == 0 {
			t.Errorf("%v: %+v", args, r)
		}
		c.ok("stream", "show", "s")
		c.ok("stream", "rm", "s", "--purge", "--yes")
	}
}
