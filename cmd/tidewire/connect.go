package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	client "github.com/tidewire/tidewire/client/go"
)

const defaultServer = "127.0.0.1:7420"

// connection is the flags of every verb that talks to a node.
type connection struct {
	app     *app
	server  string
	flag    *pflag.Flag // --server
	timeout time.Duration
}

func (a *app) connection(c *cobra.Command) *connection {
	cn := &connection{app: a}
	c.Flags().StringVar(&cn.server, "server", "", "`ADDRESS` of a node, or several with commas (default TIDEWIRE_SERVER, or "+defaultServer+")")
	cn.flag = c.Flags().Lookup("server")
	c.Flags().DurationVar(&cn.timeout, "timeout", 10*time.Second, "how long to wait for the node's answer")
	return cn
}

func (cn *connection) address() string {
	return cmp.Or(cn.server, cn.app.getenv("TIDEWIRE_SERVER"), defaultServer)
}

// checkAddress refuses what no node can listen on.
func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(port, 10, 64); err == nil && n > 65535 {
		return fmt.Errorf("port %s is not 1 to 65535", port)
	}
	return nil
}

// check refuses an address that can be no node's. The port may be left out.
func (cn *connection) check() error {
	bad := func(why string) error {
		return &problem{what: why, code: exitUsage, todo: "give HOST:PORT, such as " + defaultServer + ", with --server or TIDEWIRE_SERVER"}
	}
	if cn.flag != nil && cn.flag.Changed && strings.TrimSpace(cn.server) == "" {
		return bad("--server is empty")
	}
	for address := range strings.SplitSeq(cn.address(), ",") {
		address = strings.TrimSpace(address)
		if !strings.Contains(address, ":") || strings.HasSuffix(address, "]") || address != "" && net.ParseIP(address) != nil {
			continue
		}
		if err := checkAddress(address); err != nil {
			return bad(fmt.Sprintf("%s is no address of a node: %v", address, err))
		}
	}
	return nil
}

// connect finds the node, and says on stderr what becomes of the connection afterwards.
func (cn *connection) connect(ctx context.Context, opts ...client.Option) (*client.Client, error) {
	if cn.timeout <= 0 {
		return nil, &problem{what: fmt.Sprintf("--timeout %v is not above 0", cn.timeout), code: exitUsage}
	}
	if err := cn.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cn.timeout)
	defer cancel()
	lost := time.Time{}
	opts = append([]client.Option{
		client.WithName("tidewire"),
		client.WithDialTimeout(cn.timeout),
		client.WithStateFunc(func(s client.State, err error) {
			switch s {
			case client.Disconnected:
				lost = time.Now()
				fmt.Fprintf(cn.app.err, "connection lost (%s); trying again\n", reason(err))
			case client.Reconnected:
				fmt.Fprintf(cn.app.err, "connected again after %s\n", span(time.Since(lost)))
			}
		}),
	}, opts...)
	c, err := client.Connect(ctx, cn.address(), opts...)
	if err != nil {
		return nil, &problem{what: "no connection to " + cn.address(), err: err}
	}
	return c, nil
}

// request bounds one request to the node.
func (cn *connection) request(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, cn.timeout)
}

// call connects, makes one request and disconnects.
func (cn *connection) call(ctx context.Context, f func(ctx context.Context, c *client.Client) error) error {
	c, err := cn.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := cn.request(ctx)
	defer cancel()
	return f(ctx, c)
}

// interruptible gives a context that ends with the first Ctrl-C or SIGTERM; the second one ends the
// process as it would have without us.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// streamNames completes a stream's name by asking the node.
func (cn *connection) streamNames(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), time.Second) // somebody waits at a prompt
	defer cancel()
	cl, err := client.Connect(ctx, cn.address())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer cl.Close()
	streams, err := cl.Streams(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for i := range streams {
		names = append(names, streams[i].Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
