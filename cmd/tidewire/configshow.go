package main

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/tidewire/tidewire/broker/config"
	"github.com/tidewire/tidewire/internal/explain"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

const configShowLong = `Show the settings a node would have with this file, environment and flags; with --node
those of a node that runs. Secrets are not shown.`

// shownSetting is a setting in JSON and YAML.
type shownSetting struct {
	Key     string          `json:"key" doc:"its name in a file"`
	Value   json.RawMessage `json:"value" doc:"true or false, a number, or text: words, and durations and bytes with their unit, as in a file"`
	Origin  string          `json:"origin,omitempty" doc:"with --origin: file and line, variable, flag or default"`
	Default json.RawMessage `json:"default" doc:"what it is where nobody sets it, or in words what that depends on"`
	Change  string          `json:"change" doc:"reload or restart: what takes over a change"`

	value, byDefault string // as text
}

func (a *app) configShowCommand() *cobra.Command {
	var file string
	var origin, running bool
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use: "show", Short: "Show what a node would be set to, or is, and why", Long: configShowLong,
		Example: "  tidewire config show --origin\n  tidewire config show --config tidewire.yaml --output yaml\n  tidewire config show --node --origin",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := func() ([]shownSetting, error) {
				if running {
					return a.settingsOfNode(c, cn)
				}
				return a.settingsHere(c, file)
			}()
			if err != nil {
				return err
			}
			return a.showSettings(v, settings, origin)
		},
	}
	c.Flags().BoolVar(&origin, "origin", false, "say where each value comes from: file and line, variable, flag or default")
	c.Flags().BoolVar(&running, "node", false, "ask a node that runs, instead of reading file, environment and flags here")
	c.Flags().StringVar(&file, "config", "", "`FILE` of settings (default: TIDEWIRE_CONFIG, or none)")
	cn = a.connection(c)
	v = a.view(c, []shownSetting{})
	a.settingFlags(c, nil)
	return c
}

// settingFlags gives c a flag for each setting but those in except, and completes those that take one of a few words.
func (a *app) settingFlags(c *cobra.Command, own map[string]string, except ...string) {
	config.AddFlags(c.Flags(), own, except...)
	for _, s := range config.Table() {
		if len(s.OneOf) > 0 && c.Flags().Lookup(s.Flag()) != nil {
			_ = c.RegisterFlagCompletionFunc(s.Flag(), cobra.FixedCompletions(s.OneOf, cobra.ShellCompDirectiveNoFileComp)) // fails for unknown flags alone
		}
	}
}

// settingsHere are those of a node that would be started with c's flags.
func (a *app) settingsHere(c *cobra.Command, file string) (out []shownSetting, err error) {
	for _, flag := range []string{"server", "context", "timeout"} {
		if c.Flags().Changed(flag) {
			return nil, usage(c, errors.New("--"+flag+" goes with --node"))
		}
	}
	o := a.configOptions(c, file)
	o.Partial = true
	loaded, err := config.Load(o)
	if err != nil {
		return nil, wrongConfig(c, err)
	}
	for _, s := range loaded.Settings() {
		out = append(out, shown(s.Key, s.Value, s.Origin, s.DefaultText(), s.Reloadable, s.Secret))
	}
	return out, nil
}

// settingsOfNode are those that a running node has.
func (a *app) settingsOfNode(c *cobra.Command, cn *connection) (out []shownSetting, err error) {
	if given := config.Flags(c.Flags()); len(given) > 0 || c.Flags().Changed("config") {
		which := "--config"
		if len(given) > 0 {
			which = given[0].Origin
		}
		return nil, usage(c, errors.New("--node and "+which+" exclude each other: a node that runs has its own"))
	}
	err = cn.adminCall(c.Context(), explain.NodeRequest, "the node's configuration cannot be shown", func(ctx context.Context, conn *grpc.ClientConn) error {
		got, err := adminv1.NewConfigServiceClient(conn).GetConfig(ctx, &adminv1.GetConfigRequest{})
		out = nil
		for _, s := range got.GetSettings() {
			out = append(out, shown(s.Key, s.Value, s.Origin, s.DefaultValue, s.Reloadable, s.Secret))
		}
		return err
	})
	return out, err
}

