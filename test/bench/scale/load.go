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

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// verb is one of the two, and the phase that it leads to.
type verb struct {
	name   string
	target v1alpha1.SandboxPhase
}

var (
	pause  = verb{"pause", v1alpha1.SandboxPaused}
	resume = verb{"resume", v1alpha1.SandboxRunning}
)

// newSandbox is like those that people make: one container, a few labels, requests and limits.
func newSandbox(name string) *v1alpha1.Sandbox {
	return &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/part-of": "bench", "team": "a"}},
		Spec: v1alpha1.SandboxSpec{
			// Images are pretended: there is nothing to delete. No history is pruned, so that each
			// round costs the same.
			Snapshot: v1alpha1.SnapshotPolicy{DeletionPolicy: v1alpha1.DeletionPolicyRetain, HistoryLimit: ptr.To[int32](100)},
			Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				TerminationGracePeriodSeconds: ptr.To[int64](ownGrace),
				Containers: []corev1.Container{{
					Name: "main", Image: "registry.example.com/team/sandbox:v1", Command: []string{"/bin/agent", "--listen=:8080"},
					Env:   []corev1.EnvVar{{Name: "MODE", Value: "interactive"}, {Name: "HOME", Value: "/home/user"}},
					Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
					Resources: corev1.ResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
						Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")},
					},
				}},
			}},
		},
	}
}

// create makes a sandbox and waits until it runs.
func (b *bench) create(ctx context.Context, sandbox cache.ObjectName) error {
	client := b.cluster.sandboxes.LifecycleV1alpha1().Sandboxes(sandbox.Namespace)
	if _, err := client.Create(ctx, newSandbox(sandbox.Name), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create sandbox %s: %w", sandbox, err)
	}
	return b.board.await(ctx, sandbox, v1alpha1.SandboxRunning)
}

// post asks for a verb, and returns how long the answer took.
func (b *bench) post(ctx context.Context, verb verb, sandbox cache.ObjectName) (time.Duration, error) {
	client := b.cluster.sandboxes.LifecycleV1alpha1().Sandboxes(sandbox.Namespace)
	begin := time.Now()
	var err error
	if verb == pause {
		_, err = client.Pause(ctx, sandbox.Name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{})
	} else {
		_, err = client.Resume(ctx, sandbox.Name, &v1alpha1.SandboxResume{}, metav1.CreateOptions{})
	}
	if err != nil {
		return 0, fmt.Errorf("%s sandbox %s: %w", verb.name, sandbox, err)
	}
	return time.Since(begin), nil
}

// times are how long things took, of many verbs.
type times struct {
	mutex sync.Mutex
	// answered is how long the POST took, done how long from then until the phase was there.
	answered, done []time.Duration
}

func (t *times) add(answered, done time.Duration) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.answered = append(t.answered, answered)
	t.done = append(t.done, done)
}

// percentile is in milliseconds, zero of nothing.
func percentile(values []time.Duration, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return float64(sorted[(len(sorted)-1)*p/100].Microseconds()) / 1000
}

// carryOut asks for a verb and waits until it is done.
func (b *bench) carryOut(verb verb, t *times) func(context.Context, cache.ObjectName) error {
	return func(ctx context.Context, sandbox cache.ObjectName) error {
		begin := time.Now()
		answered, err := b.post(ctx, verb, sandbox)
		if err != nil {
			return err
		}
		if err := b.board.await(ctx, sandbox, verb.target); err != nil {
			return err
		}
		t.add(answered, time.Since(begin))
		return nil
	}
}

// each does something with every sandbox, with so many of them at a time.
func each(ctx context.Context, sandboxes []cache.ObjectName, atATime int, do func(context.Context, cache.ObjectName) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan cache.ObjectName)
	var running sync.WaitGroup
	for range min(atATime, len(sandboxes)) {
		running.Go(func() {
			for sandbox := range next {
				if err := do(ctx, sandbox); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, sandbox := range sandboxes {
		if ctx.Err() == nil {
			next <- sandbox
		}
	}
	close(next)
	running.Wait()
	return context.Cause(ctx)
}
