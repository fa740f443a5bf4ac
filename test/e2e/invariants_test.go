//go:build e2e

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

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// jobLifetime is how long a Job may be there after its end: its TTL, and what its controller takes.
const jobLifetime = 7 * time.Minute

// scene is all that there is of a room's sandboxes at one time.
type scene struct {
	now       time.Time
	sandboxes []v1alpha1.Sandbox
	snapshots []v1alpha1.SandboxSnapshot
	pods      []corev1.Pod
	jobs      []batchv1.Job
	jobPods   []corev1.Pod
	// frozen are containers by the names of their Pod and their own, leases those of commits in containerd by the UIDs of their
	// snapshots, uploads what the registry has of blobs that nobody has finished.
	frozen, leases, uploads []string
	// reset are the sandboxes that have told of a restart in place.
	reset map[string]bool
	// refusals are what the verbs answer where none of them leads on.
	refusals map[string]string
	readings []reading
}

// reading is what a writer in a sandbox was told is written, and what is.
type reading struct {
	sandbox           string
	told, there       int64
	incomplete, moved string // lines that are missing in between; why the file is another one
}

// problems are what must not be: docs/failures.md lists what holds. Some of it may be so for a moment, between a step and what
// comes of it.
func (s *scene) problems() (all []string) {
	note := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for i := range s.sandboxes {
		sandbox := &s.sandboxes[i]
		if problem := contradiction(sandbox); problem != "" {
			note("sandbox %s: %s (%s)", sandbox.Name, problem, describe(sandbox))
		}
		if problem := s.untrue(sandbox); problem != "" {
			note("sandbox %s: %s (%s)", sandbox.Name, problem, describe(sandbox))
		}
		if refusals := s.refusals[sandbox.Name]; refusals != "" {
			note("sandbox %s (%s): no verb leads on: %s", sandbox.Name, describe(sandbox), refusals)
		}
		for _, problem := range s.beyondTheirTime(sandbox) {
			note("sandbox %s: %s", sandbox.Name, problem)
		}
	}
	for _, name := range s.frozen {
		if why := s.unbound(name); why != "" {
			note("container %s is frozen: %s", name, why)
		}
	}
	for i := range s.pods {
		if problem := s.restarted(&s.pods[i]); problem != "" {
			note("Pod %s: %s", s.pods[i].Name, problem)
		}
	}
	all = append(all, s.commitProblems()...)
	for _, upload := range s.uploads {
		note("an upload is left in the registry: %s", upload)
	}
	for _, r := range s.readings {
		switch {
		case r.incomplete != "":
			note("in sandbox %s lines are missing: %s", r.sandbox, r.incomplete)
		case r.there < r.told && r.moved == "":
			note("in sandbox %s %d lines were acknowledged and %d are there, and nothing says why", r.sandbox, r.told, r.there)
		}
	}
	return all
}

// untrue says what a sandbox says that is not so.
func (s *scene) untrue(sandbox *v1alpha1.Sandbox) string {
	status := &sandbox.Status
	at := slices.IndexFunc(s.pods, func(p corev1.Pod) bool { return p.UID == status.PodUID })
	switch {
	case status.Phase == v1alpha1.SandboxRunning && at < 0:
		return "it says Running, and its Pod is not there"
	case at >= 0 && meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReady) && !podReady(&s.pods[at]):
		return "it says Ready, and its Pod is not"
	case !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionPaused):
		return ""
	}
	if slices.ContainsFunc(s.pods, func(p corev1.Pod) bool { return p.Labels[v1alpha1.LabelSandboxUID] == string(sandbox.UID) }) {
		return "it says Paused, and has a Pod"
	}
	from := slices.IndexFunc(s.snapshots, func(a v1alpha1.SandboxSnapshot) bool { return a.Name == status.SnapshotName })
	if from < 0 || s.snapshots[from].Status.Phase != v1alpha1.SnapshotSucceed {
		return "it says Paused, and its snapshot has not succeeded"
	}
	for _, c := range s.snapshots[from].Status.Containers {
		if c.ImageDigest == "" || c.ImageURI == "" {
			return fmt.Sprintf("it says Paused, and its snapshot has no image of container %s", c.ContainerName)
		}
	}
	return ""
}