func shown(key, value, origin, byDefault string, reload, secret bool) shownSetting {
	if secret {
		value = "(not shown)"
	}
	s := shownSetting{Key: key, Value: typed(key, value), Origin: origin, Default: typed(key, byDefault), Change: "restart", value: value, byDefault: byDefault}
	if reload {
		s.Change = "reload"
	}
	return s
}

// typed is the JSON of a setting's value: of the type that it has in a file. What is no value, as a default in words, is text.
func typed(key, text string) json.RawMessage {
	for _, s := range config.Table() {
		if s.Key != key {
			continue
		}
		_, err := strconv.ParseFloat(text, 64)
		if s.Kind == config.Bool && (text == "true" || text == "false") || (s.Kind == config.Count || s.Kind == config.Ratio) && err == nil && json.Valid([]byte(text)) {
			return json.RawMessage(text)
		}
	}
	return appendString(nil, []byte(text))
}

func (a *app) showSettings(v *view, settings []shownSetting, origin bool) error {
	var rows [][]string
	if v.wide() {
		rows = append(rows, []string{"SETTING", "VALUE", "DEFAULT", "CHANGE BY", "ORIGIN"})
	}
	for i, s := range settings {
		row := []string{s.Key, orDash(s.value)}
		if v.wide() {
			row = append(row, orDash(s.byDefault), s.Change)
		}
		if origin || v.wide() {
			row = append(row, s.Origin)
		}
		rows = append(rows, row)
		if !origin {
			settings[i].Origin = ""
		}
	}
	return v.print(settings, func() { a.columns(rows, v.wide()) })
}

const configReloadLong = `Have a node that runs read its configuration again: its file, beside the environment and
flags of its start. It takes over what can change while it runs, all of it, or nothing if
anything is wrong. SIGHUP does the same. Of several addresses the first that answers is asked.`

// reloadedJSON is what a reload came to.
type reloadedJSON struct {
	Changed       []string `json:"changed" doc:"settings that changed and hold now"`
	RestartNeeded []string `json:"restart_needed" doc:"settings that changed and wait for a restart of the node"`
}

func (a *app) configReloadCommand() *cobra.Command {
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use: "reload", Short: "Have a running node read its configuration again", Long: configReloadLong,
		Example: "  tidewire config check /etc/tidewire/tidewire.yaml && tidewire config reload", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			out := reloadedJSON{Changed: []string{}, RestartNeeded: []string{}}
			var now map[string]string
			err := cn.adminCall(c.Context(), explain.NodeRequest, "the configuration was not reloaded", func(ctx context.Context, conn *grpc.ClientConn) error {
				service := adminv1.NewConfigServiceClient(conn)
				got, err := service.ReloadConfig(ctx, &adminv1.ReloadConfigRequest{})
				if err != nil {
					return err
				}
				out.Changed, out.RestartNeeded = append(out.Changed, got.Changed...), append(out.RestartNeeded, got.RestartNeeded...)
				now = map[string]string{}
				settings, _ := service.GetConfig(ctx, &adminv1.GetConfigRequest{}) // it is reloaded all the same
				for _, s := range settings.GetSettings() {
					now[s.Key] = s.Value
				}
				return nil
			})
			if err != nil {
				return err
			}
			return v.print(out, func() { a.sayReloaded(out, now) })
		},
	}
	cn = a.connection(c)
	v = a.view(c, reloadedJSON{})
	return c
}

func (a *app) sayReloaded(r reloadedJSON, now map[string]string) {
	var rows [][]string
	for _, key := range r.Changed {
		rows = append(rows, []string{key, "changed", "now " + orDash(now[key])})
	}
	for _, key := range r.RestartNeeded {
		rows = append(rows, []string{key, "needs a restart", "still " + orDash(now[key])})
	}
	if len(rows) == 0 {
		rows = [][]string{{"nothing changed"}}
	}
	a.table(rows)
}
