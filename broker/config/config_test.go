package config

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/internal/explain"
)

var update = flag.Bool("update", false, "write docs/reference/configuration.md anew")

// Each exported field of broker.Config is a setting, or is listed as none.
func TestTable(t *testing.T) {
	set := make(map[string]bool)
	flags, envs := make(map[string]string), make(map[string]string)
	for _, s := range Table() {
		set[s.brokerField()] = true
		if other := flags[s.Flag()]; other != "" {
			t.Errorf("%s and %s have the same flag", s.Key, other)
		}
		if other := envs[s.Env()]; other != "" {
			t.Errorf("%s and %s have the same variable", s.Key, other)
		}
		if others.MatchString(s.Env()) || service.MatchString(s.Env()) {
			t.Errorf("%s would not be read: others use that name", s.Env())
		}
		flags[s.Flag()], envs[s.Env()] = s.Key, s.Key
		if s.Doc == "" || s.Kind != Text && s.Kind != Bool && s.Kind != Ratio && s.Min >= s.Max {
			t.Errorf("%s lacks its document or range", s.Key)
		}
		if p := s.set(new(Config), value{s.Example, "here"}); (s.Default == "") != (s.Example == "") || s.Example != "" && p != nil {
			t.Errorf("%s: default %q, example %q, %v: give both, or neither", s.Key, s.Default, s.Example, p)
		}
		c := defaults()
		if text := s.text(&c); text != "" && s.Default == "" { // a default that does not depend on the machine is accepted, and comes back the same
			fresh := Config{}
			if p := s.set(&fresh, value{text, "here"}); p != nil || s.text(&fresh) != text {
				t.Errorf("default of %s: %q came back as %q, %v", s.Key, text, s.text(&fresh), p)
			}
		}
	}
	for i := range reflect.TypeFor[broker.Config]().NumField() {
		name := reflect.TypeFor[broker.Config]().Field(i).Name
		if set[name] == (notSettings[name] != "") {
			t.Errorf("broker.Config.%s must be in the table of settings, or in notSettings with the reason: one of them", name)
		}
	}
	for id := idUnreadable; id <= idConflict; id++ {
		if _, ok := explain.Lookup(id); !ok {
			t.Errorf("%v is not in internal/explain", id)
		}
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tidewire.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	file := write(t, "data: /file\nlimits:\n  max-requests: 10\n  max-cursors: 20\nlimits.max-conversations: 30\ntimeouts: {idle: 7d, handshake: 1m}\nmemory:\n  publish-bytes: 1GiB\n  limit: 8GiB\n")
	l, err := Load(Options{File: file, Defaults: map[string]string{"data": "here", "log.level": "warn"},
		Environ: []string{"TIDEWIRE_LIMITS_MAX_CURSORS=21", "TIDEWIRE_TIMEOUTS_HANDSHAKE=2m", "TIDEWIRE_SERVER=x", "HOME=/"},
		Flags:   []Given{{"timeouts.handshake", "3m", "--timeouts-handshake"}}})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string][2]string{
		"data":                     {"/file", file + ":1:1"},
		"limits.max-requests":      {"10", file + ":3:3"},
		"limits.max-conversations": {"30", file + ":5:1"},
		"limits.max-cursors":       {"21", "TIDEWIRE_LIMITS_MAX_CURSORS"},
		"timeouts.handshake":       {"3m", "--timeouts-handshake"},
		"timeouts.idle":            {"7d", file + ":6:12"},
		"memory.publish-bytes":     {"1GiB", file + ":8:3"},
		"log.level":                {"warn", "default"},
		"log.format":               {"text", "default"},
		"listen":                   {"127.0.0.1:7420", "default"},
	} {
		if got := [2]string{find(key).text(&l.Config), l.Origin(key)}; got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	if l.DataDir != "/file" || l.IdleTimeout != 7*24*time.Hour || l.PublishMemory != 1<<30 {
		t.Errorf("%+v", l.Config)
	}
}

// The parts of the memory may not be more than there is for them, whoever set the whole.
func TestMemoryShares(t *testing.T) {
	for _, x := range []struct{ memory, where, want string }{
		{"{limit: 1GiB, publish-bytes: 2GiB}", ":2:10", "memory.publish-bytes 2GiB, memory.hot-bytes "},
		{"{limit: 1GiB, publish-bytes: 300MiB, hot-bytes: 300MiB, outbound-bytes: 300MiB, inbound-bytes: 1MiB}", ":2:10", "are together more than 3/4 of memory.limit (1GiB)"},
		{"{inbound-bytes: 16TiB}", ":2:10", "memory.inbound-bytes 16TiB are together more than 3/4 of memory.limit ("},
		{"{limit: 1GiB, publish-bytes: 256MiB, hot-bytes: 256MiB, outbound-bytes: 255MiB, inbound-bytes: 1MiB}", "", ""},
		{"{limit: 32MiB}", "", ""},
	} {
		file := write(t, "data: d\nmemory: "+x.memory+"\n")
		_, err := Load(Options{File: file})
		p, _ := errors.AsType[Problems](err)
		switch {
		case x.want == "" && err != nil:
			t.Errorf("%s: %v", x.memory, err)
		case x.want != "" && (len(p) != 1 || p[0].ID != idConflict || p[0].Where != file+x.where || !strings.Contains(p[0].What, x.want)):
			t.Errorf("%s: %v", x.memory, err)
		}
	}
}

// Everything wrong is said at once, with where, the value and what it may be.
func TestAllProblemsAtOnce(t *testing.T) {
	file := write(t, `listen: 0.0.0.0:7420
limits:
  max-conections: 5
  max-requests: many
  max-cursors: 0
limts: {}
timeouts:
  idle: 5 minutes
  drain: [1s]
memory: 12
log:
  level: loud
  level: info
dev: yes
quux: {a: b}
`)
	_, err := Load(Options{File: file, Environ: []string{"TIDEWIRE_LIMITS_MAX_CONECTIONS=4", "TIDEWIRE_LIMITS_QUUX=1", "TIDEWIRE_MEMORY_HOT_BYTES=lots",
		"TIDEWIRE_PORT=tcp://10.0.0.1:7420", "TIDEWIRE_PORT_7420_TCP_ADDR=10.0.0.1", "TIDEWIRE_HEADLESS_SERVICE_HOST=10.0.0.1", "TIDEWIRE_ELSEWHERE=1"},
		Flags: []Given{{"storage.segment-bytes", "1GB2", "--storage-segment-bytes"}}})
	problems, ok := errors.AsType[Problems](err)
	if !ok {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(err.Error(), file, "F")
	for _, want := range []string{
		`F:3:3: "limits.max-conections" is no setting: did you mean limits.max-connections? (TW-2102)`,
		`F:4:3: limits.max-requests: "many" is no whole number: give one from 1 to 1048576 (TW-2103)`,
		`F:5:3: limits.max-cursors: "0" is below 1: give 1 to 16777216 (TW-2104)`,
		`F:6:1: "limts" is no setting: did you mean limits?`,
		`F:8:3: timeouts.idle: "5 minutes" is no duration: give 30s, 10m, 36h, 7d or 2w (TW-2103)`,
		`timeouts.drain is a list, and should be duration (TW-2103)`,
		`memory is a single value, and should hold settings, each as name: value (TW-2103)`,
		`F:12:3: log.level: "loud" is not debug, info, warn or error (TW-2103)`,
		`F:13:3: log.level was set before, at F:12:3: keep one of them (TW-2105)`,
		`F:14:1: dev: "yes" is not true or false (TW-2103)`,
		`F:15:1: "quux" is no setting: `,
		`TIDEWIRE_LIMITS_MAX_CONECTIONS: it is no setting: did you mean TIDEWIRE_LIMITS_MAX_CONNECTIONS? (TW-2102)`,
		`TIDEWIRE_LIMITS_QUUX: it looks like a setting and is none`,
		`TIDEWIRE_MEMORY_HOT_BYTES: memory.hot-bytes: "lots" is no number of bytes`,
		`--storage-segment-bytes: storage.segment-bytes: "1GB2" is no number of bytes`,
		`F:1:1: address "0.0.0.0:7420" can be reached by others`,
		`configuration: data is not set`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("not said: %s", want)
		}
	}
	if len(problems) != 17 {
		t.Errorf("%d problems", len(problems))
	}
	if t.Failed() {
		t.Log("\n" + text)
	}
}

// What only the node finds wrong is told where it was set, too.
func TestWhereItIsWrong(t *testing.T) {
	file := write(t, "data: d\nadmin:\n  listen: 0.0.0.0:7421\ntelemetry:\n  otlp-endpoint: nowhere\nmemory:\n  limit: 64MiB\n  hot-bytes: 48MiB\n")
	_, err := Load(Options{File: file})
	text := strings.ReplaceAll(fmt.Sprint(err), file, "F")
	for _, want := range []string{
		`F:3:3: address "0.0.0.0:7421" can be reached by others`,
		`F:5:3: OTLP endpoint "nowhere" is no address`,
		`F:7:3: memory.publish-bytes`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("not said: %s\n%s", want, text)
		}
	}
}

