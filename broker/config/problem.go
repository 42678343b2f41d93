package config

import (
	"fmt"
	"strings"

	"github.com/tidewire/tidewire/internal/explain"
)

// Numbers of what can be wrong with a configuration; internal/explain has them in full.
const (
	idUnreadable explain.ID = 2100 + iota
	idSyntax
	idUnknown
	idType
	idRange
	idTwice
	idConflict
)

// Problem is one thing wrong with a configuration.
type Problem struct {
	ID    explain.ID
	Where string // file:line:column, environment variable or flag
	What  string // with the value, the limit and what to do
}

func (p *Problem) Error() string { return fmt.Sprintf("%s: %s (%v)", p.Where, p.What, p.ID) }

// Problems is everything wrong with a configuration, in the order file, environment, flags.
type Problems []*Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Lines gives each problem as a line.
func (p Problems) Lines() []string { return strings.Split(p.Error(), "\n") }

func (p *Problems) add(id explain.ID, where, format string, args ...any) {
	*p = append(*p, &Problem{id, where, fmt.Sprintf(format, args...)})
}
