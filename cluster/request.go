package cluster

import (
	"fmt"
	"time"
)

// What is remembered of requests: so many, for so long, and not above so many bytes.
const (
	maxRequests      = 1024
	requestWindow    = time.Hour
	maxRequestsBytes = 4 << 20
	MaxRequestID     = 64 // bytes of an id
)

// request is a change that was made under an id of its caller's, and what it gave.
type request struct {
	ID     string  `json:"id"`
	Digest string  `json:"digest"` // of all of it: the same id with another request is a mistake
	At     int64   `json:"at,omitempty"`
	Stream *Stream `json:"stream,omitempty"`
}

// reusedError is the error for a request id that belongs to another request. It does not tell of what: ids are one
// space for all callers, and who met this one by chance may not be allowed to know.
type reusedError struct{ id string }

func (e *reusedError) Error() string {
	return fmt.Sprintf("request id %q was used for another request: take a new id", e.id)
}
func (e *reusedError) Unwrap() error { return ErrRequestReused }

// bytes is about what the request takes in memory and in a snapshot.
func (r *request) bytes() (n int) {
	n = 300 + len(r.ID) + 40*len(r.Stream.Partitions)
	for _, f := range r.Stream.Subjects {
		n += len(f) + 16
	}
	return n
}

// replay gives what the request gave, if it is remembered at that time (Unix ms).
func (s *State) replay(r *request, now int64) (st *Stream, found bool, err error) {
	if r == nil {
		return nil, false, nil
	}
	for _, old := range s.Requests {
		switch {
		case old.ID != r.ID || now-old.At > requestWindow.Milliseconds():
		case old.Digest != r.Digest:
			return nil, false, &reusedError{r.ID}
		default:
			return old.Stream, true, nil
		}
	}
	return nil, false, nil
}

// remember adds the command's request to a state that is not published yet, and drops what is too old or too much.
func (s *State) remember(cmd *command, st *Stream) {
	if cmd.Request == nil {
		return
	}
	kept := []*request{{ID: cmd.Request.ID, Digest: cmd.Request.Digest, At: cmd.Now, Stream: st}}
	bytes := kept[0].bytes()
	for i := len(s.Requests) - 1; i >= 0; i-- { // newest first
		old := s.Requests[i]
		bytes += old.bytes()
		if len(kept) == maxRequests || bytes > maxRequestsBytes {
			break
		}
		if old.ID != cmd.Request.ID && cmd.Now-old.At <= requestWindow.Milliseconds() {
			kept = append(kept, old)
		}
	}
	for i, j := 0, len(kept)-1; i < j; i, j = i+1, j-1 {
		kept[i], kept[j] = kept[j], kept[i]
	}
	s.Requests = kept
}
