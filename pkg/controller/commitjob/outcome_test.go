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
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// jobWith is the Job whose outcome is asked for, with a condition where one is named.
func jobWith(kind batchv1.JobConditionType, reason string) *batchv1.Job {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "sandbox-system", Name: "demo-gen1-commit", UID: "job-1"}}
	if kind != "" {
		job.Status.Conditions = []batchv1.JobCondition{
			{Type: batchv1.JobSuspended, Status: corev1.ConditionFalse},
			{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: "so it is"},
		}
	}
	return job
}

// podIn is a Pod of the Job with the given UID, whose committer is in a state.
func podIn(owner types.UID, phase corev1.PodPhase, state corev1.ContainerState) corev1.Pod {
	job := jobWith("", "")
	job.UID = owner
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "sandbox-system", Name: "demo-gen1-commit-x",
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Status: corev1.PodStatus{Phase: phase, Reason: "Evicted", Message: "the node was low on memory", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "injected", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 9}}},
			{Name: containerName, State: state},
		}},
	}
}

func bare(phase corev1.PodPhase, conditions ...corev1.PodCondition) corev1.Pod {
	pod := podIn("job-1", phase, corev1.ContainerState{})
	pod.Status.ContainerStatuses, pod.Status.Conditions = nil, conditions
	return pod
}

// admitted is a Pod that its node has told of.
func admitted(pod corev1.Pod) corev1.Pod {
	pod.Status.HostIP = "10.0.0.1"
	return pod
}

// unexplained is a Pod of which the control plane says that it has failed, for its node does not answer.
func unexplained(pod corev1.Pod) corev1.Pod {
	pod.Status.Reason, pod.Status.Message = "", ""
	return pod
}

func exited(code int32, message string) corev1.Pod {
	phase := corev1.PodSucceeded
	if code != 0 {
		phase = corev1.PodFailed
	}
	return podIn("job-1", phase, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "OOMKilled", Message: message}})
}

func waitingFor(reason string) corev1.Pod {
	return podIn("job-1", corev1.PodPending, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "no such image"}})
}

