package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/proto/wire"
)

const completePatience = time.Second // somebody waits at a prompt

// completeStreams completes the first argument of c with the names of the streams there are.
func (cn *connection) completeStreams(c *cobra.Command) {
	cn.completeFrom(c, func(st *client.Stream) []string { return []string{st.Name} })
}

// completeSubjects completes it with what streams capture; published to can be a subject alone, and no filter with wildcards.
func (cn *connection) completeSubjects(c *cobra.Command, publish bool) {
	cn.completeFrom(c, func(st *client.Stream) []string {
		if !publish {
			return st.Subjects
		}
		return slices.DeleteFunc(slices.Clone(st.Subjects), func(s string) bool { return wire.ValidSubject(s) != nil })
	})
}

func (cn *connection) completeFrom(c *cobra.Command, words func(*client.Stream) []string) {
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) (out []string, _ cobra.ShellCompDirective) {
		if len(args) > 0 || cn.check() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completePatience)
		defer cancel()
		cl, err := client.Connect(ctx, cn.address())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer cl.Close()
		streams, _ := cl.Streams(ctx) // an error is no completion
		for i := range streams {
			out = append(out, words(&streams[i])...)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

const completionLong = `Print the completion script of a shell. It completes commands and flags, and what a node
or the contexts hold: names of streams, what they capture, contexts, numbers of errors.

To have it in every new shell:
  bash        tidewire completion bash > ~/.local/share/bash-completion/completions/tidewire
              (needs the package bash-completion)
  zsh         tidewire completion zsh > "${fpath[1]}/_tidewire"
              (needs "autoload -U compinit; compinit" in ~/.zshrc)
  fish        tidewire completion fish > ~/.config/fish/completions/tidewire.fish
  PowerShell  tidewire completion powershell >> $PROFILE

To have it in this one: source <(tidewire completion bash), likewise for zsh;
tidewire completion fish | source.`

// explainCompletion says how completion is installed.
func (a *app) explainCompletion(root *cobra.Command) {
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Short, c.Long = "Print the completion script of a shell", completionLong
			c.Example = "  source <(tidewire completion bash)"
		}
	}
}
