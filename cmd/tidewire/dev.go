package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/config"
	"github.com/tidewire/tidewire/internal/explain"
)

const devLong = `Run a node to try things on: on loopback, with its data in ./tidewire-data (or DIR), and
streams made as soon as somebody publishes. It is as durable as any other node. Ctrl-C
ends it, and so does the end of its terminal; started again on the same directory it goes
on where it was.

What is a flag of tidewire server is one here too.`

const devExample = `  tidewire dev
  tidewire dev --temp                    # leaves nothing behind
  tidewire dev ./playground --listen 127.0.0.1:7421`

func (a *app) devCommand() *cobra.Command {
	v := &server{app: a, attended: true, defaults: map[string]string{"data": "tidewire-data", "log.level": "warn", "dev": "true"}}
	var temp bool
	c := &cobra.Command{
		Use:     "dev [DIR]",
		Short:   "Run a node to try things on",
		Long:    devLong,
		Example: devExample,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (errOut error) {
			named := c.Flags().Changed("data")
			switch {
			case temp && (named || len(args) > 0):
				return usage(c, errors.New("--temp makes a directory of its own: name none"))
			case named && len(args) > 0:
				return usage(c, errors.New("the directory is named twice, by --data and as DIR"))
			case len(args) > 0:
				v.fixed = append(v.fixed, config.Given{Key: "data", Value: args[0], Origin: "DIR"})
			case temp:
				dir, err := os.MkdirTemp("", "tidewire-dev-*")
				if err != nil {
					return &problem{id: explain.NoTemporary, what: "there is no temporary directory", err: err}
				}
				v.fixed = append(v.fixed, config.Given{Key: "data", Value: dir, Origin: "--temp"})
				defer func() { errOut = errors.Join(errOut, os.RemoveAll(dir)) }()
			}
			v.fixed = append(v.fixed, config.Given{Key: "dev", Value: "true", Origin: "dev"})
			defer func() {
				if errOut == nil && temp {
					fmt.Fprintf(a.out, "stopped; data removed\n")
				} else if errOut == nil {
					fmt.Fprintf(a.out, "stopped; data kept in %s\n", v.data)
				}
			}()
			return v.run(c, func(n *broker.Node) { v.welcome(n, temp) })
		},
	}
	c.Flags().BoolVar(&temp, "temp", false, "keep the data in a temporary directory, removed at the end")
	v.flags(c, "dev", "insecure")
	c.Flags().VisitAll(func(f *pflag.Flag) { // they work; who only tries things has no use for a page of them
		for _, section := range []string{"limits-", "memory-", "timeouts-", "streams-", "storage-", "telemetry-"} {
			if strings.HasPrefix(f.Name, section) {
				f.Hidden = true
			}
		}
	})
	return c
}

// welcome says what there is now and what to try.
func (v *server) welcome(n *broker.Node, temp bool) {
	dir, err := filepath.Abs(v.data)
	if err != nil {
		dir = v.data
	}
	fate := "kept"
	if temp {
		fate = "removed at the end"
	}
	at := v.app.self
	if addr := n.Addr().String(); addr != defaultServer {
		at += " --server " + addr
	}
	fmt.Fprintf(v.app.out, `Tidewire is ready.

  address  %s
  data     %s (%s)
  acks     after fsync on 1 of 1

Try, in another terminal:

  %[4]s pub orders.new 'hello'       publish a record; the stream is made by that
  %[4]s sub 'orders.>'               read it, and what follows
  %[4]s stream ls                    what there is
  %[4]s bench pub                    how fast it is

Ctrl-C stops it.
`, n.Addr(), dir, fate, at)
}
