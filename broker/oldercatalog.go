package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/storage"
)

// A catalog/ that was put back from a copy, or has lost its end, has streams as they were: deleted, though they were undeleted since, or
// with less room than they got since. By that nothing may be given up: the node, which notes how far its catalog reached, keeps
// everything until somebody who has looked at the streams says that they are right.
const (
	seenMark  = "catalog.seen"  // how far it reached, a number of 20 digits that is written over itself
	olderMark = "catalog.older" // what catalog.seen was, when the catalog did not reach that far; removed by hand
)

// catalogNoteEvery is how often what is new of the catalog is noted.
const catalogNoteEvery = 10 * time.Second

// compareCatalog notices a catalog that ends before it did when it was last noted. Called before anything is added to it.
func (n *Node) compareCatalog() error {
	seen, err := n.data.readSeen()
	if err != nil {
		n.log.Warn("how far the catalog reached cannot be read: an older one is not noticed", zap.Error(err))
	}
	n.catalogSeen = seen
	if last := n.catalogLog.Bounds().Last; last < seen {
		n.log.Warn("the catalog ends before it did", zap.Uint64("index", uint64(last)), zap.Uint64("seen", uint64(seen)))
		if err := n.data.fs.Rename(seenMark, olderMark); err != nil {
			return err
		}
		if err := n.data.fs.SyncDir("."); err != nil {
			return err
		}
		n.catalogSeen = 0
	}
	if n.data.exists(olderMark) {
		n.log.Warn("the catalog is older than the data, as one that was put back from a copy: streams are as they were then, and until somebody says that they are right nothing is given up for retention or purged for its age. "+
			"Look at what the streams keep, and at the deleted ones (tidewire stream ls --deleted); then remove the file", zap.String("file", n.data.path(olderMark)))
		n.catalogOld.Store(true)
	}
	return nil
}

// noteCatalog notes how far the catalog reaches, until the node stops. What is not noted yet when the node dies is not missed then.
func (n *Node) noteCatalog() {
	tick := time.NewTicker(catalogNoteEvery)
	defer tick.Stop()
	fails := false
	for running := true; running; {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			running = false
		}
		reaches := n.catalog.Applied()
		if reaches <= n.catalogSeen {
			continue
		}
		err := n.data.writeSeen(reaches)
		if err == nil {
			n.catalogSeen = reaches
		} else if !fails {
			n.log.Warn("a start would not notice an older catalog", zap.Error(err))
		}
		fails = err != nil
	}
}

// mayGiveUp reports whether what streams say they keep is to be believed.
func (n *Node) mayGiveUp() bool {
	if !n.catalogOld.Load() {
		return true
	}
	if n.data.exists(olderMark) {
		return false
	}
	n.log.Info("the streams are right: retention and purges go on", zap.String("removed", olderMark))
	n.catalogOld.Store(false)
	return true
}

// noteOlderCatalog says why nothing is given up; empty if that is not so.
func (n *Node) noteOlderCatalog() string {
	if !n.catalogOld.Load() {
		return ""
	}
	return "older than the data: no retention and no purges until " + olderMark + " is removed from its directory"
}

// readSeen reads seenMark; 0 if nothing was noted.
func (d *dataDir) readSeen() (storage.Index, error) {
	b, err := readAll(d.fs, seenMark)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	seen, err := strconv.ParseUint(string(b[:min(len(b), 20)]), 10, 64)
	return storage.Index(seen), err
}

// writeSeen notes it. It need not be durable: an older note notices less.
func (d *dataDir) writeSeen(seen storage.Index) error {
	f, err := d.fs.Open(seenMark)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = d.fs.Create(seenMark)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteAt(fmt.Appendf(nil, "%020d\n", seen), 0)
	return errors.Join(err, f.Close())
}
