package wire

import (
	"os"
	"os/exec"
	"testing"
)

// The Python examples, written from the document alone, read and write the vectors too: a second
// implementation, in another language, agrees.
func TestPythonExamples(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Log("no python3 here, the examples are left to CI")
		return
	}
	cmd := exec.Command(python, "-W", "error", "-m", "unittest", "discover", "-s", "../../docs/examples/python", "-p", "test_*.py")
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
