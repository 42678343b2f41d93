package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// Option changes how Connect makes a client.
type Option func(*config)

// DialFunc opens the byte stream to a node.
type DialFunc func(ctx context.Context, address string) (net.Conn, error)

// State is what became of the connection.
type State int

// The states a callback of WithStateFunc is told.
const (
	Connected    State = iota + 1 // for the first time
	Disconnected                  // lost; the error says why. The client tries again by itself
	Reconnected                   // found again
	Closed                        // by Close; the last call
)

// String gives the name in lower case.
func (s State) String() string {
	switch s {
	case Connected:
		return "connected"
	case Disconnected:
		return "disconnected"
	case Reconnected:
		return "reconnected"
	case Closed:
		return "closed"
	}
	return fmt.Sprintf("state(%d)", int(s))
}

type config struct {
	name            string
	idempotent      bool
	compress        bool
	maxInFlight     int
	inFlightBatches int
	maxBatchBytes   int
	maxBatchRecords int
	dial            DialFunc
	dialTimeout     time.Duration
	backoffMin      time.Duration
	backoffMax      time.Duration
	closeTimeout    time.Duration
	logger          *slog.Logger
	state           func(State, error)
}

func defaults() config {
	var d net.Dialer
	return config{
		idempotent:      true,
		maxInFlight:     64 << 20,
		inFlightBatches: wire.MaxInFlightBatches,
		maxBatchBytes:   256 << 10,
		maxBatchRecords: 1<<16 - 1,
		dial: func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		},
		dialTimeout:  5 * time.Second,
		backoffMin:   20 * time.Millisecond,
		backoffMax:   2 * time.Second,
		closeTimeout: 5 * time.Second,
		logger:       slog.New(slog.DiscardHandler),
	}
}

// validate reports every bad value at once.
func (c *config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("tidewire: "+format, args...))
		}
	}
	check(len(c.name) <= 200, "WithName: %d bytes, limit 200", len(c.name))
	check(c.maxInFlight > 0, "WithMaxInFlight: %d bytes is not above 0", c.maxInFlight)
	check(c.inFlightBatches > 0, "WithMaxInFlightBatches: %d is not above 0", c.inFlightBatches)
	check(c.maxBatchBytes >= wire.MinBatch && c.maxBatchBytes <= wire.MaxBatch,
		"WithMaxBatchBytes: %d is outside %d..%d", c.maxBatchBytes, wire.MinBatch, wire.MaxBatch)
	check(c.maxBatchRecords >= 1 && c.maxBatchRecords <= 1<<16-1, "WithMaxBatchRecords: %d is outside 1..65535", c.maxBatchRecords)
	check(c.dial != nil, "WithDialer: nil")
	check(c.logger != nil, "WithLogger: nil")
	check(c.dialTimeout > 0, "WithDialTimeout: %v is not above 0", c.dialTimeout)
	check(c.backoffMin > 0 && c.backoffMin <= c.backoffMax, "WithBackoff: %v..%v is no range", c.backoffMin, c.backoffMax)
	check(c.closeTimeout >= 0, "WithCloseTimeout: %v is below 0", c.closeTimeout)
	return errors.Join(errs...)
}

// WithName says who this is, in the logs of the nodes; at most 200 bytes.
func WithName(name string) Option { return func(c *config) { c.name = name } }

// WithoutIdempotence gives up the producer id by which nodes recognise what was sent again. What
// is in flight when a connection is lost then fails with ErrUnknownOutcome, since sending it again
// could store it twice. And a batch that a node refuses for the moment, under overload say, is stored
// behind those it took meanwhile: only with WithMaxInFlightBatches(1) is the order kept.
func WithoutIdempotence() Option { return func(c *config) { c.idempotent = false } }

// WithCompression compresses batches with zstd, each unless that would make it longer. They stay
// compressed on disk and on the way to consumers.
func WithCompression() Option { return func(c *config) { c.compress = true } }

// WithMaxInFlight bounds the bytes of records that are not yet acknowledged: at the bound, Publish
// and PublishAsync wait. Default 64 MiB. A small bound costs throughput, a large one memory.
func WithMaxInFlight(bytes int) Option { return func(c *config) { c.maxInFlight = bytes } }

// WithMaxInFlightBatches bounds the batches sent to one partition and not yet acknowledged. The
// node bounds them too, and the lower bound holds. Default 256; 1 sends one after the other.
func WithMaxInFlightBatches(n int) Option { return func(c *config) { c.inFlightBatches = n } }

// WithMaxBatchBytes bounds a batch, before compression; a single record may be larger, up to what
// the node takes. Default 256 KiB, at most 1 MiB. Larger batches compress better; smaller ones spread
// over more frames.
func WithMaxBatchBytes(n int) Option { return func(c *config) { c.maxBatchBytes = n } }

