package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/proto/wire"
)

// maxRoutes bounds the subjects remembered; past it they are all forgotten and asked for again.
const maxRoutes = 1 << 16

// topology is what the client knows of streams, partitions and nodes. It is a cache: what it says
// may be old, and a node that is asked on its word says so.
type topology struct {
	c    *Client
	last atomic.Pointer[route] // of the last subject asked for: most programs publish long runs of one

	mu      sync.RWMutex
	nodes   map[uint64]string // addresses
	streams map[uint64]*stream
	names   map[string]*stream
	routes  map[string]*route
}

// route is where a subject goes.
type route struct {
	subject string
	key     []byte // the subject: what picks the partition of a record without a key
	stream  *stream
}

// stream is what publishing and reading need to know of a stream.
type stream struct {
	id      uint64
	name    string
	filters []string
	gone    atomic.Bool // deleted: ask again

	mu         sync.Mutex
	mapVersion uint64
	leaders    []uint64                    // node ids, by partition
	producers  atomic.Pointer[[]*producer] // by partition; made when first published to
}

func (t *topology) init(c *Client) {
	t.c = c
	t.nodes = make(map[uint64]string)
	t.streams = make(map[uint64]*stream)
	t.names = make(map[string]*stream)
	t.routes = make(map[string]*route)
}

// learn takes in what a node said.
func (t *topology) learn(top *wire.Topology) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range top.Nodes {
		if n.Address != "" {
			t.nodes[n.ID] = n.Address
		}
	}
	for i := range top.Streams {
		info := &top.Streams[i]
		if info.Bits&wire.StreamDeleted != 0 {
			t.forgetLocked(info.ID)
			continue
		}
		st := t.streams[info.ID]
		if st == nil {
			if old := t.names[info.Name]; old != nil {
				t.forgetLocked(old.id)
			}
			st = &stream{id: info.ID, name: info.Name, filters: info.Subjects}
			t.streams[info.ID] = st
			t.names[info.Name] = st
		}
		st.learn(t.c, info)
	}
}

func (st *stream) learn(c *Client, info *wire.StreamInfo) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if info.MapVersion < st.mapVersion || len(info.Partitions) < len(st.leaders) {
		return // older than what we know
	}
	st.mapVersion = info.MapVersion
	st.leaders = st.leaders[:0]
	for _, p := range info.Partitions {
		st.leaders = append(st.leaders, p.Leader)
	}
	var producers []*producer
	if old := st.producers.Load(); old != nil {
		producers = append(producers, *old...)
	}
	for len(producers) < len(info.Partitions) {
		producers = append(producers, &producer{c: c, stream: st, partition: uint32(len(producers))})
	}
	st.producers.Store(&producers)
}

func (st *stream) where(partition uint32) (mapVersion, leader uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if int(partition) < len(st.leaders) {
		leader = st.leaders[partition]
	}
	return st.mapVersion, leader
}

func (t *topology) forget(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked(id)
}

func (t *topology) forgetLocked(id uint64) {
	st := t.streams[id]
	if st == nil {
		return
	}
	st.gone.Store(true)
	if producers := st.producers.Load(); producers != nil {
		t.c.spawn(func() { // who forgets a stream may hold the lock of one
			for _, p := range *producers {
				p.retire()
			}
		})
	}
	delete(t.streams, id)
	if t.names[st.name] == st {
		delete(t.names, st.name)
	}
	for subject, r := range t.routes {
		if r.stream == st {
			delete(t.routes, subject)
		}
	}
	t.last.Store(nil)
}

// known gives the route of a subject without asking anybody, or nil.
func (t *topology) known(subject string) *route {
	if r := t.last.Load(); r != nil && r.subject == subject && !r.stream.gone.Load() {
		return r
	}
	t.mu.RLock()
	r := t.routes[subject]
	t.mu.RUnlock()
	if r != nil {
		t.last.Store(r)
		return r
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, st := range t.streams {
		for _, filter := range st.filters {
			if wire.Match(filter, subject) {
				return t.addLocked(subject, st)
			}
		}
	}
	return nil
}

// add has a subject go to a stream, or gives nil if that is gone.
func (t *topology) add(subject string, stream uint64) *route {
	t.mu.Lock()
	defer t.mu.Unlock()
	if st := t.streams[stream]; st != nil { // forgetting it takes its routes along: none may be added later
		return t.addLocked(subject, st)
	}
	return nil
}

func (t *topology) addLocked(subject string, st *stream) *route {
	if len(t.routes) >= maxRoutes {
		clear(t.routes)
	}
	r := &route{subject, []byte(subject), st}
	t.routes[subject] = r
	t.last.Store(r)
	return r
}

func (t *topology) byID(id uint64) *stream {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.streams[id]
}

func (t *topology) byName(name string) *stream {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.names[name]
}

func (t *topology) address(node uint64) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.nodes[node]
}

