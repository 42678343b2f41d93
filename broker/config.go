package broker

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/tidewire/tidewire/auth"
	"github.com/tidewire/tidewire/broker/admin"
	"github.com/tidewire/tidewire/proto/wire"
)

// DefaultPort is where clients expect a node.
const DefaultPort = 7420

// Config sets up a node. A zero field means its default.
type Config struct {
	// Address to listen on, host:port. Default 127.0.0.1:7420. Port 0 takes a free one. A host that
	// is not loopback is refused unless Insecure.
	Address string
	// Insecure allows an address others can reach, though there is no TLS and no access control.
	Insecure bool
	// AdminAddress is an address of its own, host:port, for HTTP (metrics, health) and the gRPC admin API, which
	// then are not served at Address. The same rule about loopback holds. Default: none.
	AdminAddress string
	// DataDir is the directory of this node's data; it must be empty or a node's. Required.
	DataDir string
	// Dev creates a stream when somebody publishes to a subject that none captures.
	Dev bool

	// Logger takes structured logs. Default: none.
	Logger *zap.Logger
	// Authorizer decides what clients may do. Default auth.AllowClients.
	Authorizer auth.Authorizer
	// Settings shows and reloads the node's configuration for the admin API. Default: none, a node that was
	// not started from one.
	Settings admin.Settings

	// Clock tells the time that stands beside records. Default time.Now.
	Clock func() time.Time

	// Fatal is called once when a write failed, after it was logged: the process must end, with an
	// exit code of its own, and is not expected to return. Default: nothing; see Node.Failed.
	Fatal func(error)

	// MemoryLimit is how many bytes the process should keep to; the defaults of the bounds below follow from it, and the
	// garbage collector's limit (unless GOMEMLIMIT is in the environment). Default: three quarters of what its
	// cgroup, or else the machine, has. At least 32 MiB.
	MemoryLimit int64
	// MaxConnections is how many clients may be connected. Default: seven tenths of the
	// process's limit of open files, so that segments and peers keep theirs, and no more than an eighth of
	// MemoryLimit has room for, at 16 KiB each.
	MaxConnections int
	// MaxRequests is how many requests (FETCH, METADATA, OPEN, …) one connection may have
	// unanswered. Default 1024.
	MaxRequests int
	// MaxConversations is how many producers and subscriptions one connection may have. Default 65,536.
	MaxConversations int
	// MaxCursors is how many partitions the subscriptions of one connection may read, together.
	// Default 16,384.
	MaxCursors int
	// PublishMemory bounds the bytes of batches that are queued or in flight, node-wide; beyond
	// it publishes are refused as OVERLOADED. Default a twelfth of MemoryLimit, at most 256 MiB.
	PublishMemory int64
	// HotMemory bounds the bytes of recent entries kept in memory for readers at the tail,
	// node-wide. Default a twelfth of MemoryLimit, at most 256 MiB.
	HotMemory int64
	// OutboundMemory bounds the bytes written but not yet taken by clients, node-wide; beyond it
	// nothing more is pushed or fetched for those who have some of it, until they have read. Default a twelfth of MemoryLimit, at
	// most 256 MiB.
	OutboundMemory int64
	// InboundMemory bounds the bytes of frames that have not arrived whole, node-wide; beyond it a
	// connection that waits with a large one is closed. Default a 24th of MemoryLimit, at most 256 MiB.
	InboundMemory int64
	// InFlightBytes is how many bytes of batches one connection may have unacknowledged.
	// Default 16 MiB; at least wire.MaxBatch.
	InFlightBytes int64
	// Credit is how many bytes one connection's subscriptions may have outstanding, together.
	// Default 64 MiB.
	Credit int64

	// HandshakeTimeout is how long a connection may take to its HELLO. Default 5 s.
	HandshakeTimeout time.Duration
	// IdleTimeout is how long a client may be silent. Default 2 min.
	IdleTimeout time.Duration
	// FrameTimeout is how long a frame that has begun to arrive may stand still; one that is older has to arrive at
	// 4 KiB a second. Default 30 s.
	FrameTimeout time.Duration
	// SlowConsumerTimeout is how long a client may leave what waits for it: it is closed when it took neither all nor
	// 64 KiB of it in that time. Default 30 s.
	SlowConsumerTimeout time.Duration
	// DrainTimeout is how long Stop waits for clients to take what is theirs. Default 10 s.
	DrainTimeout time.Duration
	// DeleteGrace is how long a deleted stream's data are kept. Default 24 h.
	DeleteGrace time.Duration
	// ClockSettle is how long the clock must have been steady after a jump, or after a start at which
	// it is far ahead of when the node last ran, before anything is deleted for its age; deleted streams wait for DeleteGrace
	// as well. Default 1 h.
	ClockSettle time.Duration
	// KeepInterval is how often retention by age, and purges, are looked at. Default 10 s.
	KeepInterval time.Duration

	// Commit says which commit this software was built from, for /version and metrics. Default: unknown.
	Commit string
	// MetricStreams is how many streams have a label of their own in metrics; the rest is summed.
	// Default 100; negative: none. Each costs seven series.
	MetricStreams int
	// Pprof serves profiles at /debug/pprof, to peers on this machine.
	Pprof bool
	// OTLPEndpoint is the host:port of a collector that takes traces as OTLP over gRPC. Default: none,
	// nothing is traced.
	OTLPEndpoint string
	// OTLPInsecure speaks to the collector without TLS.
	OTLPInsecure bool
	// TraceSampleRatio is which part of publishes, fetches and admin calls is traced, above 0 to 1. Default 0.001: a
	// traced batch costs some microseconds on its event loop.
	TraceSampleRatio float64
	// MinFree is how many bytes of the data directory's file system stay free: before they are touched, publishes and new
	// streams are refused (OVERLOADED), while reads, deletes, retention and Raft go on. Default: the smaller of 5 % of
	// the file system and 1 GiB. -1: none, and a full disk ends the node.
	MinFree int64

	// SegmentBytes is the size of the largest segment. Default 64 MiB.
	SegmentBytes int64
	// PoolBytes bounds recycled and spare segment files. Default 1 GiB.
	PoolBytes int64
}

