package broker

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/tidewire/tidewire/proto/wire"
)

// ask sends one request over HTTP, on a connection of its own.
func ask(t testing.TB, n *Node, path string) (code int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://" + n.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// figures is what /metrics told, by name and labels as they are written there.
type figures map[string]float64

func scrape(t testing.TB, n *Node) figures {
	t.Helper()
	code, body := ask(t, n, "/metrics")
	if code != 200 {
		t.Fatalf("/metrics: %d %s", code, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	out := make(figures)
	for name, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%s", l.GetName(), l.GetValue()))
			}
			key := name
			if len(labels) > 0 {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				out[key] = m.Counter.GetValue()
			case dto.MetricType_GAUGE:
				out[key] = m.Gauge.GetValue()
			case dto.MetricType_HISTOGRAM:
				out[key+" count"], out[key+" sum"] = float64(m.Histogram.GetSampleCount()), m.Histogram.GetSampleSum()
			}
		}
	}
	return out
}

// expect compares; it scrapes again until all are right, as some are counted just after the answer. NaN: it is not there.
func expect(t testing.TB, n *Node, want figures) figures {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		got := scrape(t, n)
		wrong := ""
		for key, v := range want {
			if g, ok := got[key]; ok != !math.IsNaN(v) || ok && g != v {
				wrong += fmt.Sprintf("\n%s is %v (there: %v), want %v", key, g, ok, v)
			}
		}
		if wrong == "" {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatal(wrong)
		}
	}
}

// What a node tells of itself is what was done to it.
func TestMetricsAreRight(t *testing.T) {
	n := startNode(t, t.TempDir(), func(c *Config) { c.MetricStreams = 1; c.Commit = "abc" })
	p := connect(t, n)
	st := p.streamOf("orders")
	other := p.streamOf("bills")
	corr, _ := p.open(st, wire.Open{Idempotent: true})
	var size int
	const batches, each = 20, 5
	for i := range batches {
		b := batch(t, uint64(i*each), values("orders", each, "v%d")...)
		size += len(b)
		p.send(wire.AppendPublish(nil, corr, b))
	}
	p.acks(corr, 0, batches*each)
	plain, _ := p.open(other, wire.Open{})
	p.send(wire.AppendPublish(nil, plain, batch(t, 0, message{"bills", "", "v"})))
	p.acks(plain, 0, 1)

	// Refused: a bad checksum, a subject of another stream, an unknown stream.
	bad := batch(t, batches*each, message{"orders", "", "v"})
	bad[len(bad)-1] ^= 1
	p.send(wire.AppendPublish(nil, corr, bad))
	p.recvError(wire.CodeBadChecksum)
	p.send(wire.AppendPublish(nil, corr, batch(t, batches*each, message{"bills", "", "v"})))
	p.recvError(wire.CodeSubjectMismatch)
	p.send((&wire.Metadata{Select: wire.SelectStream, Name: "nothing"}).AppendTo(nil, p.next()))
	p.recvError(wire.CodeUnknownStream)

	// Delivered: all of orders to a subscription, and once more to a fetch.
	sub := p.subscribe(wire.Subscribe{Filter: "orders", Start: wire.Start{From: wire.FromFirst}, Credit: 1 << 20})
	pushed, frames := 0, 0
	for got := 0; got < batches*each; {
		f := p.recv(wire.OpRecords)
		_, r := records(t, f)
		got += len(r)
		pushed += len(f.Body) + wire.HeaderBytes
		frames++
	}
	fetch := p.next()
	p.send((&wire.Fetch{Stream: st.ID, Start: wire.Start{From: wire.FromFirst}, MaxBytes: 1 << 20}).AppendTo(nil, fetch))
	_, fetched := records(t, p.recv(wire.OpRecords))

	want := figures{
		"tidewire_build_info{commit=abc,go=" + runtime.Version() + ",protocol=1,version=" + Version + "}": 1,
		"tidewire_ready": 1,

		"tidewire_publish_batches_total{code=OK}":               batches + 1,
		"tidewire_publish_records_total":                        batches*each + 1,
		"tidewire_publish_batches_total{code=BAD_CHECKSUM}":     1,
		"tidewire_publish_batches_total{code=SUBJECT_MISMATCH}": 1,
		"tidewire_refused_requests_total{code=UNKNOWN_STREAM}":  1,

		"tidewire_stream_published_batches_total{stream=orders}":  batches,
		"tidewire_stream_published_records_total{stream=orders}":  batches * each,
		"tidewire_stream_published_bytes_total{stream=orders}":    float64(size),
		"tidewire_stream_published_records_total{stream=(other)}": 1,
		"tidewire_stream_records{stream=orders}":                  batches * each,
		"tidewire_stream_records{stream=(other)}":                 1,
		"tidewire_publish_entry_batches sum":                      batches + 1,

		"tidewire_deliver_batches_total{kind=subscribe}":         batches,
		"tidewire_deliver_records_total{kind=subscribe}":         batches * each,
		"tidewire_deliver_bytes_total{kind=subscribe}":           float64(pushed),
		"tidewire_deliver_records_total{kind=fetch}":             float64(len(fetched)),
		"tidewire_stream_delivered_records_total{stream=orders}": float64(batches*each + len(fetched)),
		"tidewire_credit_bytes":                                  float64(1<<20 - pushed),
		"tidewire_connections{protocol=tidewire}":                1,
		"tidewire_connections{protocol=http1}":                   1, // the scrape
		"tidewire_connections{protocol=undecided}":               0,
		"tidewire_sessions":                                      1,
		"tidewire_producers":                                     2,
		"tidewire_subscriptions":                                 1,
		"tidewire_streams{state=live}":                           2,
		"tidewire_streams{state=deleted}":                        0,
		"tidewire_partitions":                                    2,
		"tidewire_partitions_not_serving":                        0,
		"tidewire_raft_groups":                                   3,
		"tidewire_raft_leaders":                                  3,
		"tidewire_raft_leadership_changes_total{change=won}":     2,
		"tidewire_raft_commit_lag_entries":                       0,
		"tidewire_log_segments":                                  2,
		"tidewire_memory_used_bytes{budget=publish}":             0,
		"tidewire_memory_limit_bytes{budget=publish}":            256 << 20,
		"tidewire_write_failed":                                  0,
		"tidewire_panics_total":                                  0,
		"tidewire_damaged_ranges_total{by=reader}":               0,
	}
	got := expect(t, n, want)
	entries := got["tidewire_publish_entry_batches count"]
	for _, stage := range []string{"queue", "fsync", "commit", "total"} {
		if c := got["tidewire_publish_ack_seconds{stage="+stage+"} count"]; c != entries || entries == 0 || entries > batches+1 {
			t.Errorf("stage %s was observed %v times, for %v entries of %d batches", stage, c, entries, batches+1)
		}
	}
	parts := got["tidewire_publish_ack_seconds{stage=queue} sum"] + got["tidewire_publish_ack_seconds{stage=fsync} sum"] + got["tidewire_publish_ack_seconds{stage=commit} sum"]
	if total := got["tidewire_publish_ack_seconds{stage=total} sum"]; parts > total || parts <= 0 {
		t.Errorf("the stages take %v s together, all of it %v s", parts, total)
	}
	if written, log := got["tidewire_storage_written_bytes_total"], got["tidewire_log_bytes"]; written < float64(size) || log < float64(size) {
		t.Errorf("%v bytes written, %v in logs, for %d bytes of batches", written, log, size)
	}
	if free, all := got["tidewire_disk_free_bytes"], got["tidewire_disk_size_bytes"]; free <= 0 || free > all {
		t.Errorf("%v of %v bytes free", free, all)
	}
	if got["tidewire_memory_used_bytes{budget=hot}"] < float64(size) || got["go_goroutines"] <= 0 {
		t.Errorf("hot tail %v bytes", got["tidewire_memory_used_bytes{budget=hot}"])
	}
	_ = sub

	// What goes is gone from the gauges, and no counter goes back.
	p.send((&wire.DeleteStream{Name: "orders"}).AppendTo(nil, p.next()))
	for p.mustRead().Op != wire.OpOK { // the subscription is told too
	}
	expect(t, n, figures{
		"tidewire_streams{state=live}": 1, "tidewire_streams{state=deleted}": 1, "tidewire_partitions": 1,
		"tidewire_raft_groups": 2, "tidewire_stream_records{stream=(other)}": 1,
		"tidewire_publish_records_total":         batches*each + 1,
		"tidewire_stream_records{stream=orders}": math.NaN(),
	})
	p.conn.Close()
	expect(t, n, figures{"tidewire_connections{protocol=tidewire}": 0, "tidewire_sessions": 0, "tidewire_producers": 0,
		"tidewire_subscriptions": 0, "tidewire_credit_bytes": 0, "tidewire_memory_used_bytes{budget=outbound}": 0})

	foreign := dial(t, n)
	foreign.send([]byte("SSH-2.0-x\r\n"))
	foreign.recvEnd()
	expect(t, n, figures{"tidewire_refused_connections_total{code=FOREIGN}": 1, "tidewire_connections{protocol=undecided}": 0})
}