// Files that are no configuration: a clear error, or fine.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(write(t, "data: linked\n"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := 'b'; i < 'k'; i++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", i, i, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	for name, x := range map[string]struct{ file, want string }{
		"missing":       {filepath.Join(dir, "nothing"), "no such file or directory: give the path"},
		"directory":     {dir, "it is a directory"},
		"below a file":  {write(t, "") + "/x", "not a directory"},
		"symlink":       {filepath.Join(dir, "link"), ""},
		"empty":         {write(t, ""), ""},
		"comments":      {write(t, "# nothing\n"), ""},
		"empty section": {write(t, "limits:\n"), ""},
		"byte order":    {write(t, "\uFEFFdev: true\n"), ""},
		"CRLF":          {write(t, "limits:\r\n  max-requests: 5\r\ndev: true\r\n"), ""},
		"huge":          {write(t, strings.Repeat("# large\n", 1<<16)), "larger than 256KiB"},
		"endless":       {"/dev/zero", "larger than 256KiB"},
		"latin-1":       {write(t, "dev: true\ndata: \xe4\n"), ":2: it is not text in UTF-8"},
		"zeros":         {write(t, "dev: \x00\n"), ":1: it is not text in UTF-8"},
		"tab":           {write(t, "limits:\n\tmax-requests: 5\n"), ":2:1: a tab indents the line"},
		"syntax":        {write(t, "data: b: c\n"), `:1:7: mapping value is not allowed in this context: "data: b: c" (TW-2101)`},
		"list":          {write(t, "- a\n"), "the file is a list"},
		"word":          {write(t, "hello\n"), "the file is a single value"},
		"JSON":          {write(t, `{"limits": {"max-requests": 5}, "dev": true}`), ""},
		"two":           {write(t, "dev: true\n---\ndev: false\n"), "a second document begins"},
		"alias":         {write(t, "data: &x d\nlisten: *x\n"), "an anchor or alias"},
		"merge":         {write(t, "limits:\n  <<: {max-requests: 5}\n"), "a key is an anchor or alias"},
		"tag":           {write(t, "data: !!binary aGk=\n"), "a tag"},
		"bomb":          {write(t, bomb), "is no setting"},
		"deep":          {write(t, "data: "+strings.Repeat("[", 10000)), "nests deeper"},
		"deep section":  {write(t, strings.Repeat("- ", 10000)+"x\n"), "nests deeper"},
	} {
		_, err := Load(Options{File: x.file, Partial: true})
		switch {
		case x.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)):
			t.Errorf("%s: %v, want %q", name, err, x.want)
		}
	}
}

