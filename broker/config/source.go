package config

import (
	"context"
	"errors"
	"reflect"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tidewire/tidewire/broker"
)

// node is what a Source needs of a broker.Node.
type node interface {
	Reconfigure(broker.Config) (changed, restart []string, err error)
}

// Change is a setting that a reload found different.
type Change struct{ Key, From, To string }

// Reloaded is what a reload came to.
type Reloaded struct {
	Changed []Change // holds from now on
	Restart []Change // From still holds: the process must be started again
}

// View is a setting as a running process has it.
type View struct {
	*Setting
	Value  string // what holds; empty for a secret
	Origin string // default, file:line:column, an environment variable or a flag
}

// Source is the configuration of a running process: it can tell and reload it. Safe for concurrent use.
type Source struct {
	options Options
	level   zap.AtomicLevel
	log     *zap.Logger

	mu      sync.Mutex // guards what follows; one reload at a time
	current *Loaded
	node    node
}

// NewSource makes the Source of what Load gave for options. level is what a changed log.level is set at.
func NewSource(options Options, loaded *Loaded, level zap.AtomicLevel, log *zap.Logger) *Source {
	return &Source{options: options, level: level, log: log, current: loaded}
}

// Bind names the node that reloads reach; without one there is nothing to reload.
func (s *Source) Bind(n node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node = n
}

// Settings gives every setting with the value that holds, in the order of the table.
func (s *Source) Settings() []View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current.Settings()
}

// Settings gives every setting with its value, in the order of the table.
func (l *Loaded) Settings() []View {
	views := make([]View, len(table))
	for i := range table {
		s := &table[i]
		views[i] = View{Setting: s, Value: s.shown(&l.Config), Origin: l.Origin(s.Key)}
	}
	return views
}

// shown is the value of s in c, unless it is a secret; where it was left to the node, what that comes to here.
func (s *Setting) shown(c *Config) string {
	full := *c
	full.Config = c.WithDefaults()
	c = &full
	switch {
	case s.Secret:
		return ""
	case s.Default != "" && reflect.ValueOf(s.field(c)).Elem().IsZero(): // the node finds out
		return s.Default
	}
	return s.text(c)
}

// ErrNotRunning says that there is no node yet to reload.
var ErrNotRunning = errors.New("config: the node has not started yet")

// Reload reads the file again, beside the environment and flags of the start, and takes over what can
// change while the node runs: all of it, or nothing if anything is wrong. What was done, or why
// not, is logged. Errors: Problems; ErrNotRunning.
func (s *Source) Reload(context.Context) (Reloaded, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	done, err := s.reloadLocked()
	if err != nil {
		why := []string{err.Error()}
		if p, ok := errors.AsType[Problems](err); ok {
			why = p.Lines()
		}
		s.log.Error("the configuration was not reloaded; everything stays as it was", zap.Strings("problems", why))
		return done, err
	}
	for _, c := range done.Changed {
		s.log.Info("setting changed", zap.String("key", c.Key), zap.String("from", c.From), zap.String("to", c.To))
	}
	for _, c := range done.Restart {
		s.log.Warn("setting needs a restart; the old value holds", zap.String("key", c.Key), zap.String("holds", c.From), zap.String("in the configuration", c.To))
	}
	s.log.Info("configuration reloaded", zap.Int("changed", len(done.Changed)), zap.Int("need a restart", len(done.Restart)))
	return done, nil
}

func (s *Source) reloadLocked() (done Reloaded, err error) {
	if s.node == nil {
		return done, ErrNotRunning
	}
	next, err := Load(s.options)
	if err != nil {
		return done, err
	}
	var level zapcore.Level
	if err := level.Set(next.LogLevel); err != nil {
		return done, err
	}
	if _, _, err := s.node.Reconfigure(next.Config.Config); err != nil {
		return done, err
	}
	s.level.SetLevel(level)
	holds := &Loaded{Config: s.current.Config, origins: make(map[string]string)}
	for i := range table {
		t := &table[i]
		from, to := t.text(&s.current.Config), t.text(&next.Config)
		if from != to {
			change := Change{t.Key, t.shown(&s.current.Config), t.shown(&next.Config)}
			if !t.Reloadable {
				done.Restart = append(done.Restart, change)
				holds.origins[t.Key] = s.current.Origin(t.Key)
				continue
			}
			done.Changed = append(done.Changed, change)
			reflect.ValueOf(t.field(&holds.Config)).Elem().Set(reflect.ValueOf(t.field(&next.Config)).Elem())
		}
		holds.origins[t.Key] = next.Origin(t.Key)
	}
	s.current = holds
	return done, nil
}
