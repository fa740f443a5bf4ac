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
	"os"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"
)

// report is the whole of a run, and what .bench/scale.json holds.
type report struct {
	Time       time.Time     `json:"time"`
	Version    string        `json:"version,omitempty"`
	CPUs       int           `json:"cpus"`
	Watchers   int           `json:"watchers"`
	Namespaces int           `json:"namespaces"`
	Nodes      int           `json:"nodes"`
	InFlight   int           `json:"inFlight"`
	MaxCommits int           `json:"maxCommits"`
	MaxPerNode int           `json:"maxCommitsPerNode"`
	Sizes      []*sizeResult `json:"sizes"`
	// Broken are the promises that this run does not keep.
	Broken []string `json:"broken"`
}

// line is one row of the table. Of a line with a bound, no size may have more than so many times
// what the smallest has.
type line struct {
	what, unit string
	bound      float64
	value      func(*sizeResult) float64
}

// growth is how much more a verb may cost among the most sandboxes than among the fewest.
const growth = 1.2

func costLines(kind string, of func(*sizeResult) *phaseResult) []line {
	per := func(what, unit string, bound float64, value func(*cost) float64) line {
		return line{what: kind + ": " + what, unit: unit, bound: bound, value: func(r *sizeResult) float64 { return value(&of(r).Cost) }}
	}
	return []line{
		per("CPU of the server", "ms", growth, func(c *cost) float64 { return c.ServerCPU }),
		per("CPU of its etcd", "ms", 0, func(c *cost) float64 { return c.StoreCPU }),
		per("CPU of kube-apiserver", "ms", 0, func(c *cost) float64 { return c.KubeCPU }),
		per("etcd requests", "", growth, func(c *cost) float64 { return c.StoreRequests }),
		per("etcd writes", "", growth, func(c *cost) float64 { return c.StoreWrites }),
		per("etcd bytes", "B", growth, func(c *cost) float64 { return c.StoreBytes }),
		per("requests to kube-apiserver", "", growth, func(c *cost) float64 { return c.HostRequests }),
		per("events to all watchers", "", growth, func(c *cost) float64 { return c.Events }),
		per("bytes to all watchers", "B", growth, func(c *cost) float64 { return c.EventBytes }),
	}
}

func timeLines(kind string, of func(*sizeResult) *phaseResult) []line {
	return []line{
		{kind + ": POST, median", "ms", 0, func(r *sizeResult) float64 { return of(r).Answered }},
		{kind + ": POST, 99 %", "ms", 0, func(r *sizeResult) float64 { return of(r).AnsweredP99 }},
		{kind + ": done, median", "ms", 0, func(r *sizeResult) float64 { return of(r).Done }},
		{kind + ": done, 99 %", "ms", 0, func(r *sizeResult) float64 { return of(r).DoneP99 }},
	}
}

func lines() []line {
	steadyPause := func(r *sizeResult) *phaseResult { return &r.SteadyPause }
	steadyResume := func(r *sizeResult) *phaseResult { return &r.SteadyResume }
	burstPause := func(r *sizeResult) *phaseResult { return &r.BurstPause }
	burstResume := func(r *sizeResult) *phaseResult { return &r.BurstResume }
	var all []line
	all = append(all, timeLines("pause", steadyPause)...)
	all = append(all, costLines("pause", steadyPause)...)
	all = append(all, timeLines("resume", steadyResume)...)
	all = append(all, costLines("resume", steadyResume)...)
	all = append(all, costLines("pause all at once", burstPause)...)
	all = append(all, line{"pause all at once: a second", "", 0, func(r *sizeResult) float64 { return perSecond(burstPause(r)) }})
	all = append(all, costLines("resume all at once", burstResume)...)
	all = append(all, line{"resume all at once: a second", "", 0, func(r *sizeResult) float64 { return perSecond(burstResume(r)) }})
	return append(all,
		line{"server, resident", "MiB", 0, func(r *sizeResult) float64 { return r.ServerMemory }},
		line{"its etcd, resident", "MiB", 0, func(r *sizeResult) float64 { return r.StoreMemory }},
		line{"etcd, for a sandbox and its snapshots", "B", 0, func(r *sizeResult) float64 { return r.StoredBytes }},
		line{"commits at a time, at most", "", 0, func(r *sizeResult) float64 { return float64(r.MostCommits) }},
		line{"commits at a time on a node, at most", "", 0, func(r *sizeResult) float64 { return float64(r.MostCommitsOnNode) }},
		line{"latecomer: waited in front of it", "", 0, func(r *sizeResult) float64 { return float64(r.last().Waiting) }},
		line{"latecomer: committed before it", "", 0, func(r *sizeResult) float64 { return float64(r.last().Before) }},
		line{"a server killed half-way: all Paused later", "times", 0, func(r *sizeResult) float64 { return r.Killed.ratio() }},
		line{"watches that ended", "", 0, func(r *sizeResult) float64 { return float64(r.Reconnects) }},
	)
}

