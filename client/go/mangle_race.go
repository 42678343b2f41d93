//go:build race

package client

// mangle overwrites bytes whose loan has ended.
func mangle(b []byte) {
	for i := range b {
		b[i] = 0xdb
	}
}
