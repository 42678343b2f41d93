package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

// admin makes one request about streams.
func (cn *connection) admin(ctx context.Context, what string, f func(context.Context, adminv1.StreamServiceClient) error) error {
	return cn.adminCall(ctx, explain.StreamRequest, what, func(ctx context.Context, conn *grpc.ClientConn) error {
		return f(ctx, adminv1.NewStreamServiceClient(conn))
	})
}

// adminCall makes one request to the admin API, at the next address if one cannot be asked; so it must be safe to repeat.
// It connects as other verbs do first: what is wrong with a connection is then said in the same words. id is of an error that tells none.
func (cn *connection) adminCall(ctx context.Context, id explain.ID, what string, f func(context.Context, *grpc.ClientConn) error) error {
	cl, err := cn.connect(ctx)
	if err != nil {
		return err
	}
	_ = cl.Close()
	ctx, cancel := cn.request(ctx)
	defer cancel()
	for _, address := range hostPorts(cn.address()) {
		if err = dialAdmin(ctx, address, f); status.Code(err) != codes.Unavailable {
			break
		}
		if other := adminAddress(ctx, address); other != "" {
			if err = dialAdmin(ctx, other, f); status.Code(err) != codes.Unavailable {
				break
			}
			err = &problem{id: explain.NotConnected, what: "no answer of the admin API at " + other + ", which " + address + " names", err: errors.New(status.Convert(err).Message())}
		}
	}
	if err == nil {
		return nil
	}
	return adminProblem(id, what, err)
}

// adminAddress is where the node at address serves HTTP and gRPC if it is not there, as it says to who asks; "" if it says nothing.
func adminAddress(ctx context.Context, address string) string {
	_, answer, err := getText(ctx, "http://"+address+"/version")
	if err != nil || answer.StatusCode != http.StatusMisdirectedRequest {
		return ""
	}
	host, port, err := net.SplitHostPort(answer.Header.Get("Tidewire-Admin"))
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() { // the same machine, then
		host, _, _ = net.SplitHostPort(address)
	}
	return net.JoinHostPort(host, port)
}

func ask(ctx context.Context, address string, f func(context.Context, adminv1.StreamServiceClient) error) error {
	return dialAdmin(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) error {
		return f(ctx, adminv1.NewStreamServiceClient(conn))
	})
}

func dialAdmin(ctx context.Context, address string, f func(context.Context, *grpc.ClientConn) error) error {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(ctx, conn)
}

// adminProblem is an error of the admin API as all others are shown: its number stands in the details.
func adminProblem(id explain.ID, what string, err error) error {
	if _, ok := errors.AsType[*problem](err); ok {
		return err
	}
	st, _ := status.FromError(err)
	p := &problem{id: id, what: what, err: errors.New(st.Message())}
	switch st.Code() {
	case codes.Unimplemented:
		p.id = explain.NoAdminService
	case codes.DeadlineExceeded:
		p.id, p.err = explain.Timeout, errors.New("no answer in time")
	case codes.Unavailable:
		p.id = explain.Disconnected
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if id, err := explain.Parse(info.Metadata["id"]); err == nil && known(id) {
				p.id = id
			}
		}
	}
	return p
}

// deletedStreams are those that wait for their purge.
func deletedStreams(ctx context.Context, s adminv1.StreamServiceClient) (out []*adminv1.Stream, err error) {
	for token := ""; ; {
		page, err := s.ListStreams(ctx, &adminv1.ListStreamsRequest{PageSize: 1000, PageToken: token, ShowDeleted: true, ShowPartitions: true})
		if err != nil {
			return nil, err
		}
		for _, st := range page.Streams {
			if st.DeleteTime != nil {
				out = append(out, st)
			}
		}
		if token = page.NextPageToken; token == "" {
			return out, nil
		}
	}
}

// withPartitions asks for the state of st's partitions, which answers to changes do not have.
func withPartitions(ctx context.Context, s adminv1.StreamServiceClient, st *adminv1.Stream) *adminv1.Stream {
	got, err := s.GetStream(ctx, &adminv1.GetStreamRequest{Id: st.Id})
	if err != nil {
		return st // the change is made all the same
	}
	return got.Stream
}

// fromAdmin is a stream of the admin API as the client's.
func fromAdmin(s *adminv1.Stream) client.Stream {
	st := client.Stream{Name: s.Name, ID: s.Id, Subjects: s.Subjects, Created: s.CreateTime.AsTime(), Replicas: int(s.Replicas),
		MaxAge: s.Retention.GetMaxAge().AsDuration(), MaxBytes: s.Retention.GetMaxBytes(), MaxRecords: s.Retention.GetMaxRecords(), Deleted: s.DeleteTime != nil}
	for _, p := range s.PartitionStates {
		st.Partitions = append(st.Partitions, client.Partition{Number: p.Number, Leader: p.Leader, Epoch: p.Epoch,
			LogStart: p.StartOffset, HighWatermark: p.HighWatermark, Bytes: p.Bytes})
	}
	return st
}

// adminJSON is a stream of the admin API as it is shown.
func adminJSON(s *adminv1.Stream) streamJSON {
	st := fromAdmin(s)
	out := toJSON(&st)
	if s.DeleteTime != nil {
		out.Bytes = s.DeletedBytes
		out.DeletedAt, out.PurgeAt = timeOf(s.DeleteTime.AsTime()), timeOf(s.PurgeTime.AsTime())
	}
	return out
}

func timeOf(t time.Time) *time.Time { t = t.UTC().Truncate(time.Millisecond); return &t }
