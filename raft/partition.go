package raft

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/storage"
)

// PartitionConfig describes one replica of a partition. A zero field means its default.
type PartitionConfig struct {
	// ID, Server, Log, Stable, Logger, Fatal, Peers and Join: see GroupConfig.
	ID     uint64
	Server ServerID
	Log    *storage.Log
	Stable *Stable
	Logger *zap.Logger
	Fatal  func(error)
	Peers  Peers
	Join   bool

	// Committed answers batches that Publish took: once per commit with all of that entry's, and those of
	// failed ones with Err set. done is only borrowed for the call. Calls come one at a time, from the state
	// machine's goroutine or another of the partition's, never from within Publish, and must not block.
	// After Fatal nothing is answered without Err any more. Required.
	Committed func(done []*Pending)
	// Advanced is called after the high watermark moved, and before Committed, so that readers who wait have
	// records as soon as may be. It must not block. Default: nothing.
	Advanced func()
	// Leadership is called when this node begins to take publishes and when it stops. It must not block.
	// Default: nothing.
	Leadership func(leading bool, term storage.Term)
	// Observer is told what the partition does, for measuring. Default: nobody.
	Observer Observer
	// Budget is the node's limit of bytes queued and in flight. Default: none.
	Budget *Budget
	// QueueBytes is how much may wait in this partition. Default 32 MiB; at least MaxEntryBytes. One that is
	// too large makes latency; one too small refuses bursts: with less than one connection may have in flight, 16 MiB, a
	// single producer sends most of its batches twice (1 KiB: a third of the throughput).
	QueueBytes int64
	// InFlight is how many entries are with raft at a time. Default 1; at most MaxInFlight. With one, the
	// next is gathered while it is synced, and goes as large as it can be. With more, raft's main goroutine
	// may sync the next entry before it commits the one before, which then waits for two.
	InFlight int
	// Clock tells broker time. Default time.Now.
	Clock func() time.Time
	// Timers of the group; see GroupConfig.
	HeartbeatTimeout, ElectionTimeout, CommitTimeout, LeaderLease time.Duration
}

// MaxInFlight is the most entries of one partition that may be with raft: 4 MiB of batches.
const MaxInFlight = 4

