package broker

import (
	"slices"
	"testing"

	"github.com/tidewire/tidewire/storage"
)

// Ranges that meet or overlap are one; what retention has removed is not told any more.
func TestDamage(t *testing.T) {
	var d damage
	add := func(start, end storage.Offset, want ...damagedRange) {
		t.Helper()
		d.add(&storage.CorruptError{Start: start, End: end})
		if got := d.kept(0); !slices.Equal(got, want) {
			t.Fatalf("after [%d, %d): %v, want %v", start, end, got, want)
		}
	}
	add(5, 5)
	add(10, 20, damagedRange{10, 20})
	add(10, 20, damagedRange{10, 20})
	add(30, 40, damagedRange{10, 20}, damagedRange{30, 40})
	add(0, 5, damagedRange{0, 5}, damagedRange{10, 20}, damagedRange{30, 40})
	add(22, 23, damagedRange{0, 5}, damagedRange{10, 20}, damagedRange{22, 23}, damagedRange{30, 40})
	add(20, 22, damagedRange{0, 5}, damagedRange{10, 23}, damagedRange{30, 40})
	add(12, 35, damagedRange{0, 5}, damagedRange{10, 40})
	add(3, 12, damagedRange{0, 40})
	add(50, 60, damagedRange{0, 40}, damagedRange{50, 60})
	if got := d.kept(39); !slices.Equal(got, []damagedRange{{39, 40}, {50, 60}}) {
		t.Errorf("from 39: %v", got)
	}
	if got := d.kept(60); len(got) != 0 {
		t.Errorf("from 60: %v", got)
	}
}
