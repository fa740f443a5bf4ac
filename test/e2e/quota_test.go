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
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

const (
	countSandboxes = corev1.ResourceName("count/sandboxes.lifecycle.opensandbox.io")
	countSnapshots = corev1.ResourceName("count/sandboxsnapshots.lifecycle.opensandbox.io")
)

// limit makes or changes the room's quota, and returns when kube-controller-manager has counted.
func (r *room) limit(limits corev1.ResourceList) {
	r.t.Helper()
	quotas := r.kube.CoreV1().ResourceQuotas(r.namespace)
	_, err := quotas.Create(r.t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "small"}, Spec: corev1.ResourceQuotaSpec{Hard: limits},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			quota, err := quotas.Get(r.t.Context(), "small", metav1.GetOptions{})
			if err != nil {
				return err
			}
			quota.Spec.Hard = limits
			_, err = quotas.Update(r.t.Context(), quota, metav1.UpdateOptions{})
			return err
		})
	}
	if err != nil {
		r.t.Fatalf("set the quota: %v", err)
	}
	eventually(r.t, "the quota is counted", patience, func(ctx context.Context) (bool, string) {
		quota, err := quotas.Get(ctx, "small", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		for name, wanted := range limits {
			hard, used := quota.Status.Hard[name], quota.Status.Used[name]
			if _, counted := quota.Status.Used[name]; !counted || hard.Cmp(wanted) != 0 {
				return false, fmt.Sprintf("%s: %s of %s", name, used.String(), hard.String())
			}
		}
		return true, ""
	})
}

func (r *room) awaitUsed(name corev1.ResourceName, want int64) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d %s are used", want, name), patience, func(ctx context.Context) (bool, string) {
		quota, err := r.kube.CoreV1().ResourceQuotas(r.namespace).Get(ctx, "small", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		used := quota.Status.Used[name]
		return used.Value() == want, used.String()
	})
}

// fromNothing is a sandbox that has no Pod: the snapshot that it waits for does not exist.
func fromNothing(s *v1alpha1.Sandbox) {
	s.Spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: "nothing"}
}

func TestFiftyCreatesRaceForTheFivePlacesOfAQuota(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.limit(corev1.ResourceList{countSandboxes: resource.MustParse("5"), corev1.ResourcePods: resource.MustParse("20")})
	// The server hears of the count by a watch, and refuses until then.
	eventually(t, "the server knows the quota", patience, func(ctx context.Context) (bool, string) {
		_, err := r.sandboxes().Create(ctx, newSandbox("racer", fromNothing), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil, fmt.Sprint(err)
	})

	var all sync.WaitGroup
	answers := make(chan error, 50)
	for i := range 50 {
		all.Go(func() {
			_, err := r.sandboxes().Create(t.Context(), newSandbox(fmt.Sprintf("racer-%d", i), fromNothing), metav1.CreateOptions{})
			answers <- err
		})
	}
	all.Wait()
	close(answers)
	for err := range answers {
		if err != nil && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: small")) {
			t.Errorf("refused with %v", err)
		}
	}
	list, err := r.sandboxes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 5 {
		t.Fatalf("%d sandboxes were created, the quota has 5 places", len(list.Items))
	}
	r.awaitUsed(countSandboxes, 5)

	// What is deleted makes room.
	for _, name := range []string{list.Items[0].Name, list.Items[1].Name} {
		if err := r.sandboxes().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r.awaitUsed(countSandboxes, 3)
	r.create("again", fromNothing)
	r.awaitUsed(countSandboxes, 4)
}

func TestAPauseThatAQuotaRefusesSaysSoAndSucceedsOnceThereIsRoom(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.limit(corev1.ResourceList{countSnapshots: resource.MustParse("0")})
	before := r.start("demo")
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	dryRun := func() error {
		_, err := r.sandboxes().Pause(t.Context(), "demo", &v1alpha1.SandboxPause{}, dry)
		return err
	}

	err := dryRun()
	if !apierrors.IsConflict(err) || !apierrors.HasStatusCause(err, v1alpha1.ReasonSnapshotRejected) || !strings.Contains(err.Error(), "exceeded quota: small") {
		t.Errorf("a dry run of what the quota refuses: %v", err)
	}
	if now := r.get("demo"); now.ResourceVersion != before.ResourceVersion && now.Status.SnapshotAttempts > 0 {
		t.Errorf("after a dry run the sandbox is %s", describe(now))
	}

	r.pause("demo")
	refused := r.awaitReason("demo", v1alpha1.ConditionPaused, v1alpha1.ReasonSnapshotRejected)
	if refused.Status.Phase != v1alpha1.SandboxRunning || refused.Status.PodUID != before.Status.PodUID ||
		!strings.Contains(messageOf(refused.Status.Conditions, v1alpha1.ConditionPaused), "exceeded quota: small") {
		t.Errorf("a pause that the quota refuses leaves the sandbox as %s", describe(refused))
	}
	r.mustNotBeFrozen()
	r.awaitEvent(corev1.EventTypeWarning, v1alpha1.EventPauseRetry)

	r.limit(corev1.ResourceList{countSnapshots: resource.MustParse("1")})
	// The server hears of it by a watch.
	eventually(t, "a dry run of the pause finds nothing in the way", patience, func(context.Context) (bool, string) {
		err := dryRun()
		return err == nil, fmt.Sprint(err)
	})
	r.pause("demo")
	r.awaitPaused("demo")
	r.awaitUsed(countSnapshots, 1)

	_, err = r.snapshots().Create(t.Context(), &v1alpha1.SandboxSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: v1alpha1.SandboxSnapshotSpec{SandboxName: "demo"},
	}, metav1.CreateOptions{})
	if status := apierrors.APIStatus(nil); !errors.As(err, &status) || !apierrors.IsForbidden(err) {
		t.Errorf("a user's snapshot beyond the quota: %v", err)
	}
}
