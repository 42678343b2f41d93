package broker

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/tidewire/tidewire/broker/web"
)

const (
	// loopAnswer is how long an event loop may take to answer: it never does anything long.
	loopAnswer = time.Second
	// writeStall is how long a write to a log may take before the node is not ready: as long as Raft
	// goes on sending heartbeats beside one (raft.GroupConfig.DiskStall).
	writeStall = 5 * time.Second
)

// liveChecks say whether the process does its work at all: one that fails them is to be restarted.
func (n *Node) liveChecks() []web.Check {
	return []web.Check{{Name: "loops", Func: n.checkLoops}}
}

// readyChecks say whether the node can serve.
func (n *Node) readyChecks() []web.Check {
	return []web.Check{
		{Name: "loops", Func: n.checkLoops},
		{Name: "not-draining", Func: n.checkDraining},
		{Name: "catalog", Func: n.checkCatalog, Note: n.noteOlderCatalog},
		{Name: "partitions", Func: n.checkPartitions, Note: n.noteDamage},
		{Name: "disk", Func: n.checkDisk},
		{Name: "writes", Func: n.checkWrites},
	}
}

func (n *Node) checkDraining() error {
	if n.draining.Load() {
		return errors.New("the node is stopping: it takes nothing new")
	}
	return nil
}

func (n *Node) checkCatalog() error {
	if !n.catalog.Leads() {
		return errors.New("the catalog does not lead: streams can neither be made nor deleted")
	}
	return nil
}

// checkPartitions names a few of those that do not serve.
func (n *Node) checkPartitions() error {
	const named = 5
	var first string
	total, bad := 0, 0
	n.eachPartition(func(stream string, number int, p *partition) {
		total++
		if p != nil && p.raft.IsLeader() {
			return
		}
		if bad++; bad <= named {
			first += fmt.Sprintf(" %s/%d", stream, number)
		}
	})
	if bad == 0 {
		return nil
	}
	more := ""
	if bad > named {
		more = " …"
	}
	return fmt.Errorf("%d of %d take no publishes:%s%s; the log says why", bad, total, first, more)
}

// eachPartition calls f for every partition of every stream that lives; p is nil where it is not open here. One that is made or
// undeleted right now is passed over until it serves, or could not be started.
func (n *Node) eachPartition(f func(stream string, number int, p *partition)) {
	n.partitions.mu.Lock()
	fresh := maps.Clone(n.partitions.fresh)
	n.partitions.mu.Unlock()
	all := n.partitions.all() // behind fresh: what that lacks has started, and is in here
	for _, st := range n.catalog.State().Living() {
		for i := range st.Partitions {
			if p := all[partKey{st.ID, uint32(i)}]; p != nil || fresh[st.ID] == 0 {
				f(st.Name, i, p)
			}
		}
	}
}

// checkDisk looks at what was found a moment ago: a file system that hangs must not hang its readers.
func (n *Node) checkDisk() error {
	if d := n.diskState(); d.Full {
		return errors.New(d.why() + "; publishes are refused until then")
	}
	return nil
}

func (n *Node) checkWrites() error {
	if err := n.Err(); err != nil {
		return fmt.Errorf("a write failed and the process ends: %w", err)
	}
	if age := n.writeAge(); age > writeStall {
		return fmt.Errorf("a write to disk has been running for %s: the disk hangs", age.Round(time.Second))
	}
	return nil
}

// writeAge is how long the oldest write under way has been running.
func (n *Node) writeAge() time.Duration {
	oldest := n.catalogLog.WriteAge()
	for _, p := range n.partitions.all() {
		oldest = max(oldest, p.raft.Log().WriteAge())
	}
	return oldest
}

// checkLoops asks every event loop that has had a connection for an answer.
func (n *Node) checkLoops() error {
	late := time.NewTimer(loopAnswer)
	defer late.Stop()
	var asked []*beat
	for _, l := range n.loops {
		asked = append(asked, l.heart.ask(l))
	}
	for i, b := range asked {
		select {
		case <-b.done:
			continue
		default:
		}
		select {
		case <-b.done:
		case <-late.C:
			return fmt.Errorf("event loop %d has not answered for %s", i, time.Since(b.asked).Round(time.Millisecond))
		}
	}
	return nil
}

// heart finds out whether a loop answers, with one question on its way at most: a loop that hangs
// does not gather them.
type heart struct {
	mu   sync.Mutex
	beat *beat // on its way; nil: none
}

type beat struct {
	asked time.Time
	done  chan struct{} // closed when the loop has answered
}

// ask posts a question to the loop. A loop that has had no connection yet is not running and is taken for alive.
func (h *heart) ask(l *loop) *beat {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.beat != nil {
		return h.beat
	}
	b := &beat{asked: time.Now(), done: make(chan struct{})}
	l.mu.Lock()
	bound := l.events != nil
	l.mu.Unlock()
	if !bound {
		close(b.done)
		return b
	}
	h.beat = b
	l.post(func() {
		h.mu.Lock()
		h.beat = nil
		h.mu.Unlock()
		close(b.done)
	})
	return b
}
