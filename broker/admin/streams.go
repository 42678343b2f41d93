package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidewire/tidewire/cluster"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
	"github.com/tidewire/tidewire/proto/wire"
)

// nameOf is the name of the stream a request is about, or empty.
func nameOf(request any) string {
	switch r := request.(type) {
	case interface{ GetName() string }:
		return r.GetName()
	case interface{ GetStream() *adminv1.Stream }:
		return r.GetStream().GetName()
	}
	return ""
}

// toProto is a stream as callers see it.
func (s *Server) toProto(st *cluster.Stream, partitions bool) *adminv1.Stream {
	p := &adminv1.Stream{Name: st.Name, Id: st.ID, Subjects: st.Subjects, Partitions: uint32(len(st.Partitions)), Replicas: uint32(st.Replicas),
		Retention:  &adminv1.Retention{MaxBytes: st.Retention.MaxBytes, MaxRecords: st.Retention.MaxRecords},
		CreateTime: timestamppb.New(time.UnixMilli(st.Created)), Etag: st.ETag()}
	if age := st.Retention.MaxAge; age != 0 {
		p.Retention.MaxAge = durationpb.New(age)
	}
	if st.Deleted != 0 {
		at := time.UnixMilli(st.Deleted)
		p.DeleteTime, p.PurgeTime = timestamppb.New(at), timestamppb.New(at.Add(s.cfg.Node.DeleteGrace()))
	}
	if partitions && st.Deleted != 0 {
		p.DeletedBytes = s.cfg.Node.DeletedBytes(st)
	}
	if partitions && st.Deleted == 0 {
		for i, info := range s.cfg.Node.Partitions(st) {
			p.PartitionStates = append(p.PartitionStates, &adminv1.Partition{Number: uint32(i), Leader: info.Leader, Epoch: info.Epoch,
				StartOffset: info.Start, HighWatermark: info.HighWatermark, Bytes: info.Bytes})
		}
	}
	return p
}

func retention(r *adminv1.Retention) (wire.Retention, error) {
	out := wire.Retention{MaxBytes: r.GetMaxBytes(), MaxRecords: r.GetMaxRecords()}
	if d := r.GetMaxAge(); d != nil {
		if err := d.CheckValid(); err != nil {
			return out, badField("stream.retention.max_age", "%v", err)
		}
		out.MaxAge = d.AsDuration()
		if out.MaxAge < 0 || out.MaxAge%time.Millisecond != 0 {
			return out, badField("stream.retention.max_age", "%s: give whole milliseconds, 0 for no limit", out.MaxAge)
		}
	}
	return out, nil
}

// change is what calls that change something have in common.
type change interface {
	proto.Message
	GetRequestId() string
	GetValidateOnly() bool
}

// once answers a change from memory if it was made before, else makes it by do.
func (s *Server) once(r change, do func(options []cluster.Option) (*cluster.Stream, error)) (*adminv1.Stream, error) {
	var options []cluster.Option
	if id := r.GetRequestId(); id != "" && !r.GetValidateOnly() {
		if len(id) > cluster.MaxRequestID {
			return nil, badField("request_id", "%d bytes, limit %d: a UUID has 36", len(id), cluster.MaxRequestID)
		}
		digest, err := digestOf(r)
		if err != nil {
			return nil, err
		}
		if st, found, err := s.cfg.Node.Replay(id, digest); err != nil {
			return nil, err
		} else if found {
			return s.toProto(st, false), nil
		}
		options = append(options, cluster.WithRequest(id, digest))
	}
	if e, ok := r.(interface{ GetEtag() string }); ok {
		options = append(options, cluster.WithETag(e.GetEtag()))
	}
	st, err := do(options)
	if err != nil {
		return nil, err
	}
	return s.toProto(st, false), nil
}

