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
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// row is one line of the result; numbers are medians.
type row struct {
	Case    string  `json:"case"`
	Method  string  `json:"method"`
	Seconds float64 `json:"seconds"`
	// Ratio is to the reference's seconds of the same run.
	Ratio      float64 `json:"ratio,omitempty"`
	CPUSeconds float64 `json:"cpu_seconds"`
	// PeakMiB is the resident memory of the largest process.
	PeakMiB float64 `json:"peak_mib"`
	// FrozenMillis is null where nothing is frozen.
	FrozenMillis *float64 `json:"frozen_ms"`
	// UploadedMiB is what was sent to the registry, headers included.
	UploadedMiB float64 `json:"uploaded_mib"`
	// Beside is what this build's numbers are of another's.
	Beside *comparison `json:"beside,omitempty"`
}

func summarize(c testCase, measured map[string][]sample) []row {
	var rows []row
	base := math.NaN()
	if m := measured[reference]; len(m) > 0 {
		base = round(median(m, func(s sample) float64 { return s.seconds }))
	}
	for _, method := range allMethods {
		m := measured[method]
		if len(m) == 0 {
			continue
		}
		r := row{
			Case: c.name, Method: method,
			Seconds:     round(median(m, func(s sample) float64 { return s.seconds })),
			CPUSeconds:  round(median(m, func(s sample) float64 { return s.cpu })),
			PeakMiB:     round(median(m, func(s sample) float64 { return s.peakMiB })),
			UploadedMiB: round(median(m, func(s sample) float64 { return s.uploadedMiB })),
		}
		if !math.IsNaN(base) {
			r.Ratio = round(r.Seconds / base)
		}
		if m[0].frozen != nil {
			millis := round(median(m, func(s sample) float64 { return float64(*s.frozen) / float64(time.Millisecond) }))
			r.FrozenMillis = &millis
		}
		if method == ours {
			r.Beside = compare(c, measured)
		}
		rows = append(rows, r)
	}
	return rows
}

func median[T any](m []T, of func(T) float64) float64 {
	values := make([]float64, 0, len(m))
	for _, one := range m {
		values = append(values, of(one))
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

func round(x float64) float64 { return math.Round(x*1000) / 1000 }

// What is promised.
const (
	largeRatio    = 1.15
	smallMore     = 0.1 // seconds
	cpuRatio      = 1.25
	peakMiB       = 128
	emptyRatio    = 1.5
	frozenAtMost  = 250 // milliseconds
	smallSeconds  = 0.5 // a case is small while the reference takes less
	changedFrozen = "1gb-small-change"
)

// judge says which promises do not hold.
func judge(rows []row) []string {
	find := func(name, method string) *row {
		for i := range rows {
			if rows[i].Case == name && rows[i].Method == method {
				return &rows[i]
			}
		}
		return nil
	}
	var broken []string
	check := func(ok bool, format string, args ...any) {
		if !ok {
			broken = append(broken, fmt.Sprintf(format, args...))
		}
	}
	for _, c := range cases {
		our, ref := find(c.name, ours), find(c.name, reference)
		if our == nil {
			continue
		}
		check(our.PeakMiB <= peakMiB, "%s: %.0f MiB of memory, at most %d", c.name, our.PeakMiB, peakMiB)
		if c.name == changedFrozen {
			check(*our.FrozenMillis <= frozenAtMost, "%s: frozen for %.0f ms, at most %d", c.name, *our.FrozenMillis, frozenAtMost)
			continue
		}
		if ref == nil {
			continue
		}
		if ref.Seconds < smallSeconds {
			check(our.Seconds <= ref.Seconds+smallMore, "%s: %.3f s where the reference takes %.3f s, at most %.1f s more", c.name, our.Seconds, ref.Seconds, smallMore)
			continue
		}
		check(our.Ratio <= largeRatio, "%s: %.2f times the reference's time, at most %.2f", c.name, our.Ratio, largeRatio)
		check(our.CPUSeconds <= cpuRatio*ref.CPUSeconds, "%s: %.2f s of CPU where the reference takes %.2f s, at most %.2f times", c.name, our.CPUSeconds, ref.CPUSeconds, cpuRatio)
	}
	if small, large := find("empty", ours), find("empty-base-100k", ours); small != nil && large != nil {
		check(large.Seconds <= emptyRatio*small.Seconds, "empty-base-100k: %.3f s, over a small base %.3f s, at most %.1f times", large.Seconds, small.Seconds, emptyRatio)
	}
	return broken
}

func printTable(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "case\tmethod\tseconds\tratio\tCPU s\tpeak MiB\tfrozen ms\tuploaded MiB\t")
	for _, r := range rows {
		ratio, frozen := "-", "-"
		if r.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		if r.FrozenMillis != nil {
			frozen = fmt.Sprintf("%.0f", *r.FrozenMillis)
		}
		fmt.Fprintf(t, "%s\t%s\t%.3f\t%s\t%.2f\t%.0f\t%s\t%.2f\t\n", r.Case, r.Method, r.Seconds, ratio, r.CPUSeconds, r.PeakMiB, frozen, r.UploadedMiB)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printComparisons(w, rows)
}

func write(path string, rows []row) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
