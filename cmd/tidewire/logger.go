package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// A client must not fill a disk with lines about it: of one message logFirst lines each logPeriod are written, and
// one in logThereafter of the rest; of all together logRate a second for each of errors and what is less.
const (
	logPeriod     = 10 * time.Second
	logFirst      = 20
	logThereafter = 1000
	logRate       = 500
	logTally      = int64(time.Minute) // how often the log says how many were left out
)

// logger writes to stderr: text for people, json for programs. The level can be changed.
func (a *app) logger(level, format string) (*zap.Logger, zap.AtomicLevel, error) {
	at := zap.NewAtomicLevel()
	var l zapcore.Level
	if err := l.Set(level); err != nil || l > zapcore.ErrorLevel {
		return nil, at, fmt.Errorf("--log-level %q is not debug, info, warn or error", level)
	}
	at.SetLevel(l)
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	var enc zapcore.Encoder
	switch format {
	case "text":
		cfg.ConsoleSeparator = "  "
		cfg.EncodeTime = func(t time.Time, to zapcore.PrimitiveArrayEncoder) { to.AppendString(t.UTC().Format(timeLayout)) }
		cfg.EncodeLevel = zapcore.LowercaseLevelEncoder
		if a.color {
			cfg.EncodeLevel = zapcore.LowercaseColorLevelEncoder
		}
		enc = zapcore.NewConsoleEncoder(cfg)
	case "json":
		cfg.EncodeTime = zapcore.RFC3339NanoTimeEncoder
		enc = zapcore.NewJSONEncoder(cfg)
	default:
		return nil, at, fmt.Errorf("--log-format %q is not text or json", format)
	}
	f := &flood{}
	return zap.New(bounded(zapcore.NewCore(enc, &lines{out: a.err, dropped: &f.dropped}, at), f)), at, nil
}

// What waits to be read of the log, and how long who ends the process waits for that.
const (
	logQueue   = 1024 // lines
	logPatient = time.Second
)

// lines writes log lines on a goroutine of its own. Who logs, an event loop or what ends the process for a failed disk, never waits
// for whoever reads them: a terminal that was stopped, a pipe that is full. What is too much is left out and counted.
type lines struct {
	out     io.Writer
	dropped *atomic.Int64

	mu    sync.Mutex // guards what follows
	queue [][]byte
	done  chan struct{} // closed when all is written; nil: it is
}

// Write takes one line.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= logQueue {
		l.dropped.Add(1)
		return len(b), nil
	}
	l.queue = append(l.queue, bytes.Clone(b))
	if l.done == nil {
		l.done = make(chan struct{})
		go l.write()
	}
	return len(b), nil
}

func (l *lines) write() {
	for {
		l.mu.Lock()
		queue := l.queue
		l.queue = nil
		if len(queue) == 0 {
			close(l.done)
			l.done = nil
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, line := range queue {
			_, _ = l.out.Write(line) // nobody could be told
		}
	}
}

// Sync waits until all lines are written, but not for long.
func (l *lines) Sync() error {
	l.mu.Lock()
	done := l.done
	l.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
	case <-time.After(logPatient):
	}
	return nil
}

// bounded writes to core what the limits leave, and counts the rest.
func bounded(core zapcore.Core, f *flood) zapcore.Core {
	sampled := zapcore.NewSamplerWithOptions(&floodCore{core, f}, logPeriod, logFirst, logThereafter,
		zapcore.SamplerHook(func(_ zapcore.Entry, d zapcore.SamplingDecision) {
			if d&zapcore.LogDropped != 0 {
				f.dropped.Add(1)
			}
		}))
	return sampled
}

// flood counts what was written and left out.
type flood struct {
	dropped atomic.Int64
	told    atomic.Int64    // when dropped was last told, in ns
	second  [2]atomic.Int64 // that lines counts, of errors and of what is less
	lines   [2]atomic.Int64
}

// floodCore lets logRate lines a second through: messages that differ from one another are no way around the sampler.
type floodCore struct {
	zapcore.Core
	flood *flood
}

func (c *floodCore) With(fields []zapcore.Field) zapcore.Core {
	return &floodCore{c.Core.With(fields), c.flood}
}

func (c *floodCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return ce
	}
	f, class := c.flood, 0
	if e.Level >= zapcore.ErrorLevel {
		class = 1
	}
	if now := e.Time.Unix(); f.second[class].Swap(now) != now {
		f.lines[class].Store(0)
	}
	if f.lines[class].Add(1) > logRate {
		f.dropped.Add(1)
		return ce
	}
	if told, now := f.told.Load(), e.Time.UnixNano(); now-told >= logTally && f.told.CompareAndSwap(told, now) {
		if n := f.dropped.Swap(0); n > 0 {
			_ = c.Write(zapcore.Entry{Level: zapcore.WarnLevel, Time: e.Time, Message: "log lines were left out: too many came, or nobody has read them"},
				[]zapcore.Field{zap.Int64("lines", n)})
		}
	}
	return ce.AddCore(e, c)
}
