package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/broker/config"
	"github.com/tidewire/tidewire/internal/explain"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

const serverLong = `Run a node until SIGTERM or SIGINT.

When it takes clients it prints one line to standard output, "ready ADDRESS", and
nothing else there; its log goes to standard error. The first signal drains: clients
are told to go, what they have in flight is answered (for timeouts.drain, 10 s, at most),
and the logs are closed. A second signal ends it at once, which loses nothing that was acknowledged.

Settings come from flags, from TIDEWIRE_* variables and from the file named by --config or
TIDEWIRE_CONFIG, the first that says one. SIGHUP reads the file again and takes over what can
change while the node runs, if nothing in it is wrong. docs/reference/configuration.md has
every setting, "tidewire config" tries a file out.

There is no TLS and no access control yet, so a node binds loopback unless --insecure.

Exit codes:
  0   stopped in good order
  1   an error: the address is in use, the network failed, a second signal came
  2   wrong usage: flags are wrong, or no data directory is named
  74  a write or sync failed: nothing more is acknowledged, what was acknowledged is on disk
  75  the data directory was refused: in use, not a node's, of another version, damaged,
      unreadable, no directory, or not to be written to
  76  the disk is full in spite of the space kept free; free some, then start again
  77  the file system became read-only while the node ran
  78  the configuration is wrong, or does not fit into the memory there is
  79  the data directory was removed, replaced or unmounted while the node ran`

const serverExample = `  tidewire server --data /var/lib/tidewire
  tidewire server --data ./node1 --listen 127.0.0.1:0 --log-format json
  tidewire server --config /etc/tidewire/tidewire.yaml`

// server is the flags of a node.
type server struct {
	app      *app
	file     string            // --config
	defaults map[string]string // the verb's own
	fixed    []config.Given    // what the verb says beside its flags
	attended bool              // by somebody at a terminal: it ends with that, if there is no file to read again
	listen   string            // as loaded
	data     string
}

func (a *app) serverCommand() *cobra.Command {
	v := &server{app: a}
	c := &cobra.Command{
		Use:     "server",
		Short:   "Run a node",
		Long:    serverLong,
		Example: serverExample,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return v.run(c, func(n *broker.Node) { fmt.Fprintf(a.out, "ready %s\n", n.Addr()) })
		},
	}
	v.flags(c)
	return c
}

func (v *server) flags(c *cobra.Command, except ...string) {
	c.Flags().StringVar(&v.file, "config", "", "`FILE` of settings (default: TIDEWIRE_CONFIG, or none)")
	v.app.settingFlags(c, v.defaults, except...)
}

// load reads the configuration.
func (v *server) load(c *cobra.Command) (config.Options, *config.Loaded, error) {
	o := v.app.configOptions(c, v.file)
	o.Flags = append(o.Flags, v.fixed...)
	o.Defaults = v.defaults
	loaded, err := config.Load(o)
	if err != nil {
		return o, nil, wrongConfig(c, err)
	}
	v.listen, v.data = loaded.Address, loaded.DataDir
	return o, loaded, nil
}

// run starts a node, calls ready, and stops the node when told to.
func (v *server) run(c *cobra.Command, ready func(*broker.Node)) error {
	options, cfg, err := v.load(c)
	if err != nil {
		return err
	}
	log, level, err := v.app.logger(cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return usage(c, err)
	}
	defer func() { _ = log.Sync() }()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	hangups := make(chan os.Signal, 1)
	if v.attended && options.File == "" {
		signal.Notify(signals, syscall.SIGHUP)
	} else {
		signal.Notify(hangups, syscall.SIGHUP)
	}
	defer signal.Stop(hangups)
	cfg.Logger, cfg.Commit = log, currentVersion().Commit
	cfg.Fatal = func(err error) { // logged by the node
		_ = log.Sync()
		if nodeCode(err) == exitDataDir { // the catalog cannot be read
			v.app.exit(v.app.report(v.notStarted(err)))
		}
		v.app.exit(nodeCode(err))
	}
	source := config.NewSource(options, cfg, level, log.Named("config"))
	cfg.Config.Config.Settings = source.Admin()
	n, err := v.start(c.Context(), cfg.Config.Config, signals, log)
	if n == nil {
		return err
	}
	source.Bind(n)
	ready(n)
	tell := &supervisor{address: v.app.getenv("NOTIFY_SOCKET"), log: log}
	tell.send("READY=1")
	running, stopped := context.WithCancel(c.Context())
	var beside sync.WaitGroup
	beside.Go(func() {
		for {
			select {
			case <-hangups:
				tell.reloading()
				_, _ = source.Reload(running) // says in the log what came of it
				tell.send("READY=1")
			case <-running.Done():
				return
			}
		}
	})
	beside.Go(func() { spread(running, v.app.getenv, n.Syncs) })
	defer beside.Wait()
	defer stopped()
	return v.wait(n, signals, log, tell)
}

