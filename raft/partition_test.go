package raft

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/storage"
)

// stored is a batch as a reader finds it.
type stored struct {
	Descriptor
	data string
	term storage.Term
	ms   int64
}

// readAll reads every committed batch of size bytes each.
func (p *testPartition) readAll(size int) []stored {
	p.node.tb.Helper()
	r := p.Reader(p.Log().Bounds().Start)
	defer r.Close()
	var out []stored
	for {
		entries, err := r.Next(p.HighWatermark(), 1<<20)
		must(p.node.tb, err)
		if len(entries) == 0 {
			return out
		}
		for _, e := range entries {
			seq, err := Descriptors(e)
			must(p.node.tb, err)
			region := Batches(e)
			for d := range seq {
				out = append(out, stored{d, string(region[:size]), e.Term, e.Time})
				region = region[size:]
			}
			if len(region) != 0 {
				p.node.tb.Fatalf("%d bytes behind the last batch", len(region))
			}
		}
	}
}

func TestPublishIsAcknowledgedInOrder(t *testing.T) {
	n := newNode(t)
	n.open()
	var advanced atomic.Int32
	p := n.partition(func(c *PartitionConfig) { c.Advanced = func() { advanced.Add(1) } }).lead()
	for i := range uint64(10) {
		before := n.fs.syncs.Load()
		pend := p.publish(&Pending{Producer: 7, Sequence: i, Count: 1, Owner: i}, batch(7, i, 100))
		if pend.Err != nil || pend.Offset != storage.Offset(i) || pend.Quorum != 1 || pend.Voters != 1 || pend.Term != p.group.Term() ||
			pend.Duplicate || pend.Owner != i {
			t.Fatalf("batch %d: %+v", i, pend)
		}
		if n.fs.syncs.Load() == before {
			t.Fatal("acknowledged without a sync")
		}
		if hw := p.HighWatermark(); hw != pend.Offset+1 {
			t.Fatalf("high watermark %d behind the acknowledgement of %d", hw, pend.Offset)
		}
	}
	got := p.readAll(100)
	for i, s := range got {
		if s.data != string(batch(7, uint64(i), 100)) || s.Sequence != uint64(i) || s.ms == 0 {
			t.Fatalf("batch %d reads %+v", i, s)
		}
	}
	p.Close()
	if advanced.Load() < 10 || len(got) != 10 {
		t.Fatalf("advanced %d times, %d batches", advanced.Load(), len(got))
	}
	wantErr(t, p.Publish(&Pending{Count: 1}, batch(0, 0, 20)), ErrClosed)
}

// Nothing may be acknowledged before fdatasync has returned.
func TestNoAcknowledgementBeforeTheSync(t *testing.T) {
	n := newNode(t)
	n.open()
	p := n.partition().lead()
	held, release := n.fs.holdSync()
	pend := &Pending{Producer: 1, Count: 1}
	must(t, p.Publish(pend, batch(1, 0, 100)))
	<-held
	select {
	case <-p.answers:
		t.Fatal("acknowledged while the sync was under way")
	default:
	}
	if p.HighWatermark() != 0 {
		t.Fatal("the high watermark moved while the sync was under way")
	}
	release()
	p.take(1)
	must(t, pend.Err)
	p.Close()
}

