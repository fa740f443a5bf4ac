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
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/sandboxsnapshot"
)

// A container that ends and is begun anew has a fresh root filesystem. What it had written lies on its node until
// the kubelet removes the container that has ended: it keeps the last one of each name. So it is saved at once into a
// snapshot of its own, a rescue.
//
// A container that goes on failing must fill neither the registry nor the slots of commits: a sandbox has one rescue at
// a time, after each the next waits for longer, and of those that have succeeded a few are kept.

// remains are what a container has left on its node that has ended, and that runs again or will.
type remains struct {
	// container is its name, id the runtime's of the one that has ended.
	container, id string
	// times is how often it has ended since it ran for the first time, this one included; at is when, zero where nobody knows.
	times int32
	at    time.Time
	// replaced says that another runs in its place by now, and may have written files of its own.
	replaced bool
}

// remainsIn are those of a Pod, of the containers in kept; none named: of all.
func remainsIn(pod *corev1.Pod, known firstRuns, kept []string) []remains {
	return remainsOf(pod, known, kept, false)
}

// remainsOf are remainsIn, and where failed is true those of containers that have failed and do not run again.
func remainsOf(pod *corev1.Pod, known firstRuns, kept []string, failed bool) []remains {
	var all []remains
	for _, status := range contents.Statuses(pod) {
		first, ran := known.first(pod.UID, status)
		if !ran || len(kept) > 0 && !slices.Contains(kept, status.Name) {
			continue
		}
		times, last := status.RestartCount-first, status.LastTerminationState.Terminated
		switch now, waits := status.State.Terminated, status.State.Waiting; {
		case now != nil && (beginsAnew(pod, status.Name, now.ExitCode) || failed && now.ExitCode != 0):
			times, last = times+1, now
		case waits != nil && last != nil && last.ContainerID == status.ContainerID:
			times++
		}
		if times < 1 || last == nil || last.ContainerID == "" || failedToStart(last) {
			continue
		}
		all = append(all, remains{container: status.Name, id: bareID(last.ContainerID), times: times, at: last.FinishedAt.Time, replaced: status.State.Running != nil})
	}
	return all
}

// beginsAnew says whether the kubelet runs a container again that has ended with that code. By rules for single codes
// (restartPolicyRules) it may; then that is seen once it has.
func beginsAnew(pod *corev1.Pod, container string, code int32) bool {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil {
		return false
	}
	policy := corev1.ContainerRestartPolicy(pod.Spec.RestartPolicy)
	for _, of := range contents.Containers(&pod.Spec) {
		if of.Name == container && of.RestartPolicy != nil {
			policy = *of.RestartPolicy
		}
	}
	switch policy {
	case corev1.ContainerRestartPolicyNever:
		return false
	case corev1.ContainerRestartPolicyOnFailure:
		return code != 0
	}
	return true
}

const (
	// rescueLimit is how long after the end of a container its files are tried to be saved: then something is wrong that does
	// not pass, or the container has gone on for so long that it is another one's turn.
	rescueLimit = time.Hour
	// keptRescues is how many rescues of a sandbox that have succeeded are kept, beside the first of the loss that its
	// DataLost condition tells of: of a container that goes on failing that one has what people miss.
	keptRescues = 3
	// keptFailedRescues is how many are kept that have failed: they say what became of containers that may be there still.
	keptFailedRescues = 3
)

// beyondRescue are reasons of a rescue that has failed for good: another would as well.
var beyondRescue = map[string]bool{
	v1alpha1.ReasonContainerNotFound: true, v1alpha1.ReasonContainerRestarted: true, v1alpha1.ReasonSourcePodNotFound: true,
	v1alpha1.ReasonSourcePodReplaced: true, v1alpha1.ReasonSandboxNotFound: true, v1alpha1.ReasonRuntimeNotSupported: true,
	v1alpha1.ReasonFilesNotSupported: true, v1alpha1.ReasonImageNameInvalid: true, v1alpha1.ReasonRegistryNotConfigured: true,
}

// rescues says whether what ended containers leave is to be saved.
func (o *observed) rescues() bool {
	return o.canRescue && o.sandbox.Spec.OnExit != v1alpha1.ExitPolicyNone
}

// tellsOfRescues says whether there may be something to rescue, or to tell of one.
func (o *observed) tellsOfRescues() bool {
	if phase := o.phase(); o.pod == nil || !o.rescues() || phase != v1alpha1.SandboxRunning && phase != v1alpha1.SandboxPausing {
		return false
	}
	return len(remainsOf(o.pod, o.runs, o.keeps(), true)) > 0
}