// beyondTheirTime are the snapshots of pauses that should be gone, or at their end.
func (s *scene) beyondTheirTime(sandbox *v1alpha1.Sandbox) (problems []string) {
	limit, succeeded, failed, open := v1alpha1.DefaultHistoryLimit, int32(0), 0, 0
	if own := sandbox.Spec.Snapshot.HistoryLimit; own != nil {
		limit = *own
	}
	for i := range s.snapshots {
		snapshot := &s.snapshots[i]
		if snapshot.Spec.Pause == nil || snapshot.Spec.SandboxName != sandbox.Name || snapshot.DeletionTimestamp != nil {
			continue
		}
		switch snapshot.Status.Phase {
		case v1alpha1.SnapshotSucceed:
			succeeded++
		case v1alpha1.SnapshotFailed:
			failed++
		default:
			open++
		}
	}
	// Beside those of the limit there may be the next resume's, and the one from before a loss; after a loss all are kept.
	if lost := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionDataLost); lost == nil && succeeded > limit+2 {
		problems = append(problems, fmt.Sprintf("there are %d snapshots of its pauses, of which it keeps %d", succeeded, limit))
	}
	if failed > 2 || open > 1 {
		problems = append(problems, fmt.Sprintf("there are %d failed attempts, and %d that have not ended", failed, open))
	}
	return problems
}

// unbound says why a container that is frozen should not be.
func (s *scene) unbound(container string) string {
	pod, _, _ := strings.Cut(container, "/")
	at := slices.IndexFunc(s.pods, func(p corev1.Pod) bool { return p.Name == pod })
	if at < 0 {
		return "its Pod is not there"
	}
	uid := s.pods[at].UID
	if s.pods[at].DeletionTimestamp != nil {
		return ""
	}
	for i := range s.snapshots {
		if s.snapshots[i].Status.SourcePodUID == uid && s.snapshots[i].Status.Phase == v1alpha1.SnapshotCommitting {
			return ""
		}
	}
	for i := range s.sandboxes {
		if s.sandboxes[i].Status.PodUID == uid && s.sandboxes[i].Status.Phase == v1alpha1.SandboxPausing {
			return ""
		}
	}
	return "no commit of its Pod is under way, and no pause waits for its end"
}

// restarted says which container of a sandbox was restarted in place without a word. Nothing that we do may be a reason.
func (s *scene) restarted(pod *corev1.Pod) string {
	at := slices.IndexFunc(s.sandboxes, func(b v1alpha1.Sandbox) bool { return b.Status.PodUID == pod.UID })
	if at < 0 || s.reset[s.sandboxes[at].Name] {
		return ""
	}
	kept := s.sandboxes[at].Spec.Snapshot.Containers
	for _, status := range pod.Status.ContainerStatuses {
		last := status.LastTerminationState.Terminated
		if status.RestartCount == 0 || len(kept) > 0 && !slices.Contains(kept, status.Name) || last != nil && last.StartedAt.IsZero() {
			continue
		}
		if last != nil && (last.Reason == "StartError" || last.Reason == "ContainerCannotRun") {
			continue // it never ran
		}
		return fmt.Sprintf("container %s was restarted %d times, last for %v, and its sandbox has not said so", status.Name, status.RestartCount, last)
	}
	return ""
}

// commitProblems are what commits have left, or do to each other.
func (s *scene) commitProblems() (all []string) {
	note := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	jobs := map[types.UID]bool{}
	for i := range s.jobs {
		job := &s.jobs[i]
		jobs[job.UID] = true
		for _, condition := range job.Status.Conditions {
			ended := (condition.Type == batchv1.JobComplete || condition.Type == batchv1.JobFailed) && condition.Status == corev1.ConditionTrue
			if age := s.now.Sub(condition.LastTransitionTime.Time); ended && age > jobLifetime {
				note("Job %s has ended %s ago and is still there", job.Name, age.Round(time.Second))
			}
		}
	}
	commits, running := map[string]string{}, map[string]bool{}
	ended := map[string]int32{}
	for i := range s.jobPods {
		pod := &s.jobPods[i]
		if owner := metav1.GetControllerOf(pod); owner == nil || !jobs[owner.UID] {
			note("Pod %s is there without its Job", pod.Name)
		}
		if pod.Labels[v1alpha1.LabelComponent] != "commit" {
			continue
		}
		snapshot := pod.Labels[v1alpha1.LabelSnapshotUID]
		if state := committerState(pod); state != nil && state.Terminated != nil {
			ended[snapshot] = state.Terminated.ExitCode
			continue
		} else if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
			continue
		}
		running[snapshot] = true
		of := pod.Labels[v1alpha1.LabelPodUID]
		if other := commits[of]; other != "" {
			note("%s and %s commit the same Pod", other, pod.Name)
		}
		commits[of] = pod.Name
	}
	for _, snapshot := range s.leases {
		// Who is killed lets go of nothing: its lease ends with its time.
		if code, is := ended[snapshot]; is && !running[snapshot] && code != 137 {
			note("the commit of snapshot %s has ended with exit code %d, and its lease in containerd is there", snapshot, code)
		}
	}
	return all
}

// committerState is how a commit Pod's committer is, nil where nothing is known of it.
func committerState(pod *corev1.Pod) *corev1.ContainerState {
	for i := range pod.Status.ContainerStatuses {
		if pod.Status.ContainerStatuses[i].Name == "image-committer" {
			return &pod.Status.ContainerStatuses[i].State
		}
	}
	return nil
}
