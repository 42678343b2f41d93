package config

import (
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/proto/wire"
)

// Kind is what the value of a setting is.
type Kind string

// The kinds.
const (
	Text     Kind = "text"
	Bool     Kind = "true or false"
	Count    Kind = "number"
	Bytes    Kind = "bytes"
	Duration Kind = "duration"
	Ratio    Kind = "above 0 to 1"
)

// Config is everything a node's process is set to.
type Config struct {
	broker.Config
	LogLevel  string // debug, info, warn, error
	LogFormat string // text, json
}

// Setting describes one key; flag, environment variable, documents and schema follow from it.
type Setting struct {
	Key  string // section.name, in lower case
	Kind Kind
	Min  int64 // Count, Bytes; Duration in nanoseconds
	Max  int64
	// OneOf are the values a Text may have; empty: any.
	OneOf []string
	// None lets the word none stand for -1, which a Count or Bytes means as no limit.
	None bool
	// Doc is a sentence; up to its first semicolon it is the flag's help.
	Doc string
	// Default describes a default that depends on the machine; empty: what the zero Config comes to.
	Default string
	// Example is a value for the example file, where the default depends on the machine.
	Example string
	// Reloadable settings change with SIGHUP; others need a restart.
	Reloadable bool
	// Secret values are never shown.
	Secret bool

	field func(*Config) any // pointer to the value
}

