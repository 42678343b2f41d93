package test

import (
	"strconv"
	"strings"
	"syscall"
	"testing"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/test/harness"
)

// exitDataDir is the exit code of a node whose data directory was refused.
const exitDataDir = 75

// TestSecondProcess starts a node on a directory another one uses: it is refused, told by whom, and
// the first does not notice.
func TestSecondProcess(t *testing.T) {
	first := harness.NewServer(t, harness.Config{})
	c := harness.Connect(t, first.Address())
	ctx := harness.Context(t)
	if _, err := c.Publish(ctx, client.Message{Subject: "first", Value: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	second := harness.NewServer(t, harness.Config{Dir: first.Dir(), Manual: true})
	if err := second.TryStart(); err == nil {
		t.Fatal("two nodes run on one data directory")
	}
	if code := second.ExitCode(); code != exitDataDir {
		t.Errorf("exit code %d, want %d", code, exitDataDir)
	}
	if pid := strconv.Itoa(first.Pid()); !strings.Contains(second.Log(), pid) {
		t.Errorf("the refusal does not name process %s:\n%s", pid, second.Log())
	}
	ack, err := c.Publish(ctx, client.Message{Subject: "first", Value: []byte("2")})
	if err != nil || ack.Offset != 1 {
		t.Errorf("the first node afterwards: %v, %v", ack, err)
	}

	// A process that was killed leaves no lock behind.
	first.Kill()
	second.Start()
	c = harness.Connect(t, second.Address())
	if ack, err = c.Publish(ctx, client.Message{Subject: "first", Value: []byte("3")}); err != nil || ack.Offset != 2 {
		t.Errorf("after the first was killed: %v, %v", ack, err)
	}
}

// TestTerm stops a node with SIGTERM under load, several times: clients are told to go, what is in
// flight is answered, the exit is clean, and the clients go on when the node is back.
func TestTerm(t *testing.T) {
	seed := harness.Seed(t)
	s := harness.NewServer(t, harness.Config{})
	j := harness.NewJournal(seed, "term", 2)
	j.NewStream(t, s.Address())
	observer := harness.StartObserver(t, j, s.Address())
	var pumps []*harness.Pump
	for _, records := range []int{1, 32} {
		pumps = append(pumps, harness.StartPump(t, j, s.Address(), harness.PumpConfig{BatchRecords: records, Tap: true}))
	}
	for range 3 {
		bystander, err := harness.DialReader(s.Address())
		if err != nil {
			t.Fatal(err)
		}
		await(t, j, s, 5000)
		s.Signal(syscall.SIGTERM)
		if _, err := bystander.AwaitGoaway(); err != nil {
			t.Errorf("after SIGTERM no GOAWAY came: %v", err)
		}
		if code := s.ExitCode(); code != 0 {
			t.Fatalf("after SIGTERM under load the exit code is %d", code)
		}
		_ = bystander.Close()
		unanswered := 0
		for _, p := range pumps {
			n, err := p.Tap.AwaitDown(harness.Patience)
			if err != nil {
				t.Fatal(err)
			}
			unanswered += n
		}
		t.Logf("%d batches were on their way and not answered", unanswered)
		s.Start()
		if err := j.CheckLast(s.Address()); err != nil {
			t.Fatal(err)
		}
	}
	await(t, j, s, 5000)
	for _, p := range pumps {
		p.Finish(t)
	}
	j.MustCheck(t, s.Address())
	noFailures(t, j)
	if _, err := observer.AwaitAll(s.Address()); err != nil {
		t.Error(err)
	}
}
