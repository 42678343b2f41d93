package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	client "github.com/tidewire/tidewire/client/go"
	"github.com/tidewire/tidewire/internal/explain"
	adminv1 "github.com/tidewire/tidewire/proto/admin/v1"
)

const streamLong = `A stream captures subjects and keeps their records, in one or more partitions. The
subjects of two streams never overlap.`

func (a *app) streamCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "stream",
		Aliases: []string{"streams"},
		Short:   "List, create, change and delete streams",
		Long:    streamLong,
		Example: "  tidewire stream ls\n  tidewire stream create orders --partitions 4 --max-age 30d\n  tidewire stream show orders",
	}
	c.AddCommand(a.streamLsCommand(), a.streamCreateCommand(), a.streamShowCommand(), a.streamEditCommand(), a.streamRmCommand(),
		a.streamUndeleteCommand(), a.streamPurgeCommand())
	return c
}

// streamJSON is a stream as --json prints it.
type streamJSON struct {
	Name       string          `json:"name" doc:"its name"`
	ID         uint64          `json:"id" doc:"a number that is never used again"`
	Subjects   []string        `json:"subjects" doc:"filters of the subjects it captures"`
	Created    time.Time       `json:"created" doc:"when"`
	Replicas   int             `json:"replicas" doc:"of each partition"`
	MaxAge     float64         `json:"max_age_s,omitempty" doc:"how long records are kept, in seconds"`
	MaxBytes   uint64          `json:"max_bytes,omitempty" doc:"what a partition keeps at least"`
	MaxRecords uint64          `json:"max_records,omitempty" doc:"what a partition keeps at least"`
	Deleted    bool            `json:"deleted,omitempty" doc:"it is deleted; its data are kept until they are purged"`
	DeletedAt  *time.Time      `json:"deleted_at,omitempty" doc:"when it was deleted"`
	PurgeAt    *time.Time      `json:"purge_at,omitempty" doc:"when its data will be removed"`
	Records    uint64          `json:"records" doc:"in all partitions; of a deleted stream 0"`
	Bytes      uint64          `json:"bytes" doc:"on disk, in all partitions; of a deleted stream what its purge will free"`
	Partitions []partitionJSON `json:"partitions" doc:"its partitions; of a deleted stream none"`
}

type partitionJSON struct {
	Number        uint32 `json:"number" doc:"from 0 on"`
	First         uint64 `json:"first_offset" doc:"of the oldest record kept"`
	Next          uint64 `json:"next_offset" doc:"what the next record will get"`
	Bytes         uint64 `json:"bytes" doc:"on disk"`
	Leader        uint64 `json:"leader" doc:"number of the node that leads; 0: none is known"`
	LeaderAddress string `json:"leader_address,omitempty" doc:"where it is"`
	Epoch         uint64 `json:"epoch" doc:"of the leader"`
}

func toJSON(st *client.Stream) streamJSON {
	out := streamJSON{Name: st.Name, ID: st.ID, Subjects: st.Subjects, Created: st.Created.UTC(), Replicas: st.Replicas,
		MaxAge: st.MaxAge.Seconds(), MaxBytes: st.MaxBytes, MaxRecords: st.MaxRecords, Deleted: st.Deleted,
		Records: st.Records(), Bytes: st.Bytes(), Partitions: []partitionJSON{}}
	for _, p := range st.Partitions {
		out.Partitions = append(out.Partitions, partitionJSON{p.Number, p.LogStart, p.HighWatermark, p.Bytes, p.Leader, p.LeaderAddress, p.Epoch})
	}
	return out
}

// keeps is a stream's retention in words.
func keeps(st *client.Stream) string {
	var s []string
	if st.MaxAge > 0 {
		s = append(s, "the last "+ageText(st.MaxAge))
	}
	if st.MaxBytes > 0 {
		s = append(s, "the newest "+size(st.MaxBytes)+" a partition")
	}
	if st.MaxRecords > 0 {
		s = append(s, "the newest "+plural(st.MaxRecords, "record")+" a partition")
	}
	switch len(s) {
	case 0:
		return "everything"
	case 1:
		return "at least " + s[0]
	}
	return "at least " + strings.Join(s, " or ") + ", whichever is less"
}

