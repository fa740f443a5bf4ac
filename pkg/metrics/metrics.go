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

// Package metrics is what the server tells of sandboxes at /metrics, beside what every API server does. What it
// counts it counts where the store has just taken the write that made it so: once, by whichever replica
// that was, and never again when a visit is repeated. No label names an object.
package metrics

import (
	"fmt"
	"strings"
	"sync"

	k8smetrics "k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// stability is that of all of them: names and labels may change with a release, which its notes tell.
// https://kubernetes.io/docs/concepts/cluster-administration/system-metrics/#metric-lifecycle
const stability = k8smetrics.ALPHA

// description is a row of docs/monitoring.md.
type description struct {
	name, kind, help string
	labels           []string
	// leader says that only the replica that runs the controllers has it.
	leader bool
}

var descriptions []description

// Outcomes of what has ended.
const (
	succeeded = "succeeded"
	failed    = "failed"
	canceled  = "canceled"
)

// Purposes of snapshots.
const (
	ofPause  = "pause"
	ofUser   = "user"
	ofRescue = "rescue"
)

// Buckets are wide: a pause takes a second or two with little to save, and minutes with a lot.
var (
	minutes = []float64{0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600}
	instant = []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300}
)

var (
	pauseAttempts = counter("sandbox_pause_attempts_total",
		"Attempts to pause a sandbox that have ended, by outcome (succeeded, failed, canceled), and where they failed by the reason that the condition Paused has. One that fails is followed by another.",
		"outcome", "reason")
	pauseDuration = histogram("sandbox_pause_duration_seconds",
		"Time from the request of a pause until the sandbox was Paused, failed attempts and waits in between included.",
		minutes)
	resumes = counter("sandbox_resumes_total",
		"Resumes that have ended, by outcome (succeeded: the Pod runs; failed; canceled: paused again before it ran), and where they failed by the reason that the condition Ready has.",
		"outcome", "reason")
	resumeDuration = histogram("sandbox_resume_duration_seconds",
		"Time from the request of a resume until the sandbox was Ready.",
		minutes)
	dataLosses = counter("sandbox_data_losses_total",
		"Times that files of a sandbox were lost, by the reason that the condition DataLost has.",
		"reason")
	moves = counter("sandbox_moves_total",
		"Moves that have ended, by outcome (succeeded: the sandbox runs in another Pod with its files; failed: files were lost, or there is no Pod; canceled: it was paused instead, or its policy changed) and by the reason that status.move had.",
		"outcome", "reason")
	moveDuration = histogram("sandbox_move_duration_seconds",
		"Time from the record of a move until the sandbox ran in another Pod, failed attempts and waits in between included.",
		minutes)
	snapshotsEnded = counter("sandbox_snapshots_ended_total",
		"Snapshots that have ended, by what they were made for (pause, user, rescue), outcome (succeeded, failed), and where they failed by the reason that the condition Failed has.",
		"purpose", "outcome", "reason")
	commitDuration = histogram("sandbox_commit_duration_seconds",
		"Time from the creation of the Job of a snapshot that has succeeded until its end.",
		minutes, "purpose")
	commitWait = histogram("sandbox_commit_wait_seconds",
		"Time from the creation of a snapshot until the creation of its Job: checks, and the wait for other commits.",
		minutes, "purpose")
	commitFrozen = histogram("sandbox_commit_frozen_seconds",
		"Time that a commit kept its Pod frozen, of those that have succeeded. After the commit of a pause the Pod stays frozen until it is removed, which does not count here.",
		instant, "purpose")
	commitBytes = counter("sandbox_commit_layer_bytes_total",
		"Compressed bytes of the layers that snapshots which have succeeded added to their images.",
		"purpose")
	imagesLeft = counter("sandbox_snapshot_images_left_total",
		"Images of deleted snapshots that could not be deleted from the registry.")
	registryRequests = counter("sandbox_registry_requests_total",
		"What the server itself has asked the snapshot registry for, by operation (look, delete, duplicate) and result (ok, or the reason of a failure; that an image is not there is an answer, too). Pushes are the commits' own.",
		"operation", "result")
)

