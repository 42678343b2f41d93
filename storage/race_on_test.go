//go:build race

package storage_test

// raceStride thins out the long single-threaded tests: the race detector makes them ten times slower and has nothing to
// find in them.
const raceStride = 12
