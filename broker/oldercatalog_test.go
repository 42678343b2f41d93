package broker

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
)

// By a catalog that was put back from a copy nothing is deleted, until somebody says that its streams are right.
func TestOlderCatalogDeletesNothing(t *testing.T) {
	dir := t.TempDir()
	var looks atomic.Int64
	start := func(grace time.Duration) *Node {
		return startNode(t, dir, func(c *Config) {
			c.KeepInterval, c.DeleteGrace, c.SegmentBytes = time.Millisecond, grace, 64<<10
			c.Clock = func() time.Time { looks.Add(1); return time.Now() }
		})
	}
	n := start(time.Hour)
	p := connect(t, n)
	undeleted, roomier := p.create(wire.CreateStream{Name: "undeleted"}), p.create(wire.CreateStream{Name: "roomier", Retention: wire.Retention{MaxRecords: 1}})
	if _, err := n.catalog.DeleteStream(t.Context(), "undeleted"); err != nil {
		t.Fatal(err)
	}
	stopNode(t, n)
	catalog, copied := filepath.Join(dir, "catalog"), filepath.Join(t.TempDir(), "catalog")
	if err := os.CopyFS(copied, os.DirFS(catalog)); err != nil {
		t.Fatal(err)
	}

	n = start(time.Hour)
	if _, err := n.catalog.UndeleteStream(t.Context(), undeleted.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := n.catalog.UpdateStream(t.Context(), "roomier", cluster.StreamUpdate{Retention: &wire.Retention{}}); err != nil {
		t.Fatal(err)
	}
	until(t, "the stream has room", func() bool { return n.partitions.all()[partKey{roomier.ID, 0}].stream().Retention == wire.Retention{} })
	sealSome := func() {
		p := connect(t, n)
		for range 20 {
			p.fill(roomier, 0, []message{{"roomier", "", strings.Repeat("x", 10<<10)}})
		}
	}
	sealSome()
	stopNode(t, n)
	if err := os.RemoveAll(catalog); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(catalog, os.DirFS(copied)); err != nil {
		t.Fatal(err)
	}

	for range 2 { // the second start knows it from the first
		n = start(time.Millisecond)
		roomy := n.partitions.all()[partKey{roomier.ID, 0}].raft
		if note := n.noteOlderCatalog(); !strings.Contains(note, olderMark) {
			t.Fatalf("health says %q", note)
		}
		sealSome()
		seen := looks.Load()
		until(t, "the keeper has looked a few times", func() bool { return looks.Load() > seen+50 })
		if st := n.catalog.State().Streams[undeleted.ID]; st == nil || st.Deleted == 0 {
			t.Fatalf("the deleted stream is %+v", st)
		}
		if start := roomy.LogStart(); start != 0 {
			t.Fatalf("the log starts at %d", start)
		}
		stopNode(t, n)
	}

	n = start(time.Millisecond)
	if err := os.Remove(filepath.Join(dir, olderMark)); err != nil {
		t.Fatal(err)
	}
	roomy := n.partitions.all()[partKey{roomier.ID, 0}].raft
	until(t, "what is too much goes", func() bool { return roomy.LogStart() > 0 && n.catalog.State().Streams[undeleted.ID] == nil })
	if note := n.noteOlderCatalog(); note != "" {
		t.Errorf("health says %q", note)
	}
}
