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

package sandboxsnapshot

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// nextStatus is the status that a decision arrives at.
type nextStatus struct {
	*v1alpha1.SandboxSnapshotStatus
	generation int64
	now        time.Time
}

func (o *observed) next() *nextStatus {
	return &nextStatus{SandboxSnapshotStatus: o.snapshot.Status.DeepCopy(), generation: o.snapshot.Generation, now: o.now}
}

func (n *nextStatus) set(kind string, is bool, reason, format string, args ...any) {
	status := metav1.ConditionFalse
	if is {
		status = metav1.ConditionTrue
	}
	n.put(metav1.Condition{Type: kind, Status: status, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (n *nextStatus) put(condition metav1.Condition) {
	condition.Message, condition.ObservedGeneration = answer.Condition(condition.Message), n.generation
	if before := meta.FindStatusCondition(n.Conditions, condition.Type); before == nil || before.Status != condition.Status {
		condition.LastTransitionTime = metav1.NewTime(n.now)
	}
	meta.SetStatusCondition(&n.Conditions, condition)
}

// record takes over what a Job commits. The Job comes first and its source is read back from it, so that one
// status write is enough and a crash between the two loses nothing. Of the clock of whoever made the Job nothing is
// read: how long it takes is measured with ours.
func (n *nextStatus) record(job *batchv1.Job, source *commitjob.Source) {
	n.Phase = v1alpha1.SnapshotCommitting
	n.SandboxUID = types.UID(job.Labels[v1alpha1.LabelSandboxUID])
	n.SourcePodName, n.SourcePodUID, n.SourceNodeName = source.PodName, source.PodUID, source.NodeName
	n.Containers, n.Warnings = source.Containers, source.Warnings
	n.JobUID = job.UID
	n.StartTime = &metav1.Time{Time: n.now}
	n.set(v1alpha1.ConditionReady, false, v1alpha1.ReasonCommitting,
		"Job %s/%s commits Pod %s on node %s", job.Namespace, job.Name, source.PodName, source.NodeName)
}

// write stores the status, and goes on; what is stored already is not written again.
func (o *observed) write(next *nextStatus, events ...note) action {
	next.ObservedGeneration = next.generation
	if apiequality.Semantic.DeepEqual(next.SandboxSnapshotStatus, &o.snapshot.Status) {
		return action{do: wait, rest: true}
	}
	return action{do: writeStatus, status: next.SandboxSnapshotStatus, events: events}
}

// rests stores the status where it says something new, and ends the visit.
func (o *observed) rests(next *nextStatus, after time.Duration, events ...note) action {
	act := o.write(next, events...)
	act.rest, act.after = true, after
	return act
}

// fail is the end of an attempt that has frozen nothing, or nothing that is frozen still.
func (o *observed) fail(reason, message string, events ...note) action {
	next := o.next()
	next.Phase = v1alpha1.SnapshotFailed
	next.CompletionTime = &metav1.Time{Time: o.now}
	next.set(v1alpha1.ConditionReady, false, reason, "%s", message)
	next.set(v1alpha1.ConditionFailed, true, reason, "%s", message)
	return o.write(next, append(events, note{warning: true, reason: reason, action: "Commit", message: message})...)
}

// succeed is the other end, with what is known of the images.
func (o *observed) succeed(next *nextStatus, ready string, available metav1.Condition) action {
	next.Phase = v1alpha1.SnapshotSucceed
	next.CompletionTime = &metav1.Time{Time: o.now}
	next.set(v1alpha1.ConditionReady, true, v1alpha1.ReasonSucceeded, ready, len(next.Containers))
	next.set(v1alpha1.ConditionFailed, false, v1alpha1.ReasonSucceeded, "the commit succeeded")
	available.Type = v1alpha1.ConditionImageAvailable
	next.put(available)
	events := []note{{reason: v1alpha1.ReasonSucceeded, action: "Commit", message: "committed " + images(next.Containers)}}
	for _, warning := range next.Warnings {
		events = append(events, note{warning: true, reason: warning.Reason, action: "Commit", message: warning.Message})
	}
	return o.write(next, events...)
}

// imagesThere is what is known of images that were pushed just now.
var imagesThere = metav1.Condition{
	Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonImageAvailable, Message: "every image of the snapshot is in the registry",
}

func images(containers []v1alpha1.ContainerSnapshot) string {
	list := ""
	for i := range containers {
		if i > 0 {
			list += ", "
		}
		list += containers[i].ImageURI + "@" + containers[i].ImageDigest
	}
	return list
}

func (o *observed) condition(kind string) *metav1.Condition {
	return meta.FindStatusCondition(o.snapshot.Status.Conditions, kind)
}

// says is the reason of the snapshot's Ready condition.
func (o *observed) says() string {
	if ready := o.condition(v1alpha1.ConditionReady); ready != nil {
		return ready.Reason
	}
	return ""
}
