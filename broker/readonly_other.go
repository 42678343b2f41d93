//go:build !linux

package broker

// readOnly would report whether the file system that holds path is mounted read-only; a write tells as well.
func readOnly(string) bool { return false }
