package cluster

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open runs a catalog on a directory until the test ends or stop is called.
func open(t *testing.T, dir string, changed func(*Stream, bool)) (c *Catalog, stop func()) {
	t.Helper()
	return openSized(t, dir, 0, changed)
}

// openSized is open with segments of so many bytes.
func openSized(t *testing.T, dir string, segmentBytes int64, changed func(*Stream, bool)) (c *Catalog, stop func()) {
	t.Helper()
	c, stop, err := tryOpen(t, dir, segmentBytes, changed, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	return c, stop
}

// tryOpen is openSized of a catalog that may fail, now or later.
func tryOpen(t *testing.T, dir string, segmentBytes int64, changed func(*Stream, bool), fatal func(error)) (c *Catalog, stop func(), err error) {
	t.Helper()
	fsys, err := storage.OSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	log, err := storage.Open(storage.Config{FS: fsys, Dir: "catalog", Partition: CatalogGroup, SegmentBytes: segmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	store, err := raft.OpenCatalogStable(filepath.Join(dir, "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	stable, err := store.Group(CatalogGroup)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err = OpenCatalog(ctx, CatalogConfig{Node: 1, Server: "1.1", Log: log, Stable: stable, Fatal: fatal, Changed: changed})
	stop = sync.OnceFunc(func() {
		if c != nil {
			c.Stop()
		}
		if err := errors.Join(log.Close(), store.Close(), fsys.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return c, stop, err
}

func TestCatalogSurvivesRestart(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	var changes []string
	c, stop := open(t, dir, func(s *Stream, gone bool) {
		switch {
		case gone:
			changes = append(changes, "-"+s.Name)
		case s.Deleted != 0:
			changes = append(changes, "~"+s.Name)
		default:
			changes = append(changes, "+"+s.Name)
		}
	})
	a, err := c.CreateStream(ctx, StreamSpec{Name: "a", Partitions: 3, Retention: wire.Retention{MaxAge: time.Hour, MaxBytes: 5, MaxRecords: 6}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.CreateStream(ctx, StreamSpec{Name: "b", Subjects: []string{"x.*", "y"}})
	if err != nil {
		t.Fatal(err)
	}
	if b.Partitions[0].Group != a.Partitions[2].Group+1 || a.Partitions[0].Group == CatalogGroup {
		t.Errorf("groups %+v %+v", a.Partitions, b.Partitions)
	}
	if _, err := c.DeleteStream(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PurgeStream(ctx, a.ID); !errors.Is(err, ErrLiving) {
		t.Errorf("purge of a living stream: %v", err)
	}
	if _, err := c.PurgeStream(ctx, b.ID); err != nil {
		t.Fatal(err)
	}
	id, err := c.MintProducer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"+a", "+b", "~b", "-b"}; !slices.Equal(changes, want) {
		t.Errorf("changes %v, want %v", changes, want)
	}
	stop()

	c, _ = open(t, dir, nil)
	st := c.State().Stream("a")
	if st == nil || len(st.Partitions) != 3 || st.Retention.MaxAge != time.Hour || !st.Captures("a.b") || st.Captures("b") {
		t.Fatalf("%+v", st)
	}
	if c.State().StreamOf("x.1") != nil || len(c.State().Streams) != 1 {
		t.Error("a purged stream is back")
	}
	next, err := c.CreateStream(ctx, StreamSpec{Name: "b"})
	if err != nil || next.ID <= b.ID || next.Partitions[0].Group <= b.Partitions[0].Group {
		t.Errorf("numbers were used twice: %+v, %v", next, err)
	}
	if again, err := c.MintProducer(ctx); err != nil || again <= id {
		t.Errorf("producer id %d after %d: %v", again, id, err)
	}
}

func TestCatalogRefuses(t *testing.T) {
	ctx := context.Background()
	c, _ := open(t, t.TempDir(), nil)
	if _, err := c.CreateStream(ctx, StreamSpec{Name: "orders"}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		spec StreamSpec
		want error
	}{
		"exists":          {StreamSpec{Name: "orders", Subjects: []string{"other"}}, ErrStreamExists},
		"overlap":         {StreamSpec{Name: "b", Subjects: []string{"*.new"}}, ErrOverlap},
		"overlap with >":  {StreamSpec{Name: "b", Subjects: []string{">"}}, ErrOverlap},
		"subject twice":   {StreamSpec{Name: "b", Subjects: []string{"x", "x"}}, ErrOverlap},
		"no name":         {StreamSpec{}, wire.ErrName},
		"path":            {StreamSpec{Name: "../etc"}, wire.ErrName},
		"bad subject":     {StreamSpec{Name: "b", Subjects: []string{"a..b"}}, wire.ErrName},
		"many partitions": {StreamSpec{Name: "b", Partitions: MaxPartitions + 1}, ErrLimit},
		"many subjects":   {StreamSpec{Name: "b", Subjects: make([]string, MaxFilters+1)}, ErrLimit},
		"replicas":        {StreamSpec{Name: "b", Replicas: 3}, ErrUnsupported},
	} {
		if _, err := c.CreateStream(ctx, tc.spec); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if _, err := c.DeleteStream(ctx, "nobody"); !errors.Is(err, ErrUnknownStream) {
		t.Error(err)
	}
	if n := len(c.State().Living()); n != 1 {
		t.Errorf("%d streams after refusals", n)
	}
}

func TestProducersAreMintedOnce(t *testing.T) {
	c, _ := open(t, t.TempDir(), nil)
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range producerLease / 2 {
				id, err := c.MintProducer(context.Background())
				mu.Lock()
				if err != nil || id == 0 || seen[id] {
					t.Errorf("id %d, %v", id, err)
				}
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 2*producerLease {
		t.Errorf("%d ids", len(seen))
	}
}

func TestUnreadableCommandStopsTheCatalog(t *testing.T) {
	for name, e := range map[string]storage.Entry{
		"damaged":         {Index: 7, Records: 1},
		"no json":         {Index: 7, Payload: []byte("{")},
		"newer format":    {Index: 7, Payload: []byte(`{"format":4,"op":"create-stream"}`)},
		"newer operation": {Index: 7, Payload: []byte(`{"format":1,"op":"merge-streams"}`)},
	} {
		var told error
		m := newMachine(nil, func(err error) { told = err })
		if r := m.Apply(e).(result); !errors.Is(r.err, ErrCatalog) || !errors.Is(told, ErrCatalog) {
			t.Errorf("%s: %v, told %v", name, r.err, told)
		} else if newer := strings.HasPrefix(name, "newer"); errors.Is(r.err, storage.ErrVersion) != newer {
			t.Errorf("%s: %v is of another version: %v", name, r.err, !newer)
		}
		after := storage.Entry{Index: 8, Payload: []byte(`{"format":1,"op":"lease-producers","count":5}`)}
		if r := m.Apply(after).(result); r.err == nil || m.state.Load().NextProducer != 1 {
			t.Errorf("%s: a command behind it was applied", name)
		}
	}
}

// TestUnreadableCommandIsNeverSkipped also stops and starts again, as who finds a node down will do: what was not applied must
// not be taken for applied by a snapshot.
func TestUnreadableCommandIsNeverSkipped(t *testing.T) {
	dir := t.TempDir()
	told := make(chan error, 1)
	c, stop, err := tryOpen(t, dir, 0, nil, func(err error) { told <- err })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateStream(t.Context(), StreamSpec{Name: "before"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.group.Propose(t.Context(), []byte(`{"format":4,"op":"create-stream"}`)).Wait(); err != nil { // as a newer version writes it
		t.Fatal(err)
	}
	if err := <-told; !errors.Is(err, ErrCatalog) {
		t.Fatalf("told %v", err)
	}
	if _, err := c.CreateStream(t.Context(), StreamSpec{Name: "behind"}); !errors.Is(err, ErrCatalog) {
		t.Fatalf("the next command: %v", err)
	}
	stop()
	for range 2 {
		_, stop, err := tryOpen(t, dir, 0, nil, func(error) {})
		if !errors.Is(err, ErrCatalog) {
			t.Fatalf("opened again: %v", err)
		}
		stop()
	}
}
