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

package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// reset is a container that was restarted in place: it has lost its root filesystem.
type reset struct {
	container string
	// restarts is the count of the last restart that cost files, how it ended before that.
	restarts int32
	how      string
	// id is the runtime's ID of the container that runs now, before that of the one which ended last.
	id, before string
	// at is when that ended, zero where it is not known.
	at time.Time
	// first is the restart that the container ran for the first time after, 0: it ran at once.
	first int32
}

// resetsOf are the containers of a Pod that were restarted after they had run. kept are those whose files
// a pause keeps, none: all of them. Nobody was promised the files of another.
func resetsOf(pod *corev1.Pod, known firstRuns, kept []string) []reset {
	var resets []reset
	for _, status := range contents.Statuses(pod) {
		if len(kept) > 0 && !slices.Contains(kept, status.Name) {
			continue
		}
		first, ran := known.first(pod.UID, status)
		if !ran || status.RestartCount <= first {
			continue
		}
		r := reset{
			container: status.Name, restarts: status.RestartCount, how: ending(status), first: first,
			id: bareID(status.ContainerID), before: bareID(endedID(status)),
		}
		if last := status.LastTerminationState.Terminated; last != nil {
			r.at = last.FinishedAt.Time
		}
		resets = append(resets, r)
	}
	return resets
}

// beforeCommit are those that came before the commit of an attempt, as the Pod is now that it has
// ended. What a restart after it takes away has been saved.
func beforeCommit(resets []reset, attempt *v1alpha1.SandboxSnapshot) []reset {
	var before []reset
	for _, r := range resets {
		at := slices.IndexFunc(attempt.Status.Containers, func(c v1alpha1.ContainerSnapshot) bool { return c.ContainerName == r.container })
		if at >= 0 && attempt.Status.Containers[at].ContainerID == r.before && r.before != r.id {
			r.restarts--
			r.id = r.before
			r.how = "how it ended is not known any more"
			if r.restarts <= r.first {
				continue
			}
		}
		before = append(before, r)
	}
	return before
}

func (r reset) String() string { return r.label() + " " + r.how + ")" }

// label tells this restart from all others, also of an earlier Pod.
func (r reset) label() string {
	return fmt.Sprintf("%s (restart %d, container %.12s:", r.container, r.restarts, r.id)
}

// toldIn says whether a message made by list speaks of it.
func (r reset) toldIn(message string) bool { return strings.Contains(message, r.label()) }

func list(resets []reset) string {
	words := make([]string, 0, len(resets))
	for _, r := range resets {
		words = append(words, r.String())
	}
	return strings.Join(words, ", ")
}

// ending is how the container that was restarted had ended, in the kubelet's words. What it said itself
// (terminationMessagePath) may be long, and is not for everybody who reads conditions.
func ending(status *corev1.ContainerStatus) string {
	last := status.LastTerminationState.Terminated
	if last == nil {
		return "how it ended is not known"
	}
	return howEnded(last)
}

func howEnded(last *corev1.ContainerStateTerminated) string {
	words := fmt.Sprintf("%s, exit code %d", last.Reason, last.ExitCode)
	if last.Reason == "" {
		words = fmt.Sprintf("exit code %d", last.ExitCode)
	}
	if last.Signal != 0 {
		words += fmt.Sprintf(", signal %d", last.Signal)
	}
	if last.FinishedAt.Unix() > 0 {
		words += ", " + last.FinishedAt.UTC().Format(time.RFC3339)
	}
	return words
}

func endedID(status *corev1.ContainerStatus) string {
	if last := status.LastTerminationState.Terminated; last != nil {
		return last.ContainerID
	}
	return ""
}

// bareID is the runtime's own ID: "containerd://ID" without the runtime.
func bareID(id string) string {
	if _, bare, ok := strings.Cut(id, "://"); ok {
		return bare
	}
	return id
}
