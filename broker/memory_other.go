//go:build !linux

package broker

// machineMemory is not asked for here: a node that is to be bounded needs Config.MemoryLimit.
func machineMemory() int64 { return 4 << 30 }
