package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/internal/explain"
)

// sources are the files of this package, without its tests.
func sources(t *testing.T) (*token.FileSet, map[string]*ast.File) {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set, files := token.NewFileSet(), map[string]*ast.File{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if files[name], err = parser.ParseFile(set, name, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	return set, files
}

// Every error that is said to a person has a number: problems name one, and no verb makes an error that is no problem.
func TestEveryErrorHasAnID(t *testing.T) {
	set, files := sources(t)
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "problem" && !names(n, "id") {
					t.Errorf("%s: a problem without an id", set.Position(n.Pos()))
				}
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && key.Name == "RunE" {
					rawErrors(t, set, n.Value)
				}
			case *ast.AssignStmt:
				if sel, ok := n.Lhs[0].(*ast.SelectorExpr); ok && sel.Sel.Name == "RunE" {
					rawErrors(t, set, n.Rhs[0])
				}
			}
			return true
		})
	}
}

func names(lit *ast.CompositeLit, field string) bool {
	return slices.ContainsFunc(lit.Elts, func(e ast.Expr) bool {
		kv, ok := e.(*ast.KeyValueExpr)
		return ok && kv.Key.(*ast.Ident).Name == field
	})
}

// rawErrors reports what a verb returns that has neither a number nor words.
func rawErrors(t *testing.T, set *token.FileSet, verb ast.Expr) {
	ast.Inspect(verb, func(n ast.Node) bool {
		r, ok := n.(*ast.ReturnStmt)
		if !ok {
			return true
		}
		for _, x := range r.Results {
			call, ok := x.(*ast.CallExpr)
			if !ok {
				continue
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && (pkg.Name == "errors" && sel.Sel.Name == "New" || pkg.Name == "fmt" && sel.Sel.Name == "Errorf") {
					t.Errorf("%s: a verb returns a raw error", set.Position(r.Pos()))
				}
			}
		}
		return true
	})
}

// What the catalogue has for the command line is used by it; other rooms look after their own groups.
func TestNoUnusedEntries(t *testing.T) {
	_, files := sources(t)
	used := map[string]bool{}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "explain" {
					used[sel.Sel.Name] = true
				}
			}
			return true
		})
	}
	for _, name := range []string{"connection.go", "command.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", "internal", "explain", name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST {
				for _, s := range g.Specs {
					if id := s.(*ast.ValueSpec).Names[0].Name; !used[id] {
						t.Errorf("explain.%s is used nowhere", id)
					}
				}
			}
		}
	}
}

// docs/reference/errors.md is the catalogue.
func TestErrorsDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Errors

Every error that Tidewire shows to a person has a number, which never means anything else.
` + "`tidewire explain TW-1020`" + ` prints an entry. This page is generated from the same catalogue
(` + "`go test ./cmd/tidewire -update`" + `).
`)
	groups := map[explain.ID]string{1: "The wire protocol", 2: "Configuration", 3: "A node that does not start", 4: "A node that stops or refuses",
		5: "Connections", 6: "The command line"}
	last := explain.ID(0)
	for _, e := range explain.All() {
		if group := e.ID / 1000; group != last {
			fmt.Fprintf(&b, "\n## %s\n", groups[group])
			last = group
		}
		fmt.Fprintf(&b, "\n<a id=\"%s\"></a>\n### %s: %s\n\n%s\n\n**What to do:** %s\n", strings.ToLower(e.ID.String()), e.ID, e.Name, e.Cause, e.Remedy)
	}
	golden(t, "../../../docs/reference/errors.md", b.String())
}

// An error looks the same wherever it comes from; with -o json it is an object.
func TestErrorOutput(t *testing.T) {
	n := startNode(t, t.TempDir(), false)
	c := newCLI(t, n)
	var story strings.Builder
	for _, args := range []string{
		"stream show nope",
		"stream show nope -o json",
		"stream show nope --server 127.0.0.1:1 --timeout 5s -o json",
		"stream show nope --server 127.0.0.1:1 --timeout 5s",
		"stream show nope --context nope",
		"pub nowhere.x y",
		"stream lx",
		"stream ls -o xml",
		"sub",
		"explain 9999",
		"explain 1019 -o json",
		"explain nonsense",
		"context select nope",
		"context -",
		"log verify /nonexistent",
	} {
		r := c.run(strings.Fields(args)...)
		if r.code == 0 || r.out != "" {
			t.Errorf("%s: exit code %d, output %q", args, r.code, r.out)
		}
		fmt.Fprintf(&story, "$ tidewire %s\n%sexit code %d\n", args, r.err, r.code)
	}
	golden(t, "errors.txt", story.String())
}

// A code of the wire protocol is explained by its name as by its number.
func TestExplainByName(t *testing.T) {
	c := newCLI(t, nil)
	want := c.ok("explain", "TW-1020")
	for _, name := range []string{"UNKNOWN_STREAM", "unknown_stream", "Unknown-Stream", "UNKNOWN_STREAM:"} {
		if got := c.ok("explain", name); got != want {
			t.Errorf("%s is explained as %s", name, got)
		}
	}
	c.fails(exitUsage, []string{"explain", "CODE(20)"}, "TW-6002")
	c.fails(exitUsage, []string{"explain", "UNKNOWN_STREAM", "OVERLOADED"}, "TW-6002")
}

func TestUnknownErrors(t *testing.T) {
	for _, err := range []error{errors.New("x"), fs.ErrNotExist, io.ErrUnexpectedEOF} {
		var stderr buffer
		a := &app{err: &stderr}
		if code := a.report(err); code != exitError || !strings.HasPrefix(stderr.String(), "error TW-6000: ") {
			t.Errorf("%v: exit code %d, %q", err, code, stderr.String())
		}
	}
	if _, err := os.Stat("../../docs/reference/errors.md"); err != nil {
		t.Error(err)
	}
}

// numbered is how every error begins.
var numberedError = regexp.MustCompile(`(?m)error TW-\d{4}:|^\s*"id": "TW-\d{4}"`)
