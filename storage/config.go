package storage

import (
	"errors"
	"fmt"
	"path"
	"time"
)

// Config sets one log's place and limits. A zero field means its default.
type Config struct {
	// FS is the file system that holds the log, rooted at the node's data directory. Default: the operating
	// system's, rooted at Dir itself.
	FS FS

	// Dir is the directory of this log below FS's root, made of ids, never of names users chose ("partitions/17").
	Dir string

	// Cluster and Partition are in every file. Files with others are refused (ErrForeign).
	Cluster   [16]byte
	Partition uint64

	// SegmentBytes is the size of the largest segment. Default 64 MiB; from 4 KiB to just under 4 GiB, as positions
	// are u32; rounded up to a multiple of 4 KiB. Segments start at 1 MiB (or SegmentBytes, if less) and double as they fill;
	// each ends after 65,536 entries. Large ones make retention coarse and recovery long (it scans the active segment);
	// small ones cost a manifest write each.
	SegmentBytes int64

	// HotBytes bounds the newest entries kept in memory. Default 4 MiB; negative keeps none.
	HotBytes int64

	// Memory is the node-wide budget for hot tails. Default: no budget but HotBytes.
	Memory *Memory

	// Pool keeps recycled and spare segment files for all logs of a node. It must use the same FS. Default: files
	// are created as needed and deleted, which on a discard mount stalls every sync beside it.
	Pool *Pool

	// Syncs limits how many syncs run at once on a node. Default: no limit.
	Syncs *SyncLimit

	// Observer is told of writes, for measuring. Default: nobody.
	Observer Observer

	// OnRoll is called by the writer after it sealed a segment. It must not block nor write to the log.
	OnRoll func()
}

// Observer is told what a log does. It runs on the writer, which every acknowledgement waits for: it must not block.
type Observer interface {
	// Appended is called after each write of entries that became durable. bytes is what was written, frames included;
	// sync how long the fdatasync took, the wait for its turn (Config.Syncs) included.
	Appended(entries int, bytes int64, sync time.Duration)
	// Grew is called before so many bytes are zeroed for what comes, the entries at hand mostly among them: so much more of
	// the file system is taken at most.
	Grew(bytes int64)
}

const (
	defaultSegmentBytes = 64 << 20
	minSegmentBytes     = 4 << 10
	firstSegmentBytes   = 1 << 20
	defaultHotBytes     = 4 << 20
)

func (c Config) withDefaults() Config {
	if c.SegmentBytes == 0 {
		c.SegmentBytes = defaultSegmentBytes
	}
	c.SegmentBytes = roundUp(c.SegmentBytes, indexBlock)
	if c.HotBytes == 0 {
		c.HotBytes = defaultHotBytes
	}
	if c.OnRoll == nil {
		c.OnRoll = func() {}
	}
	return c
}

// Validate reports every bad field at once.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("storage: Config.Dir is empty"))
	}
	if c.SegmentBytes != 0 && (c.SegmentBytes < minSegmentBytes || c.SegmentBytes > maxSegmentBytes) {
		errs = append(errs, fmt.Errorf("storage: Config.SegmentBytes is %d, not in [%d, %d]", c.SegmentBytes, minSegmentBytes, maxSegmentBytes))
	}
	if c.Pool != nil && c.FS != nil && c.Pool.fs != c.FS {
		errs = append(errs, errors.New("storage: Config.Pool is on another FS: files could not be renamed into it"))
	}
	if c.Pool != nil && c.FS == nil {
		errs = append(errs, errors.New("storage: Config.Pool needs Config.FS"))
	}
	return errors.Join(errs...)
}

// join is path.Join for two clean names: it allocates once.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// parents returns the directories that must be synced, outermost first, for dir to survive a crash.
func parents(dir string) []string {
	var out []string
	for d := dir; d != "." && d != "/"; {
		d = path.Dir(d)
		out = append([]string{d}, out...)
	}
	return out
}
