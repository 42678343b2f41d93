package storage

import (
	"sync"
	"testing"
)

// The most that ran at once is told once.
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
	if most := s.Most(); most != 0 {
		t.Errorf("%d at once since, though none has begun", most)
	}
	end <- struct{}{}
	<-begun // the fourth: two of the first are still there
	if most := s.Most(); most != 3 {
		t.Errorf("%d at once, not 3", most)
	}
	for range 3 {
		end <- struct{}{}
	}
	<-begun
	end <- struct{}{}
	all.Wait()
	if most := s.Most(); most > 3 || most < 1 {
		t.Errorf("%d at once", most)
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
