package web

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func server(change func(*Config)) *Server {
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "there", Help: "There."}, func() float64 { return 7 }))
	cfg := Config{Version: map[string]string{"version": "1"}, Gatherer: reg, Logger: zap.NewNop()}
	if change != nil {
		change(&cfg)
	}
	return New(cfg)
}

func get(s *Server, method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = "127.0.0.1:1"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, r)
	return w
}

func TestPages(t *testing.T) {
	var seen []string
	s := server(func(c *Config) {
		c.Observe = func(path string, code int) { seen = append(seen, fmt.Sprint(path, " ", code)) }
	})
	for _, c := range []struct {
		method, target string
		code           int
		want, seen     string
	}{
		{"GET", "/", 200, "/readyz", "/ 200"},
		{"GET", "/metrics", 200, "there 7", "/metrics 200"},
		{"GET", "/version", 200, `"version":"1"`, "/version 200"},
		{"GET", "/livez", 200, "ok\n", "/livez 200"},
		{"HEAD", "/readyz", 200, "", "/readyz 200"},
		{"GET", "/nowhere", 404, "/ lists what there is", "(other) 404"},
		{"GET", "/debug/pprof/", 404, "nothing here", "(other) 404"},
		{"GET", "//evil.example/..", 404, "nothing here", "(other) 404"},
		{"POST", "/metrics", 405, "only GET and HEAD", "/metrics 405"},
		{"DELETE", "/", 405, "only GET and HEAD", "/ 405"},
	} {
		seen = nil
		w := get(s, c.method, c.target)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d %q, want %d with %q", c.method, c.target, w.Code, w.Body, c.code, c.want)
		}
		if len(seen) != 1 || seen[0] != c.seen {
			t.Errorf("%s %s: observed %v, want %s", c.method, c.target, seen, c.seen)
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Content-Security-Policy") == "" || w.Header().Get("Location") != "" {
			t.Errorf("%s %s: headers %v", c.method, c.target, w.Header())
		}
		if allow := w.Header().Get("Allow"); (c.code == 405) != (allow == "GET, HEAD") {
			t.Errorf("%s %s: Allow %q", c.method, c.target, allow)
		}
	}
	if w := get(s, "GET", "/metrics", "Accept", "application/openmetrics-text; version=1.0.0"); !strings.HasSuffix(w.Body.String(), "# EOF\n") {
		t.Errorf("no OpenMetrics: %q", w.Body)
	}
}

// Profiles are there only where asked for, and only for this machine.
func TestPprof(t *testing.T) {
	s := server(func(c *Config) { c.Pprof = true })
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=1"} {
		if w := get(s, "GET", path); w.Code != 200 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		for _, peer := range []string{"192.0.2.1:9", "[2001:db8::1]:9", "nonsense"} {
			r := httptest.NewRequest("GET", path, nil)
			r.RemoteAddr = peer
			r.Header.Set("X-Forwarded-For", "127.0.0.1")
			w := httptest.NewRecorder()
			if s.http.Handler.ServeHTTP(w, r); w.Code != 403 {
				t.Errorf("%s from %s: %d", path, peer, w.Code)
			}
		}
	}
}

func TestHealth(t *testing.T) {
	var broken error
	note := ""
	s := server(func(c *Config) {
		c.Ready = []Check{{Name: "disk", Func: func() error { return nil }}, {Name: "catalog", Func: func() error { return broken }, Note: func() string { return note }}}
	})
	if w := get(s, "GET", "/readyz"); w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	if w := get(s, "GET", "/readyz?verbose"); w.Code != 200 || w.Body.String() != "[+] disk\n[+] catalog\nok\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	note = "it is slow"
	if w := get(s, "GET", "/readyz?verbose"); w.Code != 200 || w.Body.String() != "[+] disk\n[+] catalog: it is slow\nok\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	if w := get(s, "GET", "/readyz"); w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	broken = errors.New("it does not lead")
	if w := get(s, "GET", "/readyz"); w.Code != 503 || w.Body.String() != "[-] catalog: it does not lead\nnot ok\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	if w := get(s, "GET", "/livez"); w.Code != 200 {
		t.Errorf("a node that cannot serve is not alive: %d %q", w.Code, w.Body)
	}
}

// A check that panics has failed, and costs nobody else anything; what it said stays in the log.
func TestPanickingCheck(t *testing.T) {
	core, logs := observer.New(zapcore.ErrorLevel)
	s := server(func(c *Config) {
		c.Logger = zap.New(core)
		c.Live = []Check{{Name: "fine", Func: func() error { return nil }}, {Name: "loops", Func: func() error { panic("the secret is melon") }}}
	})
	for range 2 {
		if w := get(s, "GET", "/livez?verbose"); w.Code != 503 || w.Body.String() != "[+] fine\n[-] loops: "+errPanic.Error()+"\nnot ok\n" {
			t.Errorf("%d %q", w.Code, w.Body)
		}
	}
	if said := logs.FilterField(zap.String("check", "loops")).All(); len(said) != 2 || !strings.Contains(said[0].ContextMap()["stack"].(string), "web_test.go") {
		t.Error(logs.All())
	}
}

// A check that hangs fails in bounded time, never has more than one goroutine, and works again afterwards.
func TestHangingCheck(t *testing.T) {
	let := make(chan struct{})
	var calls atomic.Int32
	g := &guarded{Check: Check{Name: "disk", Func: func() error { calls.Add(1); <-let; return nil }}}
	late := make(chan struct{})
	close(late)
	for range 5 {
		if _, err := g.ask().outcome(late); err == nil || !strings.Contains(err.Error(), "no answer") {
			t.Fatalf("a check that hangs: %v", err)
		}
	}
	hung := g.ask()
	close(let)
	<-hung.done
	if n := calls.Load(); n != 1 {
		t.Errorf("asked %d times while it hung", n)
	}
	again := g.ask()
	<-again.done
	if again.err != nil || calls.Load() != 2 {
		t.Errorf("after the hang: %v, %d calls", again.err, calls.Load())
	}
}

// More scrapes than a few at a time are told to come again.
func TestScrapesAreBounded(t *testing.T) {
	inside, let := make(chan struct{}, scrapes), make(chan struct{})
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slow", Help: "Slow."}, func() float64 {
		inside <- struct{}{}
		<-let
		return 1
	}))
	s := server(func(c *Config) { c.Gatherer = reg })
	codes := make(chan int, scrapes)
	for range scrapes {
		go func() { codes <- get(s, "GET", "/metrics").Code }()
	}
	for range scrapes {
		<-inside
	}
	if w := get(s, "GET", "/metrics"); w.Code != 503 {
		t.Errorf("one more: %d", w.Code)
	}
	close(let)
	for range scrapes {
		if code := <-codes; code != 200 {
			t.Errorf("one of the first: %d", code)
		}
	}
}

// Headers above their limit are refused, and the name a client calls us by is not told back.
func TestHeaders(t *testing.T) {
	s := server(nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	ask := func(request string) (int, string) {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		go func() { _, _ = io.WriteString(conn, request) }()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body) + fmt.Sprint(resp.Header)
	}
	if code, _ := ask("GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 64<<10) + "\r\n\r\n"); code != 431 {
		t.Errorf("64 KiB of headers: %d", code)
	}
	for _, path := range []string{"/", "/nowhere", "//x", "/version"} {
		if _, said := ask("GET " + path + " HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"); strings.Contains(said, "evil") {
			t.Errorf("%s tells the Host header: %s", path, said)
		}
	}
}
