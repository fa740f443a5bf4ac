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
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

var web = map[string]string{"app": "web"}

func labelledWeb(s *v1alpha1.Sandbox) { s.Spec.Template.Labels = web }

// webPods is the template of a controller whose selector fits the labels of sandboxes.
func webPods() corev1.PodTemplateSpec {
	template := newSandbox("other").Spec.Template
	template.Labels = web
	return *template
}

func (r *room) createReplicaSet() {
	r.t.Helper()
	_, err := r.kube.AppsV1().ReplicaSets(r.namespace).Create(r.t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: web}, Template: webPods()},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := r.kube.AppsV1().ReplicaSets(r.namespace).Delete(context.WithoutCancel(r.t.Context()), "web", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			r.t.Error(err)
		}
	})
	eventually(r.t, "ReplicaSet web has a Pod", patience, func(ctx context.Context) (bool, string) {
		set, err := r.kube.AppsV1().ReplicaSets(r.namespace).Get(ctx, "web", metav1.GetOptions{})
		return err == nil && set.Status.Replicas == 1, fmt.Sprint(set, err)
	})
}

// mustBeItsOwn checks that the sandbox runs in a Pod that is its own, and that nobody has ever taken.
func (r *room) mustBeItsOwn(sandbox string) *v1alpha1.Sandbox {
	r.t.Helper()
	now := r.awaitReady(sandbox)
	if adopted := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionPodAdopted); adopted != nil {
		r.t.Errorf("the sandbox says: %s", adopted.Message)
	}
	pod, err := r.kube.CoreV1().Pods(r.namespace).Get(r.t.Context(), sandbox, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	if owner := metav1.GetControllerOf(pod); owner == nil || owner.Kind != "Sandbox" || owner.UID != now.UID || len(pod.OwnerReferences) != 1 {
		r.t.Errorf("Pod %s is of %v", sandbox, pod.OwnerReferences)
	}
	return now
}

func (r *room) podsCreatedFor(sandbox string) int {
	r.t.Helper()
	events, err := r.kube.CoreV1().Events(r.namespace).List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	created := 0
	for _, event := range events.Items {
		if event.Reason == v1alpha1.EventPodCreated && event.InvolvedObject.Name == sandbox {
			created += max(1, int(event.Count))
		}
	}
	return created
}

// A ReplicaSet that had taken a sandbox's Pod has deleted it as one too many, again and again:
// https://github.com/kubernetes/kubernetes/issues/88550
func TestASandboxWhoseLabelsFitAReplicaSet(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.createReplicaSet()
	r.create("demo", labelledWeb)
	now := r.mustBeItsOwn("demo")
	if created := r.podsCreatedFor("demo"); created != 1 {
		t.Errorf("%d Pods were created", created)
	}
	// The ReplicaSet is content with the one that it has, and does not touch ours when it goes.
	if err := r.kube.AppsV1().ReplicaSets(r.namespace).Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ReplicaSet web and its Pods are gone", patience, func(ctx context.Context) (bool, string) {
		pods, err := r.kube.CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		return err == nil && len(pods.Items) == 1, fmt.Sprint(len(pods.Items), err)
	})
	if after := r.mustBeItsOwn("demo"); after.Status.PodUID != now.Status.PodUID {
		t.Errorf("the Pod is another one: %s", describe(after))
	}
}

func TestAReplicaSetThatComesAfterTheSandbox(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	before := r.start("demo", labelledWeb)
	r.sh("demo", "echo mine > /root/mine")
	r.createReplicaSet()
	if now := r.mustBeItsOwn("demo"); now.Status.PodUID != before.Status.PodUID {
		t.Errorf("the Pod is another one: %s", describe(now))
	}
	r.pauseAndResume("demo")
	r.mustBeItsOwn("demo")
	if got := r.sh("demo", "cat /root/mine"); got != "mine\n" {
		t.Errorf("after a pause there is %q", got)
	}
	if created := r.podsCreatedFor("demo"); created != 2 {
		t.Errorf("%d Pods were created", created)
	}
}

func TestASandboxWhoseLabelsFitADaemonSet(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	if _, err := r.kube.AppsV1().DaemonSets(r.namespace).Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: web}, Template: webPods()},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.kube.AppsV1().DaemonSets(r.namespace).Delete(context.WithoutCancel(t.Context()), "web", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "DaemonSet web has a Pod", patience, func(ctx context.Context) (bool, string) {
		set, err := r.kube.AppsV1().DaemonSets(r.namespace).Get(ctx, "web", metav1.GetOptions{})
		return err == nil && set.Status.CurrentNumberScheduled == 1, fmt.Sprint(set, err)
	})
	r.create("demo", labelledWeb)
	r.mustBeItsOwn("demo")
	if created := r.podsCreatedFor("demo"); created != 1 {
		t.Errorf("%d Pods were created", created)
	}
}
