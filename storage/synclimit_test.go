package storage

import (
	"sync"
	"testing"
)

// The most that ran at once is told, also of those that began before.
func TestSyncLimitTellsTheMost(t *testing.T) {
	s := NewSyncLimit(3)
	begun, end := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if err := s.sync(waitingFile{begun: begun, end: end}); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 {
		<-begun
	}
	if most := s.Most(); most != 3 {
		t.Errorf("%d at once, not 3", most)
	}
	if most := s.Most(); most != 3 {
		t.Errorf("%d at once, not the 3 that are still there", most)
	}
	for range 2 {
		end <- struct{}{}
		<-begun // the fourth, and the fifth
	}
	for range 3 {
		end <- struct{}{}
	}
	all.Wait()
	if most := s.Most(); most != 3 {
		t.Errorf("%d at once, not the 3 that were there", most)
	}
	if most := s.Most(); most != 0 {
		t.Errorf("%d at once, and none is there", most)
	}
}

// waitingFile is a File whose Sync says that it has begun, and waits.
type waitingFile struct {
	File
	begun, end chan struct{}
}

func (f waitingFile) Sync() error {
	f.begun <- struct{}{}
	<-f.end
	return nil
}
