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

package integration

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

func TestADryRunOfAPauseSaysAllThatIsInTheWay(t *testing.T) {
	f, kube := admittingFixture(t)
	served, err := admitting()
	f.must(err)
	host := served.host
	demo := f.create(sandbox("demo"))
	before := f.asRunning("demo")
	f.limit(kube, corev1.ResourceList{countSandboxes: resource.MustParse("10"), countSnapshots: resource.MustParse("0")})

	// The Pod is there, its container has not started, its node is not ready, and there is
	// neither a push secret nor room for a snapshot.
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: "demo", UID: "pod-uid", Labels: map[string]string{v1alpha1.LabelSandboxUID: string(demo.UID)}},
		Spec:       corev1.PodSpec{NodeName: "node-a"},
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-a"},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletStopped"}}},
	}
	f.must(host.Create(t.Context(), pod))
	f.must(host.Create(t.Context(), node))
	got := f.post(f.path("/demo/pause?dryRun=All"), "")
	status := got.status(f)
	var reasons []string
	if status.Details != nil {
		for _, cause := range status.Details.Causes {
			reasons = append(reasons, string(cause.Type))
		}
	}
	want := []string{v1alpha1.ReasonPushSecretNotFound, v1alpha1.ReasonSourceNodeLost, v1alpha1.ReasonContainerNotFound, v1alpha1.ReasonSnapshotRejected}
	if got.code != 409 || status.Reason != metav1.StatusReasonConflict || !slices.Equal(reasons, want) {
		t.Errorf("got %d %s, want 409 with the causes %q", got.code, got.body, want)
	}

	// Without the dry run nobody waits for the cluster: accepted.
	reads := host.reads.Load()
	other := f.create(sandbox("other"))
	f.asRunning("other")
	_, err = f.sandboxes.Pause(context.Background(), "other", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	f.must(err)
	if now := host.reads.Load(); now != reads {
		t.Errorf("a pause asked the cluster %d times", now-reads)
	}
	// A repeat begins nothing, so there is nothing to look for, as a dry run or not.
	if got := f.post(f.path("/"+other.Name+"/pause?dryRun=All"), ""); got.code != 201 {
		t.Errorf("a dry run of a pause that is under way: %d %s", got.code, got.body)
	}

	// Everything mended.
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", ContainerID: "containerd://c1"}}
	f.must(host.Status().Update(t.Context(), pod))
	node.Status.Conditions[0].Status = corev1.ConditionTrue
	f.must(host.Status().Update(t.Context(), node))
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "sandbox-system", Name: "push"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{}}`)},
	}
	f.must(host.Create(t.Context(), secret))
	t.Cleanup(func() { _ = host.Delete(context.Background(), secret, &client.DeleteOptions{}) })
	f.must(kube.CoreV1().ResourceQuotas(f.namespace).Delete(t.Context(), "small", metav1.DeleteOptions{}))
	f.eventually(func() error {
		_, err := f.sandboxes.Pause(context.Background(), "demo", &v1alpha1.SandboxPause{}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	})
	if after := f.get("demo"); after.ResourceVersion != before.ResourceVersion {
		t.Error("a dry run wrote")
	}
	list, err := f.snapshots.List(context.Background(), metav1.ListOptions{})
	f.must(err)
	if len(list.Items) != 0 {
		t.Errorf("the dry runs left %d snapshots", len(list.Items))
	}
}
