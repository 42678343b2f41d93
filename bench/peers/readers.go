package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// readers read a stream from its first record while something else is measured, each at a steady rate.
type readers struct {
	cancel  context.CancelFunc
	running sync.WaitGroup
	began   time.Time
	count   int
	bytes   atomic.Int64
	failed  atomic.Pointer[error]
}

// startReaders begins as many as spec asks for, and returns when each has had something.
func startReaders(ctx context.Context, system System, address string, spec Spec) (*readers, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &readers{cancel: cancel, count: spec.Readers}
	arrived := make(chan struct{}, spec.Readers)
	for range spec.Readers {
		r.running.Go(func() {
			pace := pace{rate: spec.ReadRate}
			first := sync.OnceFunc(func() { arrived <- struct{}{} })
			err := system.Read(ctx, address, spec, func(bytes int) {
				first()
				r.bytes.Add(int64(bytes))
				pace.spent(ctx, bytes)
			})
			if err != nil && ctx.Err() == nil {
				r.failed.CompareAndSwap(nil, &err)
				first()
			}
		})
	}
	for range spec.Readers {
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), r.err())
		}
	}
	r.began = time.Now()
	r.bytes.Store(0)
	return r, r.err()
}

// stop ends them and says how many bytes of values a second each had.
func (r *readers) stop() (each float64, err error) {
	took := time.Since(r.began)
	bytes := r.bytes.Load()
	r.cancel()
	r.running.Wait()
	if r.count > 0 {
		each = float64(bytes) / took.Seconds() / float64(r.count)
	}
	return each, r.err()
}

func (r *readers) err() error {
	if err := r.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// pace keeps what is read to rate bytes a second.
type pace struct {
	rate  float64
	began time.Time
	bytes float64
}

// spent waits while more was read than the rate allows.
func (p *pace) spent(ctx context.Context, bytes int) {
	if p.began.IsZero() {
		p.began = time.Now()
	}
	p.bytes += float64(bytes)
	const coarse = 128 << 10 // looks at the clock once for so many
	if int64(p.bytes)/coarse == int64(p.bytes-float64(bytes))/coarse {
		return
	}
	if early := time.Duration(p.bytes/p.rate*1e9) - time.Since(p.began); early > time.Millisecond {
		select {
		case <-time.After(early):
		case <-ctx.Done():
		}
	}
}

// allocated is how many bytes the files below dir take on the disk.
func allocated(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a segment that went meanwhile
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}
