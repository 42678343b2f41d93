package admin

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/proto/wire"
)

// domain is that of every ErrorInfo; its reasons are the names of docs/protocol.md's codes and of those below.
const domain = "tidewire"

const helpURL = "https://github.com/tidewire/tidewire/blob/main/docs/reference/errors.md#"

// failure is an error of this package's own.
type failure struct {
	id      explain.ID
	reason  string
	code    codes.Code
	field   string // of the request, if one is wrong
	message string
}

func (f *failure) Error() string { return f.message }

// badField refuses a request for a value of it.
func badField(field, format string, args ...any) error {
	return &failure{explain.BadRequest, "BAD_REQUEST", codes.InvalidArgument, field, field + ": " + fmt.Sprintf(format, args...)}
}

// grpcCodes are what the wire's codes are in gRPC; the others are Internal.
var grpcCodes = map[wire.Code]codes.Code{
	wire.CodeTooLarge: codes.InvalidArgument, wire.CodeUnsupported: codes.FailedPrecondition, wire.CodeMalformed: codes.InvalidArgument,
	wire.CodeAuth: codes.Unauthenticated, wire.CodeDenied: codes.PermissionDenied, wire.CodeShutdown: codes.Unavailable,
	wire.CodeOverloaded: codes.ResourceExhausted, wire.CodeUnknownStream: codes.NotFound, wire.CodeStreamExists: codes.AlreadyExists,
	wire.CodeSubjectOverlap: codes.FailedPrecondition, wire.CodeBadName: codes.InvalidArgument, wire.CodeUnknownPart: codes.NotFound,
	wire.CodeNotLeader: codes.Unavailable, wire.CodeLimit: codes.ResourceExhausted, wire.CodeUnknownOutcome: codes.Unavailable,
	wire.CodeOffsetRange: codes.OutOfRange, wire.CodeDataLoss: codes.DataLoss,
}

// status turns an error into what a caller is told. Nothing else does.
func (s *Server) status(method string, request any, err error) error {
	if err == nil {
		return nil
	}
	var f *failure
	if !errors.As(err, &f) {
		if _, ok := status.FromError(err); ok && !isStream(err) {
			return err // of gRPC's own services
		}
		f = ours(err)
	}
	var we *wire.Error
	if f == nil {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return status.Error(codes.DeadlineExceeded, "the call's time is over; what it asked for may yet be done: look before it is repeated, or repeat it with its request_id")
		case errors.Is(err, context.Canceled):
			return status.Error(codes.Canceled, "the call was given up; what it asked for may yet be done")
		}
		we = s.cfg.Node.WireError(err)
		code, known := grpcCodes[we.Code]
		if !known {
			ref := reference()
			s.cfg.Logger.Error("admin call failed", zap.String("reference", ref), zap.String("method", method), zap.Error(err))
			return internal(ref)
		}
		f = &failure{explain.Wire(uint16(we.Code)), we.Code.String(), code, "", we.Message}
	}
	info := &errdetails.ErrorInfo{Reason: f.reason, Domain: domain, Metadata: map[string]string{"id": f.id.String()}}
	details := []protoadapt.MessageV1{info, help(f.id)}
	if f.field != "" {
		details = append(details, violation(f.field, f.message))
	}
	if we != nil {
		if we.Value != 0 {
			info.Metadata["limit"] = strconv.FormatUint(we.Value, 10)
		}
		if we.Retriable() {
			details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(max(we.RetryAfter, 10*time.Millisecond))})
		}
	}
	if f.field == "" && f.code == codes.InvalidArgument {
		details = append(details, violation(fieldOf(err), f.message))
	}
	if name := s.resource(request); name != "" {
		info.Metadata["value"] = name
		switch f.code {
		case codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Aborted, codes.FailedPrecondition:
			details = append(details, &errdetails.ResourceInfo{ResourceType: "tidewire.admin.v1.Stream", ResourceName: name, Description: f.message})
		}
	}
	if f.code == codes.FailedPrecondition {
		details = append(details, &errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{
			{Type: f.reason, Subject: s.resource(request), Description: f.message}}})
	}
	return build(f.code, f.message, details...)
}

// fieldOf is the field of a request that an error of the layers below is about.
func fieldOf(err error) string {
	var name *wire.NameError
	switch {
	case !errors.As(err, &name):
		return "stream"
	case name.Kind == "stream name":
		return "stream.name"
	}
	return "stream.subjects"
}

func isStream(err error) bool {
	var st *cluster.StreamError
	return errors.As(err, &st)
}

// ours is an error that the wire protocol has no code for, or nil.
func ours(err error) *failure {
	switch {
	case errors.Is(err, cluster.ErrChanged):
		return &failure{explain.ETagMismatch, "ETAG_MISMATCH", codes.Aborted, "", err.Error()}
	case errors.Is(err, cluster.ErrRequestReused):
		return &failure{explain.RequestIDReused, "REQUEST_ID_REUSED", codes.InvalidArgument, "request_id", err.Error()}
	case errors.Is(err, cluster.ErrLiving):
		return &failure{explain.NotDeleted, "NOT_DELETED", codes.FailedPrecondition, "", err.Error()}
	}
	return nil
}

func violation(field, message string) *errdetails.BadRequest {
	return &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: message}}}
}

func help(id explain.ID) *errdetails.Help {
	return &errdetails.Help{Links: []*errdetails.Help_Link{{Description: "what it means and what to do", Url: helpURL + strings.ToLower(id.String())}}}
}

func build(code codes.Code, message string, details ...protoadapt.MessageV1) error {
	st := status.New(code, strings.ToValidUTF8(message, "\uFFFD"))
	with, err := st.WithDetails(details...)
	if err != nil { // only for an OK status
		return st.Err()
	}
	return with.Err()
}

// internal is all that a caller learns of what should not have happened.
func internal(ref string) error {
	id := explain.Wire(uint16(wire.CodeInternal))
	return build(codes.Internal, "the node failed; its log says more, reference "+ref,
		&errdetails.ErrorInfo{Reason: wire.CodeInternal.String(), Domain: domain, Metadata: map[string]string{"id": id.String(), "reference": ref}}, help(id))
}

// reference is a short word that is found in the log.
func reference() string {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
