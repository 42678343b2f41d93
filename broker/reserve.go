package broker

import (
	"errors"
	"io/fs"

	"go.uber.org/zap"
)

// The reserve is a file that holds a little of the disk for what a node must still be able to write when
// somebody else has filled it: the deletion of streams, which is how space comes back, needs an entry
// of the catalog and a manifest. It is given up when less than its own size is free, and made again
// when there is plenty. Its bytes mean nothing.
const (
	reserveFile  = "reserve"
	reserveBytes = 8 << 20
)

// keepReserve gives the reserve up, or makes it, as the disk stands. Who looks at the disk calls it, one at a time.
func (n *Node) keepReserve() error {
	d := n.diskState()
	size := min(reserveBytes, d.Floor/2) // a small disk has a small one
	have, err := n.data.fs.Size(reserveFile)
	if errors.Is(err, fs.ErrNotExist) {
		have, err = 0, nil
	}
	switch {
	case err != nil:
		return err
	case have > 0 && d.Free < have:
		n.log.Warn("the disk is full: the reserve for deletions is given up", zap.Int64("bytes", have), zap.Int64("free", d.Free))
		return n.data.fs.Remove(reserveFile)
	case have < size && !d.Full && d.Free > d.Floor+4*size:
		return n.makeReserve(size)
	}
	return nil
}

// makeReserve writes zeros: a file with holes holds nothing. One that a kill or a power cut has left half made goes.
func (n *Node) makeReserve(size int64) error {
	if err := n.data.fs.Remove(reserveFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := n.data.fs.Create(reserveFile)
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < size && err == nil; at += int64(len(zeros)) {
		_, err = f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, n.data.fs.Remove(reserveFile))
	}
	return nil
}