func (c Config) withDefaults() Config {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	dur := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	if c.Address == "" {
		c.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(DefaultPort))
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Authorizer == nil {
		c.Authorizer = auth.AllowClients{}
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	def(&c.MemoryLimit, int64(float64(memoryThere())*memoryShare))
	if c.MaxConnections == 0 {
		c.MaxConnections = min(openFileLimit()*7/10, int(min(c.MemoryLimit/connectionShare/connectionCost, 1<<20)))
	}
	if c.MaxRequests == 0 {
		c.MaxRequests = 1024
	}
	if c.MaxConversations == 0 {
		c.MaxConversations = 1 << 16
	}
	if c.MaxCursors == 0 {
		c.MaxCursors = 1 << 14
	}
	if c.Commit == "" {
		c.Commit = "unknown"
	}
	if c.MetricStreams == 0 {
		c.MetricStreams = 100
	}
	if c.TraceSampleRatio == 0 {
		c.TraceSampleRatio = 0.001
	}
	buffer := min(c.MemoryLimit/bufferShare, largestBuffer)
	def(&c.PublishMemory, buffer)
	def(&c.HotMemory, buffer)
	def(&c.OutboundMemory, buffer)
	def(&c.InboundMemory, min(c.MemoryLimit/bufferShare/2, largestBuffer))
	def(&c.InFlightBytes, 16<<20)
	def(&c.Credit, 64<<20)
	def(&c.SegmentBytes, 64<<20)
	def(&c.PoolBytes, 1<<30)
	dur(&c.HandshakeTimeout, 5*time.Second)
	dur(&c.IdleTimeout, 2*time.Minute)
	dur(&c.FrameTimeout, 30*time.Second)
	dur(&c.SlowConsumerTimeout, 30*time.Second)
	dur(&c.DrainTimeout, 10*time.Second)
	dur(&c.DeleteGrace, 24*time.Hour)
	dur(&c.ClockSettle, time.Hour)
	dur(&c.KeepInterval, 10*time.Second)
	return c
}

// FieldError says what is wrong with a field of Config.
type FieldError struct {
	Field  string // its name, or MemoryShares
	Reason string
}

func (e *FieldError) Error() string { return e.Reason }

// MemoryShares are the fields that share MemoryLimit, together.
const MemoryShares = "memory shares"

// validate reports every bad field at once.
func (c *Config) validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, &FieldError{Field: field, Reason: fmt.Sprintf(format, args...)})
	}
	for _, at := range []struct{ field, address string }{{"Address", c.Address}, {"AdminAddress", c.AdminAddress}} {
		field, address := at.field, at.address
		host, port, err := net.SplitHostPort(address)
		switch {
		case address == "":
		case err != nil:
			bad(field, "address %q: %v; give host:port, such as 127.0.0.1:%d", address, err, DefaultPort)
		case !validPort(port):
			bad(field, "%q is no address: port %s is not 0 to 65535", address, port)
		case !c.Insecure && !loopback(host):
			bad(field, "address %q can be reached by others, and this node has no TLS and no access control: "+
				"bind 127.0.0.1, or allow it with insecure", address)
		}
	}
	if c.DataDir == "" {
		bad("DataDir", "data directory is empty: name one")
	}
	if c.InFlightBytes < wire.MaxBatch {
		bad("InFlightBytes", "bytes in flight %d is below %d, one batch", c.InFlightBytes, wire.MaxBatch)
	}
	if c.PublishMemory < 2*wire.MaxBatch {
		bad("PublishMemory", "publish memory %d is below %d, two batches", c.PublishMemory, 2*wire.MaxBatch)
	}
	if c.MemoryLimit < 32<<20 {
		bad("MemoryLimit", "memory limit %d is below %d: give the process more", c.MemoryLimit, 32<<20)
	}
	if sum, most := c.buffers(), float64(c.MemoryLimit)*largestBuffers; sum > most {
		bad(MemoryShares, "memory shares: publish %d, hot %d, outbound %d and inbound %d bytes are together more than %.0f, three quarters of the memory limit %d: "+
			"lower them, or raise the limit", c.PublishMemory, c.HotMemory, c.OutboundMemory, c.InboundMemory, most, c.MemoryLimit)
	}
	if c.MinFree < -1 {
		bad("MinFree", "free space to keep %d is below -1, which means none", c.MinFree)
	}
	if c.MaxConnections < 1 {
		bad("MaxConnections", "max connections %d is below 1", c.MaxConnections)
	}
	if !(c.TraceSampleRatio >= 0 && c.TraceSampleRatio <= 1) {
		bad("TraceSampleRatio", "trace sample ratio %v is not between 0 and 1", c.TraceSampleRatio)
	}
	if c.OTLPEndpoint != "" {
		if _, port, err := net.SplitHostPort(c.OTLPEndpoint); err != nil || port == "" {
			bad("OTLPEndpoint", "OTLP endpoint %q is no address: give host:port, such as 127.0.0.1:4317", c.OTLPEndpoint)
		}
	}
	return errors.Join(errs...)
}

func validPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