// Publish runs on event loops: while the disk hangs it must neither wait nor grow without limit.
func TestPublishNeverBlocks(t *testing.T) {
	for _, inFlight := range []int{1, MaxInFlight} {
		t.Run(fmt.Sprint(inFlight), func(t *testing.T) {
			n := newNode(t)
			n.open()
			budget := NewBudget(64 << 20)
			p := n.partition(func(c *PartitionConfig) {
				c.InFlight, c.QueueBytes, c.Budget = inFlight, 2<<20, budget
			}).lead()
			held, release := n.fs.holdSync()
			var taken []*Pending
			var err error
			size := 100 << 10
			for i := uint64(0); err == nil; i++ {
				pend := &Pending{Producer: 3, Sequence: i, Count: 1}
				if err = p.Publish(pend, batch(3, i, size)); err == nil {
					taken = append(taken, pend)
				}
			}
			<-held
			over, ok := errors.AsType[*OverloadedError](err)
			if !ok || over.RetryAfter <= 0 || !errors.Is(err, ErrOverloaded) {
				t.Fatalf("%v is not an overload with a delay", err)
			}
			if limit := (inFlight+1)*MaxEntryBytes + 2<<20; len(taken)*size > limit {
				t.Fatalf("%d bytes were taken, the limit is %d", len(taken)*size, limit)
			}
			if used := budget.Used(); used < int64(len(taken)*size) {
				t.Fatalf("%d bytes of the budget are used", used)
			}
			release()
			p.take(len(taken))
			for i, pend := range taken {
				if pend.Err != nil || pend.Offset != storage.Offset(i) {
					t.Fatalf("batch %d: %+v", i, pend)
				}
			}
			// The refused one comes again.
			i := uint64(len(taken))
			if pend := p.publish(&Pending{Producer: 3, Sequence: i, Count: 1}, batch(3, i, size)); pend.Err != nil {
				t.Fatal(pend.Err)
			}
			p.Close()
			if budget.Used() != 0 {
				t.Fatalf("%d bytes of the budget were not given back", budget.Used())
			}
		})
	}
}

func TestTheNodesBudgetRefuses(t *testing.T) {
	n := newNode(t)
	n.open()
	budget := NewBudget(1000)
	p := n.partition(func(c *PartitionConfig) { c.Budget = budget }).lead()
	err := p.Publish(&Pending{Producer: 1, Count: 1}, batch(1, 0, 2000))
	wantErr(t, err, ErrOverloaded)
	if !strings.Contains(err.Error(), "node memory") {
		t.Fatal(err)
	}
	// It left no trace: the sequence is still free.
	if _, _, known := p.NextSequence(1); known {
		t.Fatal("the refused batch is remembered")
	}
	must(t, p.publish(&Pending{Producer: 1, Count: 1}, batch(1, 0, 100)).Err)
	p.Close()
}

// Many producers on several goroutines: offsets without gaps, each batch acknowledged once, each producer in order.
func TestManySmallBatches(t *testing.T) {
	const goroutines, producersEach, window = 4, 4, 64
	total := 100_000
	if testing.Short() || raceEnabled {
		total = 20_000
	}
	n := newNode(t)
	n.open()
	perProducer := total / goroutines / producersEach
	type client struct {
		id       uint64
		acked    chan struct{} // a value frees a place in the window
		expected uint64        // FSM goroutine: the next sequence to be acknowledged
		last     storage.Offset
	}
	offsets := make([]bool, total)
	left := atomic.Int64{}
	left.Store(int64(total))
	finished := make(chan struct{})
	fail := make(chan string, 1)
	p := n.partition(func(c *PartitionConfig) {
		c.Committed = func(done []*Pending) {
			for _, pend := range done {
				cl := pend.Owner.(*client)
				if pend.Err != nil || pend.Sequence != cl.expected || offsets[pend.Offset] || (pend.Sequence > 0 && pend.Offset <= cl.last) {
					select {
					case fail <- fmt.Sprintf("%+v, expected sequence %d", pend, cl.expected):
					default:
					}
				}
				offsets[pend.Offset] = true
				cl.expected, cl.last = pend.Sequence+1, pend.Offset
				cl.acked <- struct{}{}
			}
			if left.Add(-int64(len(done))) == 0 {
				close(finished)
			}
		}
	}).lead()
	var publishers sync.WaitGroup
	for g := range goroutines {
		clients := make([]*client, producersEach)
		for i := range clients {
			clients[i] = &client{id: uint64(1 + g*producersEach + i), acked: make(chan struct{}, window)}
			for range window {
				clients[i].acked <- struct{}{}
			}
		}
		publishers.Go(func() {
			for sequence := range perProducer {
				for _, cl := range clients {
					<-cl.acked
					pend := &Pending{Producer: cl.id, Sequence: uint64(sequence), Count: 1, Owner: cl}
					if err := p.Publish(pend, batch(cl.id, uint64(sequence), 64)); err != nil {
						select {
						case fail <- err.Error():
						default:
						}
						return
					}
				}
			}
		})
	}
	select {
	case <-finished:
	case msg := <-fail:
		t.Fatal(msg)
	case <-time.After(2 * patience):
		t.Fatalf("%d batches were not answered", left.Load())
	}
	publishers.Wait()
	select {
	case msg := <-fail:
		t.Fatal(msg)
	default:
	}
	if i := slices.Index(offsets, false); i >= 0 {
		t.Fatalf("offset %d was never given", i)
	}
	check := func(p *testPartition) {
		t.Helper()
		next := map[uint64]uint64{}
		all := p.readAll(64)
		for i, s := range all {
			if s.Offset != storage.Offset(i) || s.Sequence != next[s.Producer] || s.data != string(batch(s.Producer, s.Sequence, 64)) {
				t.Fatalf("record %d: %+v, expected sequence %d", i, s.Descriptor, next[s.Producer])
			}
			next[s.Producer]++
		}
		if len(all) != total || p.HighWatermark() != storage.Offset(total) {
			t.Fatalf("%d records, high watermark %d", len(all), p.HighWatermark())
		}
	}
	check(p)
	p.Close()
	n.close()
	n.open()
	p = n.partition().lead()
	check(p)
	p.Close()
}

