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
	"time"
)

// What is promised.
const (
	mostPause      = 1.15 // times the same sent to kube-apiserver
	leastDownload  = 0.8  // of a direct connection's rate
	mostAdded      = 300 * time.Microsecond
	mostMemory     = 128 // MiB
	quantileOfTail = 0.99
)

// both is the same thing through the gateway and without it.
type both struct {
	Gateway float64 `json:"gateway"`
	Direct  float64 `json:"direct"`
}

func (b both) ratio() float64 { return b.Gateway / b.Direct }

// result is what was measured. Times are in milliseconds.
type result struct {
	PauseP50  both `json:"pauseP50Ms"`
	PauseP99  both `json:"pauseP99Ms"`
	PingP50   both `json:"pingP50Ms"`
	PingP99   both `json:"pingP99Ms"`
	Download  both `json:"downloadMBPerSecond"`
	Megabytes int  `json:"megabytes"`

	Clients int `json:"clients"`
	// MemoryMiB is the most that the gateway was resident with while they pinged, PingsPerSecond how many of theirs were answered.
	MemoryMiB      float64 `json:"memoryMiB"`
	PingsPerSecond float64 `json:"pingsPerSecond"`
}

// report prints and keeps the result, and fails where a bound is missed.
func (r *result) report(o options, table io.Writer) error {
	var missed []error
	lines := tabwriter.NewWriter(table, 0, 0, 3, ' ', 0)
	fmt.Fprintln(lines, "WHAT\tGATEWAY\tDIRECT\tBOUND\tIS")
	line := func(ok bool, what, unit string, b both, bound string, is string) {
		fmt.Fprintf(lines, "%s\t%.2f %s\t%.2f %s\t%s\t%s\n", what, b.Gateway, unit, b.Direct, unit, bound, is)
		if !ok {
			missed = append(missed, fmt.Errorf("%s: %s, %s is promised", what, is, bound))
		}
	}
	ratio := func(b both) string { return fmt.Sprintf("×%.2f", b.ratio()) }
	line(r.PauseP50.ratio() <= mostPause, "POST pause, p50", "ms", r.PauseP50, fmt.Sprintf("at most ×%.2f", mostPause), ratio(r.PauseP50))
	line(r.PauseP99.ratio() <= mostPause, "POST pause, p99", "ms", r.PauseP99, fmt.Sprintf("at most ×%.2f", mostPause), ratio(r.PauseP99))
	added := r.PingP50.Gateway - r.PingP50.Direct
	line(added <= ms(mostAdded), "ping, p50", "ms", r.PingP50, fmt.Sprintf("at most +%.1f ms", ms(mostAdded)), fmt.Sprintf("+%.2f ms", added))
	line(true, "ping, p99", "ms", r.PingP99, "", fmt.Sprintf("+%.2f ms", r.PingP99.Gateway-r.PingP99.Direct))
	line(r.Download.ratio() >= leastDownload, fmt.Sprintf("download of %d MiB", r.Megabytes), "MB/s", r.Download, fmt.Sprintf("at least ×%.1f", leastDownload), ratio(r.Download))
	if err := lines.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(table, "%d clients that ping, %.0f pings a second: %.0f MiB (at most %d)\n", r.Clients, r.PingsPerSecond, r.MemoryMiB, mostMemory)
	if r.MemoryMiB > mostMemory {
		missed = append(missed, fmt.Errorf("%d clients that ping: %.0f MiB, at most %d are promised", r.Clients, r.MemoryMiB, mostMemory))
	}
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	return errors.Join(errors.Join(missed...), os.WriteFile(o.out, append(content, '\n'), 0o644))
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// quantile of at least one time, in milliseconds.
func quantile(times []time.Duration, q float64) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return ms(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)])
}

// median of at least one number.
func median(numbers []float64) float64 {
	sorted := slices.Sorted(slices.Values(numbers))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
