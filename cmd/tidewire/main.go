// Command tidewire is the whole of Tidewire in one binary: the node, and the tools to use and
// examine one. A file a verb; flags become a Config of the package that does the work, and errors
// become words (problem.go) and an exit code.
package main

import (
	"os"

	"golang.org/x/term"
)

func main() {
	a := &app{
		self:     os.Args[0],
		in:       os.Stdin,
		out:      os.Stdout,
		err:      os.Stderr,
		getenv:   os.Getenv,
		environ:  os.Environ,
		exit:     os.Exit,
		typed:    term.IsTerminal(int(os.Stdin.Fd())),
		terminal: term.IsTerminal(int(os.Stderr.Fd())),
	}
	plain := os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"
	if fd := int(os.Stdout.Fd()); term.IsTerminal(fd) {
		a.outColor = !plain
		a.width = 80
		if width, _, err := term.GetSize(fd); err == nil && width > 0 {
			a.width = width
		}
	}
	a.color = a.terminal && !plain
	os.Exit(a.run(os.Args[1:]))
}
