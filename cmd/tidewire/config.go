package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/broker/config"
)

const configLong = `Try out, show and reload the configuration of a node. docs/reference/configuration.md
has every setting.`

const configExample = `  tidewire config example > tidewire.yaml    # every setting, commented out
  tidewire config check tidewire.yaml
  tidewire server --config tidewire.yaml --data ./data
  tidewire config reload                     # by a node that runs`

func (a *app) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Try out, show and reload a node's configuration", Long: configLong, Example: configExample}
	c.AddCommand(a.configCheckCommand(), a.configShowCommand(), a.configReloadCommand(), a.configExampleCommand(), a.configSchemaCommand())
	return c
}

// configOptions are the sources of a configuration: file, environment, and the flags of c.
func (a *app) configOptions(c *cobra.Command, file string) config.Options {
	o := config.Options{File: config.FileFrom(file, a.getenv), Flags: config.Flags(c.Flags())}
	if a.environ != nil {
		o.Environ = a.environ()
	}
	return o
}

// wrongConfig is what to say of what Load found.
func wrongConfig(c *cobra.Command, err error) error {
	problems, ok := errors.AsType[config.Problems](err)
	if !ok {
		return err
	}
	p := &problem{id: problems[0].ID, what: "the configuration is wrong", err: err, code: exitUsage,
		todo: fmt.Sprintf("correct that, then try it with `tidewire config check FILE`; `tidewire explain %v` says more", problems[0].ID)}
	if len(problems) > 1 {
		p.what = fmt.Sprintf("the configuration is wrong in %d places", len(problems))
	}
	for _, one := range problems {
		if !strings.HasPrefix(one.Where, "--") && one.Where != "configuration" {
			p.code = exitConfig
		}
	}
	if p.code == exitUsage {
		p.todo = "see " + c.CommandPath() + " --help"
	}
	return p
}

const configCheckLong = `Read a file as a node would, with the environment, and say everything that is wrong, or ok.
Without FILE the one named by TIDEWIRE_CONFIG is read, or only the environment.

Exit codes: 0 ok, 78 something is wrong.`

func (a *app) configCheckCommand() *cobra.Command {
	var v *view
	c := &cobra.Command{
		Use: "check [FILE]", Short: "Say everything that is wrong with a configuration", Long: configCheckLong,
		Example: "  tidewire config check /etc/tidewire/tidewire.yaml", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o := a.configOptions(c, strings.Join(args, ""))
			o.Partial = true
			found := configChecked{OK: true, Problems: []configProblem{}}
			_, err := config.Load(o)
			if problems, ok := errors.AsType[config.Problems](err); ok {
				found.OK = false
				for _, p := range problems {
					found.Problems = append(found.Problems, configProblem{p.ID.String(), p.Where, p.What})
				}
			}
			if err != nil && (found.OK || v.is(formatText) || v.wide()) {
				err = wrongConfig(c, err)
				if p, ok := errors.AsType[*problem](err); ok {
					p.code = exitConfig
				}
				return err
			}
			if err := v.print(found, func() { fmt.Fprintln(a.out, "ok") }); err != nil || found.OK {
				return err
			}
			return errSilent(exitConfig)
		},
	}
	v = a.view(c, configChecked{})
	return c
}

// configChecked is what check found.
type configChecked struct {
	OK       bool            `json:"ok" doc:"nothing is wrong"`
	Problems []configProblem `json:"problems" doc:"everything that is; none if nothing is"`
}

type configProblem struct {
	ID    string `json:"id" doc:"the number, for tidewire explain and docs/reference/errors.md"`
	Where string `json:"where" doc:"file:line:column, environment variable or flag"`
	What  string `json:"what" doc:"what is wrong with it, with the value, the limit and what to do"`
}

func (a *app) configExampleCommand() *cobra.Command {
	return &cobra.Command{
		Use: "example", Aliases: []string{"init"}, Short: "Print a file with every setting, commented out",
		Long:    "Print a configuration file with every setting in it, commented out at its default.",
		Example: "  tidewire config example > tidewire.yaml", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(a.out, config.Example())
			return err
		},
	}
}

func (a *app) configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON schema of a configuration file",
		Long:    "Print the JSON schema of a configuration file, with which editors complete and check one.",
		Example: "  tidewire config schema > tidewire.schema.json", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(a.out, config.Schema())
			return err
		},
	}
}
