package broker

import (
	"math"
	"os"
	"path"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
)

// The memory of a node, as shares of Config.MemoryLimit. What clients can make it hold is bounded by these, so that
// no client ends the process: a twelfth each for PublishMemory, HotMemory and OutboundMemory, half of that for
// InboundMemory, as gnet's buffers grow by doubling (at most 256 MiB each), an eighth for what conversations keep,
// an eighth for connections. The rest is the program's own, and garbage: the collector keeps to five sixths, but what is
// allocated while it runs comes on top.
const (
	bufferShare     = 12
	stateShare      = 8
	connectionShare = 8

	largestBuffer = 256 << 20
	// largestBuffers is which part of MemoryLimit the four may take together, however they are set: the rest is what
	// conversations and connections have, an eighth each.
	largestBuffers = 0.75

	// connectionCost is about what a connection costs that has said HELLO and nothing else: session, logger, gnet's
	// buffers of the smallest size, maps.
	connectionCost = 16 << 10
	// Costs of what hangs on a connection. A request may be a goroutine.
	conversationCost = 1 << 10
	cursorCost       = 1 << 10
	requestCost      = 8 << 10
	leftCost         = 64
	// freeConversations is how many any connection may have, whatever others have.
	freeConversations = 8
)

// memoryShare is how much of the memory there is a node takes by default: the kernel counts its page cache and
// sockets to the same limit, and Go needs room between live and next collection.
const memoryShare = 0.75

// memoryThere is how many bytes this process may have, as it was when first asked: of the machine, or of the smallest
// cgroup it is in.
var memoryThere = sync.OnceValue(func() int64 {
	b, _ := os.ReadFile("/proc/self/cgroup") // not there: not Linux
	return min(machineMemory(), cgroupLimit("/sys/fs/cgroup", string(b)))
})

// cgroupLimit is the least limit of the cgroups that membership (/proc/self/cgroup) names and of those above them.
// A limit that cannot be read is none: the files may lie elsewhere, or be those of the container alone.
func cgroupLimit(root, membership string) int64 {
	least := int64(math.MaxInt64)
	for line := range strings.Lines(membership) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		var bases []string
		file := "memory.max"
		switch {
		case controllers == "": // version 2
			bases = []string{root, path.Join(root, "unified")}
		case strings.Contains(","+controllers+",", ",memory,"):
			bases, file = []string{path.Join(root, "memory")}, "memory.limit_in_bytes"
		}
		for _, base := range bases {
			for at := path.Join("/", group); ; at = path.Dir(at) {
				if b, err := os.ReadFile(path.Join(base, at, file)); err == nil {
					if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
						least = min(least, n)
					}
				}
				if at == "/" {
					break
				}
			}
		}
	}
	return least
}

// buffers is what PublishMemory, HotMemory, OutboundMemory and InboundMemory are together; a float, as each may be near the largest int64.
func (c *Config) buffers() float64 {
	return float64(c.PublishMemory) + float64(c.HotMemory) + float64(c.OutboundMemory) + float64(c.InboundMemory)
}

// limitHeap has the collector keep to the limit, and work seldom below it, unless the environment says otherwise: what
// lives is little, and what one client makes of garbage is paid for by all.
func limitHeap(limit int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit / 6 * 5)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}

// weigh brings the node's count of what conversations keep up to date with this session's.
func (s *session) weigh() {
	now := int64(len(s.conversations)*conversationCost + s.cursors*cursorCost + s.left*leftCost + s.requests*requestCost)
	s.node.weight.Add(now - s.weight)
	s.weight = now
}

// smallPart is how much of an unfinished frame any connection may have waiting, however much waits in all.
func (c *Config) smallPart() int64 {
	return min(max(c.InboundMemory/2/int64(c.MaxConnections), 512), 64<<10)
}

// backlog is how many bytes that are unsent, or being read, for one client stop more from being read for it.
func (c *Config) backlog() int64 { return min(sessionBacklog, c.OutboundMemory/4) }

// idleMemory gives the system back, once a node has nothing to do any more, what the collector would keep for the next
// burst: several times what is in use.
type idleMemory struct {
	allocated uint64 // bytes since the process began, at the last look
	quiet     int    // looks since then that found next to nothing
}

const (
	// quietBytes is the most a node allocates between two looks that has nothing to do: somebody asks for its metrics.
	quietBytes = 16 << 20
	quietLooks = 3
)

// look is called every now and then.
func (m *idleMemory) look() {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	before := m.allocated
	m.allocated = sample[0].Value.Uint64()
	if m.allocated-before > quietBytes {
		m.quiet = 0
	} else if m.quiet++; m.quiet == quietLooks {
		debug.FreeOSMemory()
	}
}
