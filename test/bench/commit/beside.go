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
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// quantity is what is compared of two methods.
type quantity string

const (
	seconds  quantity = "seconds"
	uploaded quantity = "uploaded"
	frozen   quantity = "frozen"
	memory   quantity = "memory"
)

var quantities = map[quantity]func(sample) float64{
	seconds:  func(s sample) float64 { return s.seconds },
	uploaded: func(s sample) float64 { return s.uploadedMiB },
	frozen:   func(s sample) float64 { return s.frozen.Seconds() },
	memory:   func(s sample) float64 { return s.peakMiB },
}

// target is what this build is to take of what another method does.
type target struct {
	of              quantity
	than            string
	atLeast, atMost float64 // 0 where there is no such bound
}

// unchanged is for each case that has no target of its own for the time that the build before takes.
var unchanged = target{of: seconds, than: baseline, atMost: 1.03}

// comparison is this build beside another method: the medians of the rounds' ratios, as the two runs of a round have the
// same neighbours on the machine.
type comparison struct {
	Method  string               `json:"method"`
	Ratios  map[quantity]float64 `json:"ratios"`
	Targets []verdict            `json:"targets"`
}

// verdict is a target and whether it is met.
type verdict struct {
	Of      quantity `json:"of"`
	AtLeast float64  `json:"at_least,omitempty"`
	AtMost  float64  `json:"at_most,omitempty"`
	Met     bool     `json:"met"`
}

func (v verdict) String() string {
	bound, word := fmt.Sprintf("at most %g", v.AtMost), "missed"
	if v.AtLeast > 0 {
		bound = fmt.Sprintf("at least %g", v.AtLeast)
	}
	if v.Met {
		word = "met"
	}
	return fmt.Sprintf("%s %s: %s", v.Of, bound, word)
}

func compare(c testCase, measured map[string][]sample) *comparison {
	for _, method := range []string{baseline, inUpper} {
		other := measured[method]
		if len(other) == 0 {
			continue
		}
		b := &comparison{Method: method, Ratios: map[quantity]float64{}}
		for name, of := range quantities {
			var pairs [][2]float64
			for round, s := range measured[ours] {
				pairs = append(pairs, [2]float64{of(s), of(other[round])})
			}
			ratio := median(pairs, func(pair [2]float64) float64 { return pair[0] / pair[1] })
			// Nothing is what nothing was: a frozen time is counted in milliseconds.
			if !math.IsNaN(ratio) && !math.IsInf(ratio, 0) {
				b.Ratios[name] = round(ratio)
			}
		}
		targets := c.targets
		if !slices.ContainsFunc(targets, func(t target) bool { return t.of == unchanged.of }) {
			targets = append(slices.Clone(targets), unchanged)
		}
		for _, t := range targets {
			if ratio, ok := b.Ratios[t.of]; ok && t.than == method {
				met := ratio >= t.atLeast && (t.atMost == 0 || ratio <= t.atMost)
				b.Targets = append(b.Targets, verdict{Of: t.of, AtLeast: t.atLeast, AtMost: t.atMost, Met: met})
			}
		}
		return b
	}
	return nil
}

func printComparisons(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\ncase\tours, of what\tseconds\tuploaded\tfrozen\tmemory\ttargets")
	some := false
	for _, r := range rows {
		b := r.Beside
		if b == nil {
			continue
		}
		some = true
		fmt.Fprintf(t, "%s\t%s", r.Case, b.Method)
		for _, q := range []quantity{seconds, uploaded, frozen, memory} {
			if ratio, ok := b.Ratios[q]; ok {
				fmt.Fprintf(t, "\t%.3f", ratio)
			} else {
				fmt.Fprint(t, "\t-")
			}
		}
		var verdicts []string
		for _, v := range b.Targets {
			verdicts = append(verdicts, v.String())
		}
		fmt.Fprintf(t, "\t%s\n", strings.Join(verdicts, "; "))
	}
	if !some {
		return nil
	}
	return t.Flush()
}
