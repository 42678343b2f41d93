// Package client is the Go client of Tidewire, a durable streaming broker.
//
// # Publishing
//
//	c, err := client.Connect(ctx, "127.0.0.1:7420")
//	ack, err := c.Publish(ctx, client.Message{Subject: "orders.new", Value: value})
//	fmt.Println(ack) // orders/0 offset 41, epoch 1, durable on 2 of 3
//
// When Publish returns, the record is on stable storage on a majority of its partition's replicas.
// Callers side by side share batches and syncs, so many goroutines in Publish are fast. One
// goroutine is fast with PublishAsync, which only waits while too much is in flight:
//
//	for _, o := range orders {
//		if err := c.PublishAsync(ctx, client.Message{Subject: "orders.new", Key: o.Customer, Value: o.JSON}, nil); err != nil {
//			return err
//		}
//	}
//	if err := c.Flush(ctx); err != nil { // all of it is durable now, or this says what is not
//		return err
//	}
//
// Records of one key (or of one subject, without keys) stay in order. There is nothing to tune: a
// batch goes out at once if nothing is in flight, and grows with what comes while something is.
//
// # Reading
//
//	sub, err := c.Subscribe(ctx, "orders.>", client.FromFirst())
//	for rec, err := range sub.All(ctx) {
//		if err != nil {
//			return err
//		}
//		fmt.Println(rec.Subject, rec.Offset, string(rec.Value))
//	}
//
// A subscription covers all streams and partitions its filter matches, and those still to come.
// Key, Value and headers of a record are lent until the next iteration; rec.Clone() keeps them.
// To go on where a program stopped, save sub.Positions() with its results and give them to
// FromPositions. Fetch reads one partition once, without a subscription.
//
// # What it does by itself
//
// A lost connection is found again, on any of the addresses given to Connect, with a wait drawn
// at random. Batches without an answer are sent again with the same bytes, which the node
// recognises: they are stored once. Subscriptions go on with the exact next record. A partition's
// leader is followed to where it went. An overloaded node is given the time it asks for. None of
// that is an error; calls take a context that bounds how long they may wait for it.
//
// # Errors
//
// Errors match sentinels with errors.Is (ErrUnknownStream, ErrTooLarge, ErrOffsetRange...), and are
// an *Error with errors.As, which has the node's code and message, and numbers where they help.
// What the node would refuse for its form is refused here, before it is sent. ErrUnknownOutcome is the
// one to think about: a record may or may not be stored. It comes when the context of a Publish ends and the record is on its way,
// when Close runs out of time, and when the node forgot the producer during a long silence.
//
// # Concurrency and bytes
//
// All methods may be called from several goroutines; one at a time iterates over a subscription.
// PublishAsync keeps the order of each goroutine within a partition. Messages are copied before
// Publish and PublishAsync return. Close waits for every goroutine the client started.
package client
