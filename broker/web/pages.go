package web

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
)

// index lists what there is.
func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	text(w)
	fmt.Fprintln(w, "A Tidewire node.")
	fmt.Fprintln(w)
	for _, path := range slices.Sorted(maps.Keys(s.paths)) {
		if about := s.paths[path].about; about != "" {
			fmt.Fprintf(w, "%-16s %s\n", path, about)
		}
	}
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.cfg.Version)
}
