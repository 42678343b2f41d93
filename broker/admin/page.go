package admin

import (
	"cmp"
	"encoding/base64"
	"encoding/json"

	"github.com/tidewire/tidewire/cluster"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

// place is where a page ended: behind the stream of that name and number. Streams that come or go in
// between move nobody from one page to another.
type place struct {
	Name        string `json:"n"`
	ID          uint64 `json:"i"`
	Prefix      string `json:"p,omitempty"` // of the request, which must stay the same
	ShowDeleted bool   `json:"s,omitempty"`
	begins      bool   // before everything
}

// byPlace orders streams by name, those of one name by number, the newest first. A deletion does not change it.
func byPlace(a, b *cluster.Stream) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.ID, a.ID))
}

// before reports whether st comes after the place.
func (p place) before(st *cluster.Stream) bool {
	return p.begins || cmp.Or(cmp.Compare(p.Name, st.Name), cmp.Compare(st.ID, p.ID)) < 0
}

func token(r *adminv1.ListStreamsRequest, last *cluster.Stream) string {
	b, err := json.Marshal(place{Name: last.Name, ID: last.ID, Prefix: r.NamePrefix, ShowDeleted: r.ShowDeleted})
	if err != nil {
		panic(err) // strings and numbers
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseToken(r *adminv1.ListStreamsRequest) (place, error) {
	if r.PageToken == "" {
		return place{begins: true}, nil
	}
	var p place
	b, err := base64.RawURLEncoding.DecodeString(r.PageToken)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	switch {
	case err != nil || p.ID == 0:
		return p, badField("page_token", "is none that ListStreams gave: begin without one")
	case p.Prefix != r.NamePrefix || p.ShowDeleted != r.ShowDeleted:
		return p, badField("page_token", "belongs to another list: name_prefix and show_deleted must stay as they were")
	}
	return p, nil
}