// WithMaxBatchRecords bounds the records of a batch. Default and most: 65535; 1 sends each record
// in a frame of its own.
func WithMaxBatchRecords(n int) Option { return func(c *config) { c.maxBatchRecords = n } }

// WithDialer replaces the TCP dial, for TLS or a tunnel, say. ctx carries the timeout.
func WithDialer(dial DialFunc) Option { return func(c *config) { c.dial = dial } }

// WithDialTimeout bounds one attempt to reach one address, handshake included. Default 5 s.
func WithDialTimeout(d time.Duration) Option { return func(c *config) { c.dialTimeout = d } }

// WithBackoff sets the wait between attempts to reconnect: it begins below min, doubles, and
// stays below max; each wait is drawn at random so that clients do not return all at once.
// Default 20 ms and 2 s.
func WithBackoff(min, max time.Duration) Option {
	return func(c *config) { c.backoffMin, c.backoffMax = min, max }
}

// WithCloseTimeout bounds how long Close waits for what is unacknowledged. Default 5 s.
func WithCloseTimeout(d time.Duration) Option { return func(c *config) { c.closeTimeout = d } }

// WithLogger logs what the client does about failures it handles by itself. Default: nothing.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.logger = l } }

// WithStateFunc calls f at each change of the connection, one call after the other. f must not block.
func WithStateFunc(f func(s State, err error)) Option { return func(c *config) { c.state = f } }

// SubscribeOption changes one Subscribe: FromFirst, FromNext, FromPositions, Window...
type SubscribeOption interface{ subscribe(*subscribeConfig) }

// FetchOption changes one Fetch: FromOffset, MaxBytes, MaxWait...
type FetchOption interface{ fetch(*fetchConfig) }

type subscribeConfig struct {
	start     wire.Start
	positions []Position
	window    int
}

type fetchConfig struct {
	start    wire.Start
	maxBytes int
	maxWait  time.Duration
	read     wire.Read
	min      uint64
}

// Start is where reading begins; it is an option of both Subscribe and Fetch.
type Start struct{ at wire.Start }

func (s Start) subscribe(c *subscribeConfig) { c.start = s.at }
func (s Start) fetch(c *fetchConfig)         { c.start = s.at }

// FromFirst begins at the oldest record kept.
func FromFirst() Start { return Start{wire.Start{From: wire.FromFirst}} }

// FromLast begins at the newest record of each partition.
func FromLast() Start { return Start{wire.Start{From: wire.FromLast}} }

// FromNext begins with what is published after the call: the default of Subscribe.
func FromNext() Start { return Start{wire.Start{From: wire.FromNext}} }

// FromOffset begins at an offset; a subscription's filter must then select one partition.
func FromOffset(offset uint64) Start {
	return Start{wire.Start{From: wire.FromOffset, Value: offset}}
}

// FromTime begins with the first record the broker took at or after t.
func FromTime(t time.Time) Start {
	return Start{wire.Start{From: wire.FromTime, Value: uint64(max(0, t.UnixMilli()))}}
}

type subscribeFunc func(*subscribeConfig)

func (f subscribeFunc) subscribe(c *subscribeConfig) { f(c) }

// FromPositions goes on exactly where Positions of an earlier subscription stood. Partitions not
// among them begin at their first record, unless another From option says otherwise.
func FromPositions(positions []Position) SubscribeOption {
	return subscribeFunc(func(c *subscribeConfig) {
		c.positions = append([]Position{}, positions...)
		if c.start.From == wire.FromNext {
			c.start = wire.Start{From: wire.FromFirst}
		}
	})
}

// Window bounds the bytes a node may send ahead of what the program has consumed. Default 4 MiB,
// or what the node allows if that is less.
func Window(bytes int) SubscribeOption {
	return subscribeFunc(func(c *subscribeConfig) { c.window = bytes })
}

type fetchFunc func(*fetchConfig)

func (f fetchFunc) fetch(c *fetchConfig) { f(c) }

// MaxBytes bounds the batches of one Fetch; at least one comes if there is any. Default 1 MiB.
func MaxBytes(n int) FetchOption { return fetchFunc(func(c *fetchConfig) { c.maxBytes = n }) }

// MaxWait is how long the node waits for a first record if there is none. Default 0: it answers at once.
func MaxWait(d time.Duration) FetchOption { return fetchFunc(func(c *fetchConfig) { c.maxWait = d }) }

// ReadYourWrites reads from a replica only once it has the record of ack (of this partition), so
// that what was just published is seen whichever node answers. It may wait up to MaxWait.
func ReadYourWrites(ack Ack) FetchOption {
	return fetchFunc(func(c *fetchConfig) { c.read, c.min = wire.ReadMinOffset, ack.Offset })
}

// Linearizable reads everything acknowledged to anyone before the call.
func Linearizable() FetchOption {
	return fetchFunc(func(c *fetchConfig) { c.read, c.min = wire.ReadLinearizable, 0 })
}
