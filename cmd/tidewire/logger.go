package main

import (
	"fmt"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logger writes to stderr: text for people, json for programs.
func (a *app) logger(level, format string) (*zap.Logger, error) {
	var at zapcore.Level
	if err := at.Set(level); err != nil || at > zapcore.ErrorLevel {
		return nil, fmt.Errorf("--log-level %q is not debug, info, warn or error", level)
	}
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	var enc zapcore.Encoder
	switch format {
	case "text":
		cfg.ConsoleSeparator = "  "
		cfg.EncodeTime = zapcore.TimeEncoderOfLayout(time.TimeOnly + ".000")
		cfg.EncodeLevel = zapcore.LowercaseLevelEncoder
		if a.color {
			cfg.EncodeLevel = zapcore.LowercaseColorLevelEncoder
		}
		enc = zapcore.NewConsoleEncoder(cfg)
	case "json":
		cfg.EncodeTime = zapcore.RFC3339NanoTimeEncoder
		enc = zapcore.NewJSONEncoder(cfg)
	default:
		return nil, fmt.Errorf("--log-format %q is not text or json", format)
	}
	return zap.New(zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(a.err)), at)), nil
}
