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

import "slices"

// sizeResult is what was measured with one number of sandboxes.
type sizeResult struct {
	Sandboxes int `json:"sandboxes"`
	// SteadyPause and SteadyResume: as many verbs under way at any time as with every other size.
	SteadyPause  phaseResult `json:"steadyPause"`
	SteadyResume phaseResult `json:"steadyResume"`
	// BurstPause and BurstResume: all asked for before any is done.
	BurstPause  phaseResult `json:"burstPause"`
	BurstResume phaseResult `json:"burstResume"`
	// ServerMemory and StoreMemory are what is resident at the end, in MiB.
	ServerMemory float64 `json:"serverMemoryMiB"`
	StoreMemory  float64 `json:"etcdMemoryMiB"`
	// StoredBytes are the live keys and values of etcd, for a sandbox and its snapshots.
	StoredBytes float64 `json:"etcdBytesPerSandbox"`
	// MostCommits and MostCommitsOnNode ran at one time.
	MostCommits       int `json:"mostCommitsAtATime"`
	MostCommitsOnNode int `json:"mostCommitsAtATimeOnANode"`
	// Latecomer is what became of the last pause of each burst.
	Latecomer []lateness `json:"latecomer"`
	// Killed is of the smallest size alone.
	Killed *killedResult `json:"killed,omitempty"`
	// Reconnects are the watches that ended and were begun again.
	Reconnects int64 `json:"watchesEnded"`
}

// phaseResult is the median of some rounds of so many verbs each.
type phaseResult struct {
	Rounds  int     `json:"rounds"`
	Verbs   int     `json:"verbs"`
	Seconds float64 `json:"seconds"`
	// Answered is how long the POST took, Done how long until the sandbox was Paused or Running;
	// milliseconds.
	Answered    float64 `json:"answeredMilliseconds"`
	AnsweredP99 float64 `json:"answeredP99Milliseconds"`
	Done        float64 `json:"doneMilliseconds"`
	DoneP99     float64 `json:"doneP99Milliseconds"`
	Cost        cost    `json:"costPerVerb"`
}

// lateness is how fair a burst was to who came last, from a namespace where nobody else waited.
type lateness struct {
	// Waiting were in front of it; Before of them were committed before it.
	Waiting int `json:"waiting"`
	Before  int `json:"committedBefore"`
}

// median takes each number from the middle of the rounds.
func median(rounds []phaseResult) phaseResult {
	middle := func(of func(*phaseResult) *float64) float64 {
		values := make([]float64, len(rounds))
		for i := range rounds {
			values[i] = *of(&rounds[i])
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	result := phaseResult{Rounds: len(rounds), Verbs: rounds[0].Verbs}
	for _, number := range []func(*phaseResult) *float64{
		func(p *phaseResult) *float64 { return &p.Seconds },
		func(p *phaseResult) *float64 { return &p.Answered },
		func(p *phaseResult) *float64 { return &p.AnsweredP99 },
		func(p *phaseResult) *float64 { return &p.Done },
		func(p *phaseResult) *float64 { return &p.DoneP99 },
		func(p *phaseResult) *float64 { return &p.Cost.ServerCPU },
		func(p *phaseResult) *float64 { return &p.Cost.StoreCPU },
		func(p *phaseResult) *float64 { return &p.Cost.KubeCPU },
		func(p *phaseResult) *float64 { return &p.Cost.StoreRequests },
		func(p *phaseResult) *float64 { return &p.Cost.StoreWrites },
		func(p *phaseResult) *float64 { return &p.Cost.StoreBytes },
		func(p *phaseResult) *float64 { return &p.Cost.HostRequests },
		func(p *phaseResult) *float64 { return &p.Cost.Events },
		func(p *phaseResult) *float64 { return &p.Cost.EventBytes },
		func(p *phaseResult) *float64 { return &p.Cost.ServerEvents },
	} {
		*number(&result) = middle(number)
	}
	return result
}