func TestRatioAndNone(t *testing.T) {
	var ratio float64
	s := Setting{Key: "x", Kind: Ratio, field: func(*Config) any { return &ratio }}
	for text, want := range map[string]string{"0.25": "", "1": "", "NaN": "not above 0", "1.01": "not above 0", "-1": "not above 0", "0": "not above 0", "half": "no number"} {
		if p := s.set(nil, value{text, "here"}); (p == nil) != (want == "") || p != nil && !strings.Contains(p.Error(), want) {
			t.Errorf("%s: %v", text, p)
		}
	}
	var free int64
	s = Setting{Key: "x", Kind: Bytes, Max: 10, None: true, field: func(*Config) any { return &free }}
	if p := s.set(nil, value{"none", "here"}); p != nil || free != -1 || s.text(nil) != "none" {
		t.Errorf("none came to %d, %q: %v", free, s.text(nil), p)
	}
	if p := s.set(nil, value{"-1", "here"}); p == nil {
		t.Error("-1 bytes are accepted")
	}
	for i := range table {
		s, c := &table[i], new(Config)
		if p := s.set(c, value{"none", "here"}); s.None && (p != nil || s.text(c) != "none") {
			t.Errorf("%s: none came to %q: %v", s.Key, s.text(c), p)
		}
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	s := Setting{Key: "x", Kind: Duration, Secret: true, field: func(c *Config) any { return &c.IdleTimeout }}
	if p := s.set(new(Config), value{"hunter2", "here"}); p == nil || strings.Contains(p.Error(), "hunter2") {
		t.Errorf("a secret in an error: %v", p)
	}
}

// Any bytes: no panic, and what is accepted is within its range.
func FuzzFile(f *testing.F) {
	for _, s := range []string{"", "dev: true\n", "limits:\n  max-requests: 5\n", "a: &x [*x]\n", "a: |\n  b\n", "? a\n: b\n", "%YAML 1.2\n---\n{}", "a: !!x\n", "{a: [}", "\t", "- - -", "<<: *a"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		values, problems := parse("f", b)
		for key, v := range values {
			s := find(key)
			var c Config
			if p := s.set(&c, v); p != nil {
				continue
			}
			if p := s.set(new(Config), value{s.text(&c), "again"}); p != nil {
				t.Errorf("%s: %q is accepted, and what it came to is not: %v", key, v.Text, p)
			}
		}
		for _, p := range problems {
			if p.Where == "" || p.What == "" || len(p.Error()) > 2000 {
				t.Errorf("a problem that says too little or too much: %.3000s", p.Error())
			}
		}
	})
}

