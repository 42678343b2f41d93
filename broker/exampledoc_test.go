package broker

import (
	"os"
	"strings"
	"testing"
)

// The program in the reference is the example that is run.
func TestAdminReferenceHasTheExample(t *testing.T) {
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/reference/admin-api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(source), "\t// begin\n")
	body, _, ok := strings.Cut(rest, "\t// end\n")
	if !ok {
		t.Fatal("example_test.go lacks its marks")
	}
	var code strings.Builder
	for line := range strings.Lines(body) {
		code.WriteString(strings.TrimPrefix(line, "\t"))
	}
	if !strings.Contains(string(page), "```go\n"+code.String()+"```\n") {
		t.Error("docs/reference/admin-api.md and example_test.go differ")
	}
}
