package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidewire/tidewire/bench"
	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
)

const defaultServer = "127.0.0.1:7420"

// connection is the flags of every verb that talks to a node.
type connection struct {
	app     *app
	server  string
	context string
	flag    *pflag.Flag // --server
	timeout time.Duration

	cluster  string // id of the one that connect found; before, empty
	reminded bool   // remind has spoken
}

func (a *app) connection(c *cobra.Command) *connection {
	cn := &connection{app: a}
	c.Flags().StringVar(&cn.server, "server", "", "`ADDRESS` of a node, or several with commas (see tidewire context --help)")
	c.Flags().StringVar(&cn.context, "context", "", "`NAME` of the context whose node to use")
	_ = c.RegisterFlagCompletionFunc("context", func(c *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) { // fails for unknown flags alone
		return a.contextNames(c, nil, s)
	})
	cn.flag = c.Flags().Lookup("server")
	c.Flags().DurationVar(&cn.timeout, "timeout", 10*time.Second, "how long to wait for the node's answer")
	return cn
}

// address is where to connect to. Why there is none, check says.
func (cn *connection) address() string {
	address, _ := cn.target()
	return address
}

// target finds the address: the first that was given of --server, --context, TIDEWIRE_SERVER, TIDEWIRE_CONTEXT and
// the selected context. The file of contexts is read when one is needed.
func (cn *connection) target() (string, error) {
	if cn.flag.Changed {
		return cn.server, nil
	}
	if cn.context == "" {
		if address := cn.app.getenv("TIDEWIRE_SERVER"); address != "" {
			return address, nil
		}
	}
	e, err := cn.entry()
	if err != nil {
		return "", err
	}
	if e == nil {
		return defaultServer, nil
	}
	return e.Server, nil
}

// entry is the context that is named or selected, whether it is in force or not; nil if there is none.
func (cn *connection) entry() (*contextEntry, error) {
	all, err := cn.app.contexts()
	if err != nil {
		return nil, err
	}
	name := cn.context
	if name == "" {
		name = cn.app.currentContext(all)
	}
	if name == "" {
		return nil, nil
	}
	return all.find(name)
}

// remind tells a person that TIDEWIRE_SERVER goes before the context that is selected, and leads elsewhere.
func (cn *connection) remind() {
	address := cn.app.getenv("TIDEWIRE_SERVER")
	if cn.reminded || !cn.app.terminal || cn.flag.Changed || cn.context != "" || address == "" {
		return
	}
	cn.reminded = true
	e, err := cn.entry()
	if err != nil || e == nil || slices.Equal(hostPorts(e.Server), hostPorts(address)) {
		return // a file of contexts that is not needed may be broken
	}
	fmt.Fprintf(cn.app.err, "talking to %s, which TIDEWIRE_SERVER says, and not to context %s (%s)\n", address, e.Name, e.Server)
}

// learn keeps the cluster's id, also in the protected context that led to it, unless that knows another: then it says so.
func (cn *connection) learn(cl *client.Client) {
	id := cl.Server().Cluster
	cn.cluster = hex.EncodeToString(id[:])
	if cn.flag.Changed || cn.context == "" && cn.app.getenv("TIDEWIRE_SERVER") != "" {
		return
	}
	switch e, err := cn.entry(); {
	case err != nil || e == nil || !e.Protected || e.Cluster == cn.cluster:
	case e.Cluster == "":
		cn.app.rememberCluster(e, cn.cluster)
	default:
		fmt.Fprintf(cn.app.err, "context %s leads to cluster %s, and protects %s, where it led first; "+
			"if that cluster is no more, remove the context and add it again\n", e.Name, cn.cluster, e.Cluster)
	}
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

// check refuses an address that can be no node's.
func (cn *connection) check() error {
	bad := func(why string) error {
		return &problem{id: explain.BadAddress, what: why, code: exitUsage}
	}
	address, err := cn.target()
	switch {
	case err != nil:
		return err
	case cn.flag.Changed && strings.TrimSpace(cn.server) == "":
		return bad("--server is empty")
	}
	if err := checkServers(address); err != nil {
		return bad(err.Error())
	}
	return nil
}

// checkServers refuses addresses that can be no node's. The port may be left out.
func checkServers(addresses string) error {
	for address := range strings.SplitSeq(addresses, ",") {
		address = strings.TrimSpace(address)
		if address == "" {
			return errors.New("an address is empty")
		}
		if !strings.Contains(address, ":") || strings.HasSuffix(address, "]") || net.ParseIP(address) != nil {
			continue
		}
		if scheme, _, ok := strings.Cut(address, "://"); ok {
			return fmt.Errorf("%s is no address of a node: leave out %s://", address, scheme)
		}
		if err := checkAddress(address); err != nil {
			return fmt.Errorf("%s is no address of a node: %w", address, err)
		}
	}
	return nil
}

// connect finds the node, and says on stderr what becomes of the connection afterwards.
func (cn *connection) connect(ctx context.Context, opts ...client.Option) (*client.Client, error) {
	if cn.timeout <= 0 {
		return nil, &problem{id: explain.Usage, what: fmt.Sprintf("--timeout %v is not above 0", cn.timeout), code: exitUsage}
	}
	if err := cn.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cn.timeout)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	addresses := hostPorts(cn.address())
	defer time.AfterFunc(silentAfter, func() {
		if said := httpOf(addresses[0], silentAfter); said != "" && len(addresses) == 1 {
			giveUp(notANode(said))
		}
	}).Stop()
	lost := time.Time{}
	opts = append([]client.Option{
		client.WithName("tidewire"),
		client.WithDialTimeout(cn.timeout),
		client.WithStateFunc(func(s client.State, err error) {
			switch s {
			case client.Disconnected:
				lost = time.Now()
				why := strings.TrimPrefix(reason(err), reason(client.ErrDisconnected)+": ")
				fmt.Fprintf(cn.app.err, "connection lost (%s); trying again\n", why)
			case client.Reconnected:
				fmt.Fprintf(cn.app.err, "connected again after %s\n", span(time.Since(lost)))
			}
		}),
	}, opts...)
	cn.remind()
	c, err := client.Connect(ctx, cn.address(), opts...)
	if cause := context.Cause(ctx); errors.Is(cause, errNotANode) {
		err = cause
	}
	if err != nil {
		return nil, cn.notConnected(err)
	}
	cn.learn(c)
	return c, nil
}

