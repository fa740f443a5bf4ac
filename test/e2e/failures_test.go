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
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestAServerWithoutARegistrySaysSoAndPausesOnceItHasOne(t *testing.T) {
	r := newRoom(t)
	restore := r.withServerArgs(t, "--snapshot-registry=")
	before := r.start("demo")
	r.sh("demo", "echo kept > /root/file")

	r.pause("demo")
	failed := r.await("demo", "running on without a registry", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && reasonOf(s.Status.Conditions, v1alpha1.ConditionPaused) == v1alpha1.ReasonRegistryNotConfigured
	})
	if failed.Status.PodUID != before.Status.PodUID || !strings.Contains(messageOf(failed.Status.Conditions, v1alpha1.ConditionPaused), "--snapshot-registry") {
		t.Errorf("without a registry the sandbox is %s", describe(failed))
	}
	if snapshot := r.snapshot("demo-gen1"); reasonOf(snapshot.Status.Conditions, v1alpha1.ConditionFailed) != v1alpha1.ReasonRegistryNotConfigured {
		t.Errorf("without a registry the snapshot is %s: %v", snapshot.Status.Phase, snapshot.Status.Conditions)
	}
	r.mustNotBeFrozen()

	// It is still wanted paused, so nobody has to ask again.
	restore()
	r.awaitPaused("demo")
	r.resume("demo")
	r.awaitReady("demo")
	if got := r.sh("demo", "cat /root/file"); got != "kept\n" {
		t.Errorf("after resume the file holds %q", got)
	}
}

func TestAKilledCommitterLeavesNothingFrozenAndTheNextTrySucceeds(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo")
	r.sh("demo", bigFile)
	w := r.startWriter("demo")

	r.pause("demo")
	r.awaitFrozen("demo/main")
	r.kill(t, systemNamespace, r.commitPod("demo-gen1"), "image-committer")

	failed := r.await("demo", "running on after its committer was killed", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.FailedAttempts == 1
	})
	if failed.Status.PodUID != before.Status.PodUID || reasonOf(failed.Status.Conditions, v1alpha1.ConditionPaused) != v1alpha1.ReasonCommitJobFailed {
		t.Errorf("after its committer was killed the sandbox is %s", describe(failed))
	}
	r.mustNotBeFrozen()
	r.awaitWrites(w, 50)
	// Who stands beside it has thawed everything: that takes no new Pod, for which there may be no room.
	jobs, err := r.jobs(t.Context())
	if err != nil || slices.ContainsFunc(jobs, func(job batchv1.Job) bool { return job.Labels[v1alpha1.LabelComponent] == "unpause" }) {
		t.Errorf("a Job was needed to thaw, or nobody knows: error %v", err)
	}

	// What stands by beside it waits for its end.
	eventually(t, "the Pod of the failed commit has ended", patience, func(ctx context.Context) (bool, string) {
		pod, err := r.kube.CoreV1().Pods(systemNamespace).Get(ctx, r.commitPod("demo-gen1"), metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return pod.Status.Phase == corev1.PodFailed, inYAML(pod.Status.ContainerStatuses)
	})

	paused, _ := r.awaitPaused("demo")
	if paused.Status.SnapshotAttempts != 2 || paused.Status.FailedAttempts != 0 {
		t.Errorf("paused at last, the sandbox is %s", describe(paused))
	}
	<-w.ended
	r.resume("demo")
	r.awaitReady("demo")
	r.sh("demo", checkBigFile)
	if acknowledged, onDisk := w.acknowledged.Load(), r.lastLine("demo"); onDisk < acknowledged {
		t.Errorf("the last line on disk is %d, the last one acknowledged was %d", onDisk, acknowledged)
	}
}

// TestAKilledCommitterOfASnapshotLeavesNothingFrozen: who stands beside it thaws, and no new Pod is needed for that.
func TestAKilledCommitterOfASnapshotLeavesNothingFrozen(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo")
	r.sh("demo", bigFile)
	r.takeSnapshot("mine", "demo")
	r.awaitFrozen("demo/main")
	r.kill(t, systemNamespace, r.commitPod("mine"), "image-committer")
	r.awaitSnapshot("mine", "failed", func(s *v1alpha1.SandboxSnapshot) bool { return s.Status.Phase == v1alpha1.SnapshotFailed })
	r.mustNotBeFrozen()
	jobs, err := r.jobs(t.Context())
	if err != nil || slices.ContainsFunc(jobs, func(job batchv1.Job) bool { return job.Labels[v1alpha1.LabelComponent] == "unpause" }) {
		t.Errorf("a Job was needed to thaw, or nobody knows: error %v", err)
	}
	// The next is not kept waiting by what is left of this one.
	r.takeSnapshot("again", "demo")
	r.awaitSnapshot("again", "made", func(s *v1alpha1.SandboxSnapshot) bool { return s.Status.Phase == v1alpha1.SnapshotSucceed })
	r.mustNotBeFrozen()
}

