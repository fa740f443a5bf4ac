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
	"errors"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// TestRemoving is of a pause past its point of no return.
func TestRemoving(t *testing.T) {
	const (
		pausing = v1alpha1.SandboxPausing
		succeed = v1alpha1.SnapshotSucceed
	)
	tests := []decision{
		{name: "removing: a Pod of which nothing runs is deleted with a short grace",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf()), sees(snapshotIn(succeed))),
			do:   deletePod, grace: shortGrace},
		{name: "removing: a long grace that somebody gave is shortened",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(terminating(30))), sees(snapshotIn(succeed))),
			do:   deletePod, grace: shortGrace},
		{name: "removing: the Pod is on its way out",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(terminating(1))), sees(snapshotIn(succeed))),
			do:   wait},
		{name: "removing: a frozen Pod is deleted with time to kill it",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs)), sees(snapshotIn(succeed, mainSaved))),
			do:   deletePod, grace: killGrace},
		{name: "removing: what is frozen is killed",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, terminating(30))), sees(snapshotIn(succeed, mainSaved))),
			do:   kill},
		{name: "removing: what is frozen is killed, however long somebody gave it",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, terminating(3600))), sees(snapshotIn(succeed, mainSaved))),
			do:   kill},
		{name: "removing: the kubelet is about to kill",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, terminating(1))), sees(snapshotIn(succeed, mainSaved))),
			do:   wait},
		{name: "removing: the kill is under way",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, terminating(30))), sees(snapshotIn(succeed, mainSaved)), hasKill(killUnderWay)),
			do:   wait},
		{name: "removing: killed",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, terminating(30))), sees(snapshotIn(succeed, mainSaved)), hasKill(killed)),
			do:   wait},
		{name: "removing: killed, and a container runs that is not kept",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, sidecarRuns, terminating(30))), sees(snapshotIn(succeed, mainSaved)), hasKill(killed)),
			do:   deletePod, grace: shortGrace},
		{name: "removing: the kill failed",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, terminating(30))), sees(snapshotIn(succeed, mainSaved)), hasKill(killFailed)),
			do:   deletePod, grace: shortGrace},
		{name: "removing: the kill failed, and the kubelet is about to kill",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, terminating(1))), sees(snapshotIn(succeed, mainSaved)), hasKill(killFailed)),
			do:   wait},
		{name: "removing: nothing that was kept runs any more",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(sidecarRuns)), sees(snapshotIn(succeed, mainSaved))),
			do:   deletePod, grace: shortGrace},
		{name: "removing: what runs is not what was frozen",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, replaced)), sees(snapshotIn(succeed, mainSaved))),
			do:   deletePod, grace: shortGrace},
		{name: "removing: the attempt is gone",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs))),
			do:   deletePod, grace: shortGrace},
		{name: "removing: a resume asked for meanwhile does not stop it",
			sees: observation(sandboxIn(pausing, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf()), sees(snapshotIn(succeed))),
			do:   deletePod, grace: shortGrace},
		{name: "removing: the Pod is gone",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), failures(1), saved("demo-gen1")), sees(snapshotIn(succeed))),
			do:   writeStatus, status: "Paused Ready=False/Paused Paused=True/Paused saved=demo-gen1 attempts=1", then: wait, event: v1alpha1.ReasonPaused},
		{name: "removing: the Pod is gone, and a resume was asked for meanwhile",
			sees: observation(sandboxIn(pausing, onPod, removing, attempts(1), saved("demo-gen1")), sees(snapshotIn(succeed)), comesFrom(snapshotIn(succeed))),
			do:   writeStatus, status: "Resuming Ready=False/Resuming Paused=False/Resuming saved=demo-gen1 attempts=1", then: createPod, event: v1alpha1.ReasonPaused},
	}
	for _, test := range tests {
		t.Run(test.name, test.holds)
	}
}

// TestWhatIsFrozenIsKilled: by one Job, however often it is asked for, and where there is none to be had the kubelet is
// told to hurry.
func TestWhatIsFrozenIsKilled(t *testing.T) {
	const removed = "Pausing Paused=False/RemovingPod pod=demo/pod-1 saved=demo-gen1 attempts=1"
	removingPod := func(t *testing.T) *fixture {
		return newFixture(t, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")),
			snapshotIn(v1alpha1.SnapshotSucceed, mainSaved),
			podOf(runs, terminating(30), func(p *corev1.Pod) { p.Finalizers = []string{"example.com/kubelet"} }))
	}
	t.Run("by a Job", func(t *testing.T) {
		f := removingPod(t)
		f.visits(removed)
		f.visits(removed)
		jobs := &batchv1.JobList{}
		if err := f.host.List(t.Context(), jobs); err != nil {
			t.Fatal(err)
		}
		if len(jobs.Items) != 1 || jobs.Items[0].Labels[v1alpha1.LabelComponent] != commitjob.ComponentKill {
			t.Errorf("there are the Jobs %+v", jobs.Items)
		}
		f.tells()
	})
	t.Run("by a Job whose Pod is gone", func(t *testing.T) {
		f := removingPod(t)
		f.visits(removed)
		f.endJob(batchv1.JobComplete)
		f.visits(removed)
		f.tells()
	})
	t.Run("not by a Job that fails", func(t *testing.T) {
		f := removingPod(t)
		f.visits(removed)
		f.endJob(batchv1.JobFailed)
		f.visits(removed)
		f.tells("Warning KillFailed the frozen containers of Pod demo could not be killed before they are thawed, so the kubelet ends them: the Job failed: BackoffLimitExceeded: it has failed")
	})
	t.Run("not by a Job that is refused", func(t *testing.T) {
		f := removingPod(t)
		f.refusal = apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, "demo", errors.New("no kills here"))
		f.visits(removed)
		f.tells(`Warning KillFailed the frozen containers of Pod demo could not be killed before they are thawed, so the kubelet ends them: jobs.batch "demo" is forbidden: no kills here`)
	})
	t.Run("later, when the API does not answer", func(t *testing.T) {
		f := removingPod(t)
		f.refusal = errors.New("connection refused")
		if _, err := f.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}}); err == nil {
			t.Error("the visit is not repeated")
		}
		f.tells()
	})
}

// endJob ends the only Job there is.
func (f *fixture) endJob(how batchv1.JobConditionType) {
	f.Helper()
	jobs := &batchv1.JobList{}
	if err := f.host.List(f.Context(), jobs); err != nil || len(jobs.Items) != 1 {
		f.Fatalf("there are the Jobs %v (%v)", jobs.Items, err)
	}
	job := &jobs.Items[0]
	job.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded", Message: "it has failed"}}
	if err := f.host.Status().Update(f.Context(), job); err != nil {
		f.Fatal(err)
	}
}
