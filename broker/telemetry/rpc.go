package telemetry

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.opencensus.io/metric/metricdata"
	"go.opencensus.io/metric/metricproducer"
	"go.opencensus.io/plugin/ocgrpc"
	"go.opencensus.io/stats/view"
	"go.opencensus.io/tag"
	"google.golang.org/grpc/stats"
)

// rpcView is OpenCensus's view of the calls, in milliseconds, as its gRPC plugin measures them.
var rpcView = &view.View{
	Name: "tidewire/rpc_latency", Description: rpcSeconds.Help,
	Measure: ocgrpc.ServerLatency, TagKeys: []tag.Key{ocgrpc.KeyServerMethod, ocgrpc.KeyServerStatus},
	Aggregation: view.Distribution(0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768),
}

var registerViews = sync.OnceValue(func() error { return view.Register(rpcView) })

// ServerHandler measures and traces the calls of a gRPC server: give it to grpc.StatsHandler.
// Methods that do not exist make no series: gRPC tells of the end of no such call.
//
// OpenCensus keeps views once a process: several nodes in one show the calls of all.
func ServerHandler() stats.Handler {
	if err := registerViews(); err != nil {
		panic(err) // the view is a constant
	}
	return &ocgrpc.ServerHandler{}
}

// rpcCollector tells what OpenCensus's view counted.
type rpcCollector struct{}

// Describe implements prometheus.Collector.
func (rpcCollector) Describe(out chan<- *prometheus.Desc) { out <- rpcSeconds.desc }

// Collect implements prometheus.Collector.
func (rpcCollector) Collect(out chan<- prometheus.Metric) {
	for _, producer := range metricproducer.GlobalManager().GetAll() {
		for _, m := range producer.Read() {
			if m.Descriptor.Name == rpcView.Name {
				tellRPC(m, out)
			}
		}
	}
}

func tellRPC(m *metricdata.Metric, out chan<- prometheus.Metric) {
	for _, series := range m.TimeSeries {
		labels := make(map[string]string, len(series.LabelValues))
		for i, v := range series.LabelValues {
			labels[m.Descriptor.LabelKeys[i].Key] = v.Value
		}
		for _, point := range series.Points {
			d, ok := point.Value.(*metricdata.Distribution)
			if !ok || d.BucketOptions == nil {
				continue
			}
			below, buckets := uint64(0), make(map[float64]uint64, len(d.Buckets))
			for i, bound := range d.BucketOptions.Bounds {
				below += uint64(d.Buckets[i].Count)
				buckets[bound/1000] = below
			}
			out <- prometheus.MustNewConstHistogram(rpcSeconds.desc, uint64(d.Count), d.Sum/1000, buckets,
				labels[ocgrpc.KeyServerMethod.Name()], labels[ocgrpc.KeyServerStatus.Name()])
		}
	}
}
