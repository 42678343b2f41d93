package raft

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A damaged file of terms and votes is refused with ErrStable, wherever it is cut or overwritten, and never by a panic.
func TestDamagedStableFiles(t *testing.T) {
	for name, open := range map[string]func(string) error{
		"shared": func(path string) error {
			s, err := OpenStable(path)
			if err == nil {
				_, err = s.Group(1)
				err = errors.Join(err, s.Close())
			}
			return err
		},
		"catalog": func(path string) error {
			s, err := OpenCatalogStable(path)
			if err == nil {
				_, err = s.Group(0)
				err = errors.Join(err, s.Close())
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "good.db")
			if err := open(path); err != nil {
				t.Fatal(err)
			}
			good, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			refused := 0
			try := func(what string, b []byte) {
				bad := filepath.Join(t.TempDir(), "bad.db")
				if err := os.WriteFile(bad, b, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := open(bad); err != nil {
					refused++
					if !errors.Is(err, ErrStable) {
						t.Errorf("%s: %v", what, err)
					}
				}
			}
			for _, size := range []int{1, 100, 4096, 5000, 8192, 12288, 16384, len(good) / 2} {
				if size < len(good) {
					try("cut", good[:size])
				}
			}
			for page := 0; page+4096 <= min(len(good), 8*4096); page += 4096 {
				b := append([]byte(nil), good...)
				for i := range 512 {
					b[page+i] = byte(i*37 + 1)
				}
				try("overwritten", b)
			}
			if refused == 0 {
				t.Error("no damage was found")
			}
		})
	}
}
