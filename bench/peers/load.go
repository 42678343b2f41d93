package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/tidewire/tidewire/bench"
)

// Kinds of load.
const (
	publish   = "publish"
	replay    = "replay"
	roundTrip = "round trip"
	idle      = "idle"
)

// Spec is a load: of one connection or many, on one stream.
type Spec struct {
	Kind        string        `json:"kind"`
	Client      string        `json:"client,omitempty"` // which of a system's clients
	Connections int           `json:"connections,omitempty"`
	InFlight    int           `json:"in_flight,omitempty"` // calls without an answer, a connection
	Batch       int           `json:"batch,omitempty"`     // most records a batch
	Size        int           `json:"size,omitempty"`      // bytes of a value
	Partitions  int           `json:"partitions,omitempty"`
	Streams     int           `json:"streams,omitempty"`   // of these, all but one stay empty
	MaxBytes    uint64        `json:"max_bytes,omitempty"` // that a partition keeps; 0: all
	Subjects    int           `json:"subjects,omitempty"`  // records take turns on them; a replay reads one. 0: there is one
	Redundant   bool          `json:"redundant,omitempty"` // values compress to a quarter; else not at all
	Compress    bool          `json:"compress,omitempty"`
	Readers     int           `json:"readers,omitempty"`   // replay beside the load
	ReadRate    float64       `json:"read_rate,omitempty"` // bytes a second, each
	Rate        float64       `json:"rate,omitempty"`      // records a second; 0: flat out
	Records     uint64        `json:"records,omitempty"`
	Warmup      time.Duration `json:"warmup_ns,omitempty"`
	Duration    time.Duration `json:"duration_ns,omitempty"`
	Cold        bool          `json:"cold,omitempty"` // the page cache is emptied before
}

// selected is how many records a replay finds.
func (s *Spec) selected() uint64 {
	if s.Subjects < 2 {
		return s.Records
	}
	n := uint64(s.Subjects)
	return (s.Records + n - 1 - one) / n
}

// one is the number of the subject that a replay reads, of several.
const one = 0

// filter is what a replay reads.
func (s *Spec) filter() string {
	if s.Subjects < 2 {
		return subject
	}
	return fmt.Sprintf("%s.%d", subject, one)
}

// captured is what the stream takes.
func (s *Spec) captured() string {
	if s.Subjects < 2 {
		return subject
	}
	return subject + ".>"
}

// job is what a process of its own does, so that no load runs in the heap of another.
type job struct {
	System  string `json:"system"`
	Address string `json:"address"`
	Pid     int    `json:"pid"`               // of the server
	Dir     string `json:"dir"`               // of its data
	Profile string `json:"profile,omitempty"` // directory for profiles of this process
	Spec    Spec   `json:"spec"`
}

// Run is what came of a Spec once. Costs are over the whole load, its warm-up too, and all records of it.
type Run struct {
	Result    *bench.Result `json:"result"`
	ServerCPU float64       `json:"server_cpu_us_per_record"` // user and system
	ClientCPU float64       `json:"client_cpu_us_per_record"`
	Resident  int64         `json:"server_resident_bytes"` // at the end
	Anonymous int64         `json:"server_anonymous_bytes"`
	Busy      float64       `json:"server_cores"`                            // it used, on average
	Read      float64       `json:"read_bytes_per_second,omitempty"`         // by each of those beside the load
	Stored    int64         `json:"stored_bytes"`                            // on the disk at the end
	Kept      int64         `json:"kept_bytes,omitempty"`                    // of these, in the segments of Tidewire's partitions
	Device    float64       `json:"device_bytes_per_payload_byte,omitempty"` // 0: cannot be told
	Allocs    float64       `json:"client_allocations_per_batch"`
}

