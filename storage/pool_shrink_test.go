package storage

import "testing"

// A spare that is being made while the pool is emptied is counted neither twice nor below nothing.
func TestShrinkWhileASpareIsMade(t *testing.T) {
	const size = 4 << 10
	for name, refuse := range map[string]bool{"made": false, "refused": true} {
		t.Run(name, func(t *testing.T) {
			fsys, err := OSFS(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			p, err := NewPool(fsys, "pool", 16*size)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			space := &holding{asked: make(chan struct{}), answer: make(chan bool), made: make(chan struct{})}
			p.SetSpace(space)
			p.want(size)
			<-space.asked
			p.Shrink()
			if got := p.Bytes(); got != size {
				t.Errorf("%d bytes while one of %d is made", got, size)
			}
			space.answer <- !refuse
			if !refuse {
				<-space.made // Close gives up what is not
			}
			if err := p.Close(); err != nil { // waits for it
				t.Fatal(err)
			}
			want := int64(size)
			if refuse {
				want = 0
			}
			if got := p.Bytes(); got != want {
				t.Errorf("%d bytes in the pool, want %d", got, want)
			}
		})
	}
}

// holding is a Space that answers when it is told to.
type holding struct {
	asked  chan struct{}
	answer chan bool
	made   chan struct{}
}

func (h *holding) Reserve(int64) bool { h.asked <- struct{}{}; return <-h.answer }
func (h *holding) Release(int64)      { h.made <- struct{}{} }
