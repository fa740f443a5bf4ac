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

// The program bench-watch measures what an event costs the server for each client that watches, where
// its watch is from before the server's start, beside one from the cache. See docs/performance.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
)

const (
	watchers = 100
	writes   = 200
	// maxRatio is what an event may cost of one from the cache.
	maxRatio = 1.2
)

func main() {
	ours := flag.String("serve", "", "the server of this checkout (test/bench/store/serve)")
	baseline := flag.String("baseline", "", "the server of another commit, measured as well")
	rounds := flag.Int("rounds", 5, "how often each is measured, by turns; medians are reported")
	dir := flag.String("dir", "", "where the stores are while they are used")
	out := flag.String("out", ".bench/watch.json", "where the numbers go")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	builds := []build{{"ours", *ours}}
	if *baseline != "" {
		builds = append(builds, build{"baseline", *baseline})
	}
	if err := run(ctx, builds, *rounds, *dir, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench-watch:", err)
		os.Exit(1)
	}
}

type build struct{ name, program string }

// sample is the CPU that the server has used in one round, in seconds.
type sample struct {
	// Writes is for the writes alone, Cached with watchers from the cache, Resumed with watchers from
	// before the start.
	Writes  float64 `json:"writes_seconds"`
	Cached  float64 `json:"cached_seconds"`
	Resumed float64 `json:"resumed_seconds"`
}

func run(ctx context.Context, builds []build, rounds int, dir, out string) error {
	samples := map[string][]sample{}
	for round := range rounds {
		for _, b := range builds {
			fmt.Fprintf(os.Stderr, "bench-watch: round %d of %d, %s\n", round+1, rounds, b.name)
			s, err := measure(ctx, b.program, dir)
			if err != nil {
				return fmt.Errorf("%s: %w", b.name, err)
			}
			samples[b.name] = append(samples[b.name], s)
		}
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(samples, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return report(os.Stdout, builds, samples)
}

func report(w io.Writer, builds []build, samples map[string][]sample) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "build\tseconds of CPU for %d writes\twith %d watchers from the cache\tfrom before the start\tan event and watcher costs, of one from the cache\n", writes, watchers)
	ratios := map[string]float64{}
	for _, b := range builds {
		ratios[b.name] = median(samples[b.name], func(s sample) float64 { return (s.Resumed - s.Writes) / (s.Cached - s.Writes) })
		fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.2f\t%.2f\n", b.name, median(samples[b.name], func(s sample) float64 { return s.Writes }),
			median(samples[b.name], func(s sample) float64 { return s.Cached }), median(samples[b.name], func(s sample) float64 { return s.Resumed }), ratios[b.name])
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if ratio := ratios["ours"]; ratio > maxRatio {
		return fmt.Errorf("an event of a watch from before the start costs %.2f of one from the cache, and may cost %.1f", ratio, maxRatio)
	}
	return nil
}

func median(samples []sample, of func(sample) float64) float64 {
	var values []float64
	for _, s := range samples {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
