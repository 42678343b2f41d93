package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
)

// doc is the sentence without the marks of a flag's placeholder.
func (s *Setting) doc() string {
	doc := strings.ReplaceAll(s.Doc, "`", "")
	return strings.ToUpper(doc[:1]) + doc[1:] + "."
}

// when says what it takes for a change to hold.
func (s *Setting) when() string {
	if s.Reloadable {
		return "reload"
	}
	return "restart"
}

// Example is a file with every setting in it, commented out at its default.
func Example() string {
	var b strings.Builder
	b.WriteString("# Tidewire: every setting at its default. Remove the # of what you change, and of its section.\n" +
		"# Flags win over the environment, the environment over this file. `tidewire config check FILE` tries it.\n")
	section := ""
	for i := range table {
		s := &table[i]
		in, name, nested := strings.Cut(s.Key, ".")
		indent := ""
		if !nested {
			name = in
		} else {
			indent = "  "
			if in != section {
				fmt.Fprintf(&b, "\n#%s:\n", in)
				section = in
			}
		}
		about := []string{s.when()}
		if r := s.Range(); r != "" {
			about = append([]string{r}, about...)
		}
		value := s.DefaultText()
		if s.Default != "" {
			about = append(about, "default "+s.Default)
			value = s.Example
		}
		if s.Kind == Text {
			value = cmp.Or(value, `""`)
		}
		fmt.Fprintf(&b, "#%s# %s (%s)\n#%s%s: %s\n", indent, s.doc(), strings.Join(about, "; "), indent, name, value)
	}
	return b.String()
}

// Schema is the JSON schema of a file, for editors.
func Schema() string {
	top := map[string]any{}
	for i := range table {
		s := &table[i]
		p := map[string]any{"description": s.doc(), "default": s.DefaultText()}
		switch s.Kind {
		case Bool:
			p["type"], p["default"] = "boolean", s.DefaultText() == "true"
		case Count:
			p["type"], p["minimum"], p["maximum"] = "integer", s.Min, s.Max
			if s.None {
				p["type"], p["pattern"] = []string{"integer", "string"}, "^none$"
			}
			delete(p, "default")
		case Bytes:
			p["type"], p["pattern"] = []string{"integer", "string"}, `^[0-9]+(\.[0-9]+)? ?([kKmMgGtT][iI]?)?[bB]?$`
			p["minimum"], p["maximum"] = s.Min, s.Max
			if s.None {
				p["pattern"] = p["pattern"].(string) + "|^none$"
			}
		case Duration:
			p["type"], p["pattern"] = "string", `^([0-9.]+(ns|us|µs|ms|s|m|h))+$|^[0-9.]+[dw]$`
		case Ratio:
			p["type"], p["minimum"], p["maximum"] = "number", 0, 1
			delete(p, "default")
		default:
			p["type"] = "string"
			if s.OneOf != nil {
				p["enum"] = s.OneOf
			}
		}
		in, name, nested := strings.Cut(s.Key, ".")
		if !nested {
			top[in] = p
			continue
		}
		if top[in] == nil {
			top[in] = map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{}}
		}
		top[in].(map[string]any)["properties"].(map[string]any)[name] = p
	}
	b, err := json.MarshalIndent(map[string]any{"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tidewire node",
		"type": "object", "additionalProperties": false, "properties": top}, "", "  ")
	if err != nil {
		panic(err) // maps of plain values
	}
	return string(b) + "\n"
}

const referenceHead = `# Configuration

<!-- Generated from broker/config/table.go: go test ./broker/config -update -->

A node is set by a YAML file, by environment variables and by flags. A flag wins over the environment, the
environment over the file, the file over the default. The same key stands in each: ` + "`limits.max-requests`" + ` is the
flag ` + "`--limits-max-requests`" + `, the variable ` + "`TIDEWIRE_LIMITS_MAX_REQUESTS`" + `, and in the file

` + "```yaml" + `
limits:
  max-requests: 2048
` + "```" + `

or ` + "`limits.max-requests: 2048`" + ` on a line of its own. The file is named by ` + "`--config`" + ` or ` + "`TIDEWIRE_CONFIG`" + `; there is no
default place, so a node never reads a file that nobody named. Begin one with ` + "`tidewire config example`" + `.

Durations are written 30s, 10m, 36h, 7d, 2w; bytes 4096, 64KiB, 500MB, 10GiB. YAML's anchors, aliases and tags are
not read.

A setting that does not exist, or a value that is not allowed, keeps the node from starting: everything that is
wrong is told at once, with file, line and column, and the exit code is 78 (2 if only flags are wrong). That
holds for variables that begin like a setting too. ` + "`tidewire config check FILE`" + ` tells without a node;
` + "`tidewire config show --origin`" + ` says what would hold and where it comes from.

SIGHUP reads the file again. If anything in it is wrong, nothing changes and the log says all reasons. Else every
changed setting marked *reload* holds at once, for what comes next: the next connection, frame or look. A
client keeps what it was told when it connected, if that is more. Changed settings marked *restart* are named in a
warning, and the old values hold.

The log goes to standard error and nowhere else: systemd's journal, or what runs the process, keeps it. So that no
client can fill a disk through it, of the same message 20 lines in 10 seconds are written and of the rest one in
1,000, and at most 500 lines a second of errors, and 500 of all else; once a minute the log says how many were left out.

Under systemd, use ` + "`Type=notify-reload`" + ` (or ` + "`notify`" + `): the node tells when it is ready, reloads and stops.

| setting | value | default | change by | meaning |
|---|---|---|---|---|
`

// Reference is docs/reference/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	for i := range table {
		s := &table[i]
		what := string(s.Kind)
		if r := s.Range(); r != "" {
			what = r
		}
		def := s.DefaultText()
		if def == "" {
			def = "none"
		}
		doc := s.doc()
		if s.Secret {
			doc += " Never shown."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", s.Key, what, def, s.when(), doc)
	}
	return b.String()
}
