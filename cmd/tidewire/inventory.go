package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tidewire/tidewire/cluster"
	"github.com/tidewire/tidewire/raft"
	"github.com/tidewire/tidewire/storage"
)

// inventory is what a whole data directory should hold: what its catalog says, and which logs have votes.
type inventory struct {
	owners     map[string]owner // by directory: "partitions/1"
	catalogErr error            // why owners are not known
	held       map[uint64]bool  // Raft groups that elected somebody: their logs hold entries
	heldErr    error            // why held is not known
}

// owner is whose a partition's directory is.
type owner struct {
	stream    string
	partition uint32
	fate      string // "deleted" or "purged", of a stream that does not live
}

func (o owner) String() string {
	s := o.stream + "/" + strconv.FormatUint(uint64(o.partition), 10)
	if o.fate != "" {
		s += " (" + o.fate + ")"
	}
	return s
}

// Why there is nothing to read in a directory.
var (
	errMissing = errors.New("missing")                // though there was something
	errEmpty   = errors.New("nothing was stored yet") // nor ever
)

// missingError says what is missing. It unwraps to errMissing.
type missingError struct{ detail string }

func (e *missingError) Error() string { return e.detail }
func (e *missingError) Unwrap() error { return errMissing }

// takeInventory reads the catalog and the votes, and adds what they name to the set.
func (s *logSet) takeInventory() {
	inv := &inventory{owners: map[string]owner{}, held: map[uint64]bool{}}
	s.inventory = inv
	for _, file := range []string{"stable.db", "catalog.db"} {
		groups, err := raft.Elected(filepath.Join(s.base, file))
		inv.heldErr = errors.Join(inv.heldErr, err)
		maps.Copy(inv.held, groups)
	}
	if !slices.Contains(s.dirs, "catalog") {
		s.dirs = append([]string{"catalog"}, s.dirs...)
	}
	log, err := storage.Inspect(s.fs, "catalog")
	if err != nil {
		inv.catalogErr = err
		return
	}
	defer log.Close()
	state, err := cluster.ReadCatalog(log)
	if err != nil {
		inv.catalogErr = err
		return
	}
	own := func(st *cluster.Stream, fate string) {
		for i, p := range st.Partitions {
			dir := "partitions/" + strconv.FormatUint(p.Group, 10)
			inv.owners[dir] = owner{st.Name, uint32(i), fate}
			if fate == "" && !slices.Contains(s.dirs, dir) {
				s.dirs = append(s.dirs, dir)
			}
		}
	}
	for _, st := range state.Streams {
		if st.Deleted != 0 {
			own(st, "deleted")
		} else {
			own(st, "")
		}
	}
	for _, st := range state.Purged {
		own(st, "purged")
	}
	slices.SortFunc(s.dirs, byNumber) // the catalog's is the shortest
}

// stray reports whether dir holds a partition that the catalog does not know.
func (s *logSet) stray(dir string) bool {
	if s.inventory == nil || s.inventory.catalogErr != nil || dir == "catalog" {
		return false
	}
	_, known := s.inventory.owners[dir]
	return !known
}

// owner tells whose directory it is, if the catalog says so.
func (s *logSet) owner(dir string) *owner {
	if s.inventory == nil {
		return nil
	}
	if o, ok := s.inventory.owners[dir]; ok {
		return &o
	}
	return nil
}

// lacking words why a directory has no manifest, or a log no entries; nil if that is as it should be.
func (s *logSet) lacking(dir string) error {
	names, err := s.fs.List(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return err
	case slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".seg") || strings.HasSuffix(n, ".snap") }) &&
		!slices.Contains(names, "manifest"):
		return storage.ErrNoManifest
	}
	how := "the directory holds nothing"
	if errors.Is(err, fs.ErrNotExist) {
		how = "there is no such directory"
	} else if slices.Contains(names, "manifest") {
		how = "the log has no entries"
	}
	inv := s.inventory
	if inv == nil {
		return errEmpty
	}
	group := uint64(cluster.CatalogGroup)
	if dir != "catalog" {
		if o := s.owner(dir); o == nil || o.fate != "" {
			return errEmpty
		}
		if group, err = strconv.ParseUint(filepath.Base(dir), 10, 64); err != nil {
			return errEmpty
		}
	}
	switch {
	case inv.held[group]:
		return &missingError{how + ", though it held entries (its term and vote are kept)"}
	case dir == "catalog" && len(s.dirs) > 1:
		return &missingError{how + ", though there are partitions"}
	case inv.heldErr != nil && !(dir == "catalog" && len(s.dirs) == 1):
		return &missingError{how + fmt.Sprintf(", and whether it held entries is not known (%v)", inv.heldErr)}
	}
	return errEmpty
}