// table is every setting. A new one is one line here; TestTable says when broker.Config has a field that is missing.
var table = finish([]Setting{
	{Key: "listen", Kind: Text, field: func(c *Config) any { return &c.Address },
		Doc: "`ADDRESS` to listen on; port 0 takes a free one"},
	{Key: "admin.listen", Kind: Text, field: func(c *Config) any { return &c.AdminAddress },
		Doc: "`ADDRESS` for HTTP and the admin API alone; without one they are served where clients connect"},
	{Key: "data", Kind: Text, field: func(c *Config) any { return &c.DataDir },
		Doc: "`DIR` of the node's data; made if it is not there"},
	{Key: "insecure", Kind: Bool, field: func(c *Config) any { return &c.Insecure },
		Doc: "allow an address others can reach, though anybody may do anything"},
	{Key: "dev", Kind: Bool, field: func(c *Config) any { return &c.Dev },
		Doc: "create a stream when somebody publishes to a subject that none captures"},

	{Key: "log.level", Kind: Text, OneOf: []string{"debug", "info", "warn", "error"}, Reloadable: true, field: func(c *Config) any { return &c.LogLevel },
		Doc: "log from `LEVEL` on: debug, info, warn, error"},
	{Key: "log.format", Kind: Text, OneOf: []string{"text", "json"}, field: func(c *Config) any { return &c.LogFormat },
		Doc: "text or json"},

	{Key: "limits.max-connections", Kind: Count, Min: 1, Max: 1 << 20, Default: "by the limits of files and memory", Example: "10000", field: func(c *Config) any { return &c.MaxConnections },
		Doc: "clients that may be connected; more are refused as OVERLOADED"},
	{Key: "limits.max-requests", Kind: Count, Min: 1, Max: 1 << 20, field: func(c *Config) any { return &c.MaxRequests },
		Doc: "requests one connection may have unanswered"},
	{Key: "limits.max-conversations", Kind: Count, Min: 1, Max: 1 << 24, field: func(c *Config) any { return &c.MaxConversations },
		Doc: "producers and subscriptions one connection may have"},
	{Key: "limits.max-cursors", Kind: Count, Min: 1, Max: 1 << 24, field: func(c *Config) any { return &c.MaxCursors },
		Doc: "partitions one connection may read, over all its subscriptions"},
	{Key: "limits.in-flight-bytes", Kind: Bytes, Min: wire.MaxBatch, Max: 1 << 40, field: func(c *Config) any { return &c.InFlightBytes },
		Doc: "unacknowledged bytes one connection may publish; a connection keeps what it was told when it was made, if that is more"},
	{Key: "limits.credit-bytes", Kind: Bytes, Min: wire.MaxBatch, Max: 1 << 40, field: func(c *Config) any { return &c.Credit },
		Doc: "bytes one connection's subscriptions may have outstanding; a connection keeps what it was told when it was made, if that is more"},

	{Key: "memory.limit", Kind: Bytes, Min: 32 << 20, Max: 1 << 44, Default: "3/4 of what there is", Example: "2GiB", field: func(c *Config) any { return &c.MemoryLimit },
		Doc: "bytes of memory the process keeps to; there is what the cgroup, or else the machine, has; the other bounds of memory follow from it, and may be at most 3/4 of it together"},
	{Key: "memory.publish-bytes", Kind: Bytes, Default: "1/12 of the limit", Example: "128MiB", Min: 2 * wire.MaxBatch, Max: 1 << 44, field: func(c *Config) any { return &c.PublishMemory },
		Doc: "bytes of batches queued or in flight on the node; at most 256MiB by default; beyond it publishes are refused as OVERLOADED"},
	{Key: "memory.hot-bytes", Kind: Bytes, Default: "1/12 of the limit", Example: "128MiB", Min: 1, Max: 1 << 44, field: func(c *Config) any { return &c.HotMemory },
		Doc: "bytes of recent entries kept for readers; at most 256MiB by default"},
	{Key: "memory.outbound-bytes", Kind: Bytes, Default: "1/12 of the limit", Example: "128MiB", Min: wire.MaxBatch, Max: 1 << 44, field: func(c *Config) any { return &c.OutboundMemory },
		Doc: "bytes that clients have not taken yet; at most 256MiB by default; beyond it nothing more is pushed or fetched for who has much of it, and who takes little is closed sooner"},
	{Key: "memory.inbound-bytes", Kind: Bytes, Default: "1/24 of the limit", Example: "64MiB", Min: wire.MaxBatch, Max: 1 << 44, field: func(c *Config) any { return &c.InboundMemory },
		Doc: "bytes of frames that have not arrived whole; at most 256MiB by default; beyond it a connection that waits with a large one is closed"},

	{Key: "timeouts.handshake", Kind: Duration, Min: ms, Max: day, field: func(c *Config) any { return &c.HandshakeTimeout },
		Doc: "how long a connection may take to say HELLO"},
	{Key: "timeouts.idle", Kind: Duration, Min: 100 * ms, Max: 365 * day, field: func(c *Config) any { return &c.IdleTimeout },
		Doc: "how long a client may be silent; a connection keeps what it was told when it was made, if that is more"},
	{Key: "timeouts.frame", Kind: Duration, Min: 100 * ms, Max: day, field: func(c *Config) any { return &c.FrameTimeout },
		Doc: "how long a frame that has begun to arrive may stand still; one that is older has to arrive at 4 KiB a second"},
	{Key: "timeouts.slow-consumer", Kind: Duration, Min: 100 * ms, Max: day, field: func(c *Config) any { return &c.SlowConsumerTimeout },
		Doc: "how long a client may leave what was sent to it; then it is closed"},
	{Key: "timeouts.drain", Kind: Duration, Min: ms, Max: day, field: func(c *Config) any { return &c.DrainTimeout },
		Doc: "how long a stopping node waits for its clients"},

	{Key: "streams.delete-grace", Kind: Duration, Min: ms, Max: 3650 * day, field: func(c *Config) any { return &c.DeleteGrace },
		Doc: "how long a deleted stream's data are kept"},
	{Key: "streams.clock-settle", Kind: Duration, Min: ms, Max: 365 * day, field: func(c *Config) any { return &c.ClockSettle },
		Doc: "how long after a jump of the clock nothing is deleted for its age"},
	{Key: "streams.keep-interval", Kind: Duration, Min: 10 * ms, Max: day, field: func(c *Config) any { return &c.KeepInterval },
		Doc: "how often retention by age, and purges, are looked at"},

	{Key: "storage.segment-bytes", Kind: Bytes, Min: 2 << 20, Max: 1<<32 - 1, field: func(c *Config) any { return &c.SegmentBytes },
		Doc: "size of the largest segment file"},
	{Key: "storage.pool-bytes", Kind: Bytes, Min: 1, Max: 1 << 44, field: func(c *Config) any { return &c.PoolBytes },
		Doc: "bytes of recycled and spare segment files"},
	{Key: "storage.min-free", Kind: Bytes, Min: 1, Max: 1 << 50, None: true, Default: "5 %, at most 1GiB", Example: "1GiB", field: func(c *Config) any { return &c.MinFree },
		Doc: "bytes of the file system that stay free; before they are touched, publishes and new streams are refused"},

	{Key: "telemetry.streams", Kind: Count, Min: 1, Max: 100_000, None: true, field: func(c *Config) any { return &c.MetricStreams },
		Doc: "streams with a label of their own in metrics; the rest is summed"},
	{Key: "telemetry.pprof", Kind: Bool, field: func(c *Config) any { return &c.Pprof },
		Doc: "serve profiles at /debug/pprof, to peers on this machine"},
	{Key: "telemetry.otlp-endpoint", Kind: Text, field: func(c *Config) any { return &c.OTLPEndpoint },
		Doc: "`ADDRESS` of a collector that takes traces as OTLP over gRPC; without one nothing is traced"},
	{Key: "telemetry.otlp-insecure", Kind: Bool, field: func(c *Config) any { return &c.OTLPInsecure },
		Doc: "speak to the collector without TLS"},
	{Key: "telemetry.sample-ratio", Kind: Ratio, field: func(c *Config) any { return &c.TraceSampleRatio },
		Doc: "part of publishes, fetches and calls that is traced"},
})

