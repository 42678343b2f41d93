package broker

import (
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tidewire/tidewire/proto/wire"
)

func TestSniff(t *testing.T) {
	for in, want := range map[string]protocol{
		"": protoUndecided, "\xd7": protoUndecided, wire.Magic: protoWire, wire.Magic + "x": protoWire, "\xd7x": protoForeign,
		"P": protoUndecided, "PR": protoUndecided, "PRI * H": protoUndecided, http2Preface: protoHTTP2, "PRI * HTTP/1": protoForeign,
		"GET": protoUndecided, "GET ": protoHTTP1, "PO": protoUndecided, "POST /": protoHTTP1, "PATCH ": protoHTTP1, "get /": protoForeign,
		"\x16\x03\x01": protoForeign, "\x00\x00\x00\x00": protoForeign, "SSH-2.0-x": protoForeign,
	} {
		if got := sniff([]byte(in)); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}

// FuzzSniff: a decision never changes with more bytes, and comes within the longest opening.
func FuzzSniff(f *testing.F) {
	for _, s := range []string{wire.Magic, http2Preface, "GET / HTTP/1.1\r\n", "\x16\x03\x01\x02\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		decided := protoUndecided
		for n := range len(b) + 1 {
			got := sniff(b[:n])
			if decided != protoUndecided && got != decided {
				t.Fatalf("%q was %d, with %d bytes it is %d", b, decided, n, got)
			}
			decided = got
		}
		if decided == protoUndecided && len(b) >= len(http2Preface) {
			t.Fatalf("%q is undecided", b)
		}
	})
}

// A client of HTTP and one of gRPC come to the same port as everybody, a byte at a time or not.
func TestHTTPOnThePort(t *testing.T) {
	n := startNode(t, t.TempDir())
	resp, err := http.Get("http://" + n.Addr().String() + "/version")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 || !strings.Contains(string(body), Version) {
		t.Errorf("/version: %d %q", resp.StatusCode, body)
	}

	slow := dial(t, n)
	for _, b := range []byte("GET /version HTTP/1.0\r\n\r\n") {
		if _, err := slow.conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if body, _ := io.ReadAll(slow.conn); !strings.HasPrefix(string(body), "HTTP/1.0 200 OK") || !strings.Contains(string(body), Version) {
		t.Errorf("a byte at a time: %q", body)
	}

	cc, err := grpc.NewClient(n.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if got, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health over gRPC: %v, %v", got, err)
	}
	if got := n.connections.Load(); got < 1 {
		t.Errorf("%d connections counted while one is open", got)
	}
	cc.Close()
	http.DefaultClient.CloseIdleConnections()
	for n.connections.Load() != 0 { // detached connections are counted until they close
		if ctx.Err() != nil {
			t.Fatalf("%d connections counted, none is open", n.connections.Load())
		}
		runtime.Gosched()
	}
}

type countedConn struct {
	net.Conn
	closed *atomic.Int64
}

func (c *countedConn) Close() error { c.closed.Add(1); return nil }

// However offer, Accept and Close meet, each connection is closed once by whoever has it in the end.
func TestHandoffClosesWhatItTook(t *testing.T) {
	const offerers, each = 4, 8
	for range 2000 {
		h := newHandoff(nil)
		var closed atomic.Int64
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for range offerers {
			wg.Go(func() {
				<-begin
				for range each {
					if c := (&countedConn{closed: &closed}); !h.offer(c) {
						c.Close()
					}
				}
			})
		}
		wg.Go(func() {
			for {
				c, err := h.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		})
		wg.Go(func() { <-begin; h.Close() })
		close(begin)
		wg.Wait()
		if got := closed.Load(); got != offerers*each {
			t.Fatalf("%d of %d connections were closed", got, offerers*each)
		}
	}
}