// docs/reference/configuration.md is what the table comes to.
func TestReferenceIsFresh(t *testing.T) {
	const path = "../../docs/reference/configuration.md"
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != Reference() {
		t.Errorf("%s is not what the table comes to: go test ./broker/config -update (%v)", path, err)
	}
}

// The example is a configuration as it stands, and with every setting taken out of its comment.
func TestExample(t *testing.T) {
	var uncommented strings.Builder
	for line := range strings.Lines(Example()) {
		if rest := strings.TrimPrefix(line, "#"); !strings.HasPrefix(strings.TrimSpace(rest), "#") && !strings.HasPrefix(rest, " Tide") && !strings.HasPrefix(rest, " Flags") {
			uncommented.WriteString(rest)
		}
	}
	for _, text := range []string{Example(), uncommented.String()} {
		if _, err := Load(Options{File: write(t, text), Partial: true}); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
	values, _ := parse("f", []byte(uncommented.String()))
	if len(values) != len(table) {
		t.Errorf("%d settings in the example, %d in the table", len(values), len(table))
	}
	if !json.Valid([]byte(Schema())) {
		t.Error("the schema is not JSON")
	}
}

// fakeNode takes what Reconfigure gives.
type fakeNode struct {
	got  broker.Config
	fail error
}

func (f *fakeNode) Reconfigure(c broker.Config) (_, _ []string, err error) {
	if f.fail == nil {
		f.got = c
	}
	return nil, nil, f.fail
}

func TestReload(t *testing.T) {
	file := write(t, "data: d\nlog: {level: info}\nlimits: {max-requests: 5}\n")
	options := Options{File: file, Environ: []string{"TIDEWIRE_LIMITS_MAX_CURSORS=9"}}
	l, err := Load(options)
	if err != nil {
		t.Fatal(err)
	}
	level := zap.NewAtomicLevelAt(zapcore.InfoLevel)
	core, logs := observer.New(zapcore.DebugLevel)
	s := NewSource(options, l, level, zap.New(core))
	if _, err := s.Reload(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("without a node: %v", err)
	}
	n := &fakeNode{}
	s.Bind(n)
	value := func(key string) (string, string) {
		for _, v := range s.Settings() {
			if v.Key == key {
				return v.Value, v.Origin
			}
		}
		return "", ""
	}
	put := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	put("data: elsewhere\nlog: {level: warn}\nlimits:\n  max-requests: 6\n  max-cursors: 8\n")
	done, err := s.Reload(t.Context())
	if want := (Reloaded{[]Change{{"log.level", "info", "warn"}, {"limits.max-requests", "5", "6"}}, []Change{{"data", "d", "elsewhere"}}}); err != nil || !reflect.DeepEqual(done, want) {
		t.Errorf("%+v, %v", done, err)
	}
	if n.got.MaxRequests != 6 || n.got.MaxCursors != 9 || level.Level() != zapcore.WarnLevel {
		t.Errorf("the node got %d requests, %d cursors; level %v", n.got.MaxRequests, n.got.MaxCursors, level)
	}
	if v, o := value("data"); v != "d" || o != file+":1:1" {
		t.Errorf("data is %q from %s", v, o)
	}
	if v, o := value("limits.max-requests"); v != "6" || o != file+":4:3" {
		t.Errorf("requests are %q from %s", v, o)
	}
	if logs.FilterMessage("setting changed").Len() != 2 || logs.FilterMessageSnippet("needs a restart").Len() != 1 {
		t.Errorf("logged %v", logs.All())
	}

	// Anything wrong: nothing changes, and everything wrong is logged.
	put("log: {level: debug}\nlimits: {max-requests: 7, max-curs: 1}\n")
	if _, err := s.Reload(t.Context()); err == nil {
		t.Error("a wrong file was reloaded")
	}
	if last := logs.All()[logs.Len()-1]; last.Level != zapcore.ErrorLevel || len(last.ContextMap()["problems"].([]any)) != 2 {
		t.Errorf("logged %v", last)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("missing file: %v", err)
	}
	put("data: d\nlog: {level: debug}\nlimits: {max-requests: 7}\n")
	n.fail = errors.New("the node refuses")
	if _, err := s.Reload(t.Context()); !errors.Is(err, n.fail) {
		t.Errorf("a node that refuses: %v", err)
	}
	if v, _ := value("limits.max-requests"); v != "6" || n.got.MaxRequests != 6 || level.Level() != zapcore.WarnLevel {
		t.Errorf("after refusals: %s requests, level %v", v, level)
	}
}
