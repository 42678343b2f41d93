package storage

import "io"

// FS is what a log asks of a file system. Tests replace it to lose, tear or refuse writes.
//
// Names are slash-separated paths below the root of the FS; "." is the root itself. What is said here about crashes
// is all that the log relies on.
type FS interface {
	// Create makes an empty file and opens it for reading and writing. It fails if name exists.
	// The name survives a crash only after SyncDir, the bytes only after Sync.
	Create(name string) (File, error)

	// Open opens a file for reading and writing. A missing file is fs.ErrNotExist.
	Open(name string) (File, error)

	// Rename replaces new, also across directories. After a crash the file has the old name or the new one, never
	// both and never neither; it is the new one for certain only after SyncDir of the new directory.
	Rename(old, new string) error

	// Remove deletes a file or an empty directory.
	Remove(name string) error

	// List returns the names in dir, sorted. A missing directory is fs.ErrNotExist.
	List(dir string) ([]string, error)

	// Size returns the length of a file in bytes. A missing file is fs.ErrNotExist.
	Size(name string) (int64, error)

	// MkdirAll makes dir and its parents; each survives a crash only after SyncDir of its own parent.
	MkdirAll(dir string) error

	// SyncDir makes every Create, Rename and Remove in dir that came before it survive a crash.
	SyncDir(dir string) error

	// Space returns the bytes free for this process and the total size of the file system.
	Space() (free, total int64, err error)

	// Close releases the root. Open files stay usable.
	Close() error
}

// File is an open file. Reading and writing different ranges at the same time is safe.
type File interface {
	io.ReaderAt
	io.WriterAt

	// WriteVAt writes the buffers one after the other from position pos, as pwritev does. It does not keep them.
	WriteVAt(buffers [][]byte, pos int64) (int, error)

	// Sync makes all bytes written so far, and the length, survive a crash (fdatasync). After an error nothing is
	// known about any byte written since the last success.
	Sync() error

	// Truncate cuts or extends (with zeros) the file.
	Truncate(size int64) error

	// Size returns the length in bytes.
	Size() (int64, error)

	// Map maps the whole file for reading. See Mapping for how to read it.
	Map() (Mapping, error)

	Close() error
}

// Mapping is a file mapped into memory.
//
// A page that cannot be read (a bad disk, a file truncated by someone else) faults: read Bytes only on a goroutine that
// may block, under debug.SetPanicOnFault(true) with a recover, and never after Unmap.
type Mapping interface {
	Bytes() []byte
	Unmap() error
}
