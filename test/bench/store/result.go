/*
Copyright The Sandbox API Server Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// sample is what one round has measured of one build.
type sample struct {
	// HeapMiB is what is in use after the patches, HeapBefore before them.
	HeapMiB    float64 `json:"heap_mib"`
	HeapBefore float64 `json:"heap_before_mib"`
	// CPUSeconds is what the server takes for all patches.
	CPUSeconds float64 `json:"cpu_seconds"`
}

type result struct {
	forHeap, forCPU int
	samples         map[string][]sample
}

func newResult(forHeap, forCPU int) *result {
	return &result{forHeap: forHeap, forCPU: forCPU, samples: map[string][]sample{}}
}

func (r *result) add(build string, s sample) { r.samples[build] = append(r.samples[build], s) }

func heap(s sample) float64       { return s.HeapMiB }
func heapBefore(s sample) float64 { return s.HeapBefore }
func cpu(s sample) float64        { return s.CPUSeconds }

func (r *result) median(build string, of func(sample) float64) float64 {
	var values []float64
	for _, s := range r.samples[build] {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func (r *result) ratio(of func(sample) float64) float64 {
	return r.median("ours", of) / r.median("baseline", of)
}

func (r *result) compared() bool { return len(r.samples["baseline"]) > 0 }

func (r *result) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "build\trounds\tMiB of heap before\tafter %d patches\tseconds of CPU for %d patches\n", r.forHeap, r.forCPU)
	for _, build := range []string{"baseline", "ours"} {
		if len(r.samples[build]) > 0 {
			fmt.Fprintf(table, "%s\t%d\t%.0f\t%.0f\t%.1f\n", build, len(r.samples[build]), r.median(build, heapBefore), r.median(build, heap), r.median(build, cpu))
		}
	}
	if r.compared() {
		fmt.Fprintf(table, "ratio\t\t\t%.3f\t%.3f\n", r.ratio(heap), r.ratio(cpu))
		fmt.Fprintf(table, "at most\t\t\t%.3f\t%.3f\n", maxHeap, maxCPU)
	}
	return table.Flush()
}

func (r *result) save(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r.samples, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// check says which bound is missed.
func (r *result) check() error {
	if !r.compared() {
		return nil
	}
	var errs []error
	if ratio := r.ratio(heap); ratio > maxHeap {
		errs = append(errs, fmt.Errorf("the heap is %.3f of the baseline's, and may be %.3f", ratio, maxHeap))
	}
	if ratio := r.ratio(cpu); ratio > maxCPU {
		errs = append(errs, fmt.Errorf("the CPU is %.3f of the baseline's, and may be %.3f", ratio, maxCPU))
	}
	return errors.Join(errs...)
}
