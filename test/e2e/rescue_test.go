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
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// awaitRescued waits until the sandbox says that its files are in a snapshot, and returns that.
func (r *room) awaitRescued(name, snapshot string) *v1alpha1.SandboxSnapshot {
	r.t.Helper()
	r.await(name, "DataLost, and the files in "+snapshot, func(s *v1alpha1.Sandbox) bool {
		return meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionDataLost) &&
			strings.Contains(messageOf(s.Status.Conditions, v1alpha1.ConditionDataLost), " is in snapshot "+snapshot)
	})
	return r.snapshot(snapshot)
}

// dies has the container main do something when it is told to, by a file.
func dies(how string, policy corev1.RestartPolicy) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.RestartPolicy = policy
		s.Spec.Template.Spec.Containers[0].Command = []string{"sh", "-c", "while [ ! -e /root/die ]; do sleep 0.2; done; rm /root/die; " + how}
	}
}

// TestWhatAContainerHadWrittenIsRescued: the container has ended and was begun anew, with fresh files; the old ones are in a
// snapshot of their own. People ask for them in vain elsewhere: https://github.com/kubernetes/kubernetes/issues/6893
func TestWhatAContainerHadWrittenIsRescued(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	for name, how := range map[string]func(*v1alpha1.Sandbox){
		"exits": dies("exit 1", corev1.RestartPolicyAlways),
		"fails": dies("exit 1", corev1.RestartPolicyOnFailure),
		"oom": func(s *v1alpha1.Sandbox) {
			dies("exec tail /dev/zero", corev1.RestartPolicyAlways)(s)
			s.Spec.Template.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
		},
		"probed": func(s *v1alpha1.Sandbox) {
			s.Spec.Template.Spec.Containers[0].LivenessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "!", "-e", "/root/die"}}},
				PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 60,
			}
		},
	} {
		r.start(name, how)
		r.sh(name, fmt.Sprintf("mkdir -p /root/work; echo 'of %s' > /root/work/file; ln -s file /root/work/link; sync; touch /root/die", name))
	}
	for _, name := range []string{"exits", "fails", "oom", "probed"} {
		snapshot := r.awaitRescued(name, name+"-rescue1")
		if frozen := snapshot.Status.FrozenDuration; frozen == nil || frozen.Duration != 0 || snapshot.Spec.Rescue == nil {
			t.Errorf("%s was frozen for %v: %+v", snapshot.Name, frozen, snapshot.Spec)
		}
		if now := r.get(name); now.Status.Phase != v1alpha1.SandboxRunning {
			t.Errorf("it is %s", describe(now))
		}
		if got := r.sh(name, "ls /root"); strings.Contains(got, "work") {
			t.Errorf("restarted, %s has %q", name, got)
		}
	}
	r.awaitEvent(corev1.EventTypeNormal, v1alpha1.EventRescued)

	// Another sandbox begins with them, or the same one does.
	r.create("copy", func(s *v1alpha1.Sandbox) {
		s.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: "oom-rescue1"}
	})
	r.awaitReady("copy")
	if got := r.sh("copy", "cat /root/work/link"); got != "of oom\n" {
		t.Errorf("in a sandbox from what was rescued there is %q", got)
	}
	r.pause("exits")
	r.awaitPaused("exits")
	if _, err := r.sandboxes().Resume(t.Context(), "exits", &v1alpha1.SandboxResume{SnapshotName: "exits-rescue1"}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.awaitReady("exits")
	if got := r.sh("exits", "cat /root/work/link"); got != "of exits\n" {
		t.Errorf("back on what was rescued there is %q", got)
	}
	r.mustNotBeFrozen()
}

