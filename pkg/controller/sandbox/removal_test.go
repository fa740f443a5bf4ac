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
	"context"
	"errors"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
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
			do:   wait},
		{name: "removing: a container that is not kept has the time that its template gives it",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, sidecarRuns, endsIn(60))), sees(snapshotIn(succeed, mainSaved))),
			do:   deletePod, grace: ptr.To[int64](60)},
		{name: "removing: and who is frozen has time to be killed, however little that is",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, sidecarRuns, endsIn(1))), sees(snapshotIn(succeed, mainSaved))),
			do:   deletePod, grace: killGrace},
		{name: "removing: nor is it hurried when nothing that was kept runs any more",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(sidecarRuns, endsIn(60), terminating(60))), sees(snapshotIn(succeed, mainSaved))),
			do:   wait},
		{name: "removing: the kill failed",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, terminating(30))), sees(snapshotIn(succeed, mainSaved)), hasKill(killFailed)),
			do:   deletePod, grace: shortGrace, event: v1alpha1.EventKillFailed},
		{name: "removing: the kill failed, and the kubelet is about to kill",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(runs, terminating(1))), sees(snapshotIn(succeed, mainSaved)), hasKill(killFailed)),
			do:   wait},
		{name: "removing: nothing that was kept runs any more",
			sees: observation(sandboxIn(pausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")), sees(podOf(sidecarRuns, endsIn(60))), sees(snapshotIn(succeed, mainSaved))),
			do:   deletePod, grace: ptr.To[int64](60)},
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

func endsIn(seconds int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = &seconds }
}

// TestWhatIsFrozenIsKilled in the container that stands by beside its commit, and where that does not do it the kubelet is
// told to hurry.
func TestWhatIsFrozenIsKilled(t *testing.T) {
	const (
		removed = "Pausing Paused=False/RemovingPod pod=demo/pod-1 saved=demo-gen1 attempts=1"
		event   = "Warning KillFailed the frozen containers of Pod demo could not be killed before they are thawed, so the kubelet ends them: "
		thawed  = `{"thawed":true}`
	)
	t.Run("once", func(t *testing.T) {
		f := removingFixture(t, commitPodOf(standsBy))
		f.visits(removed)
		f.visits(removed)
		f.killEnds(thawed, nil)
		f.visits(removed)
		f.killsNobody()
		f.tells()
	})
	t.Run("once more by who comes after a restart", func(t *testing.T) {
		f := removingFixture(t, commitPodOf(standsBy))
		f.visits(removed)
		f.restarts()
		f.visits(removed)
		f.killEnds(thawed, nil)
		f.visits(removed)
		f.tells()
	})
	t.Run("by who went before", func(t *testing.T) {
		f := removingFixture(t, commitPodOf(standbyEnded(0, thawed)))
		f.visits(removed)
		f.killsNobody()
		f.tells()
	})
	t.Run("also where it was in the Pod before", func(t *testing.T) {
		f := removingFixture(t, commitPodOf(standsBy))
		f.r.kills.note(client.ObjectKey{Namespace: namespace, Name: name}, aKill{pod: "pod-0", how: killed})
		f.visits(removed)
		f.killEnds(thawed, nil)
	})
	for name, test := range map[string]struct {
		commit []client.Object
		// ends is how the kill does; nil: none is begun.
		ends *killEnd
		says string
	}{
		"not when it fails":         {[]client.Object{commitPodOf(standsBy)}, &killEnd{`{"error":{"reason":"CommitJobFailed","message":"it does not end"}}`, errors.New("exit code 1")}, "it does not end"},
		"not when the API refuses":  {[]client.Object{commitPodOf(standsBy)}, &killEnd{"", errors.New("no kills here")}, "no kills here"},
		"not when nobody stands by": {[]client.Object{commitPodOf(standbyEnded(137, ""))}, nil, "image-committer ended with exit code 137 () and without a report"},
		"not when it has given up": {[]client.Object{commitPodOf(standbyEnded(0, `{"error":{"reason":"Canceled","message":"what the commit left frozen was not killed"}}`))}, nil,
			"what the commit left frozen was not killed"},
		"not when the Pod is gone": {nil, nil, "the commit Pod is gone, and with it the container to do it in"},
		"not beside another commit": {[]client.Object{commitPodOf(standsBy, func(p *corev1.Pod) { p.OwnerReferences[0].UID = "job-2" })}, nil,
			"the commit Pod is gone, and with it the container to do it in"},
	} {
		t.Run(name, func(t *testing.T) {
			f := removingFixture(t, test.commit...)
			f.visits(removed)
			if test.ends != nil {
				f.tells()
				f.killEnds(test.ends.said, test.ends.err)
				f.visits(removed)
			}
			f.killsNobody()
			f.tells(event + test.says)
		})
	}
}

// TestAKillThatIsCutOffHasNotFailed, or the kubelet would be told to hurry while somebody else takes over.
func TestAKillThatIsCutOffHasNotFailed(t *testing.T) {
	k, key := newKills(), client.ObjectKey{Namespace: namespace, Name: name}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- k.Start(ctx) }()
	begun := make(chan struct{})
	if err := k.begin(t.Context(), key, podUID, func(ctx context.Context) commitjob.Outcome {
		close(begun)
		<-ctx.Done()
		return commitjob.Outcome{State: commitjob.Failed, Message: "cut off"}
	}); err != nil {
		t.Fatal(err)
	}
	<-begun
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if kill, known := k.of(key, podUID); !known || kill.how != killUnderWay {
		t.Errorf("it is %+v (%t)", kill, known)
	}
	// Nobody runs one any more.
	if err := k.begin(ctx, key, podUID, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("another begins (%v)", err)
	}
	if kill, known := k.of(key, podUID); known {
		t.Errorf("one is known that has not begun: %+v", kill)
	}
}

// removingFixture has a pause past its point of no return, whose Pod is being deleted.
func removingFixture(t *testing.T, others ...client.Object) *fixture {
	t.Helper()
	return newFixture(t, append(others, sandboxIn(v1alpha1.SandboxPausing, wantsPaused, onPod, removing, attempts(1), saved("demo-gen1")),
		snapshotIn(v1alpha1.SnapshotSucceed, mainSaved),
		podOf(runs, terminating(30), func(p *corev1.Pod) { p.Finalizers = []string{"example.com/kubelet"} }))...)
}

// commitPodOf is the Pod that committed demo-gen1.
func commitPodOf(options ...func(*corev1.Pod)) *corev1.Pod {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "demo-gen1-commit", UID: "job-1"}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "sandbox-system", Name: "demo-gen1-commit-x",
			Labels:          map[string]string{v1alpha1.LabelComponent: commitjob.ComponentCommit, v1alpha1.LabelSnapshotUID: "snapshot-1"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, option := range options {
		option(pod)
	}
	return pod
}

func standsBy(p *corev1.Pod) {
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "kill", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
}

func standbyEnded(code int32, report string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "kill", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: report},
		}}}
	}
}
