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
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// measured is a size that keeps every promise, changed by the options.
func measured(sandboxes int, options ...func(*sizeResult)) *sizeResult {
	same := phaseResult{Verbs: 100, Seconds: 10, Cost: cost{
		ServerCPU: 10, StoreRequests: 20, StoreWrites: 6, StoreBytes: 30000, HostRequests: 12, Events: 30, EventBytes: 90000,
	}}
	result := &sizeResult{
		Sandboxes: sandboxes, SteadyPause: same, SteadyResume: same, BurstPause: same, BurstResume: same,
		MostCommits: 30, MostCommitsOnNode: 2, Latecomer: []lateness{{Waiting: 90, Before: 40}},
	}
	for _, option := range options {
		option(result)
	}
	return result
}

func TestJudge(t *testing.T) {
	tests := map[string]struct {
		least, most *sizeResult
		broken      []string
	}{
		"all kept":           {measured(100), measured(5000), nil},
		"as much as allowed": {measured(100), measured(5000, func(r *sizeResult) { r.SteadyPause.Cost.ServerCPU = 12 }), nil},
		"a verb costs more": {
			measured(100), measured(5000, func(r *sizeResult) { r.SteadyPause.Cost.ServerCPU = 12.5 }),
			[]string{"pause: CPU of the server: 12.5ms with 5000 sandboxes, 10ms with 100: 1.25 times as much"},
		},
		"too many commits": {
			measured(100), measured(5000, func(r *sizeResult) { r.MostCommits = 31 }),
			[]string{"5000 sandboxes: 31 commits ran at a time, --max-commits is 30"},
		},
		"too many on a node": {
			measured(100, func(r *sizeResult) { r.MostCommitsOnNode = 3 }), measured(5000),
			[]string{"100 sandboxes: 3 commits ran at a time on one node, --max-commits-per-node is 2"},
		},
		"the latecomer had to wait for all": {
			measured(100), measured(5000, func(r *sizeResult) {
				r.Latecomer = append(r.Latecomer, lateness{Waiting: 4000, Before: 3999})
			}),
			[]string{"5000 sandboxes: 3999 commits started before that of a namespace with one sandbox, which may wait for 110"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := &report{Namespaces: 50, MaxCommits: 30, MaxPerNode: 2, Sizes: []*sizeResult{test.least, test.most}}
			r.judge()
			if !slices.Equal(r.Broken, append([]string{}, test.broken...)) {
				t.Errorf("got %q\nwant %q", r.Broken, test.broken)
			}
			var table strings.Builder
			if err := r.print(&table); err != nil || !strings.Contains(table.String(), "×1.00") {
				t.Errorf("printed %v:\n%s", err, table.String())
			}
		})
	}
}

func TestCommitLog(t *testing.T) {
	l := newCommitLog()
	for _, job := range []struct{ uid, namespace, node string }{{"1", "a", "n"}, {"2", "a", "m"}, {"3", "b", "n"}} {
		l.starts(types.UID(job.uid), job.namespace, job.node)
	}
	l.ends("1")
	l.ends("1") // an end that is seen twice
	l.starts("4", "c", "m")
	if all, node := l.highest(); all != 3 || node != 2 {
		t.Errorf("at most %d, %d on a node; want 3, 2", all, node)
	}
	if before, err := l.before(1, "c"); err != nil || before != 2 {
		t.Errorf("%d before c (%v), want 2", before, err)
	}
	if _, err := l.before(0, "d"); err == nil {
		t.Error("d was committed")
	}
}

func TestMedian(t *testing.T) {
	var rounds []phaseResult
	for _, seconds := range []float64{3, 1, 2} {
		rounds = append(rounds, phaseResult{Verbs: 7, Seconds: seconds, Cost: cost{Events: 10 * seconds}})
	}
	if got := median(rounds); got.Rounds != 3 || got.Verbs != 7 || got.Seconds != 2 || got.Cost.Events != 20 {
		t.Errorf("got %+v", got)
	}
	if got := percentile([]time.Duration{4 * time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond}, 50); got != 3 {
		t.Errorf("the median is %v ms, want 3", got)
	}
}
