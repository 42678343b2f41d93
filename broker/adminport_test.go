package broker

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Clients, however many, do not keep those from the admin address who look after the node.
func TestAdminBesideAllClients(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.AdminAddress, c.MaxConnections = "127.0.0.1:0", 1 })
	connect(t, n)
	resp, err := http.Get("http://" + n.AdminAddr().String() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// With an admin address, HTTP and gRPC are served there and nowhere else, and clients are served
// where they were.
func TestAdminAddress(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.AdminAddress = "127.0.0.1:0" })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for at, want := range map[string]int{n.AdminAddr().String(): http.StatusOK, n.Addr().String(): http.StatusMisdirectedRequest} {
		resp, err := http.Get("http://" + at + "/version")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || want != http.StatusOK && (!strings.Contains(string(body), n.AdminAddr().String()) || resp.Header.Get(adminHeader) != n.AdminAddr().String()) {
			t.Errorf("/version at %s: %d %q", at, resp.StatusCode, body)
		}
		cc, err := grpc.NewClient(at, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		if _, err = healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}); (err == nil) != (want == http.StatusOK) {
			t.Errorf("health at %s: %v", at, err)
		}
	}
	connect(t, n)

	// Who says nothing, or something else, is let go and not counted.
	for _, said := range []string{"", "\x16\x03\x01\x00\x00", "\xd7TWP"} {
		c, err := net.Dial("tcp", n.AdminAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(said)); err != nil {
			t.Fatal(err)
		}
		if said == "" {
			c.(*net.TCPConn).CloseWrite()
		}
		if b, _ := io.ReadAll(c); len(b) != 0 {
			t.Errorf("%q is answered %q", said, b)
		}
		c.Close()
	}
}

func TestAdminAddressIsChecked(t *testing.T) {
	if _, err := Start(t.Context(), Config{DataDir: t.TempDir(), Address: "127.0.0.1:0", AdminAddress: "0.0.0.0:0"}); err == nil || !strings.Contains(err.Error(), "insecure") {
		t.Errorf("an admin address others can reach: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Start(t.Context(), Config{DataDir: t.TempDir(), Address: "127.0.0.1:0", AdminAddress: l.Addr().String()}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an admin address in use: %v", err)
	}
}

// A connection that was accepted while the port closed is closed, not waited for.
func TestAdminAddressCloses(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.AdminAddress = "127.0.0.1:0" })
	n.adminPort.close()
	ours, theirs := net.Pipe()
	n.connections.Add(1)
	n.adminPort.take(ours)
	n.adminPort.done.Wait()
	if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
	if got := n.connections.Load(); got != 0 {
		t.Errorf("%d connections are counted", got)
	}
}
