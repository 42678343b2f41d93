//go:build !linux

package broker

// yieldToOthers does nothing where threads have no priority of their own.
func yieldToOthers() {}
