// Package web is what a node says over HTTP/1: metrics, health, version, and profiles where asked for.
//
// Everything is GET or HEAD, and nothing a client sends is told back to it.
package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// Config says what a Server tells. Gatherer and Logger are required.
type Config struct {
	Version  any                 // told as JSON at /version
	Gatherer prometheus.Gatherer // told at /metrics
	Live     []Check             // all must pass for /livez
	Ready    []Check             // all must pass for /readyz
	Pprof    bool                // serve /debug/pprof to peers on this machine
	Observe  func(path string, code int)
	Logger   *zap.Logger
}

const (
	// scrapes is how many /metrics may be in the making at a time.
	scrapes = 4
	// scrapeTimeout is how long one may take.
	scrapeTimeout = 10 * time.Second
	// writeTimeout is how long a client may take to read an answer.
	writeTimeout = 20 * time.Second
)

// Server serves HTTP/1. New makes one, Serve runs it, Stop ends it.
type Server struct {
	cfg   Config
	http  *http.Server
	paths map[string]page
}

// page is one thing to see.
type page struct {
	about string // for the index; "" is not listed
	serve http.HandlerFunc
}

// What is noted for the profiles of waiting, where profiles are asked for: one in mutexSample of the waits for a lock, and of
// other waits one per blockSample spent. Neither is seen in a measurement.
const (
	mutexSample = 100
	blockSample = 100 * time.Microsecond
)

// New makes a server that does not listen yet.
func New(cfg Config) *Server {
	if cfg.Observe == nil {
		cfg.Observe = func(string, int) {}
	}
	s := &Server{cfg: cfg}
	metrics := promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{
		ErrorLog: zap.NewStdLog(cfg.Logger), ErrorHandling: promhttp.HTTPErrorOnError,
		MaxRequestsInFlight: scrapes, Timeout: scrapeTimeout, EnableOpenMetrics: true,
	})
	live, ready := newHealth(cfg.Live, cfg.Logger), newHealth(cfg.Ready, cfg.Logger)
	s.paths = map[string]page{
		"/":        {"", s.index},
		"/metrics": {"metrics, for Prometheus", metrics.ServeHTTP},
		"/livez":   {"200 while the process does its work, 503 when it hangs; add ?verbose", live.serve},
		"/readyz":  {"200 while the node can serve, 503 when it cannot; add ?verbose", ready.serve},
		"/version": {"version, as JSON", s.version},
	}
	if cfg.Pprof {
		runtime.SetMutexProfileFraction(mutexSample)
		runtime.SetBlockProfileRate(int(blockSample))
		for name, serve := range map[string]http.HandlerFunc{"cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace} {
			s.paths["/debug/pprof/"+name] = page{"", local(serve)}
		}
		s.paths["/debug/pprof/"] = page{"profiles, for peers on this machine", local(pprof.Index)}
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      writeTimeout, // a profile over some time moves it
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          zap.NewStdLog(cfg.Logger),
	}
	return s
}

// Serve accepts from l until Stop.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Stop lets requests under way end, as long as ctx lets it.
func (s *Server) Stop(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}

// serve finds the page. It is not a ServeMux, which would answer odd paths with redirects.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	p, found := s.paths[path]
	if profile, ok := strings.CutPrefix(path, "/debug/pprof/"); ok && !found && s.cfg.Pprof && profile != "" {
		path = "/debug/pprof/"
		p, found = s.paths[path]
	}
	if !found {
		path = "(other)"
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	seen := &watched{ResponseWriter: w, code: http.StatusOK}
	defer func() { s.cfg.Observe(path, seen.code) }()
	switch {
	case !found:
		refuse(seen, http.StatusNotFound, "there is nothing here: / lists what there is")
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		refuse(seen, http.StatusMethodNotAllowed, "only GET and HEAD are served: the node is administered over gRPC, and records travel over its own protocol")
	default:
		p.serve(seen, r)
	}
}

// watched notices the status.
type watched struct {
	http.ResponseWriter
	code int
}

func (w *watched) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController set deadlines.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func refuse(w http.ResponseWriter, code int, why string) {
	text(w)
	w.WriteHeader(code)
	fmt.Fprintf(w, "%d %s: %s\n", code, strings.ToLower(http.StatusText(code)), why)
}

func text(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/plain; charset=utf-8") }

// local serves peers on this machine alone: a profile tells much, and takes time.
func local(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !peer.Addr().Unmap().IsLoopback() {
			refuse(w, http.StatusForbidden, "profiles are served to peers on this machine only: ask through ssh")
			return
		}
		serve(w, r)
	}
}
