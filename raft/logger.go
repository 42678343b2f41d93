package raft

import (
	"errors"
	"fmt"
	"io"
	"log"
	"strings"

	"github.com/hashicorp/go-hclog"
	hraft "github.com/hashicorp/raft"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger lets hashicorp/raft write to zap. Raft's Info tells of every election of every group:
// it becomes Debug, so that a node with a thousand partitions starts quietly.
type zapLogger struct {
	z       *zap.Logger
	name    string
	implied []any
}

var _ hclog.Logger = (*zapLogger)(nil)

func newLogger(z *zap.Logger) *zapLogger {
	return &zapLogger{z: z.WithOptions(zap.AddCallerSkip(2))}
}

// zapLevel maps raft's levels to ours.
func zapLevel(l hclog.Level) zapcore.Level {
	switch l {
	case hclog.Error:
		return zapcore.ErrorLevel
	case hclog.Warn:
		return zapcore.WarnLevel
	default:
		return zapcore.DebugLevel
	}
}

func (l *zapLogger) Log(level hclog.Level, msg string, args ...any) {
	if level == hclog.Off {
		return
	}
	if expected(args) {
		level = hclog.Debug
	}
	if entry := l.z.Check(zapLevel(level), msg); entry != nil {
		entry.Write(fields(args)...)
	}
}

// expected reports whether raft complains of what is no trouble: a snapshot of nothing new.
func expected(args []any) bool {
	for _, a := range args {
		if err, ok := a.(error); ok && errors.Is(err, hraft.ErrNothingNewToSnapshot) {
			return true
		}
	}
	return false
}

// fields turns alternating names and values into zap fields.
func fields(args []any) []zap.Field {
	out := make([]zap.Field, 0, (len(args)+1)/2)
	for i := 0; i < len(args); i += 2 {
		if i+1 == len(args) {
			out = append(out, zap.Any("extra", args[i]))
			break
		}
		name, ok := args[i].(string)
		if !ok {
			name = fmt.Sprint(args[i])
		}
		switch v := args[i+1].(type) {
		case error:
			out = append(out, zap.NamedError(name, v))
		case hclog.Format: // "%+v" and its values, formatted only now that it is written
			if len(v) > 0 {
				if format, ok := v[0].(string); ok {
					out = append(out, zap.String(name, fmt.Sprintf(format, v[1:]...)))
				}
			}
		case fmt.Stringer:
			out = append(out, zap.String(name, v.String()))
		default:
			out = append(out, zap.Any(name, v))
		}
	}
	return out
}

func (l *zapLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *zapLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *zapLogger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *zapLogger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *zapLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *zapLogger) enabled(level hclog.Level) bool { return l.z.Core().Enabled(zapLevel(level)) }

func (l *zapLogger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *zapLogger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *zapLogger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *zapLogger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *zapLogger) IsError() bool { return l.enabled(hclog.Error) }

func (l *zapLogger) ImpliedArgs() []any { return l.implied }
func (l *zapLogger) Name() string       { return l.name }

func (l *zapLogger) With(args ...any) hclog.Logger {
	implied := append(append([]any{}, l.implied...), args...)
	return &zapLogger{z: l.z.With(fields(args)...), name: l.name, implied: implied}
}

func (l *zapLogger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return &zapLogger{z: l.z.Named(name), name: name, implied: l.implied}
}

func (l *zapLogger) ResetNamed(name string) hclog.Logger {
	return &zapLogger{z: l.z, name: name, implied: l.implied}
}

// SetLevel does nothing: levels belong to the zap logger.
func (l *zapLogger) SetLevel(hclog.Level) {}

func (l *zapLogger) GetLevel() hclog.Level {
	switch {
	case l.IsDebug():
		return hclog.Debug
	case l.IsWarn():
		return hclog.Warn
	default:
		return hclog.Error
	}
}

func (l *zapLogger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

func (l *zapLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return lineWriter{l}
}

// lineWriter writes each line as one entry.
type lineWriter struct{ l *zapLogger }

func (w lineWriter) Write(b []byte) (int, error) {
	w.l.Info(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}
