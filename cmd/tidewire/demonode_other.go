//go:build !linux

package main

import "syscall"

// dieWithUs does nothing: only Linux can do it. Then a SIGKILL of the demo leaves its node behind.
func dieWithUs(*syscall.SysProcAttr) {}
