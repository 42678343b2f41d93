//go:build !race

package harness

// RaceDetector tells whether the tests run under the race detector; the node then does too.
const RaceDetector = false
