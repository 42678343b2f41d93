//go:build !race

package client

const reuseBatches = true

func mangle([]byte) {}