var register sync.Once

// Register adds all of them to those that every API server serves.
func Register() {
	register.Do(func() {
		legacyregistry.MustRegister(pauseAttempts, pauseDuration, resumes, resumeDuration, moves, moveDuration, dataLosses,
			snapshotsEnded, commitDuration, commitWait, commitFrozen, commitBytes, imagesLeft, registryRequests)
		legacyregistry.CustomMustRegister(leading)
		begin()
	})
}

// begin makes all that is known beforehand be there, and zero, before there is the first: who looks for what the documentation
// names finds it, and an increase from nothing would be none.
func begin() {
	for _, outcome := range []string{succeeded, canceled} {
		pauseAttempts.WithLabelValues(outcome, "")
		resumes.WithLabelValues(outcome, "")
	}
	pauseDuration.WithLabelValues()
	resumeDuration.WithLabelValues()
	moveDuration.WithLabelValues()
	for _, outcome := range []string{succeeded, failed, canceled} {
		moves.WithLabelValues(outcome, v1alpha1.ReasonEvicted)
	}
	for _, reason := range []string{v1alpha1.ReasonPodLost, v1alpha1.ReasonFilesystemReset} {
		dataLosses.WithLabelValues(reason)
	}
	for _, purpose := range []string{ofPause, ofUser, ofRescue} {
		snapshotsEnded.WithLabelValues(purpose, succeeded, "")
		commitDuration.WithLabelValues(purpose)
		commitWait.WithLabelValues(purpose)
		commitFrozen.WithLabelValues(purpose)
		commitBytes.WithLabelValues(purpose)
	}
	imagesLeft.WithLabelValues()
	for _, operation := range []string{"look", "delete", "duplicate"} {
		registryRequests.WithLabelValues(operation, "ok")
	}
}

func counter(name, help string, labels ...string) *k8smetrics.CounterVec {
	describe(description{name: name, kind: "counter", help: help, labels: labels})
	return k8smetrics.NewCounterVec(&k8smetrics.CounterOpts{Name: name, Help: help, StabilityLevel: stability}, labels)
}

func histogram(name, help string, buckets []float64, labels ...string) *k8smetrics.HistogramVec {
	describe(description{name: name, kind: "histogram", help: help, labels: labels})
	return k8smetrics.NewHistogramVec(&k8smetrics.HistogramOpts{Name: name, Help: help, Buckets: buckets, StabilityLevel: stability}, labels)
}

func gauge(name, help string, labels ...string) *k8smetrics.Desc {
	describe(description{name: name, kind: "gauge", help: help, labels: labels, leader: true})
	return k8smetrics.NewDesc(name, help, labels, nil, stability, "")
}

func describe(d description) { descriptions = append(descriptions, d) }

// Table is the list of all as docs/monitoring.md has it, in Markdown.
func Table() string {
	var b strings.Builder
	b.WriteString("| metric | type | labels | what it says |\n| --- | --- | --- | --- |\n")
	for _, d := range descriptions {
		labels := ""
		if len(d.labels) > 0 {
			labels = "`" + strings.Join(d.labels, "`, `") + "`"
		}
		help := d.help
		if d.leader {
			help += " From the replica that leads alone."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.name, d.kind, labels, help)
	}
	return b.String()
}

// Names are those of all of them.
func Names() []string {
	var names []string
	for _, d := range descriptions {
		names = append(names, d.name)
	}
	return names
}

// ImageLeft counts an image that outlives its snapshot though it should not.
func ImageLeft() { imagesLeft.WithLabelValues().Inc() }

// RegistryAsked counts something that the snapshot registry was asked for.
func RegistryAsked(operation, result string) {
	registryRequests.WithLabelValues(operation, result).Inc()
}
