package main

import "testing"

// There are more threads at once when more syncs run at once, and fewer only when that has lasted.
func TestThreadsFollowSyncs(t *testing.T) {
	two := &threads{cores: 2}
	for i, step := range []struct{ syncs, want int }{{0, 2}, {1, 2}, {2, 3}, {16, 4}, {1, 4}, {3, 4}} {
		if two.look(step.syncs); two.now != step.want {
			t.Fatalf("look %d, %d syncs: %d threads, not %d", i, step.syncs, two.now, step.want)
		}
	}
	for range threadsQuiet - 1 {
		two.look(2)
	}
	if two.now != 4 {
		t.Fatalf("%d threads before it has been quiet for long enough", two.now)
	}
	if two.look(0); two.now != 3 {
		t.Fatalf("%d threads, where 3 would have been enough all the time", two.now)
	}
	for cores, want := range map[int][2]int{1: {2, 3}, 8: {8, 16}, 64: {64, 79}} {
		many := &threads{cores: cores}
		if got := [2]int{many.enough(0), many.enough(16)}; got != want {
			t.Errorf("%d cores: %v threads, not %v", cores, got, want)
		}
	}
}
