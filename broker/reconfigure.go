package broker

import (
	"reflect"
	"time"
)

// reloadable are the fields of Config that Reconfigure takes over while the node runs. Sessions read
// them when they need them, so a limit holds from the next connection or frame on; what a client was
// told in WELCOME (bytes in flight, credit, idle time) holds for its connection as long as it lasts,
// unless the new value is larger. All others need a restart.
var reloadable = map[string]bool{
	"Dev":                 true,
	"MaxConnections":      true,
	"MaxRequests":         true,
	"MaxConversations":    true,
	"MaxCursors":          true,
	"PublishMemory":       true,
	"HotMemory":           true,
	"OutboundMemory":      true,
	"InboundMemory":       true,
	"InFlightBytes":       true,
	"Credit":              true,
	"HandshakeTimeout":    true,
	"IdleTimeout":         true,
	"FrameTimeout":        true,
	"SlowConsumerTimeout": true,
	"ClockSettle":         true,
	"MinFree":             true,
	"DrainTimeout":        true,
	"DeleteGrace":         true,
	"KeepInterval":        true,
}

// Reloadable reports whether the field of Config called so can change while a node runs.
func Reloadable(field string) bool { return reloadable[field] }

// WithDefaults is c with what is zero set to its default.
func (c Config) WithDefaults() Config { return c.withDefaults() }

// Validate reports every bad field at once; zero fields count as their defaults.
func (c Config) Validate() error {
	c = c.withDefaults()
	return c.validate()
}

// Reconfigure takes over what cfg changes, all of it or, if cfg has any error, nothing. It returns
// the names of the fields that changed, and of those that differ but need a restart; these stay as
// they are. What a program gives rather than its user (Logger, Authorizer, Clock, Fatal) is not looked at.
// Safe for concurrent use.
func (n *Node) Reconfigure(cfg Config) (changed, restart []string, err error) {
	n.cfgMu.Lock()
	defer n.cfgMu.Unlock()
	whole := cfg.withDefaults()
	if err := whole.validate(); err != nil {
		return nil, nil, err
	}
	next := *n.config()
	holds, given, said := reflect.ValueOf(&next).Elem(), reflect.ValueOf(&cfg).Elem(), reflect.ValueOf(whole)
	for i := range holds.NumField() {
		name := holds.Type().Field(i).Name
		switch holds.Field(i).Kind() {
		case reflect.Func, reflect.Interface, reflect.Pointer, reflect.Chan:
			continue
		}
		if reloadable[name] {
			continue
		}
		if !reflect.DeepEqual(holds.Field(i).Interface(), said.Field(i).Interface()) {
			restart = append(restart, name)
		}
		given.Field(i).Set(holds.Field(i)) // it holds, and so does what follows from it where nothing is said: shares of the memory
	}
	cfg = cfg.withDefaults()
	for i := range holds.NumField() {
		name := holds.Type().Field(i).Name
		if reloadable[name] && !reflect.DeepEqual(holds.Field(i).Interface(), given.Field(i).Interface()) {
			holds.Field(i).Set(given.Field(i))
			changed = append(changed, name)
		}
	}
	if err := next.validate(); err != nil { // new values beside old ones that need a restart
		return nil, restart, err
	}
	n.cfg.Store(&next)
	n.budget.SetLimit(next.PublishMemory)
	n.hot.SetLimit(next.HotMemory)
	select {
	case n.reconfigured <- struct{}{}:
	default: // it has not looked since the last time
	}
	return changed, restart, nil
}

// promise is what WELCOME told a client of its limits; a reload does not take it back.
type promise struct {
	inFlight, credit int64 // bytes
	idle             time.Duration
}

func (s *session) inFlightLimit() int64 {
	return max(s.promised.inFlight, s.node.config().InFlightBytes)
}
func (s *session) creditLimit() int64 { return max(s.promised.credit, s.node.config().Credit) }
func (s *session) idleTimeout() time.Duration {
	return max(s.promised.idle, s.node.config().IdleTimeout)
}