// start starts the node. At a signal it gives that up, and returns neither node nor error once what was begun is ended; at a
// second one it returns at once.
func (v *server) start(ctx context.Context, cfg broker.Config, signals <-chan os.Signal, log *zap.Logger) (*broker.Node, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		node *broker.Node
		err  error
	}
	started := make(chan result, 1)
	go func() {
		n, err := broker.Start(ctx, cfg)
		started <- result{n, err}
	}()
	var began time.Time // when it was told to stop
	for {
		select {
		case r := <-started:
			switch {
			case r.err != nil && (began.IsZero() || !errors.Is(r.err, context.Canceled)):
				return nil, v.notStarted(r.err)
			case began.IsZero():
				return r.node, nil
			case r.node != nil:
				return nil, stoppedBadly(r.node.Stop(context.Background()))
			}
			return nil, nil
		case s := <-signals:
			switch {
			case began.IsZero():
				began = time.Now()
				log.Info("stopping before the node is ready; the same signal again stops at once", zap.Stringer("signal", s))
				cancel()
			case time.Since(began) >= sameSignal:
				return nil, v.stoppedAtOnce(log)
			}
		}
	}
}

func (v *server) stoppedAtOnce(log *zap.Logger) error {
	_ = log.Sync()
	return &problem{id: explain.StoppedAtOnce, what: "stopped at once, by a second signal"}
}

func stoppedBadly(err error) error {
	if err == nil {
		return nil
	}
	return &problem{id: explain.StoppedBadly, what: "the node did not stop in good order", err: err}
}

// sameSignal is how soon another signal is the first one again: a terminal sends Ctrl-C to a whole group, and a
// parent of ours may pass it on.
const sameSignal = 200 * time.Millisecond

// wait drains at the first signal and gives up at the second.
func (v *server) wait(n *broker.Node, signals <-chan os.Signal, log *zap.Logger, tell *supervisor) error {
	var began time.Time
	select {
	case s := <-signals:
		began = time.Now()
		tell.send("STOPPING=1")
		log.Info("draining; the same signal again stops at once", zap.Stringer("signal", s))
	case <-n.Failed():
		return &problem{id: broker.ErrorID(n.Err()), what: "the node can serve no more", err: n.Err(), code: nodeCode(n.Err())}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- n.Stop(context.Background()) }()
	for {
		select {
		case err := <-stopped:
			return stoppedBadly(err)
		case <-signals:
			if time.Since(began) < sameSignal {
				continue
			}
		}
		return v.stoppedAtOnce(log)
	}
}

func (v *server) notStarted(err error) error {
	p := &problem{id: broker.ErrorID(err), what: "the node did not start", err: err, code: nodeCode(err)}
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Op == "mkdir" && errors.Is(err, fs.ErrNotExist) { // though everything above was made: a file system that makes none
		p.id, p.code, p.what = explain.DataDirNoDir, exitDataDir, "the data directory "+v.data+" cannot be made"
		p.todo = "name a directory on a file system of a disk: there, none can be made"
		return p
	}
	if info, statErr := os.Stat(v.data); statErr == nil && !info.IsDir() { // os.Root has an error of its own for it
		p.id, p.code, p.todo = explain.DataDirNoDir, exitDataDir, "name a directory: "+v.data+" is a file"
		return p
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		p.what = "the node did not start: " + v.listen + " is in use"
		p.err = errors.New("another process listens there, perhaps another node")
	case strings.Contains(err.Error(), "insecure"):
		p.todo = "listen on 127.0.0.1, or allow it with --insecure"
	case p.code == exitDataDir:
		p.todo = v.refusedAdvice(err)
	}
	return p
}

// refusedAdvice is what to do about a data directory that was refused.
func (v *server) refusedAdvice(err error) string {
	switch {
	case errors.Is(err, broker.ErrDataDir):
		return "as that says, or name another directory; `tidewire log verify " + v.data + "` looks at a stopped node's"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
		return "name a directory: " + v.data + " is a file, or lies below one"
	case errors.Is(err, syscall.EROFS):
		return "name a directory on a file system that can be written to"
	case errors.Is(err, fs.ErrPermission):
		return "let this user write to " + v.data + ", or name another directory"
	case broker.ErrorID(err) == explain.DataDirUnread:
		return "look at the disk (dmesg, SMART), then start the node again; nothing was changed"
	case errors.Is(err, storage.ErrVersion):
		return "run the version of Tidewire that wrote it; nothing was changed, and nothing is damaged"
	case errors.Is(err, storage.ErrForeign):
		return "put back what belongs there: a file of another node or partition lies in " + v.data
	case errors.Is(err, raft.ErrStable), errors.Is(err, raft.ErrLogLost):
		return "put the whole directory back from one copy: its logs and its votes (stable.db, catalog.db) do not fit one another; `tidewire log verify " + v.data + "` looks at it"
	}
	return "`tidewire log verify " + v.data + "` names what is damaged. Nothing was changed; copy the directory away before anything else is"
}

// nodeCode is the exit code for what ended a node, or kept it from starting.
func nodeCode(err error) int {
	switch broker.ErrorID(err) {
	case explain.DataDirInUse, explain.DataDirForeign, explain.DataDirVersion, explain.DataDirDamaged, explain.DataDirReadOnly,
		explain.DataDirNoDir, explain.DataDirDenied, explain.DataDirUnread, explain.CatalogUnreadable:
		return exitDataDir
	case explain.WriteFailed:
		return exitWrite
	case explain.DiskFull:
		return exitFull
	case explain.ReadOnlyDisk:
		return exitReadOnly
	case explain.DataDirLost:
		return exitLost
	}
	return exitError
}
