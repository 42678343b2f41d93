//go:build !race

package storage_test

// raceStride is 1: every step, every byte. See race_on_test.go.
const raceStride = 1
