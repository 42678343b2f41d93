package harness

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
)

// Pump publishes a writer's records as fast as they are taken, through a client of its own that
// finds the node again by itself after every fault. It ends with the test.
type Pump struct {
	Client *client.Client
	Tap    *Tap // nil unless asked for
	writer *Writer
	cancel context.CancelFunc
	done   chan struct{}
	err    error // why it ended, if not because it was told to
	closed bool
}

// PumpConfig says how to publish.
type PumpConfig struct {
	BatchRecords int // records a batch; default 8: so that many batches are in flight
	InFlight     int // bytes unacknowledged; default 2 MiB
	Tap          bool
	Options      []client.Option // further ones
}

// StartPump connects and begins to publish. The stream must exist.
func StartPump(t testing.TB, j *Journal, address string, cfg PumpConfig) *Pump {
	t.Helper()
	if cfg.BatchRecords == 0 {
		cfg.BatchRecords = 8
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 2 << 20
	}
	p := &Pump{writer: j.Writer(), done: make(chan struct{})}
	options := []client.Option{
		client.WithName(fmt.Sprintf("pump %d", p.writer.number)),
		client.WithMaxBatchRecords(cfg.BatchRecords),
		client.WithMaxInFlight(cfg.InFlight),
		client.WithBackoff(5*time.Millisecond, 100*time.Millisecond),
		client.WithCloseTimeout(0),
	}
	if cfg.Tap {
		p.Tap = NewTap()
		options = append(options, client.WithDialer(p.Tap.Dial))
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	c, err := client.Connect(ctx, address, append(options, cfg.Options...)...)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	p.Client = c
	run, stop := context.WithCancel(context.Background())
	p.cancel = stop
	t.Cleanup(p.Abandon)
	go p.run(run)
	return p
}

func (p *Pump) run(ctx context.Context) {
	defer close(p.done)
	for ctx.Err() == nil {
		sequence, m := p.writer.Next()
		err := p.Client.PublishAsync(ctx, m, func(ack client.Ack, err error) {
			if errors.Is(err, client.ErrClosed) {
				return // given up by Abandon: it may be stored or not
			}
			p.writer.Told(sequence, ack, err)
		})
		if err != nil {
			// Not taken, so never published: it is the last of this writer, and stays unacknowledged.
			if ctx.Err() == nil {
				p.err = err
				p.writer.journal.fail(fmt.Errorf("producer %d, record %d was not taken: %w", p.writer.number, sequence, err))
			}
			return
		}
	}
}

// Finish stops publishing, waits until everything published is acknowledged, and closes the client.
func (p *Pump) Finish(t testing.TB) {
	t.Helper()
	p.cancel()
	<-p.done
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	if err := p.Client.Flush(ctx); err != nil {
		t.Errorf("producer %d: flush: %v", p.writer.number, err)
	}
	p.Abandon()
	if p.err != nil {
		t.Errorf("producer %d: %v", p.writer.number, p.err)
	}
}

// Abandon stops publishing and closes the client with whatever is unacknowledged.
func (p *Pump) Abandon() {
	p.cancel()
	<-p.done
	if !p.closed {
		p.closed = true
		_ = p.Client.Close() // says what was unacknowledged
	}
}
