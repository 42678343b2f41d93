package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tidewire/tidewire/bench"
)

// subject is where all records go, and what streams are called.
const subject = "bench"

// idleStream is the name of a stream that stays empty.
func idleStream(i int) string { return fmt.Sprintf("idle-%d", i) }

// System is a broker that is measured.
type System interface {
	Name() string
	Fsync() string // when what it acknowledges is on the disk
	// Command runs one server that keeps its data in dir.
	Command(dir, address string) (*exec.Cmd, error)
	// Ready fails as long as the server does not answer.
	Ready(ctx context.Context, address string) error
	// Prepare makes the stream.
	Prepare(ctx context.Context, address string, spec Spec) error
	Publisher(ctx context.Context, address string, spec Spec) (bench.Publisher, error)
	// Replay reads spec.Records records from the first.
	Replay(ctx context.Context, address string, spec Spec) (*bench.Result, error)
	// Read reads from the first record until ctx ends, and says of each record how many bytes its value had. That may wait.
	Read(ctx context.Context, address string, spec Spec, each func(bytes int)) error
	Route(ctx context.Context, address string, spec Spec) (*bench.Route, error)
}

var systems = []System{
	tidewire{},
	&jetStream{name: "jetstream"},
	&jetStream{name: "jetstream-always", sync: "always"},
	&redisStreams{name: "redis-always", sync: "always"},
	&redisStreams{name: "redis-everysec", sync: "everysec"},
}

func systemNamed(name string) (System, error) {
	for _, s := range systems {
		if s.Name() == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no system is called %q", name)
}

// tools is where the servers are that make built; PATH is looked through after it.
var tools string

func tool(name string) (string, error) {
	if path := filepath.Join(tools, name); tools != "" {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: make bench builds tidewire and nats-server; redis-server is a package of the system", err)
	}
	return path, nil
}

// versions is what the servers say of themselves.
func versions() (all []string, err error) {
	for _, ask := range [][2]string{{"tidewire", "version"}, {"nats-server", "--version"}, {"redis-server", "--version"}} {
		path, err := tool(ask[0])
		if err != nil {
			return nil, err
		}
		said, err := exec.Command(path, ask[1]).Output()
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", path, ask[1], err)
		}
		all = append(all, strings.Join(strings.Fields(string(said)), " "))
	}
	return all, nil
}

func splitAddress(address string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(p)
	return host, port, err
}

// server is a running one.
type server struct {
	system  System
	dir     string
	address string
	cmd     *exec.Cmd
	exited  chan struct{}
	holds   uint64 // records, as far as it is counted
}

// startServer runs a server in dir and returns when it answers. Its output goes to a file in dir.
func startServer(ctx context.Context, system System, dir, address string) (*server, error) {
	s := &server{system: system, dir: dir, address: address, exited: make(chan struct{})}
	var err error
	if s.cmd, err = system.Command(dir, address); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	dieWithParent(s.cmd)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	if err := s.await(ctx); err != nil {
		s.kill()
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%s does not start: %w\n%s", system.Name(), err, text)
	}
	return s, nil
}

// startPatience is how long a server may take to answer, also with much data.
const startPatience = time.Minute

// await asks again and again: the time to the first answer is measured, and must not be rounded up.
func (s *server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		select {
		case <-s.exited:
			return errors.New("it has exited")
		default:
		}
		try, end := context.WithTimeout(ctx, 5*time.Second)
		err := s.system.Ready(try, s.address)
		end()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// freeAddress is one of loopback that nobody listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