// digestOf tells requests from each other.
func digestOf(r proto.Message) (string, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", r.ProtoReflect().Descriptor().FullName())
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// CreateStream implements adminv1.StreamServiceServer.
func (s *Server) CreateStream(ctx context.Context, r *adminv1.CreateStreamRequest) (*adminv1.CreateStreamResponse, error) {
	in := r.GetStream()
	if in == nil {
		return nil, badField("stream", "is missing")
	}
	keep, err := retention(in.GetRetention())
	if err != nil {
		return nil, err
	}
	if in.Replicas > 255 {
		return nil, badField("stream.replicas", "%d, limit 255", in.Replicas)
	}
	spec := cluster.StreamSpec{Name: in.Name, Subjects: in.Subjects, Partitions: in.Partitions, Replicas: uint8(in.Replicas), Retention: keep}
	st, err := s.once(r, func(options []cluster.Option) (*cluster.Stream, error) {
		return s.cfg.Node.CreateStream(ctx, spec, r.ValidateOnly, options...)
	})
	if err != nil {
		return nil, err
	}
	if r.ValidateOnly {
		st.Id, st.Etag = 0, ""
	}
	return &adminv1.CreateStreamResponse{Stream: st}, nil
}

// GetStream implements adminv1.StreamServiceServer.
func (s *Server) GetStream(_ context.Context, r *adminv1.GetStreamRequest) (*adminv1.GetStreamResponse, error) {
	state := s.cfg.Node.State()
	var st *cluster.Stream
	switch {
	case r.Name == "" && r.Id == 0:
		return nil, badField("name", "is missing")
	case r.Id == 0:
		st = state.Stream(r.Name)
	default:
		if st = state.Streams[r.Id]; st != nil && r.Name != "" && st.Name != r.Name {
			return nil, badField("name", "stream #%d is %q, not %q", r.Id, st.Name, r.Name)
		}
	}
	if st == nil {
		return nil, missing(state, r.Name, r.Id)
	}
	return &adminv1.GetStreamResponse{Stream: s.toProto(st, true)}, nil
}

// missing says that a stream is not there, and what is instead.
func missing(state *cluster.State, name string, id uint64) error {
	if id != 0 {
		return cluster.UnknownStream(fmt.Sprintf("#%d", id), "does not exist: it may have been purged")
	}
	if d := state.DeletedStreams(name); len(d) > 0 {
		return cluster.UnknownStream(name, fmt.Sprintf("does not exist, but a deleted one of that name does (#%d): undelete it, or give its id", d[0].ID))
	}
	return cluster.UnknownStream(name, "does not exist: create it, or see the list of streams")
}

// UpdateStream implements adminv1.StreamServiceServer.
func (s *Server) UpdateStream(ctx context.Context, r *adminv1.UpdateStreamRequest) (*adminv1.UpdateStreamResponse, error) {
	in := r.GetStream()
	if in.GetName() == "" {
		return nil, badField("stream.name", "is missing: it says which stream to change")
	}
	given, err := retention(in.Retention)
	if err != nil {
		return nil, err
	}
	paths := r.GetUpdateMask().GetPaths()
	if len(paths) == 0 {
		if len(in.Subjects) > 0 {
			paths = append(paths, "subjects")
		}
		if in.Retention != nil {
			paths = append(paths, "retention")
		}
		switch {
		case in.Partitions != 0:
			paths = append(paths, "partitions")
		case in.Replicas != 0:
			paths = append(paths, "replicas")
		}
	}
	if len(paths) == 0 {
		return nil, badField("update_mask", "names nothing, and stream has nothing set that can be changed")
	}
	var onlyFields bool // some fields of retention are to stay as they are
	var update cluster.StreamUpdate
	for _, path := range paths {
		switch path {
		case "subjects":
			if len(in.Subjects) == 0 {
				return nil, badField("stream.subjects", "is empty: name those it has, and those to add")
			}
			update.Subjects = in.Subjects
		case "retention":
			update.Retention = &given
		case "retention.max_age", "retention.max_bytes", "retention.max_records":
			onlyFields = true
		case "partitions", "replicas":
			return nil, badField("update_mask", "%s cannot be changed by this version: make a stream with as many", path)
		case "*":
			return nil, badField("update_mask", "* is not served: name subjects, retention, or fields of it")
		case "name", "id", "create_time", "delete_time", "purge_time", "etag", "partition_states", "deleted_bytes":
			return nil, badField("update_mask", "%s is not to be changed", path)
		default:
			return nil, badField("update_mask", "%q is no field of a stream", path)
		}
	}
	if onlyFields && update.Retention != nil {
		return nil, badField("update_mask", "names retention and fields of it")
	}
	st, err := s.once(&updateOf{r}, func(options []cluster.Option) (*cluster.Stream, error) {
		if onlyFields {
			old := s.cfg.Node.State().Stream(in.Name)
			if old == nil {
				return nil, missing(s.cfg.Node.State(), in.Name, 0)
			}
			merged := old.Retention
			for _, path := range paths {
				switch path {
				case "retention.max_age":
					merged.MaxAge = given.MaxAge
				case "retention.max_bytes":
					merged.MaxBytes = given.MaxBytes
				case "retention.max_records":
					merged.MaxRecords = given.MaxRecords
				}
			}
			update.Retention = &merged
			if in.Etag == "" { // what was merged with must still be there
				options = append(options, cluster.WithETag(old.ETag()))
			}
		}
		return s.cfg.Node.UpdateStream(ctx, in.Name, update, r.ValidateOnly, options...)
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.UpdateStreamResponse{Stream: st}, nil
}

// updateOf has the etag of the stream in the request.
type updateOf struct{ *adminv1.UpdateStreamRequest }

func (u *updateOf) GetEtag() string { return u.GetStream().GetEtag() }

// DeleteStream implements adminv1.StreamServiceServer.
func (s *Server) DeleteStream(ctx context.Context, r *adminv1.DeleteStreamRequest) (*adminv1.DeleteStreamResponse, error) {
	if r.Name == "" {
		return nil, badField("name", "is missing")
	}
	st, err := s.once(r, func(options []cluster.Option) (*cluster.Stream, error) {
		return s.cfg.Node.DeleteStream(ctx, r.Name, r.ValidateOnly, options...)
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.DeleteStreamResponse{Stream: st}, nil
}

// deleted finds the stream an undelete or purge is about.
func (s *Server) deleted(name string, id uint64, living bool) (uint64, error) {
	state := s.cfg.Node.State()
	if id != 0 {
		if st := state.Streams[id]; st != nil && name != "" && st.Name != name {
			return 0, badField("name", "stream #%d is %q, not %q", id, st.Name, name)
		}
		return id, nil
	}
	if name == "" {
		return 0, badField("name", "is missing: give it, or an id")
	}
	found := state.DeletedStreams(name)
	alive := state.Stream(name)
	switch {
	case living && alive != nil && len(found) > 0:
		return 0, badField("id", "a living stream (#%d) and deleted ones are called %q: say which by its id", alive.ID, name)
	case len(found) > 1:
		return 0, badField("id", "%d deleted streams were called %q: say which by its id (the last is #%d)", len(found), name, found[0].ID)
	case len(found) == 1:
		return found[0].ID, nil
	case alive != nil:
		return alive.ID, nil // and it will be refused or purged as a living one
	}
	return 0, cluster.UnknownStream(name, "does not exist, not among the deleted ones either: it may have been purged")
}

// UndeleteStream implements adminv1.StreamServiceServer.
func (s *Server) UndeleteStream(ctx context.Context, r *adminv1.UndeleteStreamRequest) (*adminv1.UndeleteStreamResponse, error) {
	st, err := s.once(r, func(options []cluster.Option) (*cluster.Stream, error) {
		id, err := s.deleted(r.Name, r.Id, false)
		if err != nil {
			return nil, err
		}
		return s.cfg.Node.UndeleteStream(ctx, id, r.ValidateOnly, options...)
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.UndeleteStreamResponse{Stream: st}, nil
}

// PurgeStream implements adminv1.StreamServiceServer.
func (s *Server) PurgeStream(ctx context.Context, r *adminv1.PurgeStreamRequest) (*adminv1.PurgeStreamResponse, error) {
	st, err := s.once(r, func(options []cluster.Option) (*cluster.Stream, error) {
		id, err := s.deleted(r.Name, r.Id, r.Force)
		if err != nil {
			return nil, err
		}
		if r.Force {
			options = append(options, cluster.WithForce())
		}
		return s.cfg.Node.PurgeStream(ctx, id, r.ValidateOnly, options...)
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.PurgeStreamResponse{Stream: st}, nil
}

// Limits of a page.
const (
	defaultPage       = 100
	maxPage           = 1000
	maxPagePartitions = 10_000
	maxPageBytes      = 2 << 20 // of subjects and names: gRPC clients take 4 MiB by default
)

// ListStreams implements adminv1.StreamServiceServer.
func (s *Server) ListStreams(ctx context.Context, r *adminv1.ListStreamsRequest) (*adminv1.ListStreamsResponse, error) {
	size := int(r.PageSize)
	switch {
	case size < 0:
		return nil, badField("page_size", "%d is below 0", size)
	case size == 0:
		size = defaultPage
	}
	size = min(size, maxPage)
	after, err := parseToken(r)
	if err != nil {
		return nil, err
	}
	var found []*cluster.Stream
	state := s.cfg.Node.State()
	for _, st := range state.Streams {
		if (st.Deleted == 0 || r.ShowDeleted) && strings.HasPrefix(st.Name, r.NamePrefix) && after.before(st) {
			found = append(found, st)
		}
	}
	slices.SortFunc(found, byPlace)
	out := &adminv1.ListStreamsResponse{}
	partitions, bytes := 0, 0
	for i, st := range found {
		bytes += len(st.Name) + 64
		for _, f := range st.Subjects {
			bytes += len(f) + 4
		}
		if r.ShowPartitions {
			partitions += len(st.Partitions)
		}
		if i == size || i > 0 && (partitions > maxPagePartitions || bytes > maxPageBytes) {
			out.NextPageToken = token(r, found[i-1])
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out.Streams = append(out.Streams, s.toProto(st, r.ShowPartitions))
	}
	return out, nil
}
