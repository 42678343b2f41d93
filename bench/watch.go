package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrNoAnswer ends a workload whose Timeout is over, with records on their way.
var ErrNoAnswer = errors.New("no answer came")

// Watch calls late, once, when something is on its way and nothing was answered for so long; 0: never. The function it returns
// stops the watch.
func Watch(timeout time.Duration, counts func() (handed, answered uint64), late func()) (stop func()) {
	if timeout == 0 {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(max(timeout/10, time.Millisecond))
		defer tick.Stop()
		last, since := uint64(0), time.Now()
		for {
			select {
			case <-done:
				return
			case now := <-tick.C:
				handed, answered := counts()
				if answered == handed || answered != last {
					last, since = answered, now
				} else if now.Sub(since) > timeout {
					late()
					return
				}
			}
		}
	}()
	return sync.OnceFunc(func() { close(done) })
}

// noAnswer ends a workload.
func noAnswer(cancel context.CancelCauseFunc, timeout time.Duration) func() {
	return func() { cancel(fmt.Errorf("%w for %v", ErrNoAnswer, timeout)) }
}

// within bounds ctx; 0: not, for what was dialled may live on with it.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, timeout)
}
