package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/internal/spelling"
)

// Given is a value from the command line.
type Given struct {
	Key, Value string
	Origin     string // "--listen"
}

// Options say where a configuration comes from.
type Options struct {
	// File is the path of the YAML file. Default: none.
	File string
	// Environ is the environment, as os.Environ gives it. Default: empty.
	Environ []string
	// Flags are what the command line says; they win over everything.
	Flags []Given
	// Defaults are a command's own, by key, in place of the general ones.
	Defaults map[string]string
	// Partial accepts a configuration without data directory: something else will give it.
	Partial bool
}

// Loaded is a configuration and where each of its values comes from.
type Loaded struct {
	Config
	origins map[string]string
}

// Origin is where the value of key comes from: "default", file:line:column, an environment variable or a flag.
func (l *Loaded) Origin(key string) string {
	if o, ok := l.origins[key]; ok {
		return o
	}
	return "default"
}

// Load reads the configuration. Its error is Problems, with everything that is wrong.
func Load(o Options) (*Loaded, error) {
	var problems Problems
	merged := koanf.New("\x00") // keys are whole: a dot in them is no more than a letter
	layer := func(values map[string]value) {
		m := make(map[string]any, len(values))
		for k, v := range values {
			m[k] = v
		}
		if err := merged.Load(confmap.Provider(m, ""), nil); err != nil {
			problems.add(idUnreadable, "configuration", "%v", err)
		}
	}
	own := make(map[string]value)
	for k, text := range o.Defaults {
		own[k] = value{text, "default"}
	}
	layer(own)
	var layers []map[string]value
	if o.File != "" {
		values, wrong := readFile(o.File)
		problems = append(problems, wrong...)
		layers = append(layers, values)
	}
	values, wrong := readEnv(o.Environ)
	flags := make(map[string]value)
	for _, g := range o.Flags {
		flags[g.Key] = value{g.Value, g.Origin}
	}
	layers = append(layers, values, flags)
	c := defaults()
	for n, values := range layers {
		for i := range table { // also what another layer covers: it is wrong where it stands
			s := &table[i]
			if v, ok := values[s.Key]; ok {
				scratch := c
				if p := s.set(&scratch, v); p != nil {
					problems = append(problems, p)
					delete(values, s.Key)
				}
			}
		}
		if n == 0 && o.File != "" {
			slices.SortStableFunc(problems, byLine)
		}
		layer(values)
	}
	l := &Loaded{Config: c, origins: make(map[string]string)}
	for i := range table {
		s := &table[i]
		if v, ok := merged.Get(s.Key).(value); ok {
			if p := s.set(&l.Config, v); p != nil {
				problems = append(problems, p) // a command's own default
			}
			l.origins[s.Key] = v.Origin
		}
	}
	check := l.Config.Config
	unread := slices.ContainsFunc(problems, func(p *Problem) bool { return p.ID == idUnreadable || p.ID == idSyntax })
	if (o.Partial || unread) && check.DataDir == "" {
		check.DataDir = "."
	}
	for _, err := range each(check.Validate()) {
		where, why := l.invalid(err)
		problems.add(idConflict, where, "%s", why)
	}
	problems = append(problems, wrong...)
	if len(problems) > 0 {
		return nil, problems
	}
	return l, nil
}

// invalid says where what broker.Config.Validate has found was set, and what is wrong with it.
func (l *Loaded) invalid(err error) (where, why string) {
	field, reason := "", err.Error()
	if e, ok := errors.AsType[*broker.FieldError](err); ok {
		field = e.Field
	}
	switch field {
	case "DataDir":
		return "configuration", "data is not set: name the directory of the node's data, with --data, TIDEWIRE_DATA or in the file"
	case broker.MemoryShares:
		return l.memoryShares()
	}
	if open, insecure := strings.CutSuffix(reason, "insecure"); insecure {
		reason = open + "insecure: true in the file, TIDEWIRE_INSECURE=true or --insecure"
	}
	for i := range table {
		if s := &table[i]; field != "" && s.brokerField() == field {
			return l.whence(s.Key), reason
		}
	}
	return "configuration", reason
}

