package main

import (
	"io"
	"net"
	"time"

	"github.com/tidewire/tidewire/bench"
)

// loopback times round trips of size bytes over TCP, one after the other, without a broker: what every call costs at least.
func loopback(size int) (*bench.Latency, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, onlyReader{c}) // not spliced in the kernel: a broker reads what it gets
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	b := make([]byte, size)
	h := bench.NewHistogram()
	for began, i := time.Now(), 0; time.Since(began) < time.Second; i++ {
		start := time.Now()
		if _, err := c.Write(b); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return nil, err
		}
		if i >= 100 {
			h.Record(time.Since(start))
		}
	}
	return h.Latency(), nil
}

type onlyReader struct{ io.Reader }