func (c PartitionConfig) withDefaults() PartitionConfig {
	if c.Advanced == nil {
		c.Advanced = func() {}
	}
	if c.Leadership == nil {
		c.Leadership = func(bool, storage.Term) {}
	}
	if c.QueueBytes == 0 {
		c.QueueBytes = 32 << 20
	}
	if c.InFlight == 0 {
		c.InFlight = 1
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return c
}

// Validate reports every field that is wrong, but those of the group, which StartGroup checks.
func (c PartitionConfig) Validate() error {
	var errs []error
	if c.Committed == nil {
		errs = append(errs, errors.New("raft: Committed is required"))
	}
	c = c.withDefaults()
	if c.QueueBytes < MaxEntryBytes {
		errs = append(errs, fmt.Errorf("raft: QueueBytes must be at least %d", MaxEntryBytes))
	}
	if c.InFlight < 1 || c.InFlight > MaxInFlight {
		errs = append(errs, fmt.Errorf("raft: InFlight must be 1 to %d", MaxInFlight))
	}
	return errors.Join(errs...)
}

// Pending is one batch handed to Publish: the caller fills in the upper half, and gets it back through
// Committed with the lower half filled in. Between the two it belongs to the partition.
type Pending struct {
	Producer uint64 // 0: not idempotent
	Epoch    uint16
	Sequence uint64 // of its first record
	Count    uint32 // records
	Owner    any    // the caller's own
	// Times, if given, is filled in with those of the entry that held the batch, unless Err or Duplicate are set.
	Times *EntryTimes

	Offset    storage.Offset // of its first record
	Term      storage.Term   // the leader epoch it was written under
	Err       error          // nil: the records are on stable storage on Quorum of Voters replicas
	Quorum    uint8
	Voters    uint8
	Duplicate bool // it had been written before; Offset and Term are those of the first time
}

// proposer takes entries for raft: a Group, or a script in tests.
type proposer interface {
	submit(data []byte, w waiter) error
	notLeader() error
	Quorum() (quorum, voters uint8)
	Failed() error
}

// Partition is one replica of a partition: a group whose log is the data, and on the leader the place
// where batches gather into entries. Safe for concurrent use.
type Partition struct {
	cfg    PartitionConfig
	group  *Group
	to     proposer
	logger *zap.Logger

	highWatermark atomic.Uint64
	logStart      atomic.Uint64

	mu     sync.Mutex // short and never held while anything waits; Publish takes it on event loops
	idle   *sync.Cond // mu; nothing queued nor in flight
	closed bool
	term   storage.Term // in which this node takes publishes; 0: it does not
	number uint64       // of the last entry sealed in that term
	stamp  int64        // broker time of the last entry sealed or applied

	// The queue: entries that are full, and the one being gathered (nil: none). queued is their bytes.
	full   []*outgoing
	open   *outgoing
	queued int64

	inFlight []*outgoing // by number; at most cfg.InFlight
	company  company
	flights  map[uint64]*flight
	size     sizeHint
	latency  time.Duration // of recent entries, from seal to apply

	transferSince time.Time   // when raft first refused an entry because of a transfer; zero: it does not
	retry         *time.Timer // of entries refused because of a transfer

	spare       []*outgoing // to be used again
	spareFlight []*flight

	answers   []*Pending // waiting for the answering goroutine
	answering bool
	answerMu  sync.Mutex // one call of Committed at a time; never taken under mu

	trimming   bool
	background sync.WaitGroup

	// state is changed by the FSM goroutine alone, under mu; that goroutine reads it without.
	state *partitionState
	// FSM goroutine only.
	sequences []sequenceRun
	done      []*Pending
}

// StartPartition starts one replica. The high watermark begins where the log proves a commit; publishes
// are taken once this node leads.
//
// Errors: as StartGroup.
func StartPartition(cfg PartitionConfig) (*Partition, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := newPartition(cfg)
	if cfg.Log != nil {
		p.raiseHighWatermark(committedEnd(cfg.Log))
		p.logStart.Store(uint64(cfg.Log.Bounds().Start))
	}
	_, err := StartGroup(GroupConfig{
		ID: cfg.ID, Server: cfg.Server, Log: cfg.Log, Stable: cfg.Stable, Machine: (*partitionMachine)(p),
		Logger: cfg.Logger, Fatal: cfg.Fatal, Peers: cfg.Peers, Join: cfg.Join,
		Leadership:       p.leadership,
		Observer:         cfg.Observer,
		HeartbeatTimeout: cfg.HeartbeatTimeout, ElectionTimeout: cfg.ElectionTimeout,
		CommitTimeout: cfg.CommitTimeout, LeaderLease: cfg.LeaderLease,
		rule:  partitionRule{},
		ready: func(g *Group) { p.group, p.to = g, g },
	})
	if err != nil {
		p.background.Wait()
		return nil, err
	}
	return p, nil
}

func newPartition(cfg PartitionConfig) *Partition {
	cfg = cfg.withDefaults()
	p := &Partition{
		cfg:     cfg,
		logger:  cfg.Logger.With(zap.Uint64("group", cfg.ID)),
		flights: make(map[uint64]*flight),
		state:   &partitionState{table: newProducerTable(defaultLimits)},
	}
	p.idle = sync.NewCond(&p.mu)
	return p
}

// committedEnd is the offset after the last record that the log itself proves committed: by a
// snapshot, or by the commit hint beside a later entry.
func committedEnd(log *storage.Log) storage.Offset {
	b := log.Bounds()
	end := b.Start
	if infos := log.Snapshots(); len(infos) > 0 {
		end = max(end, infos[len(infos)-1].Offset)
	}
	if hint := min(b.CommitHint, b.Last); hint >= b.First && hint > 0 {
		if h, err := log.Header(hint); err == nil {
			end = max(end, h.Base+storage.Offset(h.Records))
		}
	}
	return end
}

// Group is the partition's Raft group.
func (p *Partition) Group() *Group { return p.group }

// Log is the partition's log, for reading.
func (p *Partition) Log() *storage.Log { return p.cfg.Log }

// Cool lets go of memory that a partition in use needs again, if this one is not: the log's hot tail (storage.Log.Cool), and what
// the next large entry would be gathered in.
func (p *Partition) Cool() {
	p.cfg.Log.Cool()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil && len(p.inFlight) == 0 {
		p.size.spare = nil
	}
}

// Reader reads from an offset on. Records at or above the high watermark are not committed: give
// HighWatermark as the limit of Next.
func (p *Partition) Reader(from storage.Offset) *storage.Reader { return p.cfg.Log.Reader(from) }

// HighWatermark is the first offset not yet committed, as far as this replica knows.
func (p *Partition) HighWatermark() storage.Offset { return storage.Offset(p.highWatermark.Load()) }

// LogStart is the first offset that retention has left. Bytes below may still be on disk for a while.
func (p *Partition) LogStart() storage.Offset { return storage.Offset(p.logStart.Load()) }

// IsLeader reports whether this node takes publishes.
func (p *Partition) IsLeader() bool { return p.group.IsLeader() }

// Leading returns a channel that is closed while this node takes publishes (Group.Leading).
func (p *Partition) Leading() <-chan struct{} { return p.group.Leading() }

// Leader names the leader, "" when none is known, and the current term.
func (p *Partition) Leader() (ServerID, storage.Term) { return p.group.Leader(), p.group.Term() }

// NextSequence tells which sequence is expected next of a producer, batches in flight included, and
// under which epoch. known is false for one the partition has never seen, or has forgotten. Only the
// leader's answer is of use.
func (p *Partition) NextSequence(id uint64) (epoch uint16, next uint64, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flights[id]; f != nil {
		return f.epoch, f.next, true
	}
	if t := p.state.table.producers[id]; t != nil {
		return t.epoch, t.next, true
	}
	return 0, 0, false
}

// Producers returns how many producers are remembered.
func (p *Partition) Producers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.state.table.producers)
}

