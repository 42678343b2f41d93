package broker_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tidewire/tidewire/broker"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

// A program that makes a stream, changes it and is told why something is refused. docs/reference/admin-api.md has it too.
func Example_adminAPI() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	address, stop := exampleNode(ctx)
	defer stop()

	// begin
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	streams := adminv1.NewStreamServiceClient(conn)

	made, err := streams.CreateStream(ctx, &adminv1.CreateStreamRequest{
		Stream:    &adminv1.Stream{Name: "orders"},
		RequestId: "7c9e6679-7425-40de-944b-e07fc1f90ae7", // sent again, it makes no second one
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(made.Stream.Name, made.Stream.Subjects)

	_, err = streams.UpdateStream(ctx, &adminv1.UpdateStreamRequest{Stream: &adminv1.Stream{
		Name:      "orders",
		Etag:      made.Stream.Etag, // refused if somebody changed it meanwhile
		Retention: &adminv1.Retention{MaxRecords: 1_000_000},
	}})
	if err != nil {
		log.Fatal(err)
	}

	_, err = streams.DeleteStream(ctx, &adminv1.DeleteStreamRequest{Name: "orders", Etag: made.Stream.Etag})
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			fmt.Println(status.Code(err), info.Reason, info.Metadata["id"])
		}
	}
	// end

	// Output:
	// orders [orders orders.>]
	// Aborted ETAG_MISMATCH TW-4102
}

// exampleNode runs a node on a free port.
func exampleNode(ctx context.Context) (address string, stop func()) {
	dir, err := os.MkdirTemp("", "tidewire-example-")
	if err != nil {
		log.Fatal(err)
	}
	n, err := broker.Start(ctx, broker.Config{Address: "127.0.0.1:0", DataDir: dir})
	if err != nil {
		log.Fatal(err)
	}
	return n.Addr().String(), func() {
		if err := n.Stop(ctx); err != nil {
			log.Print(err)
		}
		os.RemoveAll(dir)
	}
}
