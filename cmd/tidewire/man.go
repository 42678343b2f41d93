package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/tidewire/tidewire/broker"
	"github.com/tidewire/tidewire/internal/explain"
)

// manCommand writes the manual pages, for packages.
func (a *app) manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages into a directory",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			err := os.MkdirAll(args[0], 0o755)
			if err == nil {
				root.DisableAutoGenTag = true // the same pages from the same source
				err = doc.GenManTree(root, &doc.GenManHeader{Title: "TIDEWIRE", Section: "1", Source: "Tidewire " + broker.Version, Manual: "Tidewire"}, args[0])
			}
			if err != nil {
				return &problem{id: explain.NotWritten, what: "the manual pages were not written to " + args[0], err: err}
			}
			return nil
		},
	}
}
