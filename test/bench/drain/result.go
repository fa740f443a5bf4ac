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
	"slices"
)

// result is what was measured: seconds, by round.
type result struct {
	Sandboxes int       `json:"sandboxes"`
	Megabytes int       `json:"megabytes"`
	ByHand    []float64 `json:"byHand"`
	Drain     []float64 `json:"drain"`
	// Ratio is of the medians.
	Ratio float64 `json:"ratio"`
	// Commits is how many were under way at a time at most, Allowed how many the server's flags allow on a node.
	Commits int `json:"commits"`
	Allowed int `json:"allowed"`
}

// report prints and keeps the result, and fails where a bound is missed.
func (r *result) report(o options, table io.Writer) error {
	r.Ratio = median(r.Drain) / median(r.ByHand)
	fmt.Fprintf(table, "%d sandboxes of %d MB: by hand %.1f s, drain %.1f s, ratio %.2f (at most %.2f); %d commits at a time (at most %d)\n",
		r.Sandboxes, r.Megabytes, median(r.ByHand), median(r.Drain), r.Ratio, o.bound, r.Commits, r.Allowed)
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(o.out, append(content, '\n'), 0o644); err != nil {
		return err
	}
	if r.Ratio > o.bound {
		return fmt.Errorf("a drain takes %.2f times as long as by hand, at most %.2f are promised", r.Ratio, o.bound)
	}
	if r.Commits > r.Allowed {
		return fmt.Errorf("%d commits ran at a time, the flags allow %d", r.Commits, r.Allowed)
	}
	return nil
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