// noStream is the error of a name that was given and is not there; if it was deleted, it says so.
func (cn *connection) noStream(ctx context.Context, what, name string, err error) error {
	p := &problem{id: explain.StreamRequest, what: what, err: err}
	if of, ok := errors.AsType[*problem](err); ok {
		p = of
	}
	if !errors.Is(err, client.ErrUnknownStream) && p.id != explain.Wire(20) {
		return p
	}
	p.id, p.err, p.todo = explain.Wire(20), errors.New("there is no stream of that name"), "see which there are with `tidewire stream ls`"
	gone := cn.deleted(ctx)
	if i := slices.IndexFunc(gone, func(st *adminv1.Stream) bool { return st.Name == name }); i >= 0 {
		st := gone[i] // the newest of that name
		p.err = fmt.Errorf("it was deleted %s; its data (%s) are kept until %s", st.DeleteTime.AsTime().UTC().Format(time.RFC3339), size(st.DeletedBytes),
			st.PurgeTime.AsTime().UTC().Format(time.RFC3339))
		p.todo = fmt.Sprintf("`tidewire stream undelete %s` brings it back, `tidewire stream purge %s` removes its data at once; `tidewire stream ls --deleted` lists all that are deleted", name, name)
	}
	return p
}

// deleted are the streams that are deleted and not yet purged; none if the node does not say.
func (cn *connection) deleted(ctx context.Context) (gone []*adminv1.Stream) {
	_ = cn.admin(ctx, "cannot list the streams", func(ctx context.Context, s adminv1.StreamServiceClient) (err error) {
		gone, err = deletedStreams(ctx, s)
		return err
	})
	return gone
}

func (a *app) streamLsCommand() *cobra.Command {
	var names, deleted bool
	var v *view
	var cn *connection
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the streams",
		Example: "  tidewire stream ls\n  tidewire stream ls --names | xargs -n1 tidewire stream show",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if names && !v.is(formatText) {
				return usage(c, errors.New("--names and --output exclude each other"))
			}
			if deleted {
				return a.listDeleted(c, cn, v, names)
			}
			return cn.call(c.Context(), func(ctx context.Context, cl *client.Client) error {
				streams, err := cl.Streams(ctx)
				if err != nil {
					return &problem{id: explain.StreamRequest, what: "cannot list the streams", err: err}
				}
				return a.printStreams(c.Context(), cn, v, streams, names)
			})
		},
	}
	cn = a.connection(c)
	c.Flags().BoolVar(&deleted, "deleted", false, "list those that are deleted and not yet purged")
	v = a.view(c, []streamJSON{})
	c.Flags().BoolVarP(&names, "names", "n", false, "print the names alone, one a line")
	return c
}

func (a *app) printStreams(ctx context.Context, cn *connection, v *view, streams []client.Stream, names bool) error {
	out := []streamJSON{}
	for i := range streams {
		out = append(out, toJSON(&streams[i]))
	}
	return v.print(out, func() {
		switch {
		case names:
			for i := range streams {
				fmt.Fprintln(a.out, streams[i].Name)
			}
		case len(streams) == 0:
			fmt.Fprintln(a.err, "there are no streams; make one with `tidewire stream create NAME`")
			if n := len(cn.deleted(ctx)); n > 0 {
				fmt.Fprintf(a.err, "%s deleted and not yet purged: see `tidewire stream ls --deleted`\n", numbered(n, "stream is", "streams are"))
			}
		default:
			a.headed(streamRows(streams, v.wide()))
		}
	})
}

func streamRows(streams []client.Stream, wide bool) [][]string {
	rows := [][]string{{"NAME", "SUBJECTS", "PARTITIONS", "RECORDS", "ON DISK", "KEEPS"}}
	if wide {
		rows[0] = append(rows[0], "ID", "REPLICAS", "CREATED")
	}
	for i := range streams {
		st := &streams[i]
		row := []string{st.Name, strings.Join(st.Subjects, " "), strconv.Itoa(len(st.Partitions)), count(st.Records()), size(st.Bytes()), keeps(st)}
		if wide {
			row = append(row, strconv.FormatUint(st.ID, 10), strconv.Itoa(st.Replicas), st.Created.UTC().Format(time.RFC3339))
		}
		rows = append(rows, row)
	}
	return rows
}

func (a *app) listDeleted(c *cobra.Command, cn *connection, v *view, names bool) error {
	var streams []*adminv1.Stream
	err := cn.admin(c.Context(), "cannot list the streams", func(ctx context.Context, s adminv1.StreamServiceClient) (err error) {
		streams, err = deletedStreams(ctx, s)
		return err
	})
	if err != nil {
		return err
	}
	out := []streamJSON{}
	rows := [][]string{{"NAME", "ID", "SUBJECTS", "ON DISK", "DELETED", "PURGE AT"}}
	for _, st := range streams {
		j := adminJSON(st)
		out = append(out, j)
		rows = append(rows, []string{j.Name, strconv.FormatUint(j.ID, 10), strings.Join(j.Subjects, " "), size(j.Bytes),
			j.DeletedAt.Format(time.RFC3339), j.PurgeAt.Format(time.RFC3339)})
	}
	return v.print(out, func() {
		switch {
		case names:
			for _, j := range out {
				fmt.Fprintln(a.out, j.Name)
			}
		case len(out) == 0:
			fmt.Fprintln(a.err, "there are no deleted streams")
		default:
			a.headed(rows)
		}
	})
}
