//go:build !linux

package harness

func usage(int) (u Usage, err error) { return u, nil }

// writeCalls is not known here: whoever waits for some does not wait.
func writeCalls(int) int64 { return 1 << 62 }
