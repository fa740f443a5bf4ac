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

package metrics

import (
	"sync/atomic"
	"time"

	k8smetrics "k8s.io/component-base/metrics"
)

// World is what the replica that runs the controllers sees at the moment.
type World struct {
	// Sandboxes and Snapshots are how many there are in each phase, as kubectl get shows it.
	Sandboxes, Snapshots map[string]int
	// Reasons are how many sandboxes there are in each phase with each reason, as kubectl get shows it.
	Reasons map[PhaseReason]int
	// DataLost are the sandboxes that have lost files which no pause has made up for.
	DataLost int
	// Longest is for how long the one of each passing phase has been so that has been so for longest.
	Longest map[string]time.Duration
	// Waiting are the snapshots whose commit waits for others, LongestWait is for how long the first has.
	Waiting     int
	LongestWait time.Duration
	// SlotsInUse of Slots are taken.
	SlotsInUse, Slots int
}

// PhaseReason is a phase with the reason of being in it.
type PhaseReason struct {
	Phase, Reason string
}

// Lead makes what look sees part of the metrics until end is called. It is called at each scrape.
func Lead(look func() (World, bool)) (end func()) {
	leading.look.Store(&look)
	return func() { leading.look.CompareAndSwap(&look, nil) }
}

// leading tells what only the leader knows, and nothing elsewhere: a sum over all replicas is right.
var leading = &leaderCollector{
	sandboxes: gauge("sandbox_sandboxes", "Sandboxes by phase; Terminating are those that are being deleted.", "phase"),
	reasons:   gauge("sandbox_sandboxes_by_reason", "Sandboxes by phase and reason, as kubectl get shows both; those without a reason are left out.", "phase", "reason"),
	lost:      gauge("sandbox_sandboxes_data_lost", "Sandboxes whose condition DataLost is true."),
	longest:   gauge("sandbox_longest_in_phase_seconds", "For how long the sandbox has been Pending, Pausing, Resuming or Terminating that has been so for longest; 0 where none is.", "phase"),
	snapshots: gauge("sandbox_snapshots", "Snapshots by phase; Terminating are those that are being deleted.", "phase"),
	waiting:   gauge("sandbox_commits_waiting", "Snapshots whose commit waits for others (--max-commits, --max-commits-per-node)."),
	wait:      gauge("sandbox_commits_longest_wait_seconds", "For how long the snapshot has waited that waits for longest; 0 where none does."),
	inUse:     gauge("sandbox_commit_slots_in_use", "Slots of commits that are taken."),
	slots:     gauge("sandbox_commit_slots", "Slots of commits that there are (--max-commits)."),
}

type leaderCollector struct {
	k8smetrics.BaseStableCollector
	look atomic.Pointer[func() (World, bool)]

	sandboxes, reasons, lost, longest, snapshots, waiting, wait, inUse, slots *k8smetrics.Desc
}

var _ k8smetrics.StableCollector = &leaderCollector{}

// DescribeWithStability names what there may be.
func (c *leaderCollector) DescribeWithStability(ch chan<- *k8smetrics.Desc) {
	for _, desc := range []*k8smetrics.Desc{c.sandboxes, c.reasons, c.lost, c.longest, c.snapshots, c.waiting, c.wait, c.inUse, c.slots} {
		ch <- desc
	}
}

// CollectWithStability asks the leader.
func (c *leaderCollector) CollectWithStability(ch chan<- k8smetrics.Metric) {
	look := c.look.Load()
	if look == nil {
		return
	}
	world, known := (*look)()
	if !known {
		return
	}
	tell := func(desc *k8smetrics.Desc, value float64, labels ...string) {
		ch <- k8smetrics.NewLazyConstMetric(desc, k8smetrics.GaugeValue, value, labels...)
	}
	for phase, count := range world.Sandboxes {
		tell(c.sandboxes, float64(count), phase)
	}
	for at, count := range world.Reasons {
		tell(c.reasons, float64(count), at.Phase, at.Reason)
	}
	tell(c.lost, float64(world.DataLost))
	for phase, longest := range world.Longest {
		tell(c.longest, longest.Seconds(), phase)
	}
	for phase, count := range world.Snapshots {
		tell(c.snapshots, float64(count), phase)
	}
	tell(c.waiting, float64(world.Waiting))
	tell(c.wait, world.LongestWait.Seconds())
	tell(c.inUse, float64(world.SlotsInUse))
	tell(c.slots, float64(world.Slots))
}
