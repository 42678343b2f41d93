package telemetry

import (
	"testing"

	dto "github.com/prometheus/client_model/go"
)

// A value lies in the bucket Prometheus would put it in: the first whose bound is not below it.
func TestMeter(t *testing.T) {
	values := []int64{-1, 0, 1, 99, 100, 101, 199, 200, 201, 400, 401, 800, 801, 1 << 40}
	m := meter{unit: 100, scale: 10, last: 4}
	for _, v := range values {
		m.observe(v)
	}
	var got dto.Metric
	if err := m.tell(entryBytes).Write(&got); err != nil {
		t.Fatal(err)
	}
	sum := int64(1) // of -1, which counts as 0
	for _, v := range values {
		sum += v
	}
	if h := got.Histogram; h.GetSampleCount() != uint64(len(values)) || h.GetSampleSum() != float64(sum)/10 || len(h.Bucket) != 4 {
		t.Errorf("count %d, sum %v, %d buckets", h.GetSampleCount(), h.GetSampleSum(), len(h.Bucket))
	}
	for i, b := range got.Histogram.Bucket {
		bound, want := int64(100<<i), uint64(0)
		for _, v := range values {
			if v <= bound {
				want++
			}
		}
		if b.GetUpperBound() != float64(bound)/10 || b.GetCumulativeCount() != want {
			t.Errorf("bucket %v: %d, want %d up to %d", b.GetUpperBound(), b.GetCumulativeCount(), want, bound)
		}
	}
}
