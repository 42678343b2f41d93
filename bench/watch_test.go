package bench

import (
	"context"
	"errors"
	"testing"
	"time"

	client "github.com/tidewire/tidewire/client/go"
)

// deaf takes records and answers none.
type deaf struct{}

func (deaf) Publish(ctx context.Context, _ client.Message) (client.Ack, error) {
	<-ctx.Done()
	return client.Ack{}, ctx.Err()
}
func (deaf) PublishAsync(context.Context, client.Message, func(client.Ack, error)) error { return nil }
func (deaf) Flush(ctx context.Context) error                                             { <-ctx.Done(); return ctx.Err() }
func (deaf) Close() error                                                                { return nil }

// prompt answers each record at once.
type prompt struct{ deaf }

func (prompt) PublishAsync(_ context.Context, _ client.Message, done func(client.Ack, error)) error {
	done(client.Ack{Quorum: 1, Voters: 1}, nil)
	return nil
}
func (prompt) Flush(context.Context) error { return nil }

// A run ends whose records are not answered, however they are sent; one that has none on their way does not.
func TestTimeout(t *testing.T) {
	dial := func(context.Context) (Publisher, error) { return deaf{}, nil }
	for _, cfg := range []PublishConfig{{}, {InFlight: 1}, {Records: 10, Warmup: -1}, {Connections: 3, Rate: 1000}} {
		cfg.Dial, cfg.Timeout = dial, 20*time.Millisecond
		if r, err := Publish(t.Context(), cfg); r != nil || !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%+v: %v, %v", cfg, r, err)
		}
	}
	open := func(ctx context.Context) (*Route, error) {
		values := func(yield func([]byte, error) bool) { <-ctx.Done(); yield(nil, ctx.Err()) }
		return &Route{Out: deaf{}, Values: values, Close: func() {}}, nil
	}
	if r, err := RoundTrip(t.Context(), RoundTripConfig{Open: open, Timeout: 20 * time.Millisecond}); r != nil || !errors.Is(err, ErrNoAnswer) {
		t.Errorf("%v, %v", r, err)
	}
	dial = func(context.Context) (Publisher, error) { return prompt{}, nil }
	r, err := Publish(t.Context(), PublishConfig{Dial: dial, Rate: 10, Records: 3, Warmup: -1, Timeout: 20 * time.Millisecond})
	if err != nil || r.Records != 3 {
		t.Errorf("at a slow rate: %+v, %v", r, err)
	}
}