const (
	ms  = int64(time.Millisecond)
	day = 24 * int64(time.Hour)
)

// notSettings are the exported fields of broker.Config that no file can set, and why.
var notSettings = map[string]string{
	"Logger":     "made by the process from log.level and log.format",
	"Authorizer": "a program's, until there is access control to configure",
	"Clock":      "a test's",
	"Commit":     "of the build",
	"Settings":   "made by the process from all of this",
	"Fatal":      "what the process does when the node fails",
}

// finish fills in what follows from broker.Config.
func finish(settings []Setting) []Setting {
	for i := range settings {
		s := &settings[i]
		if name := s.brokerField(); name != "" {
			s.Reloadable = broker.Reloadable(name)
		}
		if s.Kind == Text || s.Kind == Bool || s.Kind == Ratio {
			continue
		}
		if s.Max == 0 {
			s.Max = math.MaxInt64
		}
	}
	return settings
}

// brokerField is the name of the field of broker.Config that s sets, or "".
func (s *Setting) brokerField() string {
	var c Config
	at := reflect.ValueOf(s.field(&c)).Pointer()
	v := reflect.ValueOf(&c.Config).Elem()
	for i := range v.NumField() {
		if v.Field(i).Addr().Pointer() == at {
			return v.Type().Field(i).Name
		}
	}
	return ""
}

// Table gives every setting.
func Table() []Setting { return append([]Setting(nil), table...) }

func find(key string) *Setting {
	for i := range table {
		if table[i].Key == key {
			return &table[i]
		}
	}
	return nil
}

// Flag is the name of the setting's flag, without dashes.
func (s *Setting) Flag() string { return strings.ReplaceAll(s.Key, ".", "-") }

// Env is the name of the setting's environment variable.
func (s *Setting) Env() string {
	return "TIDEWIRE_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(s.Key))
}

// Default values that are not broker.Config's.
var ownDefaults = Config{LogLevel: "info", LogFormat: "text"}

// defaults is what a node is set to when nobody says anything. What depends on the machine, or on another setting that
// may yet be given, is left to the node: zero.
func defaults() Config {
	c := ownDefaults
	c.Config = c.WithDefaults()
	for i := range table {
		if s := &table[i]; s.Default != "" {
			reflect.ValueOf(s.field(&c)).Elem().SetZero()
		}
	}
	return c
}

// DefaultText is the default for a reader.
func (s *Setting) DefaultText() string {
	if s.Default != "" {
		return s.Default
	}
	c := defaults()
	return s.text(&c)
}

// text is the value of s in c, as parse would read it.
func (s *Setting) text(c *Config) string {
	switch p := s.field(c).(type) {
	case *string:
		return *p
	case *float64:
		return strconv.FormatFloat(*p, 'g', -1, 64)
	case *bool:
		return strconv.FormatBool(*p)
	case *int:
		if s.None && *p == -1 {
			return "none"
		}
		return strconv.Itoa(*p)
	case *int64:
		if s.None && *p == -1 {
			return "none"
		}
		if s.Kind == Bytes {
			return BytesText(*p)
		}
		return strconv.FormatInt(*p, 10)
	case *time.Duration:
		return DurationText(*p)
	}
	panic("config: a setting of a type that has no text: " + s.Key)
}

// number is n as a value of s is written.
func (s *Setting) number(n int64) string {
	switch s.Kind {
	case Bytes:
		return BytesText(n)
	case Duration:
		return DurationText(time.Duration(n))
	}
	return strconv.FormatInt(n, 10)
}

// Range is what values s may have, for a reader; "" if any.
func (s *Setting) Range() string {
	switch s.Kind {
	case Text:
		return strings.Join(s.OneOf, ", ")
	case Bool, Ratio:
		return ""
	}
	if s.None {
		return s.number(s.Min) + " to " + s.number(s.Max) + ", or none"
	}
	return s.number(s.Min) + " to " + s.number(s.Max)
}
