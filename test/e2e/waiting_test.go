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
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// patience is for what takes seconds on an idle machine: a busy one may take much longer, and an emulated one longer than
// that, which PATIENCE says.
var patience = patienceFrom(os.Getenv("PATIENCE"))

func patienceFrom(text string) time.Duration {
	if text == "" {
		return 4 * time.Minute
	}
	longer, err := time.ParseDuration(text)
	if err != nil {
		panic("PATIENCE: " + err.Error())
	}
	return longer
}

const (
	// interval between two looks; brief is for states that do not last.
	interval = 150 * time.Millisecond
	brief    = 20 * time.Millisecond
)

// eventually looks again and again until check is satisfied. When time is up the test fails with
// what was wanted and what check saw last.
func eventually(t *testing.T, what string, timeout time.Duration, check func(context.Context) (bool, string)) {
	t.Helper()
	poll(t, what, timeout, interval, check)
}

// quickly is eventually, for states that do not last.
func quickly(t *testing.T, what string, timeout time.Duration, check func(context.Context) (bool, string)) {
	t.Helper()
	poll(t, what, timeout, brief, check)
}

func poll(t *testing.T, what string, timeout, every time.Duration, check func(context.Context) (bool, string)) {
	t.Helper()
	// Cleanups wait as well, when the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), timeout)
	defer cancel()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	saw := "nothing"
	for {
		done, now := check(ctx)
		if done {
			return
		}
		if ctx.Err() == nil {
			saw = now
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s; last seen: %s", timeout, what, saw)
		case <-ticker.C:
		}
	}
}

// pauseBriefly is for loops that end with their context.
func pauseBriefly(ctx context.Context) error {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// await waits until a sandbox is as wanted and returns it. A server that is being restarted is
// waited for as well.
func (r *room) await(name, what string, wanted func(*v1alpha1.Sandbox) bool) *v1alpha1.Sandbox {
	r.t.Helper()
	var sandbox *v1alpha1.Sandbox
	eventually(r.t, fmt.Sprintf("sandbox %s is %s", name, what), patience, func(ctx context.Context) (bool, string) {
		var err error
		if sandbox, err = r.sandboxes().Get(ctx, name, metav1.GetOptions{}); err != nil {
			return false, err.Error()
		}
		return wanted(sandbox), describe(sandbox)
	})
	return sandbox
}

// awaitReady waits until the sandbox runs and its Pod is ready.
func (r *room) awaitReady(name string) *v1alpha1.Sandbox {
	r.t.Helper()
	return r.await(name, "Running and ready", func(s *v1alpha1.Sandbox) bool {
		return s.Status.Phase == v1alpha1.SandboxRunning && meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady)
	})
}

// awaitPaused waits until the sandbox is paused. What "Paused" promises must hold at that very
// moment: there is a snapshot with a digest of every container, and no Pod.
func (r *room) awaitPaused(name string) (*v1alpha1.Sandbox, *v1alpha1.SandboxSnapshot) {
	r.t.Helper()
	sandbox := r.await(name, "Paused", func(s *v1alpha1.Sandbox) bool { return s.Status.Phase == v1alpha1.SandboxPaused })
	if _, err := r.kube.CoreV1().Pods(r.namespace).Get(r.t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		r.t.Errorf("the sandbox says Paused and its Pod is still there (error: %v)", err)
	}
	if !meta.IsStatusConditionTrue(sandbox.Status.Conditions, v1alpha1.ConditionPaused) {
		r.t.Errorf("the phase is Paused and the condition is not: %s", describe(sandbox))
	}
	snapshot := r.snapshot(sandbox.Status.SnapshotName)
	if snapshot.Status.Phase != v1alpha1.SnapshotSucceed {
		r.t.Errorf("the sandbox says Paused and its snapshot %s is %s", snapshot.Name, snapshot.Status.Phase)
	}
	for _, container := range snapshot.Status.Containers {
		if container.ImageDigest == "" || container.ImageURI == "" {
			r.t.Errorf("snapshot %s has no image of container %s", snapshot.Name, container.ContainerName)
		}
	}
	return sandbox, snapshot
}

// awaitReason waits until a condition of the sandbox has a reason, whatever its status.
func (r *room) awaitReason(name, condition, reason string) *v1alpha1.Sandbox {
	r.t.Helper()
	return r.await(name, condition+" with reason "+reason, func(s *v1alpha1.Sandbox) bool {
		return reasonOf(s.Status.Conditions, condition) == reason
	})
}

func reasonOf(conditions []metav1.Condition, kind string) string {
	if condition := meta.FindStatusCondition(conditions, kind); condition != nil {
		return condition.Reason
	}
	return ""
}

func messageOf(conditions []metav1.Condition, kind string) string {
	if condition := meta.FindStatusCondition(conditions, kind); condition != nil {
		return condition.Message
	}
	return ""
}

// describe is the sandbox's state in one line.
func describe(s *v1alpha1.Sandbox) string {
	line := fmt.Sprintf("phase %s, wanted %s, attempts %d, snapshot %q, Pod %q", s.Status.Phase, s.Spec.DesiredState, s.Status.SnapshotAttempts, s.Status.SnapshotName, s.Status.PodUID)
	for _, condition := range s.Status.Conditions {
		line += fmt.Sprintf("; %s=%s/%s: %s", condition.Type, condition.Status, condition.Reason, condition.Message)
	}
	return line
}