// TestWhatRestartsAllContainersIsSaidBeforehand: the kubelet removes them with their files in one go.
func TestWhatRestartsAllContainersIsSaidBeforehand(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	client, warned := r.warned(t)
	_, err := client.LifecycleV1alpha1().Sandboxes(r.namespace).Create(t.Context(), newSandbox("demo", func(s *v1alpha1.Sandbox) {
		dies("exit 42", corev1.RestartPolicyNever)(s)
		never := corev1.ContainerRestartPolicyNever
		main := &s.Spec.Template.Spec.Containers[0]
		main.RestartPolicy = &never
		main.RestartPolicyRules = []corev1.ContainerRestartRule{{
			Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
		}}
	}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if told := warned.take(); !strings.Contains(told, "RestartAllContainers removes all containers with their files at once") {
		t.Errorf("warned of %q", told)
	}
	r.awaitReady("demo")
	r.sh("demo", "echo gone > /root/file; touch /root/die")
	r.await("demo", "DataLost, and the files gone", func(s *v1alpha1.Sandbox) bool {
		message := messageOf(s.Status.Conditions, v1alpha1.ConditionDataLost)
		return meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionDataLost) && strings.Contains(message, v1alpha1.MessageWrittenSince) && strings.Contains(message, " is gone")
	})
}

// TestRestoredByItself: a container ends, and the sandbox comes back with the files that it had then, and with those of the others.
func TestRestoredByItself(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	restore := func(policy corev1.RestartPolicy) func(*v1alpha1.Sandbox) {
		return func(s *v1alpha1.Sandbox) {
			dies("exit 1", policy)(s)
			s.Spec.OnExit = v1alpha1.ExitPolicyRestore
			s.Spec.Template.Spec.Containers = append(s.Spec.Template.Spec.Containers, sleeper("side"))
		}
	}
	before := map[string]*v1alpha1.Sandbox{}
	for name, policy := range map[string]corev1.RestartPolicy{"always": corev1.RestartPolicyAlways, "never": corev1.RestartPolicyNever} {
		before[name] = r.start(name, restore(policy))
		r.shIn(name, "side", "echo beside > /root/file")
		r.sh(name, fmt.Sprintf("echo 'of %s' > /root/file; sync; touch /root/die", name))
	}
	for name, was := range before {
		now := r.await(name, "back in another Pod", func(s *v1alpha1.Sandbox) bool {
			return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.PodUID != "" && s.Status.PodUID != was.Status.PodUID && s.Status.Move == nil
		})
		r.awaitReady(name)
		if got := r.sh(name, "cat /root/file; ls /root"); got != fmt.Sprintf("of %s\nfile\n", name) {
			t.Errorf("%s has %q", name, got)
		}
		if got := r.shIn(name, "side", "cat /root/file"); got != "beside\n" {
			t.Errorf("beside %s there is %q", name, got)
		}
		if meta.IsStatusConditionTrue(now.Status.Conditions, v1alpha1.ConditionDataLost) {
			t.Errorf("it is %s", describe(now))
		}
		snapshot := r.snapshot(now.Status.SnapshotName)
		if snapshot.Spec.Pause == nil || snapshot.Spec.Rescue == nil || len(snapshot.Status.Containers) != 2 {
			t.Errorf("it comes from %+v", snapshot.Spec)
		}
	}
	r.mustNotBeFrozen()
}

// TestWhatAKubeletEvictsIsSavedOrSaid: it gives a Pod a second to end, and removes what has ended within another.
func TestWhatAKubeletEvictsIsSavedOrSaid(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo", func(s *v1alpha1.Sandbox) {
		s.Spec.Template.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("20Mi")}
	})
	r.sh("demo", "echo important > /root/file; sync; dd if=/dev/zero of=/root/much bs=1M count=60")
	now := r.await("demo", "in another Pod", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && s.Status.PodUID != "" && s.Status.PodUID != before.Status.PodUID
	})
	r.awaitReady("demo")
	saved := r.sh("demo", "cat /root/file || true") == "important\n"
	t.Logf("saved: %t", saved)
	if lost := meta.IsStatusConditionTrue(now.Status.Conditions, v1alpha1.ConditionDataLost); lost == saved {
		t.Errorf("saved: %t, and the sandbox is %s", saved, describe(now))
	}
	if message := messageOf(now.Status.Conditions, v1alpha1.ConditionDataLost); !saved && !strings.Contains(message, "Evicted") {
		t.Errorf("evicted for its limit, the sandbox says %q", message)
	}
	r.mustNotBeFrozen()
}