// Offsets and the producer table are the same after a clean stop and after a kill.
func TestRestart(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("kill=%v", kill), func(t *testing.T) {
			n := newNode(t)
			n.open()
			p := n.partition().lead()
			for i := range uint64(20) {
				must(t, p.publish(&Pending{Producer: 5, Epoch: 3, Sequence: 2 * i, Count: 2}, batch(5, i, 50)).Err)
				must(t, p.publish(&Pending{Count: 1}, batch(0, i, 50)).Err)
			}
			firstTerm := p.group.Term()
			next := n
			if kill {
				next = n.copyKilled()
			}
			p.Close()
			if !kill {
				n.close()
			}
			next.open()
			p = next.partition()
			if kill && p.HighWatermark() < 57 {
				t.Fatalf("the commit hint gives a high watermark of %d", p.HighWatermark())
			}
			p.lead()
			if p.HighWatermark() != 60 {
				t.Fatalf("high watermark %d", p.HighWatermark())
			}
			if epoch, sequence, known := p.NextSequence(5); epoch != 3 || sequence != 40 || !known {
				t.Fatalf("producer 5 is at %d of epoch %d, %v", sequence, epoch, known)
			}
			// A resend of what was acknowledged before is answered with its first offset and term.
			again := p.publish(&Pending{Producer: 5, Epoch: 3, Sequence: 10, Count: 2}, batch(5, 5, 50))
			if again.Err != nil || !again.Duplicate || again.Offset != 15 || again.Term != firstTerm {
				t.Fatalf("resend: %+v, first term %d", again, firstTerm)
			}
			wantErr(t, p.Publish(&Pending{Producer: 5, Epoch: 3, Sequence: 42, Count: 2}, batch(5, 5, 50)), ErrSequenceGap)
			more := p.publish(&Pending{Producer: 5, Epoch: 3, Sequence: 40, Count: 2}, batch(5, 20, 50))
			if more.Err != nil || more.Offset != 60 || more.Term <= firstTerm {
				t.Fatalf("after the restart: %+v", more)
			}
			all := p.readAll(50)
			for i := 1; i < len(all); i++ {
				if all[i].ms < all[i-1].ms {
					t.Fatalf("time runs backwards at batch %d", i)
				}
			}
			p.Close()
		})
	}
}