// toRescue are the containers that are to be saved now as they have ended, or how long to wait until they are; zero: none
// is, or the end of the one under way brings the next visit.
func (o *observed) toRescue() (now []v1alpha1.RescuedContainer, after time.Duration) {
	if !o.rescues() || o.pod == nil || o.pod.UID != o.sandbox.Status.PodUID {
		return nil, 0
	}
	due := time.Time{}
	for _, left := range remainsIn(o.pod, o.runs, o.keeps()) {
		if o.settled(left) || o.restorable(left) {
			continue
		}
		now = append(now, v1alpha1.RescuedContainer{ContainerName: left.container, ContainerID: left.id})
		if at := o.rescueDue(left); due.IsZero() || at.Before(due) {
			due = at
		}
	}
	if len(now) == 0 || slices.ContainsFunc(o.rescued, func(s v1alpha1.SandboxSnapshot) bool { return !finished(&s) }) {
		return nil, 0
	}
	if o.rescueHeld != nil {
		if left := o.rescueHeld(containersOf(now)); left > 0 {
			return nil, left
		}
	}
	if wait := due.Sub(o.now); wait > 0 {
		return nil, wait
	}
	return now, 0
}

// rescueOf is the latest rescue of a container that has ended, nil where there is none. They are in the order of their
// numbers, the latest first.
func (o *observed) rescueOf(container, id string) *v1alpha1.SandboxSnapshot {
	for _, list := range [][]v1alpha1.SandboxSnapshot{o.rescued, o.tried} {
		for i := range list {
			if slices.Contains(list[i].Spec.Rescue.Containers, v1alpha1.RescuedContainer{ContainerName: container, ContainerID: id}) {
				return &list[i]
			}
		}
	}
	return nil
}

// settled says whether nothing more is to be done for what a container has left.
func (o *observed) settled(left remains) bool {
	tried := o.rescueOf(left.container, left.id)
	switch {
	case tried == nil:
		return o.wasSaved(left)
	case tried.Status.Phase != v1alpha1.SnapshotFailed:
		return true
	case beyondRescue[reasonOf(tried).Reason], left.at.IsZero():
		return true
	}
	return o.now.Sub(left.at) > rescueLimit
}

// wasSaved says whether it is told that it was saved: then somebody has deleted the snapshot since, and wants no other.
func (o *observed) wasSaved(left remains) bool {
	lost := meta.FindStatusCondition(o.sandbox.Status.Conditions, v1alpha1.ConditionDataLost)
	return lost != nil && strings.Contains(lost.Message, toldSaved) && o.pod != nil && slices.ContainsFunc(o.resets(), func(r reset) bool {
		return r.container == left.container && r.before == left.id && r.toldIn(lost.Message)
	})
}

// toldSaved is how the fate of files begins that are saved.
const toldSaved = " is in snapshot "

// rescueDue is when what a container has left may be saved. What failed before is tried again after as long as it
// has been failing, and what comes after another has ended in the same Pod later each time.
func (o *observed) rescueDue(left remains) time.Time {
	if tried := o.rescueOf(left.container, left.id); tried != nil {
		end := rescueEnd(tried)
		return end.Add(min(max(end.Sub(left.at), answer.FirstWait), answer.LastWait))
	}
	for i := range o.rescued {
		if sandboxsnapshot.RescueOf(&o.rescued[i]).PodUID == o.pod.UID {
			return rescueEnd(&o.rescued[i]).Add(answer.Backoff(left.times - 1))
		}
	}
	return time.Time{}
}

func rescueEnd(snapshot *v1alpha1.SandboxSnapshot) time.Time {
	if snapshot.Status.CompletionTime != nil {
		return snapshot.Status.CompletionTime.Time
	}
	return snapshot.CreationTimestamp.Time
}

// fateOf is what became of what the containers had written before they were restarted: the end of a sentence.
func (o *observed) fateOf(resets []reset) string {
	var fates []string
	containers := map[string][]string{}
	for _, r := range resets {
		fate := o.fate(r)
		if _, known := containers[fate]; !known {
			fates = append(fates, fate)
		}
		containers[fate] = append(containers[fate], r.container)
	}
	if len(fates) == 1 {
		return fates[0]
	}
	for i, fate := range fates {
		fates[i] = fmt.Sprintf(" in %s%s", strings.Join(containers[fate], " and "), fate)
	}
	return strings.Join(fates, ",")
}

