package main

import "syscall"

// dieWithUs lets the kernel end the child when the thread that started it ends, whatever ends us.
func dieWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
