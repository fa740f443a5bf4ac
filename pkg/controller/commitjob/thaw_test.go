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
	"errors"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

// TestThaw needs no Pod of its own where somebody stands beside the commit: a full node has no room for one, and a kubelet
// that lacks disk refuses it.
func TestThaw(t *testing.T) {
	command := []string{
		"/image-committer", "thaw", "--termination-log=-", "--lock=/dev/termination-log", "--timeout=8s",
		"--containerd-address=/run/containerd/containerd.sock", "--cgroup-root=/host/sys/fs/cgroup", "--pod-uid=pod-1", "--container=name=main,id=c1", "--container=name=side,id=c2",
	}
	broken := errors.New("the kubelet does not answer")
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		exec executor
		// thawed, runs and job are whether it is done at once, by a program in the container beside the commit, or by a Job.
		thawed, runs, job bool
		// again is that it is tried again, and by a Job in the end.
		again bool
	}{
		"beside the commit":                {pod: beside(waits), exec: executor{said: `{"thawed":true}`}, thawed: true, runs: true},
		"it was done there by itself":      {pod: beside(ended(0, `{"error":{"reason":"Canceled","message":"the commit has failed"},"thawed":true}`)), thawed: true},
		"who stood there has crashed":      {pod: beside(ended(137, "")), job: true},
		"its Pod was evicted":              {pod: beside(corev1.ContainerState{}, in(corev1.PodFailed)), job: true},
		"its Pod was never taken":          {pod: refusedPod(), thawed: true},
		"its Pod is gone":                  {job: true},
		"it starts only now":               {pod: beside(starts), job: true},
		"nobody can get there":             {pod: beside(waits), exec: executor{err: broken}, runs: true, again: true},
		"not all can be thawed there":      {pod: beside(waits), exec: executor{said: `{"error":{"reason":"CommitJobFailed","message":"it does not thaw"}}`}, runs: true, again: true},
		"who stands there is of no use":    {pod: beside(waits), exec: executor{said: `{}`}, runs: true, again: true},
		"it says all, and is cut off then": {pod: beside(waits), exec: executor{said: `{"thawed":true}`, err: broken}, thawed: true, runs: true},
	} {
		t.Run(name, func(t *testing.T) {
			source := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo", UID: "pod-1"}}
			pods := []*corev1.Pod{source}
			if test.pod != nil {
				pods = append(pods, test.pod)
			}
			runner := runnerWith(t, nil, pods...)
			clock := clocktesting.NewFakeClock(time.Now())
			runner.Exec, runner.Clock = &test.exec, clock
			snapshot := committedSnapshot()
			snapshot.Status.SourcePodName = "demo"
			jobs := func() int {
				list := &batchv1.JobList{}
				if err := runner.Live.List(t.Context(), list); err != nil {
					t.Fatal(err)
				}
				return len(list.Items)
			}
			thawed, _, err := runner.Thaw(t.Context(), snapshot)
			if thawed != test.thawed || (err != nil) != test.again || (jobs() > 0) != test.job {
				t.Errorf("thawed %t, %d Jobs, error %v", thawed, jobs(), err)
			}
			if ran := test.exec.command != nil; ran != test.runs || ran && (test.exec.container != killName || !slices.Equal(test.exec.command, command)) {
				t.Errorf("in container %q runs %q", test.exec.container, test.exec.command)
			}
			if !test.again {
				return
			}
			clock.Step(besideAgain)
			if thawed, _, err := runner.Thaw(t.Context(), snapshot); thawed || err != nil || jobs() != 1 {
				t.Errorf("after a while: thawed %t, %d Jobs, error %v", thawed, jobs(), err)
			}
		})
	}
}

// refusedPod is a commit Pod that the kubelet has not taken.
func refusedPod() *corev1.Pod {
	pod := beside(corev1.ContainerState{})
	pod.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "Pod was rejected: The node had condition: [DiskPressure]. "}
	return pod
}