// memoryShares is what to say of memory settings that are together more than the node has, and where the first of them was set.
func (l *Loaded) memoryShares() (where, why string) {
	var parts []string
	where = "configuration"
	for _, key := range []string{"memory.limit", "memory.publish-bytes", "memory.hot-bytes", "memory.outbound-bytes", "memory.inbound-bytes"} {
		c := l.Config
		c.Config = c.WithDefaults()
		if key != "memory.limit" {
			parts = append(parts, key+" "+find(key).text(&c))
		}
		if where == "configuration" && l.Origin(key) != "default" {
			where = l.Origin(key)
		}
	}
	limit := l.WithDefaults().MemoryLimit
	return where, fmt.Sprintf("%s are together more than 3/4 of memory.limit (%s), which is all that they may take: lower them, or raise memory.limit",
		strings.Join(parts, ", "), BytesText(limit))
}

// byLine orders problems of one file as they stand in it.
func byLine(a, b *Problem) int {
	line := func(p *Problem) (n int) {
		parts := strings.Split(p.Where, ":")
		if len(parts) > 2 {
			n, _ = strconv.Atoi(parts[len(parts)-2])
		}
		return n
	}
	return cmp.Compare(line(a), line(b))
}

// whence is where key was set, for a message.
func (l *Loaded) whence(key string) string {
	if o := l.Origin(key); o != "default" {
		return o
	}
	return "default of " + key
}

// each takes errors.Join apart.
func each(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	if err != nil {
		return []error{err}
	}
	return nil
}

// others are variables that begin like settings and belong to somebody else: clients, the command line, tests.
var others = regexp.MustCompile(`^TIDEWIRE_(SERVER|CONTEXT|CONFIG|FIGURES|SEED|KEEP|KILLS|POWER_CUTS|RECORDS|TEST_.*|CLIENT_.*)$`)

// service are the variables Kubernetes sets for a Service whose name begins with tidewire.
var service = regexp.MustCompile(`^TIDEWIRE_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// readEnv reads the settings in the environment. A variable that looks like one and is none is an error.
func readEnv(environ []string) (values map[string]value, problems Problems) {
	values = make(map[string]value)
	known := make(map[string]*Setting, len(table))
	for i := range table {
		known[table[i].Env()] = &table[i]
	}
	for _, kv := range environ {
		name, text, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "TIDEWIRE_") {
			continue
		}
		if s := known[name]; s != nil {
			values[s.Key] = value{text, name}
			continue
		}
		if others.MatchString(name) || service.MatchString(name) {
			continue
		}
		if len(name) > maxKey {
			name = name[:maxKey]
		}
		best := nearestEnv(name)
		if section, _, _ := strings.Cut(strings.ToLower(name[len("TIDEWIRE_"):]), "_"); best == "" && !sectionOf(section) {
			continue // somebody else's
		}
		say := "it looks like a setting and is none: unset it, or see `tidewire config example`"
		if best != "" {
			say = fmt.Sprintf("it is no setting: did you mean %s?", best)
		}
		problems.add(idUnknown, name, "%s", say)
	}
	return values, problems
}

// nearestEnv is the variable most like name, of a setting or of the command line; "" if none is like it.
func nearestEnv(name string) string {
	rest := strings.TrimPrefix(name, "TIDEWIRE_")
	_, short, _ := strings.Cut(rest, "_")
	best, at := "", 1+len(rest)/3
	consider := func(variable string, d int) {
		if d < at || d == at && best != "" && variable < best {
			best, at = variable, d
		}
	}
	for _, own := range []string{"SERVER", "CONTEXT", "CONFIG"} {
		consider("TIDEWIRE_"+own, spelling.Distance(rest, own))
	}
	for i := range table {
		full := strings.TrimPrefix(table[i].Env(), "TIDEWIRE_")
		consider(table[i].Env(), spelling.Distance(rest, full))
		if _, in, ok := strings.Cut(full, "_"); ok { // right name, wrong section or none
			consider(table[i].Env(), 1+min(spelling.Distance(rest, in), spelling.Distance(short, in)))
		}
	}
	return best
}

// FileFrom is the path of the configuration file: flag, else TIDEWIRE_CONFIG, else none.
func FileFrom(flag string, getenv func(string) string) string {
	if flag != "" || getenv == nil {
		return flag
	}
	return getenv("TIDEWIRE_CONFIG")
}