// TestWhatAKubeletSaysOfAPodThatItRefuses is what pkg/controller/commitjob takes for the proof that nothing of a Pod ever ran.
func TestWhatAKubeletSaysOfAPodThatItRefuses(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	nodes, err := r.kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node := nodes.Items[0].Name
	refused, err := r.kube.CoreV1().Pods(r.namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "large"},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Name: "main", Image: busybox, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000")}},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kubelet refuses the Pod", patience, func(ctx context.Context) (bool, string) {
		refused, err = r.kube.CoreV1().Pods(r.namespace).Get(ctx, "large", metav1.GetOptions{})
		return err == nil && refused.Status.Phase == corev1.PodFailed, fmt.Sprintf("%v, %s", err, inYAML(refused))
	})
	if status := refused.Status; status.Reason == "" || status.HostIP != "" || len(status.ContainerStatuses) > 0 {
		t.Errorf("it says %s", inYAML(status))
	}
	if err := r.kube.CoreV1().Pods(r.namespace).Delete(t.Context(), "large", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// commitPod is the name of the Pod that commits a snapshot.
func (r *room) commitPod(snapshot string) string {
	r.t.Helper()
	pods, err := r.jobPods(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, pod := range pods {
		if pod.Annotations[v1alpha1.AnnotationSnapshot] == snapshot && pod.Labels[v1alpha1.LabelComponent] == "commit" {
			return pod.Name
		}
	}
	r.t.Fatalf("no Pod commits snapshot %s", snapshot)
	return ""
}

func TestAPodThatIsLostComesBackFromItsSnapshotAndTheLossIsTold(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.start("demo", unsaved)
	r.sh("demo", "echo saved > /root/saved")
	before, _ := r.pauseAndResume("demo")
	r.sh("demo", "echo lost > /root/lost")

	r.deletePod("demo", metav1.DeleteOptions{})
	after := r.await("demo", "running in another Pod", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.PodUID != before.Status.PodUID && meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady)
	})
	if !meta.IsStatusConditionTrue(after.Status.Conditions, v1alpha1.ConditionDataLost) || !strings.Contains(messageOf(after.Status.Conditions, v1alpha1.ConditionDataLost), "demo-gen1") {
		t.Errorf("after its Pod was lost the sandbox is %s", describe(after))
	}
	if got := r.sh("demo", "ls /root; cat /root/saved"); got != "saved\nsaved\n" {
		t.Errorf("after its Pod was lost there is %q", got)
	}
	r.awaitEvent(corev1.EventTypeWarning, v1alpha1.ReasonPodLost)

	r.pause("demo")
	paused, _ := r.awaitPaused("demo")
	if meta.IsStatusConditionTrue(paused.Status.Conditions, v1alpha1.ConditionDataLost) {
		t.Errorf("paused again, the sandbox is %s", describe(paused))
	}
}

func TestAPodThatIsLostWithoutASnapshotStartsFromTheTemplate(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo", unsaved)
	r.deletePod("demo", metav1.DeleteOptions{})
	r.await("demo", "running in another Pod, with DataLost", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.PodUID != before.Status.PodUID && meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionDataLost)
	})
}

func (r *room) awaitEvent(kind, reason string) {
	r.t.Helper()
	eventually(r.t, kind+" event "+reason, patience, func(ctx context.Context) (bool, string) {
		events, err := r.kube.CoreV1().Events(r.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		var seen []string
		for _, event := range events.Items {
			if event.Type == kind && event.Reason == reason {
				return true, ""
			}
			seen = append(seen, event.Type+"/"+event.Reason)
		}
		return false, fmt.Sprint(seen)
	})
}

func TestARejectedPodIsToldAndTheSandboxRecoversWhenItsTemplateIsMended(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	cpu := func(s *v1alpha1.Sandbox, request string) {
		s.Spec.Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(request)},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")},
		}
	}
	r.create("demo", func(s *v1alpha1.Sandbox) { cpu(s, "200m") })
	rejected := r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonPodRejected)
	if rejected.Status.Phase != v1alpha1.SandboxPending || !strings.Contains(messageOf(rejected.Status.Conditions, v1alpha1.ConditionReady), "resources.requests") {
		t.Errorf("with a Pod that the API refuses the sandbox is %s", describe(rejected))
	}
	r.edit("demo", func(s *v1alpha1.Sandbox) { cpu(s, "10m") })
	r.awaitReady("demo")
}

// A Pod that its node does not take is not made again and again, the kubelet's words are told, and it comes about once the
// template is mended.
func TestAPodThatItsNodeDoesNotTakeWaitsAndSaysWhy(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	cpu := func(s *v1alpha1.Sandbox, request string) {
		s.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(request)}
	}
	node := r.start("other").Status.NodeName
	r.create("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.NodeName = node // past the scheduler, which would see that there is no room
		cpu(s, "1000")
	})
	waits := r.awaitReason("demo", v1alpha1.ConditionReady, v1alpha1.ReasonPodNotAdmitted)
	if message := messageOf(waits.Status.Conditions, v1alpha1.ConditionReady); !strings.Contains(message, "OutOfcpu") || !strings.Contains(message, "the next one is made at") {
		t.Errorf("with a Pod that its node does not take the sandbox says %q", message)
	}
	pod, err := r.kube.CoreV1().Pods(r.namespace).Get(t.Context(), "demo", metav1.GetOptions{})
	if err != nil || pod.Status.Reason != "OutOfcpu" || waits.Status.RetryTime == nil || waits.Status.RetryTime.Sub(pod.CreationTimestamp.Time) < 9*time.Second {
		t.Errorf("while it waits there is %v (error %v), and the next comes at %v", pod, err, waits.Status.RetryTime)
	}
	next := r.await("demo", "with its next Pod", func(s *v1alpha1.Sandbox) bool { return s.Status.FailedPods > 0 && s.Status.PodUID != "" })
	again, err := r.kube.CoreV1().Pods(r.namespace).Get(t.Context(), "demo", metav1.GetOptions{})
	if err != nil || again.CreationTimestamp.Sub(pod.CreationTimestamp.Time) < 9*time.Second {
		t.Errorf("the next Pod came after %s (error %v); the sandbox: %s", again.CreationTimestamp.Sub(pod.CreationTimestamp.Time), err, describe(next))
	}
	r.edit("demo", func(s *v1alpha1.Sandbox) { cpu(s, "1m") })
	r.awaitReady("demo")
}
