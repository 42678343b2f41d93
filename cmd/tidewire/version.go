package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/proto/wire"
	"github.com/tidewire/tidewire/storage"
)

// commit is set by the linker (-X main.commit=…); without it the build's own record of git is asked.
var commit string

// versionInfo is what version says.
type versionInfo struct {
	Version  string `json:"version" doc:"of this program"`
	Commit   string `json:"commit" doc:"of the source it was built from"`
	Modified bool   `json:"modified" doc:"built from a tree with changes that are not in the commit"`
	Go       string `json:"go" doc:"version of Go"`
	Platform string `json:"platform" doc:"operating system and processor"`
	Protocol int    `json:"protocol" doc:"version of the protocol"`
	Durable  bool   `json:"durable" doc:"false: a test build whose fsync does nothing"`
}

func currentVersion() versionInfo {
	v := versionInfo{Version: broker.Version, Commit: "unknown", Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Protocol: wire.Version, Durable: storage.Durable}
	if commit != "" {
		v.Commit = commit
	} else if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return v
}

func (v versionInfo) String() string {
	commit := v.Commit
	if v.Modified {
		commit += " with changes"
	}
	s := fmt.Sprintf("tidewire %s\ncommit    %s\ngo        %s\nplatform  %s\nprotocol  %d\n", v.Version, commit, v.Go, v.Platform, v.Protocol)
	if !v.Durable {
		s += "A TEST BUILD (tidewire_nosync): fsync does nothing, data can be lost.\n"
	}
	return s
}

func (a *app) versionCommand() *cobra.Command {
	var show *view
	c := &cobra.Command{
		Use:     "version",
		Short:   "Say which version this is",
		Example: "  tidewire version\n  tidewire version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := currentVersion()
			return show.print(v, func() { fmt.Fprint(a.out, v) })
		},
	}
	show = a.view(c, versionInfo{})
	return c
}