// silentAfter is how long a server says nothing before it is asked whether it is another kind of server.
const silentAfter = time.Second

// notConnected says why there is no connection. Of a peer that does not speak our protocol it finds out what it is.
func (cn *connection) notConnected(err error) error {
	p := &problem{id: explain.NotConnected, what: "no connection to " + cn.address(), err: err}
	address, patience := hostPorts(cn.address())[0], min(cn.timeout, silentAfter)
	switch {
	case errors.Is(err, errNotANode):
		p.id = explain.NotTidewire
	case errors.Is(err, client.ErrUnsupported):
		p.id = explain.VersionGap
	case errors.Is(err, client.ErrMalformed), errors.Is(err, client.ErrTooLarge), strings.Contains(err.Error(), "closed before the handshake"), errors.Is(err, syscall.ECONNRESET):
		p.id, p.err = explain.NotTidewire, notANode(saysOf(address, patience)) // the code of err would say something else
		if speaksTLS(address, patience) {
			p.id, p.err = explain.TLSOnPlain, errors.New("what answers there wants TLS, which a Tidewire node does not speak yet")
		} else if askHealth(context.Background(), address, patience).err == nil {
			p.err, p.todo = errors.New("that is a node's port for its admin API, metrics and health"), "give the address that its clients use: `listen` in its configuration, and not `admin.listen`"
		}
	case errors.Is(err, context.DeadlineExceeded):
		if said := httpOf(address, patience); said != "" {
			p.id, p.err = explain.NotTidewire, notANode(said)
		}
	}
	return p
}

// httpOf is the first line that an HTTP server says that is no node; otherwise empty. Such a one says nothing to a client: it waits
// for the end of what it takes for a line. A node speaks HTTP too.
func httpOf(address string, patience time.Duration) string {
	said := saysOf(address, patience)
	if strings.HasPrefix(said, "HTTP/") && !strings.Contains(said, " 421 ") && errors.Is(askHealth(context.Background(), address, patience).err, errNoHealth) {
		return said
	}
	return ""
}

// errNotANode is what an address unwraps to at which something else answers.
var errNotANode = errors.New("what answers there is not a Tidewire node")

func notANode(said string) error {
	if said == "" {
		return errNotANode
	}
	return fmt.Errorf("%w: it says %q", errNotANode, said)
}

// saysOf is the first line of what a server says by itself or to a line of HTTP; empty if it is no text.
func saysOf(address string, patience time.Duration) string {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = c.Write([]byte("HEAD / HTTP/1.0\r\n\r\n")) // who has closed already may have spoken
	b := make([]byte, 64)
	n, _ := c.Read(b)
	line, _, _ := strings.Cut(string(b[:n]), "\n")
	line = strings.TrimSpace(line)
	if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
		return ""
	}
	return line
}

// speaksTLS finds out whether a server answers a TLS handshake, with whatever certificate.
func speaksTLS(address string, patience time.Duration) bool {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // nothing is sent
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		return c.Close() == nil
	}
	_, alert := errors.AsType[tls.AlertError](err)
	return alert || strings.Contains(err.Error(), "remote error: tls:")
}

// diskFullError is what a node says of a disk that has no room for anything new.
type diskFullError string

func (e diskFullError) Error() string { return string(e) }

// diskFull is what a node's health says of its disk if nothing can be stored there; nil if there is room, or nobody answers.
func (cn *connection) diskFull() error {
	for _, address := range hostPorts(cn.address()) {
		for _, c := range askHealth(context.Background(), address, min(cn.timeout, silentAfter)).Checks {
			if c.Name == "disk" && !c.OK {
				return diskFullError(c.Reason)
			}
		}
	}
	return nil
}

// blamed names a full disk if err says only that there was no answer, or that the node has no room.
func (cn *connection) blamed(err error) error {
	noAnswer := errors.Is(err, errNoAck) || errors.Is(err, bench.ErrNoAnswer)
	if !noAnswer && !errors.Is(err, client.ErrOverloaded) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	switch full := cn.diskFull(); {
	case full == nil:
		return err
	case noAnswer:
		return fmt.Errorf("%w: %w", err, full)
	default:
		return full
	}
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
