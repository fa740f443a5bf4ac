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
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// TestDrainTakesASandboxForWhatSomebodyBringsBack: without a controller it was "cannot delete Pods that declare no controller
// (use --force to override)", as for whoever makes bare Pods, or names no controller among their owners:
// https://github.com/awslabs/mountpoint-s3-csi-driver/issues/787, https://github.com/strimzi/strimzi-kafka-operator/pull/7379
func TestDrainTakesASandboxForWhatSomebodyBringsBack(t *testing.T) {
	t.Parallel()
	k := newKubectl(t)
	now := k.start("demo")
	said := k.do("drain", now.Status.NodeName, "--dry-run=server", "--timeout=1m", "--ignore-daemonsets", "--pod-selector="+v1alpha1.LabelSandboxUID+"="+string(now.UID))
	if !strings.Contains(said, k.namespace+"/demo") {
		t.Errorf("kubectl drain says:\n%s", said)
	}
	pods := k.kube.CoreV1().Pods(k.namespace)
	pod, err := pods.Get(t.Context(), "demo", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] != "true" {
		t.Errorf("the Pod has the annotations %v", pod.Annotations)
	}

	// One of an older version.
	if _, err := pods.Patch(t.Context(), "demo", types.MergePatchType, []byte(`{"metadata":{"ownerReferences":null,"annotations":{"cluster-autoscaler.kubernetes.io/safe-to-evict":null}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Pod has its owner again", patience, func(ctx context.Context) (bool, string) {
		pod, err := pods.Get(ctx, "demo", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return metav1.IsControlledBy(pod, now) && pod.Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true", inYAML(pod.ObjectMeta)
	})
	if after := k.get("demo"); after.Status.PodUID != now.Status.PodUID {
		t.Errorf("the Pod is another one: %s", describe(after))
	}
}

// TestTheCollectorAndTheOwner, as of https://github.com/kubernetes/kubernetes/issues/88097 (what had owners that lived was
// collected when the collector came afresh), has the real garbage collector meet owners that the server does not know: it takes what is
// somebody's, as ever, and not the Pod that is a sandbox's own.
func TestTheCollectorAndTheOwner(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	unknown := metav1.ObjectMeta{Name: "stray", UID: uuid.NewUUID()}
	owners := []metav1.OwnerReference{{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Sandbox", Name: unknown.Name, UID: unknown.UID, Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(false)}}
	pods, maps := r.kube.CoreV1().Pods(r.namespace), r.kube.CoreV1().ConfigMaps(r.namespace)
	pod := func(name string, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, OwnerReferences: owners}, Spec: newSandbox(name).Spec.Template.Spec}
	}
	stray, err := pods.Create(t.Context(), pod("stray", map[string]string{v1alpha1.LabelSandbox: "stray", v1alpha1.LabelSandboxUID: string(unknown.UID)}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// What is somebody's own, also a Pod, is collected with the owner that is not there.
	if _, err := pods.Create(t.Context(), pod("helper", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "notes", OwnerReferences: owners}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.awaitGone("ConfigMap notes", func(ctx context.Context) error {
		_, err := maps.Get(ctx, "notes", metav1.GetOptions{})
		return err
	})
	r.awaitGone("Pod helper", func(ctx context.Context) error {
		_, err := pods.Get(ctx, "helper", metav1.GetOptions{})
		return err
	})
	r.awaitRefusedCollector("stray", "is not garbage")
	if now, err := pods.Get(t.Context(), "stray", metav1.GetOptions{}); err != nil || now.UID != stray.UID || now.DeletionTimestamp != nil {
		t.Errorf("the Pod of an unknown sandbox has been collected: %v", err)
	}
	// A person may delete it.
	if err := pods.Delete(t.Context(), "stray", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1), PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}); err != nil {
		t.Error(err)
	}

	// What belongs to a sandbox that is deleted is collected, whichever way.
	for _, way := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		name := strings.ToLower(string(way))
		now := r.start(name)
		claim := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: ownedBy(v1alpha1.SchemeGroupVersion.String(), "Sandbox", name, now.UID)}}
		if _, err := maps.Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := r.sandboxes().Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &way}); err != nil {
			t.Fatal(err)
		}
		r.awaitSandboxGone(name)
		r.awaitGone("ConfigMap "+name, func(ctx context.Context) error {
			_, err := maps.Get(ctx, name, metav1.GetOptions{})
			return err
		})
		if _, err := pods.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s: the sandbox is gone, and its Pod is not: %v", name, err)
		}
	}
}

// awaitRefusedCollector waits until the garbage collector has been refused an object, and has heard why.
func (r *room) awaitRefusedCollector(name, why string) {
	r.t.Helper()
	path := filepath.Join(clusterDir(), "logs", "kube-controller-manager.log")
	eventually(r.t, fmt.Sprintf("the garbage collector is refused %s/%s", r.namespace, name), patience, func(context.Context) (bool, string) {
		log, err := os.ReadFile(path)
		if err != nil {
			return false, err.Error()
		}
		last := ""
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, r.namespace) && strings.Contains(line, name) && strings.Contains(line, "garbage") {
				last = line
				if strings.Contains(line, why) {
					return true, ""
				}
			}
		}
		return false, "its log says " + last
	})
}
