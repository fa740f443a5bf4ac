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
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// heldBy is the Pod's controller.
func heldBy(pod *corev1.Pod) metav1.OwnerReference {
	if by := metav1.GetControllerOf(pod); by != nil {
		return *by
	}
	return metav1.OwnerReference{}
}

// The one owner that cannot be gone while the Pod is there: the garbage collector looks an owner up by kind, name and UID.
var theNamespace = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, UID: "namespace-1"}}

func mustBeHeld(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	want := metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: namespace, UID: "namespace-1", Controller: ptr.To(true)}
	if pod == nil || len(pod.OwnerReferences) != 1 || !ptr.Equal(pod.OwnerReferences[0].Controller, want.Controller) || pod.OwnerReferences[0].UID != want.UID ||
		pod.OwnerReferences[0].Kind != want.Kind || pod.OwnerReferences[0].APIVersion != want.APIVersion || pod.OwnerReferences[0].BlockOwnerDeletion != nil {
		t.Errorf("the Pod's owners are %+v", pod.OwnerReferences)
	}
}

func TestAPodThatWasAdoptedIsTakenBack(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod), podOf(takenBy("ReplicaSet", "web")), theNamespace)
	const told = "Running Ready=True/PodReady Paused=False/Running PodAdopted=True/PodAdopted pod=demo/pod-1"
	f.visits(told)
	mustBeHeld(t, f.pod())
	f.visits(told)
}

// It is gone before any visit sees it, and the next one does not go the same way.
func TestAPodThatWasAdoptedAndDeletedAtOnce(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPending), theNamespace)
	f.visits("Pending pod=demo")
	pod := f.pod()
	if by := heldBy(pod); by.Name != "" {
		t.Errorf("the first Pod is held by %s %s: drains and autoscalers would not mind to end it", by.Kind, by.Name)
	}
	if err := f.host.Delete(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	takenBy("ReplicaSet", "web")(pod)
	f.r.ran.see(pod)

	f.visits("Pending PodAdopted=True/PodAdopted pod=demo")
	mustBeHeld(t, f.pod())
	f.restarts()
}

func TestAPodOfAnotherSandboxOfTheSameNameWasAdopted(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPending), theNamespace)
	f.r.ran.see(podOf(takenBy("ReplicaSet", "web"), func(p *corev1.Pod) { p.Labels[v1alpha1.LabelSandboxUID] = "sandbox-0" }))
	f.visits("Pending pod=demo")
}

func TestALossByAdoptionSaysSo(t *testing.T) {
	view := viewPod(podOf(takenBy("ReplicaSet", "web"), terminating(30)))
	if !strings.HasSuffix(view.message, "ReplicaSet web has taken it for one of its own") {
		t.Errorf("%q", view.message)
	}
}