func TestObserve(t *testing.T) {
	const (
		committed = `{"containers":[{"name":"main","image":"r/demo:t","digest":"sha256:1"}],"frozenMillis":5}`
		thawed    = `{"thawed":true}`
		refused   = `{"error":{"reason":"PushSecretInvalid","message":"401 from the registry"},"thawed":true}`
		stuck     = `{"error":{"reason":"DeadlineExceeded","message":"could not thaw"}}`
	)
	var (
		runs      = podIn("job-1", corev1.PodRunning, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
		others    = podIn("job-2", corev1.PodSucceeded, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: committed}})
		othersRun = podIn("job-2", corev1.PodRunning, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
		orphan    = exited(0, committed)
		active    = jobWith("", "")
		failed    = jobWith(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded)
		complete  = jobWith(batchv1.JobComplete, "")
		late      = jobWith(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded)
		replaced  = jobWith(batchv1.JobComplete, "")
	)
	orphan.OwnerReferences = nil
	replaced.UID = "job-2"

	tests := map[string]struct {
		job  *batchv1.Job
		pods []corev1.Pod
		want State
		// reason, a part of the message, and whether all is thawed.
		reason, message string
		thawed          bool
	}{
		"no Pod yet":           {active, nil, Active, "", "", false},
		"the Pod is new":       {active, []corev1.Pod{bare(corev1.PodPending)}, Active, "", "", false},
		"the Pod is made":      {active, []corev1.Pod{waitingFor("ContainerCreating")}, Active, "", "", false},
		"its image is missing": {active, []corev1.Pod{waitingFor("ImagePullBackOff")}, Active, "", "demo-gen1-commit-x waits: ImagePullBackOff: no such image", false},
		"the Pod has no node":  {active, []corev1.Pod{bare(corev1.PodPending, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "node-1 is full"})}, Active, "", "is not scheduled: node-1 is full", false},
		"the Pod runs":         {active, []corev1.Pod{runs}, Active, "", "", false},
		"what runs may freeze, whatever the Job says":     {failed, []corev1.Pod{runs}, Active, "", "", false},
		"what runs may freeze, though the Job is gone":    {nil, []corev1.Pod{runs}, Active, "", "", false},
		"what runs may freeze, though another has ended":  {failed, []corev1.Pod{runs, exited(0, committed)}, Active, "", "", false},
		"what runs may freeze, though another ended late": {failed, []corev1.Pod{exited(0, committed), runs}, Active, "", "", false},

		"it fails for a reason that no condition can have": {failed, []corev1.Pod{exited(1, `{"error":{"reason":"","message":"what it was"},"thawed":true}`)}, Failed, v1alpha1.ReasonCommitJobFailed, "what it was", true},
		"committed":                            {complete, []corev1.Pod{exited(0, committed)}, Succeeded, "", "", false},
		"committed, before the Job says so":    {active, []corev1.Pod{exited(0, committed)}, Succeeded, "", "", false},
		"committed, and the Job is gone":       {nil, []corev1.Pod{exited(0, committed)}, Succeeded, "", "", false},
		"thawed":                               {complete, []corev1.Pod{exited(0, thawed)}, Succeeded, "", "", true},
		"a report of failure":                  {failed, []corev1.Pod{exited(1, refused)}, Failed, v1alpha1.ReasonPushSecretInvalid, "401 from the registry", true},
		"a report of failure, and exit code 0": {complete, []corev1.Pod{exited(0, refused)}, Failed, v1alpha1.ReasonPushSecretInvalid, "401 from the registry", true},
		"a report of failure, and not thawed":  {failed, []corev1.Pod{exited(1, stuck)}, Failed, v1alpha1.ReasonDeadlineExceeded, "could not thaw", false},
		"a report of success, and exit code 1": {failed, []corev1.Pod{exited(1, committed)}, Failed, v1alpha1.ReasonCommitJobFailed, "exit code 1", false},
		"killed":                               {failed, []corev1.Pod{exited(137, "")}, Failed, v1alpha1.ReasonCommitJobFailed, "exit code 137 (OOMKilled)", false},
		"killed, with garbage":                 {failed, []corev1.Pod{exited(2, "panic: oh")}, Failed, v1alpha1.ReasonCommitJobFailed, "exit code 2", false},
		"succeeded, with garbage":              {complete, []corev1.Pod{exited(0, "{")}, Failed, v1alpha1.ReasonResultMissing, "without a readable report", false},
		"succeeded, with nothing":              {complete, []corev1.Pod{exited(0, "")}, Failed, v1alpha1.ReasonResultMissing, "without a readable report", false},
		"succeeded, and its state is gone":     {complete, []corev1.Pod{bare(corev1.PodSucceeded)}, Failed, v1alpha1.ReasonResultMissing, "left no state", false},
		"refused by the kubelet":               {failed, []corev1.Pod{bare(corev1.PodFailed)}, Failed, v1alpha1.ReasonCommitPodRejected, "did not run: Evicted", true},
		"evicted before it told of anything":   {failed, []corev1.Pod{admitted(bare(corev1.PodFailed))}, Failed, v1alpha1.ReasonCommitPodRejected, "did not run: Evicted", false},
		"given up by somebody else":            {failed, []corev1.Pod{unexplained(bare(corev1.PodFailed))}, Failed, v1alpha1.ReasonCommitPodRejected, "did not run", false},
		"ended with its node":                  {failed, []corev1.Pod{podIn("job-1", corev1.PodFailed, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})}, Failed, v1alpha1.ReasonCommitPodRejected, "Evicted", false},

		"the Job succeeded and the Pod is gone": {complete, nil, Failed, v1alpha1.ReasonResultMissing, "its Pod and with it the result are gone", false},
		"the Job failed and the Pod is gone":    {failed, nil, Failed, v1alpha1.ReasonCommitJobFailed, "BackoffLimitExceeded: so it is", false},
		"the Job was too slow":                  {late, nil, Failed, v1alpha1.ReasonDeadlineExceeded, "so it is", false},
		"the Job is gone":                       {nil, nil, Failed, v1alpha1.ReasonCommitJobFailed, "was deleted", false},
		"the Job was replaced":                  {replaced, nil, Failed, v1alpha1.ReasonCommitJobFailed, "was deleted", false},

		"a Pod of another Job":                   {active, []corev1.Pod{others}, Active, "", "", false},
		"a Pod of another Job, and none of ours": {nil, []corev1.Pod{others, orphan}, Failed, v1alpha1.ReasonCommitJobFailed, "was deleted", false},
		"a Pod of another Job that runs":         {failed, []corev1.Pod{othersRun}, Failed, v1alpha1.ReasonCommitJobFailed, "so it is", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := Observe("job-1", test.job, test.pods, "")
			if got.State != test.want || got.Reason != test.reason || got.Thawed != test.thawed ||
				!strings.Contains(got.Message, test.message) || test.message == "" && got.Message != "" {
				t.Errorf("observed %+v, want state %d, reason %q, message %q, thawed %t", got, test.want, test.reason, test.message, test.thawed)
			}
			if whole := len(got.Result.Containers) > 0; whole != (test.want == Succeeded && !test.thawed) {
				t.Errorf("result %+v", got.Result)
			}
		})
	}
}

func TestObserveARefusal(t *testing.T) {
	const refusal = "exceeded quota: small"
	late, ran := jobWith(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded), jobWith(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded)
	ran.Status.Failed = 1
	for name, test := range map[string]struct {
		job  *batchv1.Job
		pods []corev1.Pod
		want Outcome
	}{
		"it is told":                             {jobWith("", ""), nil, Outcome{State: Active, Refused: true, Message: refusal}},
		"no Pod ever froze anything":             {late, nil, Outcome{State: Failed, Reason: v1alpha1.ReasonCommitPodRejected, Message: refusal, Thawed: true}},
		"a Pod that is gone may have":            {ran, nil, Outcome{State: Failed, Reason: v1alpha1.ReasonDeadlineExceeded, Message: "so it is"}},
		"a later Pod was taken":                  {jobWith("", ""), []corev1.Pod{bare(corev1.PodPending)}, Outcome{State: Active}},
		"a later Pod was taken, and is not done": {late, []corev1.Pod{bare(corev1.PodRunning)}, Outcome{State: Active}},
		"the Job is gone":                        {nil, nil, Outcome{State: Failed, Reason: v1alpha1.ReasonCommitJobFailed, Message: "was deleted"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Observe("job-1", test.job, test.pods, refusal)
			if got.State != test.want.State || got.Reason != test.want.Reason || got.Thawed != test.want.Thawed || got.Refused != test.want.Refused ||
				!strings.Contains(got.Message, test.want.Message) || test.want.Message == "" && got.Message != "" {
				t.Errorf("observed %+v, want %+v", got, test.want)
			}
		})
	}
}