// mustRead gives the next frame, whatever it is.
func (p *peer) mustRead() wire.Frame {
	p.t.Helper()
	f, err := p.read()
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// spanSink is an OTLP collector.
type spanSink struct {
	collectorpb.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]int
}

func (s *spanSink) Export(_ context.Context, q *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range q.ResourceSpans {
		for _, scope := range r.ScopeSpans {
			for _, span := range scope.Spans {
				if span.EndTimeUnixNano < span.StartTimeUnixNano || span.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
					s.spans["bad "+span.Name]++
				}
				s.spans[span.Name]++
			}
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// Publishes and fetches of a node that is told to trace all of them come to a collector, with every
// stage, when the node stops at the latest.
func TestTracesOfANode(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sink := &spanSink{spans: make(map[string]int)}
	srv := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(srv, sink)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)

	n := startNode(t, t.TempDir(), func(c *Config) {
		c.OTLPEndpoint, c.OTLPInsecure, c.TraceSampleRatio = l.Addr().String(), true, 1
	})
	p := connect(t, n)
	st := p.streamOf("orders")
	corr, _ := p.open(st, wire.Open{Idempotent: true})
	const batches = 7
	for i := range batches {
		p.send(wire.AppendPublish(nil, corr, batch(t, uint64(i), message{"orders", "", "v"})))
	}
	p.acks(corr, 0, batches)
	p.send((&wire.Fetch{Stream: st.ID, Start: wire.Start{From: wire.FromFirst}, MaxBytes: 1 << 20}).AppendTo(nil, p.next()))
	p.recv(wire.OpRecords)
	p.conn.Close()
	stopNode(t, n)
	want := map[string]int{"tidewire.publish": batches, "tidewire.queue": batches, "tidewire.fsync": batches,
		"tidewire.commit": batches, "tidewire.ack": batches, "tidewire.fetch": 1}
	sink.mu.Lock()
	defer sink.mu.Unlock()
	for name, count := range want {
		if sink.spans[name] != count {
			t.Errorf("%d spans %s, want %d", sink.spans[name], name, count)
		}
	}
	if len(sink.spans) != len(want) {
		t.Errorf("spans %v", sink.spans)
	}
}
