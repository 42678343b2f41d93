package harness

import (
	"context"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
)

// Patience bounds every single thing a test asks of a node that runs.
const Patience = 60 * time.Second

// Context is a context that ends with the test, and after Patience.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Connect connects a client that is closed with the test.
func Connect(t testing.TB, address string, opts ...client.Option) *client.Client {
	t.Helper()
	opts = append([]client.Option{client.WithBackoff(5*time.Millisecond, 100*time.Millisecond), client.WithCloseTimeout(0)}, opts...)
	c, err := client.Connect(Context(t), address, opts...)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// NewStream makes the journal's stream on the node at address, capturing NAME and NAME.>.
func (j *Journal) NewStream(t testing.TB, address string) {
	t.Helper()
	c := Connect(t, address)
	if _, err := c.CreateStream(Context(t), client.StreamConfig{Name: j.Stream, Partitions: int(j.Partitions), MaxBytes: j.MaxBytes}); err != nil {
		t.Fatalf("create stream %s: %v", j.Stream, err)
	}
	_ = c.Close()
}
