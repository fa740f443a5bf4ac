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
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// Methods are what is measured of a case.
const (
	// methodBarePod: create a Pod of the sandbox's template by itself, until it is Ready. The
	// reference of the ratios.
	methodBarePod = "bare-pod"
	// methodCommit: POST pause, until the snapshot says Succeed.
	methodCommit = "pause-committed"
	// methodPause: POST pause, until the sandbox says Paused, which it does when its Pod is gone.
	methodPause = "pause"
	// methodResume: POST resume, until the sandbox is Ready, on the node that it was paused on.
	methodResume = "resume"
	// methodResumeElsewhere: the same after all that the node had of the snapshots' images was
	// removed from it, as on another node.
	methodResumeElsewhere = "resume-image-removed"
	// methodResumeCached: as methodResume, of a server with a resume cache.
	methodResumeCached = "resume-cached"
)

var methods = []string{methodBarePod, methodCommit, methodPause, methodResume, methodResumeElsewhere, methodResumeCached}

// result collects times by case and method.
type result struct {
	times map[string]map[string][]time.Duration
}

func newResult() *result { return &result{times: map[string]map[string][]time.Duration{}} }

func (r *result) add(name, method string, took time.Duration) {
	if r.times[name] == nil {
		r.times[name] = map[string][]time.Duration{}
	}
	r.times[name][method] = append(r.times[name][method], took)
	fmt.Fprintf(os.Stderr, "%s: %s %.2f s\n", name, method, took.Seconds())
}

// row is a line of the result. Seconds is a median, ratio that median to the one of a bare Pod
// over all cases.
type row struct {
	Case    string  `json:"case"`
	Method  string  `json:"method"`
	Seconds float64 `json:"seconds"`
	Ratio   float64 `json:"ratio"`
}

func (r *result) rows() []row {
	var bare []time.Duration
	for _, c := range cases {
		bare = append(bare, r.times[c.name][methodBarePod]...)
	}
	reference := median(bare)
	var rows []row
	for _, c := range cases {
		for _, method := range methods {
			if times := r.times[c.name][method]; len(times) > 0 {
				seconds := median(times)
				rows = append(rows, row{Case: c.name, Method: method, Seconds: seconds, Ratio: seconds / reference})
			}
		}
	}
	return rows
}

// median of at least one time, in seconds.
func median(times []time.Duration) float64 {
	sorted := slices.SortedFunc(slices.Values(times), cmp.Compare[time.Duration])
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle].Seconds()
	}
	return (sorted[middle-1] + sorted[middle]).Seconds() / 2
}

// write prints what was measured, and writes it to a file: to the rows of an earlier run where they
// are to be added. Each ratio is to the bare Pods of its own run.
func (r *result) write(path string, add bool, table io.Writer) error {
	rows := r.rows()
	lines := tabwriter.NewWriter(table, 0, 0, 3, ' ', 0)
	fmt.Fprintln(lines, "CASE\tMETHOD\tSECONDS\tRATIO")
	for _, row := range rows {
		fmt.Fprintf(lines, "%s\t%s\t%.2f\t%.2f\n", row.Case, row.Method, row.Seconds, row.Ratio)
	}
	if err := lines.Flush(); err != nil {
		return err
	}
	if add {
		before, err := read(path)
		if err != nil {
			return err
		}
		rows = slices.Concat(before, slices.DeleteFunc(rows, func(r row) bool { return r.Method == methodBarePod }))
	}
	content, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}

// read reads what write wrote, but for what another run has added.
func read(path string) ([]row, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rows []row
	if err := json.Unmarshal(content, &rows); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return slices.DeleteFunc(rows, func(r row) bool { return r.Method == methodResumeCached }), nil
}