func (o *observed) fate(r reset) string {
	tried := o.rescueOf(r.container, r.before)
	switch {
	case tried != nil && tried.Status.Phase == v1alpha1.SnapshotSucceed:
		return fmt.Sprintf(toldSaved+"%s, as the container has ended: kubectl cp it from a sandbox with that name in spec.restoreFrom, or pause this one and resume it with that snapshotName", tried.Name)
	case tried != nil && tried.Status.Phase == v1alpha1.SnapshotFailed && o.settled(remains{container: r.container, id: r.before, at: r.at}):
		why := reasonOf(tried)
		return fmt.Sprintf(" is gone: snapshot %s could not save it (%s: %s)", tried.Name, why.Reason, why.Message)
	case r.before != "" && o.pod != nil && o.restorable(remains{container: r.container, id: r.before, at: r.at, replaced: true}):
		return " is to be brought back: the Pod is saved, the container as it has ended, and the sandbox comes back from that; what is written until then is not"
	case tried != nil:
		return fmt.Sprintf(" is being saved in snapshot %s from the container that has ended", tried.Name)
	case o.rescues() && r.before != "" && r.before != r.id && o.pod != nil:
		return " is to be saved from the container that has ended, where its node has that still"
	}
	return " is gone"
}

// tellFate says what has become of what the condition DataLost tells of, and returns an event where that is over. It is no
// other loss, and has reasons of its own: of the events of one reason only the first's text is shown.
func (o *observed) tellFate(next *nextStatus, resets []reset) *note {
	lost := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionDataLost)
	if lost == nil || lost.Status != metav1.ConditionTrue || lost.Reason != v1alpha1.ReasonFilesystemReset || len(resets) == 0 {
		return nil
	}
	if slices.ContainsFunc(resets, func(r reset) bool { return !r.toldIn(lost.Message) || o.rescueOf(r.container, r.before) == nil }) {
		return nil // there is nothing new to tell
	}
	head, since, ok := strings.Cut(lost.Message, v1alpha1.MessageWrittenSince)
	since, _, told := strings.Cut(since, " is ")
	if !ok || !told {
		return nil
	}
	since, _, _ = strings.Cut(since, " in ") // where containers have had different fates
	news := next.loseData(v1alpha1.ReasonFilesystemReset, "%s%s%s%s", head, v1alpha1.MessageWrittenSince, since, o.fateOf(resets))
	if news == nil {
		return nil
	}
	switch tried := o.rescueOf(resets[0].container, resets[0].before); {
	case tried.Status.Phase == v1alpha1.SnapshotSucceed:
		return &note{reason: v1alpha1.EventRescued, message: news.message}
	case tried.Status.Phase == v1alpha1.SnapshotFailed && o.settled(remains{container: resets[0].container, id: resets[0].before, at: resets[0].at}):
		return &note{warning: true, reason: v1alpha1.EventRescueFailed, message: news.message}
	}
	return nil // told when it was created
}

// beyondRescues are the rescues of a sandbox that are kept no longer, of all of them.
func beyondRescues(all []v1alpha1.SandboxSnapshot, sandbox *v1alpha1.Sandbox) []*v1alpha1.SandboxSnapshot {
	byNumber(all)
	first := ""
	if lost := meta.FindStatusCondition(sandbox.Status.Conditions, v1alpha1.ConditionDataLost); lost != nil && lost.Status == metav1.ConditionTrue {
		for i := range all {
			if all[i].Status.Phase == v1alpha1.SnapshotSucceed && !rescueEnd(&all[i]).Before(lost.LastTransitionTime.Time) {
				first = all[i].Name
			}
		}
	}
	var old []*v1alpha1.SandboxSnapshot
	succeeded, failed := 0, 0
	for i := range all {
		switch all[i].Status.Phase {
		case v1alpha1.SnapshotSucceed:
			if succeeded++; succeeded > keptRescues && all[i].Name != first && all[i].Name != sandbox.Status.SnapshotName && all[i].Name != sandbox.Status.PriorSnapshotName {
				old = append(old, &all[i])
			}
		case v1alpha1.SnapshotFailed:
			if failed++; failed > keptFailedRescues {
				old = append(old, &all[i])
			}
		}
	}
	return old
}

// byNumber sorts rescues, the latest first.
func byNumber(all []v1alpha1.SandboxSnapshot) {
	slices.SortFunc(all, func(a, b v1alpha1.SandboxSnapshot) int { return int(naming.Rescue(b.Name) - naming.Rescue(a.Name)) })
}
