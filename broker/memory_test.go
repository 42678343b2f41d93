package broker

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"testing"
)

func TestCgroupLimit(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("memory/memory.limit_in_bytes", "9223372036854771712\n")
	put("memory/a/memory.limit_in_bytes", "1000\n")
	put("memory/a/b/memory.limit_in_bytes", "2000\n")
	put("x/memory.max", "700\n")
	put("x/y/memory.max", "max\n")
	put("unified/u/memory.max", "600\n")
	for membership, want := range map[string]int64{
		"":                      math.MaxInt64,
		"4:memory:/a/b\n0::/\n": 1000, // the group above binds too
		"4:cpu,memory:/a/b\n":   1000,
		"4:memory:/elsewhere\n": 9223372036854771712,
		"4:cpu:/a/b\n":          math.MaxInt64,
		"0::/x/y\n":             700,
		"0::/u\n":               600,
		"nonsense\n":            math.MaxInt64,
		"0::/../../x\n":         700,
	} {
		if got := cgroupLimit(root, membership); got != want {
			t.Errorf("%q: %d, want %d", membership, got, want)
		}
	}
}

// What the node promises to hold at most fits its limit, whatever that is.
func TestMemorySharesFit(t *testing.T) {
	for _, limit := range []int64{32 << 20, 96 << 20, 1 << 30, 64 << 30} {
		c := Config{MemoryLimit: limit, DataDir: "x"}.withDefaults()
		if err := c.validate(); err != nil {
			t.Errorf("%d: %v", limit, err)
		}
		sum := c.PublishMemory + c.HotMemory + c.OutboundMemory + c.InboundMemory + limit/stateShare + int64(c.MaxConnections)*connectionCost
		if sum > limit*7/8 {
			t.Errorf("limit %d: %d promised", limit, sum)
		}
		if each := c.smallPart() * int64(c.MaxConnections); each > c.InboundMemory {
			t.Errorf("limit %d: small parts of all connections are %d, of %d", limit, each, c.InboundMemory)
		}
	}
}

// The fuller the node, the sooner a connection that leaves its answers ends; all that may be left, one share each, is
// half a budget.
func TestMostUnsent(t *testing.T) {
	for _, limit := range []int64{96 << 20, 512 << 20, 8 << 30} {
		c := Config{MemoryLimit: limit}.withDefaults()
		budget := c.OutboundMemory
		if got, want := c.mostUnsent(budget), 2*c.backlog(); got != want {
			t.Errorf("%d bytes: within the budget %d, want %d", limit, got, want)
		}
		if got := c.mostUnsent(budget*3/2 + 1); got != largeUnsent {
			t.Errorf("%d bytes: over the budget %d, want %d", limit, got, largeUnsent)
		}
		if share := c.mostUnsent(2*budget + 1); share > largeUnsent || share > 4<<10 && share*int64(c.MaxConnections) > budget/2 {
			t.Errorf("%d bytes: far over the budget %d for each of %d connections, budget %d", limit, share, c.MaxConnections, budget)
		}
	}
}

// A node that has become idle gives back what it used, once.
func TestIdleMemoryIsGivenBack(t *testing.T) {
	released := func() uint64 {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/released:bytes"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	var m idleMemory
	m.look()
	b := make([]byte, 256<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	m.look()
	if m.quiet != 0 {
		t.Fatalf("%d looks found nothing to do", m.quiet)
	}
	runtime.KeepAlive(b)
	before := released()
	for range quietLooks {
		m.look()
	}
	if now := released(); now < before+(128<<20) {
		t.Errorf("%d MiB are given back, %d before", now>>20, before>>20)
	}
}
