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
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// awaitReset waits until the sandbox says that a container was restarted in place.
func (r *room) awaitReset(name, since string) *v1alpha1.Sandbox {
	r.t.Helper()
	sandbox := r.awaitReason(name, v1alpha1.ConditionDataLost, v1alpha1.ReasonFilesystemReset)
	message := messageOf(sandbox.Status.Conditions, v1alpha1.ConditionDataLost)
	if !meta.IsStatusConditionTrue(sandbox.Status.Conditions, v1alpha1.ConditionDataLost) || !strings.Contains(message, "main") || !strings.Contains(message, since) {
		r.t.Errorf("after a restart in place the sandbox is %s; want DataLost to name main and %q", describe(sandbox), since)
	}
	return sandbox
}

func TestAContainerThatIsRestartedInPlaceHasLostItsFilesAndSaysSo(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	probed := r.start("probed", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].LivenessProbe = &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "!", "-e", "/root/sick"}}},
			// It fails for the file's sake, not because the node has much to do.
			PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 60,
		}
	})
	r.start("killed", func(s *v1alpha1.Sandbox) { s.Spec.Snapshot.HistoryLimit = ptr.To[int32](1) })
	r.sh("killed", "echo saved > /root/saved")
	before, _ := r.pauseAndResume("killed")

	r.sh("killed", "echo lost > /root/lost")
	r.kill(t, r.namespace, "killed", "main")
	r.sh("probed", "touch /root/sick")

	// The Pod is the same, and the container has started from the snapshot's image once more.
	after := r.awaitReset("killed", "since snapshot killed-gen1")
	if after.Status.PodUID != before.Status.PodUID {
		t.Errorf("the Pod is another one: %s", describe(after))
	}
	r.awaitReady("killed")
	if got := r.sh("killed", "ls /root"); got != "saved\n" {
		t.Errorf("restarted, there is %q", got)
	}
	r.awaitEvent(corev1.EventTypeWarning, v1alpha1.ReasonFilesystemReset)
	// The probe has no snapshot to tell of.
	if now := r.awaitReset("probed", "since the sandbox was started"); now.Status.PodUID != probed.Status.PodUID {
		t.Errorf("the Pod of the probe is another one: %s", describe(now))
	}

	// The pause that ends the loss keeps the snapshot from before it; the one after that does not.
	r.pause("killed")
	paused, _ := r.awaitPaused("killed")
	if reasonOf(paused.Status.Conditions, v1alpha1.ConditionDataLost) != v1alpha1.ReasonFilesSaved {
		t.Errorf("paused since, the sandbox is %s", describe(paused))
	}
	r.snapshot("killed-gen1")
	r.resume("killed")
	r.awaitReady("killed")
	if first := r.snapshot("killed-gen1"); first.DeletionTimestamp != nil {
		t.Error("the snapshot from before the loss is being deleted")
	}
	r.pause("killed")
	r.awaitPaused("killed")
	r.awaitSnapshots("killed-gen3", "killed-rescue1", "probed-rescue1")
}

func TestASandboxWhoseContainersHaveEndedCanBePausedAndNotJustResumed(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.create("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
		s.Spec.Template.Spec.Containers[0].Command = []string{"sh", "-c", "echo ran >> /root/runs"}
	})
	ended := r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonContainersEnded)
	if ended.Status.Phase != v1alpha1.SandboxRunning || meta.IsStatusConditionTrue(ended.Status.Conditions, v1alpha1.ConditionDataLost) {
		t.Errorf("with its containers ended the sandbox is %s", describe(ended))
	}

	_, err := r.sandboxes().Resume(t.Context(), "demo", &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
	r.mustRefuse("resume of what would be lost", err)
	var refused apierrors.APIStatus
	if errors.As(err, &refused) && refused.Status().Details.Causes[0].Type != "ContainersEnded" {
		t.Errorf("the refusal's cause is %v", refused.Status().Details.Causes[0])
	}

	r.pause("demo")
	_, snapshot := r.awaitPaused("demo")
	if frozen := snapshot.Status.FrozenDuration; frozen == nil || frozen.Duration != 0 {
		t.Errorf("nothing ran, and it was frozen for %v", frozen)
	}
	r.edit("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].Command = []string{"sleep", "infinity"}
	})
	r.resume("demo")
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /root/runs"); got != "ran\n" {
		t.Errorf("resumed, there is %q", got)
	}
}

