//go:build !unix || race

package client

const canTryWrite = false

func tryWrite(uintptr, []byte) (int, error) { panic("client: no tryWrite on this system") }
