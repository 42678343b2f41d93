package main

import (
	"errors"
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

const logLong = `Look at the logs on disk, without a node. DIR is a node's data directory, or the
directory of one log in it: DIR/catalog, DIR/partitions/1. Files are opened for reading
only; nothing is changed. No node may be running on the directory.`

const logExitCodes = `

Exit codes:
  0   all is well
  1   damage was found, or something is missing
  2   wrong usage
  66  could not look: there is no such directory, it is not a data directory, no permission
  75  a node runs on the directory`

func (a *app) logCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "log",
		Short:   "Examine a stopped node's data",
		Long:    logLong,
		Example: "  tidewire log verify ./tidewire-data\n  tidewire log dump ./tidewire-data/partitions/1 --limit 10",
	}
	c.AddCommand(a.logVerifyCommand(), a.logDumpCommand())
	return c
}

// openLogs finds the logs below dir, unless a node runs on them.
func openLogs(dir string) (*logSet, error) {
	set, err := findLogs(dir)
	if err != nil {
		return nil, err
	}
	if err := set.stopped(); err != nil {
		set.fs.Close()
		return nil, err
	}
	if set.whole {
		set.takeInventory()
	}
	return set, nil
}

// isCatalog reports whether l is the catalog's log, whose entries are commands, not records.
func isCatalog(l *storage.Log) bool {
	_, partition := l.Identity()
	return partition == cluster.CatalogGroup
}

// entryKind names an entry by Raft's type of it.
func entryKind(e *storage.Entry, catalog bool) string {
	switch e.Type {
	case 0:
		if e.Records > 0 && !catalog {
			return "records"
		}
		return "command"
	case 1:
		return "no-op"
	case 4:
		return "barrier"
	case 5:
		return "configuration"
	}
	return fmt.Sprintf("type %d", e.Type)
}

// eachBatch visits the batches of an entry with records and checks each: its CRC, its records, and that
// the entry tells of it what it holds. An error says what is wrong.
func eachBatch(e *storage.Entry, visit func(d raft.Descriptor, b *wire.Batch, raw []byte) error) error {
	descriptors, err := raft.Descriptors(*e)
	if err != nil {
		return err
	}
	rest := raft.Batches(*e)
	for d := range descriptors {
		b, err := wire.ParseBatch(rest)
		if err != nil {
			return fmt.Errorf("batch at offset %d: %w", d.Offset, err)
		}
		rest = rest[len(b.Bytes):]
		raw, err := checkBatch(&b)
		if err == nil && (b.Count != d.Count || d.Producer != 0 && b.Sequence != d.Sequence) {
			err = fmt.Errorf("it holds %d records from sequence %d, its entry tells %d from %d", b.Count, b.Sequence, d.Count, d.Sequence)
		}
		if err != nil {
			return fmt.Errorf("batch at offset %d: %w", d.Offset, err)
		}
		if err := visit(d, &b, raw); err != nil {
			return err
		}
	}
	if len(rest) > 0 {
		return fmt.Errorf("%d bytes follow the last batch", len(rest))
	}
	return nil
}

func checkBatch(b *wire.Batch) (raw []byte, err error) {
	if err := b.Verify(); err != nil {
		return nil, err
	}
	if raw, err = b.Raw(nil); err != nil {
		return nil, err
	}
	return raw, b.Check(raw)
}

// offsetsText is a half-open range of offsets.
func offsetsText(start, end storage.Offset) string {
	switch {
	case end == math.MaxUint64:
		return fmt.Sprintf("offsets from %s on", count(uint64(start)))
	case start == end:
		return "no offsets"
	}
	return fmt.Sprintf("offsets [%s, %s)", count(uint64(start)), count(uint64(end)))
}

// unreadable words why a log could not be opened.
func unreadable(err error) string {
	switch {
	case errors.Is(err, storage.ErrRemoved):
		return "was deleted; its files are being given away"
	case errors.Is(err, storage.ErrNoManifest):
		return "has segments but no manifest"
	case errors.Is(err, errMissing):
		return "MISSING: " + err.Error()
	}
	return err.Error()
}