// HighestProducer is the highest producer id that has ever published here, as far as is known; 0: none has.
func (p *Partition) HighestProducer() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	highest := p.state.table.expired
	for id := range p.state.table.producers {
		highest = max(highest, id)
	}
	return highest
}

// Close stops taking batches, waits until those taken are answered, and stops the group. The log stays open.
func (p *Partition) Close() {
	p.mu.Lock()
	p.closed = true
	p.flushLocked() // what was enqueued and not flushed
	for p.open != nil || len(p.full) > 0 || len(p.inFlight) > 0 {
		p.idle.Wait()
	}
	p.mu.Unlock()
	p.group.Stop()
	p.background.Wait()
}

// leadership follows the group's. Called from one goroutine.
func (p *Partition) leadership(leading bool, term storage.Term) {
	p.mu.Lock()
	if leading {
		if len(p.inFlight) > 0 || p.open != nil || len(p.full) > 0 {
			// The barrier's future was resolved after those of every entry before it.
			panic(fmt.Sprintf("raft: group %d leads in term %d with %d entries of an older term", p.cfg.ID, term, len(p.inFlight)))
		}
		p.term, p.number = term, 0
		p.transferSince = time.Time{}
		p.stamp = max(p.stamp, p.state.time)
		clear(p.flights)
	} else {
		p.stepDownLocked(p.to.notLeader())
	}
	p.mu.Unlock()
	p.cfg.Leadership(leading, term)
}
