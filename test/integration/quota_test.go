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
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubefake "k8s.io/client-go/kubernetes/fake"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

const (
	countSandboxes = corev1.ResourceName("count/sandboxes.lifecycle.opensandbox.io")
	countSnapshots = corev1.ResourceName("count/sandboxsnapshots.lifecycle.opensandbox.io")
)

// limit makes a quota as kube-controller-manager leaves it, with nothing used, and returns when
// the server knows it.
func (f *fixture) limit(kube *kubefake.Clientset, limits corev1.ResourceList) {
	f.Helper()
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: "small", ResourceVersion: "1"},
		Status:     corev1.ResourceQuotaStatus{Hard: corev1.ResourceList{}, Used: corev1.ResourceList{}},
	}
	for name := range limits {
		quota.Status.Hard[name], quota.Status.Used[name] = resource.Quantity{}, resource.Quantity{}
	}
	quotas := kube.CoreV1().ResourceQuotas(f.namespace)
	quota, err := quotas.Create(context.Background(), quota, metav1.CreateOptions{})
	f.must(err)
	f.eventually(func() error {
		if err := f.tryCreate(); !apierrors.IsForbidden(err) {
			return fmt.Errorf("not forbidden by a quota of nothing: %w", err)
		}
		return nil
	})
	quota.Spec.Hard, quota.Status.Hard = limits, limits
	_, err = quotas.UpdateStatus(context.Background(), quota, metav1.UpdateOptions{})
	f.must(err)
	f.eventually(f.tryCreate)
}

func (f *fixture) tryCreate() error {
	_, err := f.sandboxes.Create(context.Background(), sandbox("probe"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

func (f *fixture) used(kube *kubefake.Clientset, name corev1.ResourceName) int64 {
	f.Helper()
	quota, err := kube.CoreV1().ResourceQuotas(f.namespace).Get(context.Background(), "small", metav1.GetOptions{})
	f.must(err)
	used := quota.Status.Used[name]
	return used.Value()
}

func TestQuota(t *testing.T) {
	f, kube := admittingFixture(t)
	f.limit(kube, corev1.ResourceList{countSandboxes: resource.MustParse("2"), countSnapshots: resource.MustParse("1")})
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	_, err := f.sandboxes.Create(context.Background(), sandbox("one"), dry)
	f.must(err)
	if used := f.used(kube, countSandboxes); used != 0 {
		t.Errorf("a dry run uses %d", used)
	}
	f.create(sandbox("one"))
	if _, err := f.sandboxes.Create(context.Background(), sandbox("Not_A_Label"), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("what is invalid: %v", err)
	}
	f.create(sandbox("two"))
	if used := f.used(kube, countSandboxes); used != 2 {
		t.Errorf("two use %d", used)
	}
	for name, create := range map[string]func() error{
		"a third": func() error {
			_, err := f.sandboxes.Create(context.Background(), sandbox("three"), metav1.CreateOptions{})
			return err
		},
		"a third, as a dry run": func() error {
			_, err := f.sandboxes.Create(context.Background(), sandbox("three"), dry)
			return err
		},
		"a third, by apply": func() error {
			_, err := f.sandboxes.Patch(context.Background(), "three", "application/apply-patch+yaml",
				[]byte(`{"apiVersion":"lifecycle.opensandbox.io/v1alpha1","kind":"Sandbox","metadata":{"name":"three"},"spec":{"template":{"spec":{"containers":[{"name":"a","image":"b"}]}}}}`),
				metav1.PatchOptions{FieldManager: "test"})
			return err
		},
	} {
		if err := create(); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: small") || !strings.Contains(err.Error(), string(countSandboxes)) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// What is there can be used: quotas are about creating.
	f.asRunning("one")
	_, err = f.sandboxes.Pause(context.Background(), "one", &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	f.must(err)
	s := f.get("two")
	s.Labels = map[string]string{"a": "b"}
	_, err = f.sandboxes.Update(context.Background(), s, metav1.UpdateOptions{})
	f.must(err)

	// The controller's snapshots count like everybody's.
	f.succeeded("one-gen1", f.get("one"))
	if used := f.used(kube, countSnapshots); used != 1 {
		t.Errorf("the snapshot of a pause uses %d", used)
	}
	_, err = f.controller.SandboxSnapshots(f.namespace).Create(context.Background(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "one-gen2"}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "one"},
	}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: small") {
		t.Errorf("a second snapshot, of a pause: %v", err)
	}
}

func TestAQuotaThatNobodyHasCountedYet(t *testing.T) {
	f, kube := admittingFixture(t)
	_, err := kube.CoreV1().ResourceQuotas(f.namespace).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: "new"},
		Status:     corev1.ResourceQuotaStatus{Hard: corev1.ResourceList{countSandboxes: resource.MustParse("2")}},
	}, metav1.CreateOptions{})
	f.must(err)
	f.eventually(func() error {
		if err := f.tryCreate(); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "status unknown for quota") {
			return fmt.Errorf("not forbidden for want of a count: %w", err)
		}
		return nil
	})
}

// The replicas share the quota and the store, and nothing else.
func TestFiftyCreatesRaceForFivePlaces(t *testing.T) {
	f, kube := admittingFixture(t)
	replicas := []*fixture{f, replicaFixture(t)}
	f.limit(kube, corev1.ResourceList{countSandboxes: resource.MustParse("5"), "count/pods": resource.MustParse("1000")})
	for _, replica := range replicas {
		replica.eventually(replica.tryCreate)
	}
	// kube-apiserver counts Pods in the same object meanwhile.
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	others.Go(func() {
		every := time.NewTicker(2 * time.Millisecond)
		defer every.Stop()
		// Not for ever: a watch of the cluster in memory panics where a hundred events have not been read.
		for range 80 {
			if ctx.Err() != nil {
				return
			}
			if quota, err := kube.CoreV1().ResourceQuotas(f.namespace).Get(ctx, "small", metav1.GetOptions{}); err == nil {
				pods := quota.Status.Used["count/pods"]
				pods.Add(resource.MustParse("1"))
				quota.Status.Used["count/pods"] = pods
				_, _ = kube.CoreV1().ResourceQuotas(f.namespace).UpdateStatus(ctx, quota, metav1.UpdateOptions{})
			}
			<-every.C
		}
	})

	var all sync.WaitGroup
	answers := make(chan error, 50)
	for i := range 50 {
		all.Go(func() {
			_, err := replicas[i%len(replicas)].sandboxes.Create(context.Background(), sandbox(fmt.Sprintf("racer-%d", i)), metav1.CreateOptions{})
			answers <- err
		})
	}
	all.Wait()
	stop()
	others.Wait()
	close(answers)
	created := 0
	for err := range answers {
		switch {
		case err == nil:
			created++
		case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota"):
			t.Errorf("refused with %v", err)
		}
	}
	for _, replica := range replicas[1:] {
		err := replica.tryCreate()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota") {
			t.Errorf("the other replica says %v", err)
		}
	}
	list, err := f.sandboxes.List(context.Background(), metav1.ListOptions{})
	f.must(err)
	if created != 5 || len(list.Items) != 5 || f.used(kube, countSandboxes) != 5 {
		t.Errorf("%d were created, %d are there, %d are used; want 5", created, len(list.Items), f.used(kube, countSandboxes))
	}
}
