package broker

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

// ErrorID is the number, in the catalogue of internal/explain, of what kept a node from starting or ended it.
func ErrorID(err error) explain.ID {
	if e, ok := errors.AsType[*DataDirError](err); ok {
		return e.ID
	}
	if _, ok := errors.AsType[*inUseError](err); ok {
		return explain.AddressInUse
	}
	if _, ok := errors.AsType[*addressError](err); ok {
		return explain.AddressRefused
	}
	if _, ok := errors.AsType[*storage.UnreadableError](err); ok {
		return explain.DataDirUnread
	}
	for _, k := range []struct {
		err error
		id  explain.ID
	}{
		{ErrDataDirLost, explain.DataDirLost},
		{ErrReadOnly, explain.ReadOnlyDisk},
		{storage.ErrVersion, explain.DataDirVersion}, // of the catalog, too
		{cluster.ErrCatalog, explain.CatalogUnreadable},
		{storage.ErrForeign, explain.DataDirForeign},
		{storage.ErrNoManifest, explain.DataDirDamaged},
		{storage.ErrCorrupt, explain.DataDirDamaged},
		{raft.ErrStable, explain.DataDirDamaged},
		{raft.ErrLogLost, explain.DataDirDamaged},
		{raft.ErrFormat, explain.DataDirDamaged},
	} {
		if errors.Is(err, k.err) {
			return k.id
		}
	}
	running := errors.Is(err, storage.ErrFailed)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return explain.DiskFull
	case errors.Is(err, syscall.EROFS) && running:
		return explain.ReadOnlyDisk
	case running:
		return explain.WriteFailed
	}
	if _, path := errors.AsType[*fs.PathError](err); path {
		switch {
		case errors.Is(err, syscall.EROFS):
			return explain.DataDirReadOnly
		case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
			return explain.DataDirNoDir
		case errors.Is(err, fs.ErrPermission):
			return explain.DataDirDenied
		}
	}
	return explain.NodeFailed
}