// runJob reads a job, does it, and writes the Run.
func runJob(ctx context.Context, in io.Reader, out io.Writer) error {
	var j job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return err
	}
	system, err := systemNamed(j.System)
	if err != nil {
		return err
	}
	before, err := measureUsage(j.Pid, j.Dir)
	if err != nil {
		return err
	}
	var heapBefore, heapAfter runtime.MemStats
	runtime.ReadMemStats(&heapBefore)
	mine, err := cpuOf(0)
	if err != nil {
		return err
	}
	var records atomic.Uint64
	beside, err := startReaders(ctx, system, j.Address, j.Spec)
	if err != nil {
		return err
	}
	if before.CPU, err = cpuOf(j.Pid); err != nil { // without what writing out what was dirty has cost
		return err
	}
	began := time.Now()
	profiles, err := startProfiles(j.Profile)
	if err != nil {
		return err
	}
	r, err := load(ctx, system, j.Address, j.Spec, &records)
	if err != nil {
		return err
	}
	took := time.Since(began)
	read, err := beside.stop()
	if err != nil {
		return err
	}
	if err := profiles.write(); err != nil {
		return err
	}
	now, err := cpuOf(0)
	if err != nil {
		return err
	}
	runtime.ReadMemStats(&heapAfter)
	after, err := measureUsage(j.Pid, j.Dir)
	if err != nil {
		return err
	}
	stored, err := allocated(j.Dir)
	if err != nil {
		return err
	}
	kept, err := allocated(filepath.Join(j.Dir, "data", "partitions"))
	if err != nil {
		return err
	}
	n := float64(max(1, records.Load()))
	run := Run{Result: r, Busy: (after.CPU - before.CPU).Seconds() / took.Seconds(), Read: read, Stored: stored, Kept: kept, ServerCPU: micro(after.CPU-before.CPU) / n, ClientCPU: micro(now-mine) / n,
		Resident: after.Resident, Anonymous: after.Anonymous,
		Allocs: float64(heapAfter.Mallocs-heapBefore.Mallocs) / n * float64(max(1, j.Spec.Batch))}
	if before.Device >= 0 && j.Spec.Kind == publish {
		run.Device = float64(after.Device-before.Device) / (n * float64(j.Spec.Size))
	}
	return json.NewEncoder(out).Encode(run)
}

func micro(d time.Duration) float64 { return float64(d) / 1e3 }

func load(ctx context.Context, system System, address string, spec Spec, records *atomic.Uint64) (*bench.Result, error) {
	if spec.Kind == replay {
		r, err := system.Replay(ctx, address, spec)
		if err != nil {
			return nil, err
		}
		if r.Records != spec.selected() {
			return nil, fmt.Errorf("%d records were read of %d", r.Records, spec.selected())
		}
		if want := r.Records * uint64(spec.Size); r.Bytes != want {
			return nil, fmt.Errorf("%d records of %d bytes were read as %d bytes, not %d", r.Records, spec.Size, r.Bytes, want)
		}
		records.Store(r.Records)
		return r, nil
	}
	if spec.Kind == idle {
		select {
		case <-time.After(spec.Duration):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return &bench.Result{Workload: idle, Took: spec.Duration}, nil
	}
	if spec.Kind == roundTrip {
		return bench.RoundTrip(ctx, bench.RoundTripConfig{Server: address, Subject: subject, Size: spec.Size, Rate: spec.Rate,
			Duration: spec.Duration, Warmup: orNone(spec.Warmup), Progress: records, Timeout: patience,
			Open: func(ctx context.Context) (*bench.Route, error) { return system.Route(ctx, address, spec) }})
	}
	if spec.Kind != publish {
		return nil, errors.New("no load is called " + spec.Kind)
	}
	return bench.Publish(ctx, bench.PublishConfig{Server: address, Subject: subject, Subjects: spec.Subjects, Redundant: spec.Redundant, Partitions: spec.Partitions,
		Connections: spec.Connections, InFlight: spec.InFlight, Batch: spec.Batch, Size: spec.Size, Records: spec.Records,
		Duration: spec.Duration, Warmup: orNone(spec.Warmup), Rate: spec.Rate, Progress: records, Timeout: patience,
		Dial: func(ctx context.Context) (bench.Publisher, error) { return system.Publisher(ctx, address, spec) }})
}

// patience is how long a server may leave everything unanswered.
const patience = time.Minute

// orNone says of no warm-up that it is meant.
func orNone(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}
