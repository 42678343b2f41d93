package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/tidewire/tidewire/internal/spelling"
)

const (
	// maxFile bounds a configuration file, in bytes.
	maxFile = 256 << 10
	// maxDepth bounds nesting: the parser recurses.
	maxDepth = 64
	// maxKey bounds what is said of an unknown key.
	maxKey = 100
)

// readFile reads the settings in the file called name.
func readFile(name string) (map[string]value, Problems) {
	var problems Problems
	f, err := os.Open(name)
	if err != nil {
		problems.add(idUnreadable, name, "%v: give the path of a file this user may read", reason(err))
		return nil, problems
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		problems.add(idUnreadable, name, "it is a directory: name the file in it")
		return nil, problems
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		problems.add(idUnreadable, name, "%v", reason(err))
		return nil, problems
	}
	return parse(name, b)
}

// reason is err without the path that stands before it already.
func reason(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// parse reads YAML: a mapping of settings, nested by section or with dots. It goes on after what is
// wrong with a value, so that everything is told at once; broken syntax ends it.
func parse(name string, b []byte) (_ map[string]value, problems Problems) {
	switch {
	case len(b) > maxFile:
		problems.add(idUnreadable, name, "it is larger than %s, which no configuration is: is it another file?", BytesText(maxFile))
		return nil, problems
	case bytes.IndexByte(b, 0) >= 0 || !utf8.Valid(b):
		line := 1
		for rest := b; len(rest) > 0; {
			r, n := utf8.DecodeRune(rest)
			if r == 0 || r == utf8.RuneError && n == 1 {
				break
			}
			if r == '\n' {
				line++
			}
			rest = rest[n:]
		}
		problems.add(idSyntax, fmt.Sprintf("%s:%d", name, line), "it is not text in UTF-8: save it as such")
		return nil, problems
	case deep(b):
		problems.add(idSyntax, name, "it nests deeper than %d levels; settings have two: section and name", maxDepth)
		return nil, problems
	}
	defer func() {
		if p := recover(); p != nil { // the parser's bug must not be the node's
			problems = nil
			problems.add(idSyntax, name, "it is not YAML that can be read: %v", p)
		}
	}()
	b = bytes.TrimPrefix(b, []byte("\uFEFF"))
	file, err := parser.ParseBytes(b, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		where, what := name, err.Error()
		if e, ok := errors.AsType[yaml.Error](err); ok {
			what = fmt.Sprintf("%.200s", e.GetMessage()) // which may hold the whole line
			if t := e.GetToken(); t != nil && t.Position != nil {
				where = fmt.Sprintf("%s:%d:%d", name, t.Position.Line, t.Position.Column)
				if lines := bytes.Split(b, []byte("\n")); t.Position.Line >= 1 && t.Position.Line <= len(lines) {
					line := lines[t.Position.Line-1]
					if trimmed := bytes.TrimLeft(line, " "); len(trimmed) > 0 && trimmed[0] == '\t' {
						what = "a tab indents the line, and YAML wants spaces"
					} else {
						what += fmt.Sprintf(": %.80q", bytes.TrimSpace(line))
					}
				}
			}
		}
		problems.add(idSyntax, where, "%s", strings.ReplaceAll(what, "\n", " "))
		return nil, problems
	}
	r := &reader{name: name, values: make(map[string]value)}
	documents := 0
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if _, comment := doc.Body.(*ast.CommentGroupNode); comment {
			continue
		}
		if documents++; documents > 1 {
			r.problems.add(idSyntax, r.at(doc.Body), "a second document begins: a configuration is one, without ---")
			break
		}
		r.mapping("", doc.Body)
	}
	return r.values, r.problems
}

// deep reports whether b may nest deeper than maxDepth. It counts indentation and brackets without
// regard to quotes: a configuration has neither.
func deep(b []byte) bool {
	open := 0
	for line := range bytes.Lines(b) {
		indent := len(line) - len(bytes.TrimLeft(line, " -?:"))
		opened := bytes.Count(line, []byte("[")) + bytes.Count(line, []byte("{"))
		if open += opened; open > maxDepth || indent > 2*maxDepth {
			return true
		}
		open = max(0, open-bytes.Count(line, []byte("]"))-bytes.Count(line, []byte("}")))
	}
	return false
}

// reader walks a document.
type reader struct {
	name     string
	values   map[string]value
	problems Problems
}

func (r *reader) at(n ast.Node) string {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return fmt.Sprintf("%s:%d:%d", r.name, t.Position.Line, t.Position.Column)
	}
	return r.name
}

// mapping reads the settings below prefix, which is "" or ends with a dot.
func (r *reader) mapping(prefix string, n ast.Node) {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, pair := range n.Values {
			r.pair(prefix, pair)
		}
	case *ast.MappingValueNode:
		r.pair(prefix, n)
	case *ast.NullNode:
	default:
		what := "the file"
		if prefix != "" {
			what = strings.TrimSuffix(prefix, ".")
		}
		r.problems.add(idType, r.at(n), "%s is %s, and should hold settings, each as name: value", what, describe(n))
	}
}

func (r *reader) pair(prefix string, pair *ast.MappingValueNode) {
	key, ok := scalar(pair.Key)
	if !ok {
		r.problems.add(idType, r.at(pair.Key), "a key is %s: keys are plain words", describe(pair.Key))
		return
	}
	where := r.at(pair.Key)
	key = prefix + key
	section := sectionOf(key)
	s := find(key)
	switch {
	case s == nil && section:
		r.mapping(key+".", pair.Value)
		return
	case s == nil:
		say := fmt.Sprintf("%.*q is no setting", maxKey, key)
		if near := cmp.Or(nearest(key[:min(len(key), maxKey)]), nearSection(key)); near != "" {
			say += ": did you mean " + near + "?"
		} else {
			say += ": `tidewire config example` lists them"
		}
		r.problems.add(idUnknown, where, "%s", say)
		return
	}
	text, ok := scalar(pair.Value)
	if !ok {
		r.problems.add(idType, r.at(pair.Value), "%s is %s, and should be %s", key, describe(pair.Value), s.Kind)
		return
	}
	if first, twice := r.values[key]; twice {
		r.problems.add(idTwice, where, "%s was set before, at %s: keep one of them", key, first.Origin)
		return
	}
	r.values[key] = value{text, where}
}

// sectionOf reports whether there are settings below key.
func sectionOf(key string) bool {
	for i := range table {
		if strings.HasPrefix(table[i].Key, key+".") {
			return true
		}
	}
	return false
}

// nearSection is the section most like key, or "".
func nearSection(key string) string {
	best, at := "", 3
	for i := range table {
		section, _, ok := strings.Cut(table[i].Key, ".")
		if d := spelling.Distance(key[:min(len(key), maxKey)], section); ok && d < at {
			best, at = section, d
		}
	}
	return best
}

// scalar is the text of a plain value. Anchors, aliases and tags are not: a configuration needs none, and what is not
// expanded cannot explode.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimSpace(n.Value.Value), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// describe names the sort of a node.
func describe(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor or alias, which are not read here"
	case *ast.TagNode:
		return "a tag, which are not read here"
	}
	return "a single value"
}
