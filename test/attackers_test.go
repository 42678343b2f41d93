package test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/test/harness"
)

// Attackers are a process of their own: this very test binary, which finds the name of a case in its environment.
// Where the figure counts, it runs at idle priority: on other machines, where they would be, their work costs the
// node nothing; what the node has to do because of them still counts in full. Beside other tests it would starve.
const (
	attackVariable = "TIDEWIRE_TEST_ATTACK"
	attackAddress  = "TIDEWIRE_TEST_ATTACK_ADDRESS"
	attackOther    = "TIDEWIRE_TEST_ATTACK_OTHER" // address of another node; empty: there is none
)

// What the two processes say to each other, in lines.
const (
	lineAttack  = "attack"  // to the attackers
	lineAllowed = "allowed" // to the attackers
	lineRest    = "rest"    // to the attackers
	lineReady   = "ready"   // from them: nothing happens until the next line
	lineFailure = "failure" // from them, with words behind it
)

// attackers is the process, seen from the test.
type attackers struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // closed when it has ended
}

// startAttackers starts them. With other, the address of another node, they attack that one while the neighbour is watched for
// comparison.
func startAttackers(t *testing.T, name, address, other string) *attackers {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	if os.Getenv(goalVariable) != "" {
		cmd = harness.Idle(self)
	}
	cmd.Env = append(os.Environ(), attackVariable+"="+name, attackAddress+"="+address, attackOther+"="+other)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &attackers{t: t, cmd: cmd, in: in, lines: make(chan string)}
	go func() {
		defer close(a.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			a.lines <- s.Text()
		}
	}()
	a.ready()
	return a
}

func (a *attackers) say(line string) {
	a.t.Helper()
	if _, err := fmt.Fprintln(a.in, line); err != nil {
		a.t.Fatalf("the attackers' process: %v", err)
	}
}

// ready waits until the attackers have ended what they did. What went wrong there fails the test.
func (a *attackers) ready() {
	a.t.Helper()
	patience := time.After(2 * harness.Patience)
	for {
		select {
		case line, ok := <-a.lines:
			switch failure, failed := strings.CutPrefix(line, lineFailure+" "); {
			case !ok:
				a.t.Fatal("the attackers' process has ended")
			case failed:
				a.t.Error(failure)
			case line == lineReady:
				return
			}
		case <-patience:
			a.t.Fatal("the attackers do not come to an end")
		}
	}
}

func (a *attackers) attack() { a.t.Helper(); a.say(lineAttack) }
func (a *attackers) behave() { a.t.Helper(); a.say(lineAllowed) }
func (a *attackers) rest()   { a.t.Helper(); a.say(lineRest); a.ready() }

// end ends the process.
func (a *attackers) end() {
	_ = a.in.Close()
	for range a.lines { // until it closes its end
	}
	if err := a.cmd.Wait(); err != nil && !a.t.Failed() {
		a.t.Errorf("the attackers' process: %v", err)
	}
}

// attackPace is how often each attacker attacks.
const attackPace = 25 * time.Millisecond

// attackMain is the attackers' process. It ends when its input does.
func attackMain(name, address, other string) int {
	cases := append(slices.Concat(hostileCases, connectionCases), manyCursors, topologyUnread)
	i := slices.IndexFunc(cases, func(c hostileCase) bool { return c.name == name })
	if i < 0 {
		fmt.Fprintf(os.Stderr, "%s: no attack is called %q\n", attackVariable, name)
		return 2
	}
	workers := cases[i].workers
	if workers == 0 {
		workers = 4
	}
	f := &failures{}
	commands := bufio.NewScanner(os.Stdin)
	f.line(lineReady)
	for commands.Scan() {
		act := cases[i].attack
		e := &enemies{t: f, address: address, stop: make(chan struct{})}
		switch {
		case commands.Text() == lineAttack:
		case other != "":
			e.address = other
		case allowed[name] != nil:
			act = allowed[name]
		default:
			act = func(*enemies) {}
		}
		var attacking sync.WaitGroup
		for range workers {
			attacking.Go(func() { e.again(act) })
		}
		commands.Scan() // to rest, or the end
		close(e.stop)
		attacking.Wait()
		e.closeAll()
		f.line(lineReady)
	}
	return 0
}

// again attacks at the attackers' pace until it is to stop.
func (e *enemies) again(attack func(*enemies)) {
	pace := time.NewTicker(attackPace)
	defer pace.Stop()
	for !e.t.Failed() {
		attack(e)
		select {
		case <-e.stop:
			return
		case <-pace.C:
		}
		select {
		case <-e.stop:
			return
		default:
		}
	}
}

// failures tells the test, line by line, what went wrong.
type failures struct {
	mu     sync.Mutex // lines stay whole
	failed atomic.Bool
}

func (f *failures) line(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Println(strings.ReplaceAll(s, "\n", " "))
}

func (f *failures) Error(args ...any) {
	f.failed.Store(true)
	f.line(lineFailure + " " + fmt.Sprint(args...))
}

func (f *failures) Errorf(format string, args ...any) { f.Error(fmt.Sprintf(format, args...)) }

func (f *failures) Failed() bool { return f.failed.Load() }