// metadata asks the cluster, and remembers what it says.
func (c *Client) metadata(ctx context.Context, m wire.Metadata) (*wire.Topology, error) {
	frames, err := c.request(ctx, false, m.AppendTo)
	if err != nil {
		return nil, err
	}
	return c.learn(frames)
}

func (c *Client) learn(frames []wire.Frame) (*wire.Topology, error) {
	if err := expect(frames, wire.OpTopology); err != nil {
		return nil, err
	}
	var all wire.Topology
	for _, f := range frames {
		var t wire.Topology
		if err := t.Decode(f.Body); err != nil {
			return nil, refused(err)
		}
		all.MapVersion = t.MapVersion
		all.Nodes = append(all.Nodes, t.Nodes...)
		all.Streams = append(all.Streams, t.Streams...)
	}
	c.topology.learn(&all)
	return &all, nil
}

// route finds the stream of a subject, and asks the cluster if it is new.
func (c *Client) route(ctx context.Context, subject string) (*route, error) {
	if r := c.topology.known(subject); r != nil {
		return r, nil
	}
	if err := wire.ValidSubject(subject); err != nil {
		return nil, refused(err)
	}
	top, err := c.metadata(ctx, wire.Metadata{Select: wire.SelectSubject, Name: subject, Create: true})
	if err != nil {
		return nil, err
	}
	for i := range top.Streams {
		if r := c.topology.add(subject, top.Streams[i].ID); r != nil {
			return r, nil
		}
	}
	return nil, unknownStream("no stream captures subject %s; create one with CreateStream", strconv.Quote(subject))
}

// named finds a stream by its name.
func (c *Client) named(ctx context.Context, name string) (*stream, error) {
	if st := c.topology.byName(name); st != nil {
		return st, nil
	}
	if _, err := c.Stream(ctx, name); err != nil {
		return nil, err
	}
	if st := c.topology.byName(name); st != nil {
		return st, nil
	}
	return nil, unknownStream("stream %s is deleted", name)
}

// streamName gives the name of a stream that records came from.
func (c *Client) streamName(ctx context.Context, id uint64) (name string, ok bool) {
	st := c.topology.byID(id)
	if st == nil {
		if _, err := c.metadata(ctx, wire.Metadata{Select: wire.SelectAll}); err == nil {
			st = c.topology.byID(id)
		}
	}
	if st == nil {
		return "#" + strconv.FormatUint(id, 10), false // deleted since
	}
	return st.name, true
}

// leader gives the connection to the node that leads a partition; hint is an address it was said to have.
func (c *Client) leader(ctx context.Context, st *stream, partition uint32, hint string) (*conn, error) {
	cn, err := c.main(ctx)
	if err != nil {
		return nil, err
	}
	if hint != "" {
		return c.connTo(ctx, hint)
	}
	_, leader := st.where(partition)
	if leader == 0 || leader == cn.welcome.Node {
		return cn, nil // or it says who leads
	}
	if addr := c.topology.address(leader); addr != "" {
		return c.connTo(ctx, addr)
	}
	return cn, nil
}

// Streams lists every stream.
func (c *Client) Streams(ctx context.Context) ([]Stream, error) {
	top, err := c.metadata(ctx, wire.Metadata{Select: wire.SelectAll})
	if err != nil {
		return nil, err
	}
	out := make([]Stream, len(top.Streams))
	for i := range top.Streams {
		out[i] = c.stream(&top.Streams[i])
	}
	return out, nil
}

// Stream describes one stream. Errors: ErrUnknownStream, ErrBadName.
func (c *Client) Stream(ctx context.Context, name string) (Stream, error) {
	if err := wire.ValidStreamName(name); err != nil {
		return Stream{}, refused(err)
	}
	return c.one(ctx, wire.Metadata{Select: wire.SelectStream, Name: name})
}

