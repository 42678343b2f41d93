package raft

import (
	"errors"
	"math"
	"time"

	hraft "github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/storage"
)

// GroupConfig describes one group on this node. A zero field means its default.
type GroupConfig struct {
	// ID of the group, the same on every node, never used again. The catalog's is 0.
	ID uint64
	// Server is this node's name in the group's configuration. Required.
	Server ServerID
	// Log holds the group's entries; nobody else writes to it. The group does not close it. Required.
	Log *storage.Log
	// Stable holds the group's term and vote. Required.
	Stable *Stable
	// Machine is what the group replicates. Required.
	Machine StateMachine
	// Logger: raft tells of elections at debug level. Default: none.
	Logger *zap.Logger
	// Fatal is called once, with the first write that failed: of the log, of term and vote, or of a
	// snapshot. What is on disk is then unknown, and the process must exit: it is not expected to
	// return, and must not call into the group. Should it return, the group acknowledges nothing more,
	// votes for nobody and sends nothing. Required.
	Fatal func(error)
	// Peers carries requests to other nodes. Default: NoPeers.
	Peers Peers
	// Join says that an empty log waits for the leader of an existing group. Default false: an empty
	// log becomes a group with this server as its only voter.
	Join bool
	// Compact drops the log below the last but one snapshot whenever a snapshot is taken: for machines whose
	// log nobody reads, the catalog. Default false: only retention drops entries.
	Compact bool
	// Leadership is called when this node begins to lead (after its Barrier: everything committed before
	// is applied here) and when it stops, always in turn and from one goroutine. It must not block, nor call
	// Propose, Barrier or Stop.
	Leadership func(leading bool, term storage.Term)
	// Observer is told what the group does, for measuring. Default: nobody.
	Observer Observer

	// HeartbeatTimeout is how long a follower waits for its leader before it asks for votes (up to twice
	// that, at random). Default 2 s: heartbeats wait behind an fdatasync, and a shorter time makes a slow
	// disk an election. Without peers all three are an hour.
	HeartbeatTimeout time.Duration
	// ElectionTimeout is how long an election may take before the next. Default 2 s; at least HeartbeatTimeout.
	ElectionTimeout time.Duration
	// CommitTimeout is how often an idle leader tells followers the commit index. Default 1 s; a shorter
	// one costs CPU in every group.
	CommitTimeout time.Duration
	// LeaderLease is how long a leader goes on without a majority. Default 1 s; at most HeartbeatTimeout,
	// and above HeartbeatTimeout/5 with room to spare, or a healthy leader steps down.
	LeaderLease time.Duration
	// MaxAppendEntries is how many entries one request to a follower holds, and the length of the queue before
	// raft. Default 32; 16 to 1024. Raft allocates that many pointers with every request, and entries are up
	// to 1 MiB each.
	MaxAppendEntries int
	// DiskStall is how long one write may run before this node's heartbeats stop. Default 5 s.
	DiskStall time.Duration

	rule  entryRule    // how entries count; default commandRule
	ready func(*Group) // called before anything else learns of the group
}

func (c GroupConfig) withDefaults() GroupConfig {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.Peers == nil {
		c.Peers = NoPeers{}
	}
	if c.alone() {
		def(&c.HeartbeatTimeout, aloneTimeout)
		def(&c.LeaderLease, c.HeartbeatTimeout)
	}
	def(&c.HeartbeatTimeout, 2*time.Second)
	def(&c.ElectionTimeout, max(2*time.Second, c.HeartbeatTimeout))
	def(&c.CommitTimeout, time.Second)
	def(&c.LeaderLease, min(time.Second, c.HeartbeatTimeout))
	def(&c.DiskStall, defaultDiskStall)
	if c.MaxAppendEntries == 0 {
		c.MaxAppendEntries = 32
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Leadership == nil {
		c.Leadership = func(bool, storage.Term) {}
	}
	if c.rule == nil {
		c.rule = commandRule{}
	}
	return c
}

// aloneTimeout is for groups without peers: nobody's silence means anything there, and a leader would wake once in
// each lease, in every group, to find that it still has itself (1,000 idle streams: 9 % of a core).
const aloneTimeout = time.Hour

// alone reports whether there is nobody to hear from.
func (c *GroupConfig) alone() bool {
	_, none := c.Peers.(NoPeers)
	return none
}

// Validate reports every field that is wrong.
func (c GroupConfig) Validate() error {
	var errs []error
	must := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("raft: "+what))
		}
	}
	must(c.Server != "" && len(c.Server) <= maxCandidate, "Server must have 1 to 255 bytes")
	must(c.Log != nil, "Log is required")
	must(c.Stable != nil, "Stable is required")
	must(c.Machine != nil, "Machine is required")
	must(c.Fatal != nil, "Fatal is required")
	c = c.withDefaults()
	must(c.MaxAppendEntries >= minAppendEntries && c.MaxAppendEntries <= 1024, "MaxAppendEntries must be 16 to 1024")
	must(c.ElectionTimeout >= c.HeartbeatTimeout, "ElectionTimeout must not be below HeartbeatTimeout")
	must(c.LeaderLease <= c.HeartbeatTimeout, "LeaderLease must not exceed HeartbeatTimeout")
	must(min(c.HeartbeatTimeout, c.LeaderLease) >= 5*time.Millisecond, "HeartbeatTimeout and LeaderLease must be at least 5 ms")
	must(c.CommitTimeout >= time.Millisecond, "CommitTimeout must be at least 1 ms")
	must(c.DiskStall > 0, "DiskStall must be positive")
	return errors.Join(errs...)
}

// Of the queue before raft, some places are never for Propose: those of a partition's entries in flight,
// and of the barrier. So no send into it ever waits (see Group.submit).
const (
	reservedSlots    = 8
	minAppendEntries = 2 * reservedSlots
)

// raftConfig is the configuration of hashicorp/raft.
func (c *GroupConfig) raftConfig(notify chan<- bool) *hraft.Config {
	conf := hraft.DefaultConfig()
	conf.LocalID = hraft.ServerID(c.Server)
	conf.HeartbeatTimeout = c.HeartbeatTimeout
	conf.ElectionTimeout = c.ElectionTimeout
	conf.CommitTimeout = c.CommitTimeout
	conf.LeaderLeaseTimeout = c.LeaderLease
	conf.MaxAppendEntries = c.MaxAppendEntries
	conf.BatchApplyCh = true           // a buffered queue: submit relies on it
	conf.ShutdownOnRemove = false      // being removed must not stop the instance under us
	conf.TrailingLogs = math.MaxUint64 // raft never deletes a prefix: that is retention's business
	conf.SnapshotThreshold = math.MaxUint64
	conf.SnapshotInterval = 24 * time.Hour // it counts entries; snapshots come with segments instead
	conf.PreVoteDisabled = false
	conf.NoLegacyTelemetry = true
	conf.NotifyCh = notify
	conf.Logger = newLogger(c.Logger.With(zap.Uint64("group", c.ID)))
	return conf
}
