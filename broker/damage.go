package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tidewire/tidewire/storage"
)

// damage is what is known of a partition's records that the disk has lost: found when the log was opened, or met by a reader.
type damage struct {
	mu     sync.Mutex
	ranges []damagedRange // ascending, and apart from each other
}

// damagedRange are the offsets from start to before end.
type damagedRange struct{ start, end storage.Offset }

func (d *damage) add(c *storage.CorruptError) {
	r := damagedRange{c.Start, c.End}
	if r.end <= r.start {
		return // of entries without records
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	i, _ := slices.BinarySearchFunc(d.ranges, r, func(have, r damagedRange) int {
		if have.end < r.start {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(d.ranges) && d.ranges[j].start <= r.end; j++ {
		r.start, r.end = min(r.start, d.ranges[j].start), max(r.end, d.ranges[j].end)
	}
	d.ranges = slices.Replace(d.ranges, i, j, r)
}

// kept gives what retention has left of it.
func (d *damage) kept(start storage.Offset) (out []damagedRange) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.ranges {
		if r.end > start {
			out = append(out, damagedRange{max(r.start, start), r.end})
		}
	}
	return out
}

// noteDamage says which records of living streams are known to be damaged; empty if none are.
func (n *Node) noteDamage() string {
	const named = 5
	var notes []string
	more := 0
	n.eachPartition(func(stream string, number int, p *partition) {
		if p == nil {
			return
		}
		for _, r := range p.damage.kept(p.raft.LogStart()) {
			if len(notes) == named {
				more++
				continue
			}
			notes = append(notes, fmt.Sprintf("%s/%d: offsets %d to %d", stream, number, r.start, r.end-1))
		}
	})
	if len(notes) == 0 {
		return ""
	}
	if more > 0 {
		notes = append(notes, fmt.Sprintf("%d more", more))
	}
	return "damaged on disk and not served, the rest is: " + strings.Join(notes, "; ")
}
