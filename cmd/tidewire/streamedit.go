package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
	"github.com/tidewire/tidewire/proto/wire"
)

// limitAge is an age that may be none.
type limitAge struct{ age }

func (a *limitAge) Set(s string) error {
	if s == "none" || s == "0" {
		a.age = 0
		return nil
	}
	return a.age.Set(s)
}

func (a *app) streamEditCommand() *cobra.Command {
	var maxAge limitAge
	var maxBytes byteCount
	var maxRecords uint64
	var subjects []string
	var yes answer
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use:   "edit NAME",
		Short: "Change what a stream keeps and captures",
		Long: `Change what a stream keeps and captures. What no flag names stays as it is; a limit of 0
is none. If somebody else changes the stream meanwhile, nothing is changed.

A limit that is lowered removes what is beyond it, which nothing brings back, so there is a question first.`,
		Example: "  tidewire stream edit orders --max-age 30d\n  tidewire stream edit orders --max-bytes 0 --add-subject 'returns.>'",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			with := &adminv1.Stream{Name: args[0], Retention: &adminv1.Retention{MaxBytes: uint64(maxBytes), MaxRecords: maxRecords}}
			if maxAge.age > 0 {
				with.Retention.MaxAge = durationpb.New(time.Duration(maxAge.age))
			}
			mask := &fieldmaskpb.FieldMask{}
			for flag, path := range map[string]string{"max-age": "retention.max_age", "max-bytes": "retention.max_bytes", "max-records": "retention.max_records", "add-subject": "subjects"} {
				if c.Flags().Changed(flag) {
					mask.Paths = append(mask.Paths, path)
				}
			}
			if len(mask.Paths) == 0 {
				return usage(c, errors.New("nothing to change: give --max-age, --max-bytes, --max-records or --add-subject"))
			}
			for _, s := range subjects {
				if err := wire.ValidFilter(s); err != nil {
					return usage(c, err)
				}
			}
			request := rand.Text()
			var now *adminv1.Stream
			failed := "stream " + args[0] + " was not changed"
			err := cn.admin(c.Context(), failed, func(ctx context.Context, s adminv1.StreamServiceClient) error {
				got, err := s.GetStream(ctx, &adminv1.GetStreamRequest{Name: args[0]})
				if err == nil {
					now = got.Stream
				}
				return err
			})
			if err != nil {
				return cn.noStream(c.Context(), failed, args[0], err)
			}
			with.Etag, with.Subjects = now.Etag, union(now.Subjects, subjects) // what was seen is what is changed
			if lowers(mask, now.Retention, with.Retention) {
				question := fmt.Sprintf("Keep less of stream %s? Records beyond the new limits are removed for good.", args[0])
				if err := cn.confirm(c, args[0], question, yes); err != nil {
					return err
				}
			}
			err = cn.admin(c.Context(), failed, func(ctx context.Context, s adminv1.StreamServiceClient) error {
				got, err := s.UpdateStream(ctx, &adminv1.UpdateStreamRequest{Stream: with, UpdateMask: mask, RequestId: request})
				if err != nil {
					return err
				}
				now = withPartitions(ctx, s, got.Stream)
				return nil
			})
			if err != nil {
				return err
			}
			return v.print(adminJSON(now), func() {
				st := fromAdmin(now)
				fmt.Fprintf(a.out, "stream %s captures %s and keeps %s\n", st.Name, strings.Join(st.Subjects, " and "), keeps(&st))
			})
		},
	}
	cn = a.connection(c)
	f := c.Flags()
	f.Var(&maxAge, "max-age", "how long records are kept: 36h, 7d, 2w; none: for ever")
	f.Var(&maxBytes, "max-bytes", "each partition keeps at least the newest `BYTES`; 0: all")
	f.Uint64Var(&maxRecords, "max-records", 0, "each partition keeps at least the newest `N` records; 0: all")
	f.StringArrayVar(&subjects, "add-subject", nil, "`FILTER` of subjects to capture too; repeatable")
	yes.flag(c)
	cn.completeStreams(c)
	v = a.view(c, streamJSON{})
	return c
}

// lowers reports whether one of the limits that change keeps less than it did.
func lowers(mask *fieldmaskpb.FieldMask, old, next *adminv1.Retention) bool {
	less := func(old, next uint64) bool { return next != 0 && (old == 0 || next < old) }
	for _, path := range mask.Paths {
		switch path {
		case "retention.max_age":
			if less(uint64(old.GetMaxAge().AsDuration()), uint64(next.GetMaxAge().AsDuration())) {
				return true
			}
		case "retention.max_bytes":
			if less(old.GetMaxBytes(), next.GetMaxBytes()) {
				return true
			}
		case "retention.max_records":
			if less(old.GetMaxRecords(), next.GetMaxRecords()) {
				return true
			}
		}
	}
	return false
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
