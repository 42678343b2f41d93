package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

// What ended a node, or kept it from starting, has a number, and an exit code that a process manager can tell what to do by.
func TestNodeCode(t *testing.T) {
	path := func(err error) error {
		return fmt.Errorf("data directory: %w", &fs.PathError{Op: "write", Path: "/d/lock", Err: err})
	}
	for name, x := range map[string]struct {
		err  error
		id   explain.ID
		code int
	}{
		"a write fails":                     {&storage.FailedError{Op: "fdatasync", Err: syscall.EIO}, explain.WriteFailed, exitWrite},
		"the disk is full":                  {&storage.FailedError{Op: "write", Err: syscall.ENOSPC}, explain.DiskFull, exitFull},
		"the quota is used up":              {&storage.FailedError{Op: "write", Err: syscall.EDQUOT}, explain.DiskFull, exitFull},
		"the disk is full at the start":     {path(syscall.ENOSPC), explain.DiskFull, exitFull},
		"read-only meanwhile":               {&storage.FailedError{Op: "write", Err: syscall.EROFS}, explain.ReadOnlyDisk, exitReadOnly},
		"read-only at the start":            {path(syscall.EROFS), explain.DataDirReadOnly, exitDataDir},
		"another user's":                    {path(syscall.EACCES), explain.DataDirDenied, exitDataDir},
		"a forbidden port":                  {&net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EACCES)}, explain.NodeFailed, exitError},
		"gone":                              {fmt.Errorf("look: %w", broker.ErrDataDirLost), explain.DataDirLost, exitLost},
		"the disk cannot be read":           {&storage.UnreadableError{Path: "p", Err: &fs.PathError{Op: "read", Path: "p", Err: syscall.EIO}}, explain.DataDirUnread, exitDataDir},
		"in use":                            {&broker.DataDirError{ID: explain.DataDirInUse}, explain.DataDirInUse, exitDataDir},
		"votes that do not fit":             {&raft.StableError{}, explain.DataDirDamaged, exitDataDir},
		"a state that does not decode":      {&raft.FormatError{}, explain.DataDirDamaged, exitDataDir},
		"a state of another version":        {&raft.VersionError{}, explain.DataDirVersion, exitDataDir},
		"votes of another version":          {&raft.StableError{Cause: &raft.VersionError{}}, explain.DataDirVersion, exitDataDir},
		"a segment of another version":      {&storage.VersionError{}, explain.DataDirVersion, exitDataDir},
		"a catalog that does not decode":    {cluster.ErrCatalog, explain.CatalogUnreadable, exitDataDir},
		"a catalog of another version":      {fmt.Errorf("%w: %w", cluster.ErrCatalog, storage.ErrVersion), explain.DataDirVersion, exitDataDir},
		"what nobody has thought of so far": {errors.New("moon"), explain.NodeFailed, exitError},
	} {
		if id, code := broker.ErrorID(x.err), nodeCode(x.err); id != x.id || code != x.code {
			t.Errorf("%s (%v): %v and code %d, not %v and %d", name, x.err, id, code, x.id, x.code)
		}
	}
}
