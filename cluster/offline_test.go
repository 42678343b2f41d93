package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/tidewire/tidewire/storage"
)

// inspected is the catalog below dir as ReadCatalog sees it.
func inspected(t *testing.T, dir string) (s *State, snapshots int, err error) {
	t.Helper()
	fsys, err := storage.OSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	log, err := storage.Inspect(fsys, "catalog")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s, err = ReadCatalog(log)
	return s, len(log.Snapshots()), err
}

// What is read from a stopped node's files is what the node knew, with snapshots and without.
func TestReadCatalog(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	compare := func(want *State, withSnapshots bool) {
		t.Helper()
		got, snapshots, err := inspected(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		if (snapshots > 0) != withSnapshots {
			t.Errorf("there are %d snapshots", snapshots)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("read is\n%+v\nthe node had\n%+v", got, want)
		}
	}
	c, stop := open(t, dir, nil)
	if _, err := c.CreateStream(ctx, StreamSpec{Name: "first"}); err != nil {
		t.Fatal(err)
	}
	compare(c.State(), false) // as a kill would leave it: stopping takes a snapshot
	stop()
	c, stop = openSized(t, dir, 4<<10, nil)
	for i := range 40 {
		name := fmt.Sprintf("s%d", i)
		if _, err := c.CreateStream(ctx, StreamSpec{Name: name, Partitions: uint32(1 + i%3)}); err != nil {
			t.Fatal(err)
		}
		if i%10 != 5 {
			continue
		}
		if _, err := c.DeleteStream(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	want := c.State()
	stop()
	compare(want, true)

	snapshots, err := filepath.Glob(filepath.Join(dir, "catalog", "*.snap"))
	if err != nil || len(snapshots) == 0 {
		t.Fatal(snapshots, err)
	}
	for _, path := range snapshots {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := inspected(t, dir); !errors.Is(err, ErrCatalog) {
		t.Errorf("with a damaged snapshot: %v", err)
	}
}
