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

package commitjob

import (
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// State is how far a Job has come.
type State int

const (
	// Active: the Job's container may still run, now or later.
	Active State = iota
	// Succeeded: the container ended well and left a result.
	Succeeded
	// Failed: the Job's container ended otherwise, or will never run.
	Failed
)

// Outcome is what is known of a Job.
type Outcome struct {
	State State
	// Result is what the container reported; whole only where State is Succeeded.
	Result result.Result
	// Pod and Ended are whose report it is, and since when it is there.
	Pod   client.ObjectKey
	Ended time.Time
	// Reason and Message say why State is Failed, or, where the Job is Active and Message is
	// not empty, what keeps its Pod from starting.
	Reason, Message string
	// Started says that its container has begun to run.
	Started bool
	// Refused says that the Job is Active and has no Pod because the API refuses it.
	Refused bool
	// Thawed says that nothing the Job touched is frozen any more.
	Thawed bool
}

// Observe reads the outcome of the Job with the given UID from its Pods. The Pod's container
// status is asked before the Job's conditions, which follow it by seconds. job is nil where
// the Job is gone; refusal is what the API answered when its Pod was last created, empty where
// it took it.
func Observe(uid types.UID, job *batchv1.Job, pods []corev1.Pod, refusal string) Outcome {
	outcome := Outcome{State: Failed, Reason: v1alpha1.ReasonCommitJobFailed, Message: "the Job was deleted before it ended"}
	if job != nil && job.UID == uid {
		outcome = ofJob(job, refusal)
	}
	for i := range pods {
		pod := &pods[i]
		if owner := metav1.GetControllerOf(pod); owner == nil || owner.UID != uid {
			continue
		}
		of := ofPod(pod, containerName)
		if of.State == Active {
			// Whatever the Job says: what may still run may still freeze.
			return of
		}
		outcome = of
	}
	return outcome
}

func ofJob(job *batchv1.Job, refusal string) Outcome {
	if refusal != "" {
		refusal = fmt.Sprintf("Job %s/%s gets no Pod: %s", job.Namespace, job.Name, refusal)
	}
	for _, condition := range job.Status.Conditions {
		if condition.Status != corev1.ConditionTrue {
			continue
		}
		switch condition.Type {
		case batchv1.JobComplete:
			// Its Pod was removed before it was read.
			return Outcome{State: Failed, Reason: v1alpha1.ReasonResultMissing, Message: "the Job succeeded, but its Pod and with it the result are gone"}
		case batchv1.JobFailed:
			// A Pod that there was is counted, even when it is gone (its finalizer sees to that).
			if refusal != "" && job.Status.Failed == 0 && job.Status.Succeeded == 0 {
				return Outcome{State: Failed, Reason: v1alpha1.ReasonCommitPodRejected, Message: refusal, Thawed: true}
			}
			reason := v1alpha1.ReasonCommitJobFailed
			if condition.Reason == batchv1.JobReasonDeadlineExceeded {
				reason = v1alpha1.ReasonDeadlineExceeded
			}
			return Outcome{State: Failed, Reason: reason, Message: fmt.Sprintf("the Job failed: %s: %s", condition.Reason, condition.Message)}
		}
	}
	return Outcome{State: Active, Message: refusal, Refused: refusal != ""}
}

// ofPod reads the outcome of one container: another may run on.
func ofPod(pod *corev1.Pod, container string) Outcome {
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name != container {
			continue
		}
		switch {
		case status.State.Terminated != nil:
			outcome := ofContainer(status.State.Terminated)
			outcome.Pod, outcome.Ended = client.ObjectKeyFromObject(pod), status.State.Terminated.FinishedAt.Time
			return outcome
		case status.State.Waiting != nil && pod.Status.Phase == corev1.PodPending:
			return Outcome{State: Active, Message: waiting(pod, status.State.Waiting)}
		case status.State.Running != nil && pod.Status.Phase != corev1.PodFailed:
			return Outcome{State: Active, Started: true}
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		// The kubelet refused or evicted it before its container had a state to report.
		return Outcome{
			State:   Failed,
			Reason:  v1alpha1.ReasonCommitPodRejected,
			Message: fmt.Sprintf("Pod %s/%s did not run: %s: %s", pod.Namespace, pod.Name, pod.Status.Reason, pod.Status.Message),
			Thawed:  neverAdmitted(pod),
		}
	}
	if pod.Status.Phase == corev1.PodSucceeded {
		return Outcome{State: Failed, Reason: v1alpha1.ReasonResultMissing, Message: fmt.Sprintf("Pod %s/%s succeeded, and its container left no state to read a result from", pod.Namespace, pod.Name)}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return Outcome{State: Active, Message: fmt.Sprintf("Pod %s/%s is not scheduled: %s", pod.Namespace, pod.Name, condition.Message)}
		}
	}
	return Outcome{State: Active}
}

// neverAdmitted says whether the kubelet has refused a Pod, as it does all of them while it lacks disk: it then reports the phase,
// why, and nothing else (rejectPod in pkg/kubelet/kubelet.go of Kubernetes); of one that it has admitted it reports at
// least the node's address. None of it ever ran. So nothing is frozen; and a Pod that thaws would be refused, too.
func neverAdmitted(pod *corev1.Pod) bool {
	status := &pod.Status
	return status.Phase == corev1.PodFailed && status.Reason != "" && status.HostIP == "" && len(status.ContainerStatuses) == 0 && len(status.InitContainerStatuses) == 0
}

// waiting is empty for what every Pod goes through.
func waiting(pod *corev1.Pod, state *corev1.ContainerStateWaiting) string {
	if state.Reason == "ContainerCreating" || state.Reason == "PodInitializing" {
		return ""
	}
	return strings.TrimSuffix(fmt.Sprintf("Pod %s/%s waits: %s: %s", pod.Namespace, pod.Name, state.Reason, state.Message), ": ")
}

func ofContainer(ended *corev1.ContainerStateTerminated) Outcome {
	reported, err := result.Decode([]byte(ended.Message))
	switch {
	case err == nil && reported.Error != nil:
		return Outcome{State: Failed, Reason: answer.Reason(string(reported.Error.Reason), v1alpha1.ReasonCommitJobFailed), Message: reported.Error.Message, Thawed: reported.Thawed}
	case ended.ExitCode != 0:
		return Outcome{
			State:   Failed,
			Reason:  v1alpha1.ReasonCommitJobFailed,
			Message: fmt.Sprintf("image-committer ended with exit code %d (%s) and without a report", ended.ExitCode, ended.Reason),
		}
	case err != nil:
		return Outcome{State: Failed, Reason: v1alpha1.ReasonResultMissing, Message: fmt.Sprintf("image-committer succeeded without a readable report: %v", err)}
	}
	return Outcome{State: Succeeded, Result: reported, Thawed: reported.Thawed}
}
