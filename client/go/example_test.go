package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	client "github.com/tidewire/tidewire/client/go"
)

// The address of a node, that of "tidewire dev".
const address = "127.0.0.1:7420"

func Example() {
	ctx := context.Background()
	c, err := client.Connect(ctx, address)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ack, err := c.Publish(ctx, client.Message{Subject: "orders.new", Value: []byte("one espresso")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("durable:", ack)

	sub, err := c.Subscribe(ctx, "orders.>", client.FromFirst())
	if err != nil {
		log.Fatal(err)
	}
	for rec, err := range sub.All(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(rec.Subject, rec.Offset, string(rec.Value))
		if rec.Offset == ack.Offset {
			break
		}
	}
}

// Many records at full speed: hand them over, then make sure of all of them.
func ExampleClient_PublishAsync() {
	ctx := context.Background()
	c, err := client.Connect(ctx, address)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for i := range 1_000_000 {
		m := client.Message{Subject: "numbers", Value: strconv.AppendInt(nil, int64(i), 10)}
		if err := c.PublishAsync(ctx, m, nil); err != nil {
			log.Fatal(err)
		}
	}
	if err := c.Flush(ctx); err != nil {
		log.Fatal(err)
	}
}

// Each record's own fate, told to a callback.
func ExampleClient_PublishAsync_callback() {
	ctx := context.Background()
	c, err := client.Connect(ctx, address)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	done := func(ack client.Ack, err error) {
		if err != nil {
			log.Print(err)
			return
		}
		fmt.Println(ack)
	}
	for _, city := range []string{"Bergen", "Lisboa", "Valparaíso"} {
		m := client.Message{Subject: "ports", Key: []byte(city), Headers: []client.Header{{Name: "source", Value: []byte("atlas")}}}
		if err := c.PublishAsync(ctx, m, done); err != nil {
			log.Fatal(err)
		}
	}
	if err := c.Flush(ctx); err != nil {
		log.Fatal(err)
	}
}

// A program that stops and goes on: it saves where it stands.
func ExampleFromPositions() {
	ctx := context.Background()
	c, err := client.Connect(ctx, address)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	var positions []client.Position
	if saved, err := os.ReadFile("positions.json"); err == nil {
		if err := json.Unmarshal(saved, &positions); err != nil {
			log.Fatal(err)
		}
	}
	sub, err := c.Subscribe(ctx, "orders.>", client.FromPositions(positions))
	if err != nil {
		log.Fatal(err)
	}
	err = sub.Each(ctx, func(rec client.Record) error {
		fmt.Println(rec.Subject, string(rec.Value))
		saved, err := json.Marshal(sub.Positions()) // behind rec
		if err != nil {
			return err
		}
		return os.WriteFile("positions.json", saved, 0o644)
	})
	log.Print(err)
}

// The last ten records of a partition, without a subscription.
func ExampleClient_Fetch() {
	ctx := context.Background()
	c, err := client.Connect(ctx, address)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s, err := c.Stream(ctx, "orders")
	if errors.Is(err, client.ErrUnknownStream) {
		fmt.Println("nothing was published yet")
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	p := s.Partitions[0]
	from := max(p.LogStart, p.HighWatermark-min(p.HighWatermark, 10))
	got, err := c.Fetch(ctx, "orders", 0, client.FromOffset(from), client.MaxWait(time.Second))
	if err != nil {
		log.Fatal(err)
	}
	for _, rec := range got.Records {
		fmt.Println(rec.Offset, rec.Time().Format(time.RFC3339), string(rec.Value))
	}
	fmt.Println("go on at", got.Next)
}

// A stream with four partitions that keeps a week.
func ExampleClient_CreateStream() {
	ctx := context.Background()
	c, err := client.Connect(ctx, address)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.CreateStream(ctx, client.StreamConfig{Name: "metrics", Subjects: []string{"metrics.>"}, Partitions: 4, MaxAge: 7 * 24 * time.Hour})
	if err != nil && !errors.Is(err, client.ErrStreamExists) {
		log.Fatal(err)
	}
}

// An error says what happened, and what would help.
func ExampleError() {
	err := error(&client.Error{Code: 3, Message: "record of 2000000 bytes, limit 1048576", Value: 1 << 20})
	var e *client.Error
	if errors.Is(err, client.ErrTooLarge) && errors.As(err, &e) {
		fmt.Println(e, "/", e.Value)
	}
	// Output: TOO_LARGE: record of 2000000 bytes, limit 1048576 / 1048576
}