// StreamOf describes the stream that captures a subject. Errors: ErrUnknownStream, ErrBadName.
func (c *Client) StreamOf(ctx context.Context, subject string) (Stream, error) {
	if err := wire.ValidSubject(subject); err != nil {
		return Stream{}, refused(err)
	}
	return c.one(ctx, wire.Metadata{Select: wire.SelectSubject, Name: subject})
}

func (c *Client) one(ctx context.Context, m wire.Metadata) (Stream, error) {
	top, err := c.metadata(ctx, m)
	if err != nil {
		return Stream{}, err
	}
	if len(top.Streams) == 0 {
		return Stream{}, unknownStream("there is no stream for %s", m.Name)
	}
	return c.stream(&top.Streams[0]), nil
}

// CreateStream makes a stream.
//
// Errors: ErrStreamExists, whatever its configuration; ErrSubjectOverlap, ErrBadName, ErrLimit; ErrUnknownOutcome if the
// connection was lost before the answer, or the node stopped or took too long meanwhile: the stream may be there, ask with Stream.
func (c *Client) CreateStream(ctx context.Context, cfg StreamConfig) (Stream, error) {
	if err := wire.ValidStreamName(cfg.Name); err != nil {
		return Stream{}, refused(err)
	}
	for _, s := range cfg.Subjects {
		if err := wire.ValidFilter(s); err != nil {
			return Stream{}, refused(err)
		}
	}
	if cfg.Partitions < 0 || cfg.Partitions > 1<<31-1 || cfg.Replicas < 0 || cfg.Replicas > 255 || cfg.MaxAge < 0 {
		return Stream{}, &Error{Code: wire.CodeLimit, Message: "partitions, replicas (at most 255) and max age are 0 or more"}
	}
	m := wire.CreateStream{
		Name:       cfg.Name,
		Partitions: uint32(cfg.Partitions),
		Replicas:   uint8(cfg.Replicas),
		Retention:  wire.Retention{MaxAge: cfg.MaxAge, MaxBytes: cfg.MaxBytes, MaxRecords: cfg.MaxRecords},
		Subjects:   cfg.Subjects,
	}
	frames, err := c.request(ctx, true, m.AppendTo)
	if err != nil {
		return Stream{}, err
	}
	top, err := c.learn(frames)
	if err != nil {
		return Stream{}, err
	}
	for i := range top.Streams {
		if top.Streams[i].Name == cfg.Name {
			return c.stream(&top.Streams[i]), nil
		}
	}
	return Stream{}, protocolError("the answer to STREAM_CREATE lacks the stream")
}

// DeleteStream deletes a stream: with purge its data at once, otherwise after the cluster's grace time.
//
// Errors: ErrUnknownStream; ErrUnknownOutcome as CreateStream's: it may be deleted, and a new one of that name may be there.
func (c *Client) DeleteStream(ctx context.Context, name string, purge bool) error {
	if err := wire.ValidStreamName(name); err != nil {
		return refused(err)
	}
	m := wire.DeleteStream{Name: name, Purge: purge}
	frames, err := c.request(ctx, true, m.AppendTo)
	if err != nil {
		return err
	}
	if err := expect(frames, wire.OpOK); err != nil {
		return err
	}
	if st := c.topology.byName(name); st != nil {
		c.topology.forget(st.id)
	}
	return nil
}

func (c *Client) stream(info *wire.StreamInfo) Stream {
	out := Stream{
		ID:         info.ID,
		Name:       info.Name,
		Subjects:   info.Subjects,
		Created:    time.UnixMilli(int64(info.Created)),
		Replicas:   int(info.Replicas),
		MaxAge:     info.Retention.MaxAge,
		MaxBytes:   info.Retention.MaxBytes,
		MaxRecords: info.Retention.MaxRecords,
		Deleted:    info.Bits&wire.StreamDeleted != 0,
		Partitions: make([]Partition, len(info.Partitions)),
	}
	for i, p := range info.Partitions {
		out.Partitions[i] = Partition{
			Number:        uint32(i),
			Leader:        p.Leader,
			LeaderAddress: c.topology.address(p.Leader),
			Epoch:         p.Epoch,
			LogStart:      p.Start,
			HighWatermark: p.HighWatermark,
			Bytes:         p.Bytes,
		}
	}
	return out
}

func unknownStream(format string, args ...any) error {
	return &Error{Code: wire.CodeUnknownStream, Message: fmt.Sprintf(format, args...)}
}

var errGone = errors.New("client: the stream was deleted")