// A probe cannot succeed in a frozen container, so the kubelet may restart it in the middle of a
// commit, and what it had written is gone. Then that is said; it is never just missing.
func TestAProbeThatFailsInAHurryLosesNothingUnsaid(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.create("demo", func(s *v1alpha1.Sandbox) {
		main := &s.Spec.Template.Spec.Containers[0]
		main.LivenessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}},
			PeriodSeconds: 1, FailureThreshold: 1,
		}
		// A node that has much to do fails such a probe as well: it begins when there is nothing more to do here.
		main.StartupProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/root/probed"}}},
			PeriodSeconds: 1, FailureThreshold: 1000, TimeoutSeconds: 60,
		}
	})
	r.await("demo", "Running", func(s *v1alpha1.Sandbox) bool { return s.Status.Phase == v1alpha1.SandboxRunning })
	r.sh("demo", bigFile)
	r.sh("demo", "touch /root/probed")
	r.awaitReady("demo")
	r.pause("demo")
	if r.awaitPausedOrLost("demo").Status.Phase == v1alpha1.SandboxRunning {
		t.Log("the container was restarted before all was saved")
		r.pause("demo")
	}
	r.awaitPaused("demo")
	r.edit("demo", func(s *v1alpha1.Sandbox) {
		main := &s.Spec.Template.Spec.Containers[0]
		main.LivenessProbe, main.StartupProbe = nil, nil
	})
	r.resume("demo")
	r.awaitReady("demo")
	if r.sh("demo", "ls /root") == "" {
		t.Log("the container was restarted while it was frozen")
		r.awaitEvent(corev1.EventTypeWarning, v1alpha1.ReasonFilesystemReset)
		return
	}
	r.sh("demo", checkBigFile)
}

// awaitPausedOrLost waits for the end of a pause that files may go under.
func (r *room) awaitPausedOrLost(name string) *v1alpha1.Sandbox {
	r.t.Helper()
	return r.await(name, "Paused, or FilesLost", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxPaused ||
			s.Status.Phase == v1alpha1.SandboxRunning && reasonOf(s.Status.Conditions, v1alpha1.ConditionPaused) == v1alpha1.ReasonFilesLost
	})
}

// As a probe or a lack of memory does it: the container ends after the pause was asked for, and before
// it is frozen.
func TestAPauseThatSeesFilesGoCallsNothingSavedUnasked(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].Command = []string{"sh", "-c", "while [ ! -e /root/die ]; do sleep 0.1; done; exit 3"}
	})
	r.sh("demo", "echo important > /root/important; touch /root/.wh.refused")
	r.pause("demo")
	// It waits for its next attempt, which would succeed: with the files goes what it was refused for.
	r.awaitReason("demo", v1alpha1.ConditionPaused, v1alpha1.ReasonFilesNotSupported)
	r.sh("demo", "touch /root/die")

	stopped := r.awaitPausedOrLost("demo")
	lost := messageOf(stopped.Status.Conditions, v1alpha1.ConditionDataLost)
	if stopped.Status.Phase != v1alpha1.SandboxRunning || !meta.IsStatusConditionTrue(stopped.Status.Conditions, v1alpha1.ConditionDataLost) || !strings.Contains(lost, "exit code 3") {
		t.Fatalf("after files were lost under a pause the sandbox is %s", describe(stopped))
	}
	r.mustNotBeFrozen()
	r.awaitReady("demo")
	// What a GitOps tool does all the time is no word of anybody's.
	r.edit("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.DesiredState = v1alpha1.DesiredStatePaused
		s.Spec.Template.Labels = map[string]string{"applied": "again"}
	})
	still := r.await("demo", "seen after the edit", func(s *v1alpha1.Sandbox) bool { return s.Status.ObservedGeneration == s.Generation })
	if reasonOf(still.Status.Conditions, v1alpha1.ConditionPaused) != v1alpha1.ReasonFilesLost {
		t.Errorf("after the same was applied again the sandbox is %s", describe(still))
	}

	r.pause("demo")
	paused, _ := r.awaitPaused("demo")
	if saved := messageOf(paused.Status.Conditions, v1alpha1.ConditionDataLost); meta.IsStatusConditionTrue(paused.Status.Conditions, v1alpha1.ConditionDataLost) || !strings.Contains(saved, "exit code 3") {
		t.Errorf("paused by somebody who could know, the sandbox is %s", describe(paused))
	}
}

