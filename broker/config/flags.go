package config

import (
	"strings"

	"github.com/spf13/pflag"
)

// given is a flag whose text Load will read, beside file and environment, so that all that is wrong is told at once.
type given struct {
	setting *Setting
	text    string
}

func (g *given) String() string { return g.text }
func (g *given) Set(s string) error {
	g.text = s
	return nil
}

func (g *given) Type() string {
	return map[Kind]string{Text: "TEXT", Bool: "bool", Count: "COUNT", Bytes: "BYTES", Duration: "DURATION", Ratio: "RATIO"}[g.setting.Kind]
}

// AddFlags gives fs a flag for each setting but those in except. own are the defaults of the command that differ.
func AddFlags(fs *pflag.FlagSet, own map[string]string, except ...string) {
	skip := " " + strings.Join(except, " ") + " "
	for i := range table {
		s := &table[i]
		if strings.Contains(skip, " "+s.Key+" ") {
			continue
		}
		short, _, _ := strings.Cut(s.Doc, ";")
		if s.Key == "listen" || s.Key == "data" {
			short = s.Doc
		}
		f := fs.VarPF(&given{setting: s}, s.Flag(), "", short)
		f.DefValue = s.DefaultText()
		if v, ok := own[s.Key]; ok {
			f.DefValue = v
		}
		if s.Kind == Bool {
			f.NoOptDefVal = "true"
		}
	}
}

// Flags gives what was said of the settings on the command line.
func Flags(fs *pflag.FlagSet) (said []Given) {
	fs.Visit(func(f *pflag.Flag) {
		if g, ok := f.Value.(*given); ok {
			said = append(said, Given{g.setting.Key, g.text, "--" + f.Name})
		}
	})
	return said
}