// Memory that a process has not touched before is slow: what is replayed goes through one window.
func TestReplayTakesOneWindow(t *testing.T) {
	n := newNode(t)
	n.open()
	p := n.partition().lead()
	const batches, size = 24, 1 << 20
	for i := range uint64(batches) {
		must(t, p.publish(&Pending{Producer: 8, Sequence: i, Count: 1}, batch(8, i, size)).Err)
	}
	killed := n.copyKilled()
	p.Close()
	killed.open()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	q := killed.partition().lead()
	runtime.ReadMemStats(&after)
	if _, next, _ := q.NextSequence(8); next != batches || q.HighWatermark() != batches {
		t.Fatalf("the table expects %d, the high watermark is %d", next, q.HighWatermark())
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > batches*size/3 {
		t.Errorf("a start took %d bytes of memory to replay %d", took, batches*size)
	}
	q.Close()
}

// What a kill leaves behind while batches are in flight: everything acknowledged, each record once, in order.
func TestKillUnderLoad(t *testing.T) {
	n := newNode(t)
	n.config = func(c *storage.Config) { c.SegmentBytes = 64 << 10 }
	n.open()
	var acked atomic.Uint64                // sequences below are acknowledged
	window := make(chan struct{}, 200)     // what may be unacknowledged
	progress := make(chan struct{}, 1<<16) // a value every 300 acknowledgements
	p := n.partition(func(c *PartitionConfig) {
		c.Committed = func(done []*Pending) {
			for _, pend := range done {
				if pend.Err != nil {
					continue
				}
				if acked.Store(pend.Sequence + 1); pend.Sequence%300 == 299 {
					progress <- struct{}{}
				}
				<-window
			}
		}
	}).lead()
	stop := make(chan struct{})
	var publisher sync.WaitGroup
	publisher.Go(func() {
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				return
			case window <- struct{}{}:
			}
			if err := p.Publish(&Pending{Producer: 8, Sequence: i, Count: 1}, batch(8, i, 300)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for round := range 5 {
		wait(t, progress, "acknowledgements")
		before := acked.Load()
		killed := n.copyKilled()
		killed.open()
		q := killed.partition().lead()
		all := q.readAll(300)
		for i, s := range all {
			if s.Sequence != uint64(i) || s.Offset != storage.Offset(i) || s.data != string(batch(8, uint64(i), 300)) {
				t.Fatalf("round %d: record %d is %+v", round, i, s.Descriptor)
			}
		}
		if uint64(len(all)) < before {
			t.Fatalf("round %d: %d records of %d acknowledged", round, len(all), before)
		}
		if _, next, _ := q.NextSequence(8); next != uint64(len(all)) {
			t.Fatalf("round %d: the table expects %d, the log has %d", round, next, len(all))
		}
		q.Close()
	}
	close(stop)
	publisher.Wait()
	p.Close()
}

func TestSegmentsBringSnapshots(t *testing.T) {
	n := newNode(t)
	n.config = func(c *storage.Config) { c.SegmentBytes = 128 << 10 }
	n.open()
	p := n.partition().lead()
	for i := range uint64(100) {
		must(t, p.publish(&Pending{Producer: 1, Sequence: i, Count: 1}, batch(1, i, 10_000)).Err)
	}
	p.group.background.Wait()
	infos := n.log.Snapshots()
	if len(infos) < 3 {
		t.Fatalf("%d segments, %d snapshots", n.log.Bounds().Segments, len(infos))
	}
	killed := n.copyKilled()
	p.Close()
	// A restart replays only what is above the newest one.
	killed.open()
	q := killed.partition()
	q.lead()
	if _, next, _ := q.NextSequence(1); next != 100 || q.HighWatermark() != 100 {
		t.Fatalf("next %d, high watermark %d", next, q.HighWatermark())
	}
	q.Close()
}

func TestRestartsGatherNoSnapshots(t *testing.T) {
	n := newNode(t)
	for range 4 { // each start is a term, whose first entry is one more to take a snapshot behind
		n.open()
		p := n.partition().lead()
		must(t, p.publish(&Pending{Producer: 1, Sequence: 0, Count: 1}, batch(1, 0, 10)).Err) // a duplicate from the second on
		p.Close()
		if infos := n.log.Snapshots(); len(infos) != 1 {
			t.Fatalf("snapshots %v", infos)
		}
		n.close()
	}
}

func TestRetention(t *testing.T) {
	n := newNode(t)
	n.config = func(c *storage.Config) { c.SegmentBytes = 128 << 10 }
	n.open()
	p := n.partition().lead()
	fill := func(from, to uint64) {
		for i := from; i < to; i++ {
			must(t, p.publish(&Pending{Producer: 1, Sequence: i, Count: 1}, batch(1, i, 10_000)).Err)
		}
		p.group.background.Wait()
	}
	fill(0, 100)
	start, err := p.Retain(Retention{Bytes: 400 << 10})
	must(t, err)
	if start == 0 || start != p.LogStart() || start > 70 {
		t.Fatalf("the log starts at %d", start)
	}
	again, err := p.Retain(Retention{Bytes: 400 << 10})
	if err != nil || again != start {
		t.Fatalf("%d, %v", again, err)
	}
	p.background.Wait()
	b := n.log.Bounds()
	if b.Start != start || b.First == 1 || b.Bytes > 700<<10 {
		t.Fatalf("after the trim: %+v", b)
	}
	if start2, err := p.Retain(Retention{}); err != nil || start2 != start {
		t.Fatalf("no limit moved the start to %d (%v)", start2, err)
	}
	fill(100, 130)
	if start, err = p.Retain(Retention{Records: 40}); err != nil || start < 60 || start > 90 {
		t.Fatalf("by records: %d, %v", start, err)
	}
	if start, err = p.Retain(Retention{Since: time.Now()}); err != nil || start < 100 {
		t.Fatalf("by age: %d, %v", start, err)
	}
	killed := n.copyKilled()
	p.Close()
	killed.open()
	q := killed.partition().lead()
	q.background.Wait()
	if q.LogStart() != start || killed.log.Bounds().Start != start || q.HighWatermark() != 130 {
		t.Fatalf("after a kill the log starts at %d, %d; expected %d", q.LogStart(), killed.log.Bounds().Start, start)
	}
	if _, next, _ := q.NextSequence(1); next != 130 {
		t.Fatalf("next sequence %d", next)
	}
	q.Close()
}

// A segment that goes as soon as another is sealed leaves their number what it was: a snapshot is taken all the same.
func TestEverySegmentBringsASnapshotWhileTheFirstGoes(t *testing.T) {
	const keep = 4
	n := newNode(t)
	n.config = func(c *storage.Config) { c.SegmentBytes = 128 << 10 }
	n.open()
	p := n.partition().lead()
	for i := range uint64(1200) { // some 85 fill a segment
		must(t, p.publish(&Pending{Producer: 1, Sequence: i, Count: 1}, batch(1, i, 1500)).Err)
		p.group.background.Wait()
		_, err := p.Retain(Retention{Bytes: keep * 128 << 10})
		must(t, err)
		p.background.Wait()
		b := n.log.Bounds()
		if b.Segments > keep+2 {
			t.Fatalf("%d segments after %d records", b.Segments, i+1)
		}
		if infos := n.log.Snapshots(); i > 200 && (len(infos) == 0 || b.Last-infos[len(infos)-1].Index > 100) {
			t.Fatalf("the log ends at %d, snapshots %v", b.Last, infos)
		}
	}
	p.Close()
}

// After a failed sync: Fatal, once, and no acknowledgement ever again, on this partition or by a copy of it.
func TestAFailedSyncIsNeverAcknowledged(t *testing.T) {
	n := newNode(t)
	n.open()
	p := n.partition(func(c *PartitionConfig) { c.InFlight = 2 }).lead()
	must(t, p.publish(&Pending{Producer: 1, Count: 1}, batch(1, 0, 50)).Err)
	n.fs.breakSync()
	lost := []*Pending{
		{Producer: 1, Sequence: 1, Count: 1}, {Producer: 1, Sequence: 2, Count: 1}, {Producer: 1, Sequence: 3, Count: 1},
	}
	for i, pend := range lost {
		if err := p.Publish(pend, batch(1, uint64(i+1), 50)); err != nil {
			// The failure was faster.
			wantAny(t, err, ErrFailed, ErrNotLeader)
			lost = lost[:i]
			break
		}
	}
	for _, pend := range p.take(len(lost)) {
		if pend.Err == nil {
			t.Fatalf("acknowledged: %+v", pend)
		}
	}
	wantErr(t, <-n.fatal, errDisk)
	wantErr(t, p.Publish(&Pending{Producer: 2, Count: 1}, batch(2, 0, 50)), ErrFailed)
	if p.HighWatermark() != 1 {
		t.Fatalf("high watermark %d", p.HighWatermark())
	}
	p.Close()
	select {
	case done := <-p.answers:
		t.Fatalf("answered after Close: %+v", done)
	default:
	}
	if len(n.fatal) != 0 {
		t.Fatal("Fatal was called twice")
	}
}

func wantAny(t *testing.T, err error, any ...error) {
	t.Helper()
	for _, want := range any {
		if errors.Is(err, want) {
			return
		}
	}
	t.Fatalf("got %v", err)
}

// Close flushes what was taken.
func TestCloseAnswersWhatWasTaken(t *testing.T) {
	n := newNode(t)
	n.open()
	p := n.partition().lead()
	for i := range uint64(50) {
		must(t, p.Enqueue(&Pending{Producer: 1, Sequence: i, Count: 1}, batch(1, i, 50)))
	}
	p.Close()
	for _, pend := range p.take(50) {
		must(t, pend.Err)
	}
}

func TestLargestBatches(t *testing.T) {
	n := newNode(t)
	n.open()
	p := n.partition().lead()
	for i := range uint64(6) {
		must(t, p.Enqueue(&Pending{Producer: 1, Sequence: i, Count: 1}, batch(1, i, MaxEntryBytes)))
	}
	p.Flush()
	for i, pend := range p.take(6) {
		if pend.Err != nil || pend.Offset != storage.Offset(i) {
			t.Fatalf("batch %d: %+v", i, pend)
		}
	}
	for i, s := range p.readAll(MaxEntryBytes) {
		if s.data != string(batch(1, uint64(i), MaxEntryBytes)) {
			t.Fatalf("batch %d is damaged", i)
		}
	}
	p.Close()
}

// killedAfterTen gives a partition with ten entries of a record each, and a copy of its node as a kill leaves it.
func killedAfterTen(t *testing.T) (p *testPartition, killed *testNode) {
	t.Helper()
	n := newNode(t)
	n.open()
	p = n.partition().lead()
	for i := range uint64(10) {
		must(t, p.publish(&Pending{Producer: 1, Sequence: i, Count: 1}, batch(1, i, 500)).Err)
	}
	return p, n.copyKilled()
}

// A damaged entry on a node without peers costs its own records and nothing else.
func TestDamageAboveTheSnapshotIsPassedOver(t *testing.T) {
	p, killed := killedAfterTen(t)
	p.Close()
	killed.damage(batch(1, 4, 500), batch(1, 4, 500))
	killed.open()
	q := killed.partition().lead()
	if q.HighWatermark() != 10 {
		t.Fatalf("high watermark %d", q.HighWatermark())
	}
	pend := q.publish(&Pending{Producer: 1, Sequence: 10, Count: 1}, batch(1, 10, 500))
	if pend.Err != nil || pend.Offset != 10 {
		t.Fatalf("%+v", pend)
	}
	r := q.Reader(0)
	defer r.Close()
	var bad *storage.CorruptError
	for {
		entries, err := r.Next(q.HighWatermark(), 1<<20)
		if errors.As(err, &bad) {
			r.Seek(bad.End)
			continue
		}
		must(t, err)
		if len(entries) == 0 {
			break
		}
	}
	if bad == nil || bad.Start != 4 || bad.End != 5 {
		t.Fatalf("the damage is said to be %+v", bad)
	}
	q.Close()
}

// The first entry is a configuration, and a group without peers has had no other: it starts, and nothing that can be read is lost.
func TestDamagedConfiguration(t *testing.T) {
	for name, damaged := range map[string]uint64{"alone": 0, "with what follows": 2} {
		t.Run(name, func(t *testing.T) {
			p, killed := killedAfterTen(t)
			last := p.group.loneConfiguration()
			if damaged > 0 {
				last = batch(1, damaged-1, 500)
			}
			killed.damage(p.group.loneConfiguration(), last)
			p.Close()
			killed.open()
			q := killed.partition().lead()
			defer q.Close()
			if q.HighWatermark() != 10 {
				t.Errorf("high watermark %d", q.HighWatermark())
			}
			pend := q.publish(&Pending{Producer: 1, Sequence: 10, Count: 1}, batch(1, 10, 500))
			if pend.Err != nil || pend.Offset != 10 {
				t.Errorf("%+v", pend)
			}
			r := q.Reader(storage.Offset(damaged))
			defer r.Close()
			entries, err := r.Next(q.HighWatermark(), 1<<20)
			if err != nil || len(entries) == 0 || entries[0].Base != storage.Offset(damaged) {
				t.Errorf("behind the damage: %v, %v", entries, err)
			}
		})
	}
}

func TestPartitionConfig(t *testing.T) {
	err := PartitionConfig{QueueBytes: 1, InFlight: 9}.Validate()
	for _, field := range []string{"Committed", "QueueBytes", "InFlight"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not tell of %s", err, field)
		}
	}
}