func perSecond(p *phaseResult) float64 {
	if p.Seconds == 0 {
		return 0
	}
	return float64(p.Verbs) / p.Seconds
}

func (r *sizeResult) last() lateness {
	if len(r.Latecomer) == 0 {
		return lateness{}
	}
	return r.Latecomer[len(r.Latecomer)-1]
}

// judge finds what is not as promised.
func (r *report) judge() {
	r.Broken = []string{}
	complain := func(format string, args ...any) { r.Broken = append(r.Broken, fmt.Sprintf(format, args...)) }
	for _, size := range r.Sizes {
		if size.MostCommits > r.MaxCommits {
			complain("%d sandboxes: %d commits ran at a time, --max-commits is %d", size.Sandboxes, size.MostCommits, r.MaxCommits)
		}
		if size.MostCommitsOnNode > r.MaxPerNode {
			complain("%d sandboxes: %d commits ran at a time on one node, --max-commits-per-node is %d", size.Sandboxes, size.MostCommitsOnNode, r.MaxPerNode)
		}
		if times := size.Killed.ratio(); times > laterThanUnkilled {
			complain("%d sandboxes, of which the server was killed when %d were: all were Paused after %.1f s, %.2f times as late as without that; it may be %g",
				size.Killed.Sandboxes, size.Killed.Paused, size.Killed.With, times, laterThanUnkilled)
		}
		for _, late := range size.Latecomer {
			// A turn of each other namespace, and what was given out while it came.
			if fair := r.Namespaces + 2*r.MaxCommits; late.Before > fair {
				complain("%d sandboxes: %d commits started before that of a namespace with one sandbox, which may wait for %d", size.Sandboxes, late.Before, fair)
			}
		}
		for _, line := range lines() {
			least, its := line.value(r.Sizes[0]), line.value(size)
			if line.bound > 0 && its > least*line.bound {
				complain("%s: %.4g%s with %d sandboxes, %.4g%s with %d: %.2f times as much", line.what,
					its, line.unit, size.Sandboxes, least, line.unit, r.Sizes[0].Sandboxes, its/least)
			}
		}
	}
}

// print shows the table: the smallest size in its units, the others also as ratios to it.
func (r *report) print(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "a verb of")
	for _, size := range r.Sizes {
		fmt.Fprintf(table, "\t%d sandboxes\t", size.Sandboxes)
	}
	fmt.Fprintln(table)
	for _, line := range lines() {
		fmt.Fprintf(table, "%s", line.what)
		for i, size := range r.Sizes {
			its, least := line.value(size), line.value(r.Sizes[0])
			ratio := ""
			if i > 0 && least > 0 {
				ratio = fmt.Sprintf("×%.2f", its/least)
			}
			fmt.Fprintf(table, "\t%.4g %s\t%s", its, line.unit, ratio)
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}

func (r *report) write(path string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}

func newReport(o *options) *report {
	return &report{
		Time: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Watchers: o.watchers, Namespaces: o.namespaces,
		Nodes: o.nodes, InFlight: o.inFlight, MaxCommits: o.maxCommits, MaxPerNode: o.maxCommitsPerNode,
	}
}