func TestAContainerThatNeverRanHasLostNothing(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.create("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].WorkingDir = "rel/dir" // which the runtime refuses
	})
	r.await("demo", "tried three times", func(s *v1alpha1.Sandbox) bool {
		pod, err := r.kube.CoreV1().Pods(r.namespace).Get(t.Context(), "demo", metav1.GetOptions{})
		return err == nil && len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].RestartCount >= 2 && s.Status.Phase == v1alpha1.SandboxPending
	})
	if now := r.get("demo"); meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionDataLost) != nil {
		t.Errorf("before anything ran the sandbox is %s", describe(now))
	}
	before := r.get("demo")
	r.deletePod("demo", metav1.DeleteOptions{})
	now := r.await("demo", "with another Pod", func(s *v1alpha1.Sandbox) bool {
		return s.Status.PodUID != "" && s.Status.PodUID != before.Status.PodUID
	})
	if meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionDataLost) != nil {
		t.Errorf("after a Pod that never ran was deleted the sandbox is %s", describe(now))
	}
}

func TestAnEvictionIsToldWithItsCause(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo", unsaved, func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("20Mi")}
	})
	r.sh("demo", "dd if=/dev/zero of=/root/much bs=1M count=60")
	lost := r.awaitReason("demo", v1alpha1.ConditionDataLost, v1alpha1.ReasonPodLost)
	if message := messageOf(lost.Status.Conditions, v1alpha1.ConditionDataLost); !strings.Contains(message, "Evicted") || !strings.Contains(message, "20Mi") {
		t.Errorf("evicted for its limit, the sandbox says %q", message)
	}
}

func TestAContainerThatRunsOutOfMemorySaysSo(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	out := func(policy corev1.RestartPolicy) func(*v1alpha1.Sandbox) {
		return func(s *v1alpha1.Sandbox) {
			s.Spec.Template.Spec.RestartPolicy = policy
			main := &s.Spec.Template.Spec.Containers[0]
			main.Command = []string{"sh", "-c", "while [ ! -e /root/enough ]; do sleep 0.2; done; exec tail /dev/zero"} // which keeps what it has read
			main.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
		}
	}
	r.start("again", out(corev1.RestartPolicyAlways))
	r.start("once", out(corev1.RestartPolicyNever))
	r.sh("again", "touch /root/enough")
	r.sh("once", "touch /root/enough")
	again := r.awaitReset("again", "since the sandbox was started")
	if message := messageOf(again.Status.Conditions, v1alpha1.ConditionDataLost); !strings.Contains(message, "OOMKilled, exit code 137") {
		t.Errorf("restarted, the sandbox says %q", message)
	}
	once := r.awaitReason("once", v1alpha1.ConditionReady, v1alpha1.ReasonContainersEnded)
	if message := messageOf(once.Status.Conditions, v1alpha1.ConditionReady); !strings.Contains(message, "main: OOMKilled, exit code 137") {
		t.Errorf("ended, the sandbox says %q", message)
	}
}
