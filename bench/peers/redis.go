package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"sync"

	"github.com/tidewire/tidewire/bench"
	client "github.com/tidewire/tidewire/client/go"
)

// redisStreams is a redis-server with one stream and an append-only file.
type redisStreams struct {
	name string
	sync string // appendfsync: "always" or "everysec"
}

func (r *redisStreams) Name() string { return r.name }

func (r *redisStreams) Fsync() string {
	if r.sync == "always" {
		return "before every ack"
	}
	return "every second"
}

func (r *redisStreams) Command(dir, address string) (*exec.Cmd, error) {
	server, err := tool("redis-server")
	if err != nil {
		return nil, err
	}
	host, port, err := splitAddress(address)
	if err != nil {
		return nil, err
	}
	return exec.Command(server, "--bind", host, "--port", strconv.Itoa(port), "--dir", dir, "--save", "", "--appendonly", "yes",
		"--appendfsync", r.sync, "--auto-aof-rewrite-percentage", "0", "--daemonize", "no"), nil
}

func (r *redisStreams) Ready(ctx context.Context, address string) error {
	c, err := dialRedis(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.conn.Write([]byte("*1\r\n$4\r\nPING\r\n")); err != nil {
		return err
	}
	line, err := c.in.ReadString('\n')
	if err == nil && line != "+PONG\r\n" {
		err = fmt.Errorf("answer of Redis: %q", line)
	}
	return err
}

func (r *redisStreams) Prepare(context.Context, string, Spec) error { return nil } // the first XADD makes it

// Publisher picks the client: "multi" has up to a batch in a transaction, which Redis writes and syncs at once; otherwise commands
// are pipelined, and Redis syncs what it has read of a connection at a time, 16 KiB or so. One in flight is written and
// read by who calls.
func (r *redisStreams) Publisher(ctx context.Context, address string, spec Spec) (bench.Publisher, error) {
	c, err := dialRedis(ctx, address)
	if err != nil {
		return nil, err
	}
	if spec.InFlight == 1 {
		return c, nil
	}
	if spec.Client == "multi" {
		c.batch = spec.Batch
	}
	c.start(spec.InFlight)
	return c, nil
}

func (r *redisStreams) Replay(context.Context, string, Spec) (*bench.Result, error) {
	return nil, errors.New("a replay of Redis reads its memory, not a log: it is not measured")
}

func (r *redisStreams) Read(context.Context, string, Spec, func(int)) error {
	return errors.New("a replay of Redis reads its memory, not a log: it is not measured")
}

func (r *redisStreams) Route(context.Context, string, Spec) (*bench.Route, error) {
	return nil, errors.New("the way through Redis is not measured")
}

// redisConn pipelines XADD. One goroutine writes whatever has been asked for since its last write, in one call, and one
// reads the answers, which come in order.
type redisConn struct {
	conn  net.Conn
	in    *bufio.Reader
	batch int // most commands in a transaction; 0: there are none

	mu      sync.Mutex
	out     []byte
	open    int // commands in the transaction at the end of out
	spare   []byte
	waiting chan func(client.Ack, error) // in the order of the commands
	flying  sync.WaitGroup
	kick    chan struct{}
	ended   chan struct{}
	running sync.WaitGroup
}

func dialRedis(ctx context.Context, address string) (*redisConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return newRedisConn(conn), nil
}

func newRedisConn(conn net.Conn) *redisConn {
	return &redisConn{conn: conn, in: bufio.NewReaderSize(conn, 64<<10), kick: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (c *redisConn) start(inFlight int) {
	c.waiting = make(chan func(client.Ack, error), inFlight)
	c.running.Go(c.write)
	c.running.Go(c.read)
}

func (c *redisConn) write() {
	for {
		select {
		case <-c.kick:
		case <-c.ended:
			return
		}
		c.mu.Lock()
		c.execLocked()
		b := c.out
		c.out, c.spare = c.spare[:0], b
		c.mu.Unlock()
		if _, err := c.conn.Write(b); err != nil {
			_ = c.conn.Close() // the reader tells
			return
		}
	}
}

func (c *redisConn) read() {
	for {
		var done func(client.Ack, error)
		select {
		case done = <-c.waiting:
		case <-c.ended:
			return
		}
		done(client.Ack{}, c.answer())
		c.flying.Done()
	}
}

// answer reads the reply to an XADD, a bulk string with the entry's id. Of a transaction it passes over what is said before: that it
// begins, that commands are queued, how many replies come.
func (c *redisConn) answer() error {
	line, err := c.in.ReadSlice('\n')
	for err == nil && c.batch > 0 && (line[0] == '+' || line[0] == '*') {
		line, err = c.in.ReadSlice('\n')
	}
	if err != nil {
		return err
	}
	if line[0] != '$' {
		return fmt.Errorf("answer of Redis: %q", line)
	}
	n, err := strconv.Atoi(string(line[1 : len(line)-2]))
	if err != nil {
		return err
	}
	_, err = c.in.Discard(n + 2)
	return err
}

func (c *redisConn) PublishAsync(_ context.Context, m client.Message, done func(client.Ack, error)) error {
	c.flying.Add(1)
	c.mu.Lock()
	idle := len(c.out) == 0
	if c.batch > 0 && c.open == 0 {
		c.out = append(c.out, "*1\r\n$5\r\nMULTI\r\n"...)
	}
	c.out = appendXADD(c.out, m)
	if c.open++; c.open == c.batch {
		c.execLocked()
	}
	c.waiting <- done // has room for all that may be in flight
	c.mu.Unlock()
	if idle {
		select {
		case c.kick <- struct{}{}:
		default:
		}
	}
	return nil
}

// execLocked ends the transaction at the end of out.
func (c *redisConn) execLocked() {
	if c.batch > 0 && c.open > 0 {
		c.out = append(c.out, "*1\r\n$4\r\nEXEC\r\n"...)
	}
	c.open = 0
}

func appendXADD(to []byte, m client.Message) []byte {
	to = append(to, "*5\r\n$4\r\nXADD\r\n$"...)
	to = appendBulk(to, m.Subject)
	to = append(to, "$1\r\n*\r\n$1\r\nv\r\n$"...)
	return appendBulk(to, m.Value)
}

func appendBulk[B ~string | ~[]byte](to []byte, b B) []byte {
	to = strconv.AppendInt(to, int64(len(b)), 10)
	to = append(to, "\r\n"...)
	to = append(to, b...)
	return append(to, "\r\n"...)
}

// Publish is for who has one in flight: the connection was not started.
func (c *redisConn) Publish(_ context.Context, m client.Message) (client.Ack, error) {
	c.out = appendXADD(c.out[:0], m)
	if _, err := c.conn.Write(c.out); err != nil {
		return client.Ack{}, err
	}
	return client.Ack{}, c.answer()
}

func (c *redisConn) Flush(context.Context) error { c.flying.Wait(); return nil }

func (c *redisConn) Close() error {
	close(c.ended)
	err := c.conn.Close()
	c.running.Wait()
	return err
}
