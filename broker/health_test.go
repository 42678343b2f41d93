package broker

import (
	"context"
	"strings"
	"testing"
	"time"
)

// awaitHTTP asks until the answer has the code and the text.
func awaitHTTP(t *testing.T, n *Node, path string, code int, want string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		got, body := ask(t, n, path)
		if got == code && strings.Contains(body, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d %q, want %d with %q", path, got, body, code, want)
		}
	}
}

// A node that started can serve, and says of each condition that it holds.
func TestReady(t *testing.T) {
	n := startNode(t, t.TempDir())
	connect(t, n).streamOf("orders")
	awaitHTTP(t, n, "/livez", 200, "ok")
	awaitHTTP(t, n, "/readyz?verbose", 200, "[+] loops\n[+] not-draining\n[+] catalog\n[+] partitions\n[+] disk\n[+] writes\nok\n")
	awaitHTTP(t, n, "/version", 200, `"version":"`+Version+`","commit":"unknown"`)
	awaitHTTP(t, n, "/debug/pprof/", 404, "nothing here")
}

// A loop that hangs is found by both probes, which do not hang with it; when it goes on, so do they.
func TestHungLoop(t *testing.T) {
	n := startNode(t, t.TempDir())
	connect(t, n)
	var hung *loop
	for _, l := range n.loops {
		l.mu.Lock()
		if l.events != nil {
			hung = l
		}
		l.mu.Unlock()
	}
	let, stuck := make(chan struct{}), make(chan struct{})
	hung.post(func() { close(stuck); <-let })
	<-stuck
	waits := func() *beat {
		hung.heart.mu.Lock()
		defer hung.heart.mu.Unlock()
		return hung.heart.beat
	}
	var question *beat
	for i := range 2 { // over the checks themselves: a request might come to the loop that hangs
		if err := n.checkLoops(); err == nil || !strings.Contains(err.Error(), "has not answered for") {
			t.Errorf("a hung loop: %v", err)
		}
		if i == 0 {
			question = waits()
		}
	}
	if question == nil || waits() != question {
		t.Error("a loop that hangs was asked a second time")
	}
	close(let)
	for deadline := time.Now().Add(patience); n.checkLoops() != nil; {
		if time.Now().After(deadline) {
			t.Fatal("the loop goes on, and is still found hanging")
		}
	}
	awaitHTTP(t, n, "/livez", 200, "ok")
}

// A partition that is gone, a write that failed and a node that stops each make it unready, by name; it stays alive.
func TestNotReady(t *testing.T) {
	n := startNode(t, t.TempDir())
	p := connect(t, n)
	st := p.streamOf("orders")
	key := partKey{st.ID, 0}
	was := n.partitions.all()
	without := map[partKey]*partition{}
	unlock, err := n.partitions.lock(t.Context(), st.ID) // the keeper would start it again
	if err != nil {
		t.Fatal(err)
	}
	n.partitions.set.Store(&without)
	awaitHTTP(t, n, "/readyz", 503, "[-] partitions: 1 of 1 take no publishes: orders/0")
	expect(t, n, figures{"tidewire_partitions_not_serving": 1, "tidewire_ready": 0})
	n.partitions.set.Store(&was)
	unlock()
	if was[key] == nil {
		t.Fatal("the partition was not there")
	}
	awaitHTTP(t, n, "/readyz", 200, "ok")

	n.draining.Store(true)
	awaitHTTP(t, n, "/readyz", 503, "[-] not-draining: the node is stopping")
	awaitHTTP(t, n, "/livez", 200, "ok")
	n.draining.Store(false)

	n.fail(context.DeadlineExceeded)
	awaitHTTP(t, n, "/readyz", 503, "[-] writes: a write failed")
	expect(t, n, figures{"tidewire_write_failed": 1})
}
