package cluster

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/storage"
)

// Changes are there after a restart, from commands and from a snapshot; what was refused left nothing.
func TestChangesSurviveRestart(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	c, stop := openSized(t, dir, 4<<10, nil)
	a, err := c.CreateStream(ctx, StreamSpec{Name: "a"}, WithRequest("r1", "d1"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.UpdateStream(ctx, "a", StreamUpdate{Subjects: []string{"a", "a.>", "x"}, Retention: &wire.Retention{MaxRecords: 5}}, WithETag(a.ETag()))
	if err != nil || !b.Captures("x") || b.Retention.MaxRecords != 5 || b.MapVersion != a.MapVersion || b.ID != a.ID {
		t.Fatalf("%+v, %v", b, err)
	}
	if _, err := c.UpdateStream(ctx, "a", StreamUpdate{Retention: &wire.Retention{}}, WithETag(a.ETag())); !errors.Is(err, ErrChanged) {
		t.Errorf("an old etag: %v", err)
	}
	if _, err := c.UpdateStream(ctx, "a", StreamUpdate{Subjects: []string{"a", "x"}}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("removal of a subject: %v", err)
	}
	gone, err := c.DeleteStream(ctx, "a", WithETag(b.ETag()))
	if err != nil {
		t.Fatal(err)
	}
	thief, err := c.CreateStream(ctx, StreamSpec{Name: "thief", Subjects: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.UndeleteStream(ctx, a.ID); !errors.Is(err, ErrOverlap) || !strings.Contains(err.Error(), `"thief"`) {
		t.Errorf("its subject was taken: %v", err)
	}
	if _, err := c.PurgeStream(ctx, thief.ID); !errors.Is(err, ErrLiving) {
		t.Errorf("purge of a living stream: %v", err)
	}
	if _, err := c.PurgeStream(ctx, thief.ID, WithForce()); err != nil || c.State().Stream("thief") != nil || c.State().StreamOf("x") != nil {
		t.Errorf("forced purge: %v", err)
	}
	if d := c.State().DeletedStreams("a"); len(d) != 1 || d[0].ETag() != gone.ETag() {
		t.Errorf("deleted: %+v", d)
	}
	before := c.State()
	if _, err := c.UndeleteStream(ctx, a.ID, CheckOnly()); err != nil || c.State() != before {
		t.Errorf("a check: %v", err)
	}
	back, err := c.UndeleteStream(ctx, a.ID, WithETag(gone.ETag()))
	if err != nil || back.Deleted != 0 || c.State().StreamOf("x") == nil || c.State().Stream("a") != back {
		t.Fatalf("%+v, %v", back, err)
	}
	want := c.State()
	stop()
	got, snapshots, err := inspected(t, dir)
	if err != nil || snapshots == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("%d snapshots, %v\n%+v\nwant\n%+v", snapshots, err, got, want)
	}
	c, _ = open(t, dir, nil)
	again, err := c.CreateStream(ctx, StreamSpec{Name: "a"}, WithRequest("r1", "d1"))
	if err != nil || !reflect.DeepEqual(again, a) {
		t.Errorf("replayed after a restart: %+v, %v; first %+v", again, err, a)
	}
	if _, err := c.CreateStream(ctx, StreamSpec{Name: "q"}, WithRequest("r1", "d2")); !errors.Is(err, ErrRequestReused) {
		t.Errorf("another request of that id: %v", err)
	}
}

// What is remembered is bounded in number, time and bytes, newest kept, and the same on every node.
func TestRequestsAreBounded(t *testing.T) {
	run := func(n int, pause time.Duration, subjects []string) *State {
		s := newState()
		now := int64(1_000_000)
		for i := range n {
			cmd := &command{Op: opCreate, Now: now, Create: &StreamSpec{Name: "s", Subjects: append([]string{"s"}, subjects...), Partitions: 1},
				Request: &request{ID: fmt.Sprint(i), Digest: "d"}}
			var r result
			if s, r = step(s, cmd); r.err != nil {
				t.Fatal(r.err)
			}
			if s, r = step(s, &command{Op: opPurge, ID: r.stream.ID, Force: true, Now: now}); r.err != nil {
				t.Fatal(r.err)
			}
			now += pause.Milliseconds()
		}
		return s
	}
	if s := run(maxRequests+100, time.Millisecond, nil); len(s.Requests) != maxRequests || s.Requests[maxRequests-1].ID != fmt.Sprint(maxRequests+99) {
		t.Errorf("%d remembered", len(s.Requests))
	}
	s := run(200, time.Minute, nil)
	if len(s.Requests) != 61 {
		t.Errorf("%d remembered of the last hour", len(s.Requests))
	}
	last := s.Requests[60]
	if st, found, err := s.replay(&request{ID: last.ID, Digest: "d"}, last.At+requestWindow.Milliseconds()); st == nil || !found || err != nil {
		t.Errorf("within the window: %v, %v", found, err)
	}
	if _, found, err := s.replay(&request{ID: last.ID, Digest: "other"}, last.At+requestWindow.Milliseconds()+1); found || err != nil {
		t.Errorf("after it: %v, %v", found, err)
	}
	var large []string
	for i := range 200 {
		large = append(large, fmt.Sprintf("%d%s", i, strings.Repeat("x", 200)))
	}
	s = run(200, time.Millisecond, large)
	total := 0
	for _, r := range s.Requests {
		total += r.bytes()
	}
	if total > maxRequestsBytes || len(s.Requests) < 50 || len(s.Requests) == 200 {
		t.Errorf("%d remembered, %d bytes", len(s.Requests), total)
	}
}

// A purged stream is known until all its nodes have removed it, over restarts.
func TestPurgedUntilRemoved(t *testing.T) {
	dir := t.TempDir()
	c, stop := open(t, dir, nil)
	st, err := c.CreateStream(t.Context(), StreamSpec{Name: "a", Partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PurgeStream(t.Context(), st.ID, WithForce()); err != nil {
		t.Fatal(err)
	}
	stop()
	c, stop = open(t, dir, nil)
	if got := c.State().Purged[st.ID]; got == nil || len(got.Partitions) != 2 || c.State().Streams[st.ID] != nil {
		t.Fatalf("after a restart %+v", c.State())
	}
	for range 2 { // again, as after a kill before the answer
		if err := c.StreamRemoved(t.Context(), st.ID); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	c, _ = open(t, dir, nil)
	if len(c.State().Purged) != 0 {
		t.Errorf("after it was removed %+v", c.State().Purged)
	}
	two := &State{Purged: map[uint64]*Stream{7: {ID: 7, Partitions: []Partition{{Group: 1, Nodes: []uint64{1, 2}}, {Group: 2, Nodes: []uint64{1}}}}}}
	next, _ := step(two, &command{Op: opRemoved, ID: 7, Node: 1})
	if left := next.Purged[7]; left == nil || len(left.Partitions) != 1 || !slices.Equal(left.Partitions[0].Nodes, []uint64{2}) {
		t.Errorf("one of two nodes has removed it: %+v", left)
	}
	if next, _ = step(next, &command{Op: opRemoved, ID: 7, Node: 2}); len(next.Purged) != 0 || len(two.Purged[7].Partitions) != 2 {
		t.Errorf("both have: %+v, and the state before %+v", next.Purged, two.Purged)
	}
}

// A catalog that is older than what is in use gives no number of it again, and one that is not passes over none.
func TestSkip(t *testing.T) {
	c, _ := open(t, t.TempDir(), nil)
	st, err := c.CreateStream(t.Context(), StreamSpec{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.MintProducer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := c.State()
	if err := c.Skip(t.Context(), st.Partitions[0].Group, id); err != nil || c.State() != before {
		t.Errorf("what it gave itself: %+v, %v", c.State(), err)
	}
	if err := c.Skip(t.Context(), 70, id); err != nil {
		t.Fatal(err)
	}
	if s := c.State(); s.NextGroup != 71 || s.NextProducer <= before.NextProducer+1<<20 || s.NextStream <= before.NextStream+1<<20 {
		t.Errorf("a group that it does not know: %+v", s)
	}
	high := c.State().NextProducer + 5
	if err := c.Skip(t.Context(), 0, high); err != nil || c.State().NextProducer <= high || c.State().NextGroup != 71 {
		t.Errorf("a producer that it does not know: %+v, %v", c.State(), err)
	}
}

// A log and a snapshot of the format before are read.
func TestFormatOneIsRead(t *testing.T) {
	m := newMachine(nil, func(err error) { t.Error(err) })
	old := `{"format":1,"map_version":1,"next_stream":2,"next_group":2,"next_producer":1,"streams":{"1":{"id":1,"name":"a","subjects":["a"],"partitions":[{"group":1,"nodes":[1]}],"replicas":1,"retention":{},"created":5,"deleted":0,"map_version":1}}}`
	if err := m.Restore([]byte(old)); err != nil {
		t.Fatal(err)
	}
	r := m.Apply(storage.Entry{Index: 7, Payload: []byte(`{"format":1,"op":"delete-stream","now":9,"name":"a"}`)}).(result)
	if r.err != nil || r.stream.Deleted != 9 || r.stream.ETag() != "1-1" {
		t.Errorf("%+v", r)
	}
	data, err := m.Snapshot()
	if err != nil || !strings.Contains(string(data), `"format":3`) {
		t.Errorf("%s, %v", data, err)
	}
	if err := newMachine(nil, nil).Restore([]byte(`{"format":4}`)); err == nil {
		t.Error("a newer snapshot was read")
	}
}
