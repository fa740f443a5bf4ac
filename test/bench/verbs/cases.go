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
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// testCase is what a sandbox has written by the time that it is paused.
type testCase struct {
	name string
	// script writes it.
	script string
	// grace is the Pod's terminationGracePeriodSeconds; nil: Kubernetes' default.
	grace *int64
}

var cases = []testCase{
	{name: "marker", script: "echo here > /root/marker", grace: ptr.To[int64](1)},
	{name: "marker-default-grace", script: "echo here > /root/marker"},
	{name: "10mb-1000-files", grace: ptr.To[int64](1),
		script: "mkdir /root/d; i=0; while [ $i -lt 1000 ]; do head -c 10240 /dev/urandom > /root/d/$i; i=$((i+1)); done"},
	// A quarter of it is random.
	{name: "200mb-compressible", grace: ptr.To[int64](1),
		script: "i=0; while [ $i -lt 200 ]; do head -c 262144 /dev/urandom; head -c 786432 /dev/zero; i=$((i+1)); done > /root/big"},
}

// template is the Pod of the case, for a sandbox and by itself.
func (c testCase) template() *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: c.grace,
		Containers: []corev1.Container{{
			Name: "main", Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
			// A shell that waits for its child ends on SIGTERM, as a well-made container does.
			Command: []string{"sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"},
		}},
	}}
}

// measure takes one sandbox of the case twice around, beside a bare Pod of its template.
func (n *node) measure(ctx context.Context, c testCase, measured *result) error {
	took, err := n.barePod(ctx, c)
	if err != nil {
		return fmt.Errorf("bare Pod: %w", err)
	}
	measured.add(c.name, methodBarePod, took)

	if err := n.start(ctx, c); err != nil {
		return err
	}
	for attempt, method := range []string{methodResume, methodResumeElsewhere} {
		snapshot := fmt.Sprintf("%s-gen%d", c.name, attempt+1)
		committed, gone, err := n.pause(ctx, c.name, snapshot)
		if err != nil {
			return fmt.Errorf("pause: %w", err)
		}
		if method == methodResume { // the second pause has nothing new to commit
			measured.add(c.name, methodCommit, committed)
			measured.add(c.name, methodPause, gone)
		} else if err := n.removeImages(ctx); err != nil {
			return err
		}
		took, err := n.resume(ctx, c.name)
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		measured.add(c.name, method, took)
	}
	return n.delete(ctx, c.name)
}

// measureCached takes one sandbox of the case around, beside a bare Pod, of a server that keeps its
// image on the node.
func (n *node) measureCached(ctx context.Context, c testCase, measured *result) error {
	took, err := n.barePod(ctx, c)
	if err != nil {
		return fmt.Errorf("bare Pod: %w", err)
	}
	measured.add(c.name, methodBarePod, took)

	if err := n.start(ctx, c); err != nil {
		return err
	}
	snapshot := c.name + "-gen1"
	if _, _, err := n.pause(ctx, c.name, snapshot); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	if err := n.mustBeKept(ctx, snapshot); err != nil {
		return err
	}
	if took, err = n.resume(ctx, c.name); err != nil {
		return fmt.Errorf("%s: %w", methodResumeCached, err)
	}
	measured.add(c.name, methodResumeCached, took)
	return n.delete(ctx, c.name)
}

// relistPeriod is how often the kubelet looks for containers that have started or ended.
const relistPeriod = time.Second

// moment waits for as much of the kubelet's period as this round has to. What is measured would else
// always begin in step with it, because what went before has ended when the kubelet looked, and a
// millisecond more or less would decide for all rounds whether a second is waited for.
func (n *node) moment(ctx context.Context) (time.Time, error) {
	select {
	case <-time.After(n.phase):
		return time.Now(), nil
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	}
}

func (n *node) barePod(ctx context.Context, c testCase) (time.Duration, error) {
	name := "bare-" + c.name
	isReady, err := see(ctx, n.pods().Watch, name, podReady)
	if err != nil {
		return 0, err
	}
	template := c.template()
	began, err := n.moment(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := n.pods().Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: template.Spec}, metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	at, err := isReady(ctx)
	if err != nil {
		return 0, err
	}
	isGone, err := see(ctx, n.pods().Watch, name, deleted)
	if err != nil {
		return 0, err
	}
	if err := n.pods().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return 0, err
	}
	_, err = isGone(ctx)
	return at.Sub(began), err
}

// start makes the case's sandbox and has it write its files.
func (n *node) start(ctx context.Context, c testCase) error {
	isReady, err := see(ctx, n.sandboxes().Watch, c.name, sandboxReady)
	if err != nil {
		return err
	}
	sandbox := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Name: c.name}, Spec: v1alpha1.SandboxSpec{Template: c.template()}}
	if _, err := n.sandboxes().Create(ctx, sandbox, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create the sandbox: %w", err)
	}
	if _, err := isReady(ctx); err != nil {
		return fmt.Errorf("start the sandbox: %w", err)
	}
	if err := n.exec(ctx, c.name, c.script); err != nil {
		return fmt.Errorf("write the sandbox's files: %w", err)
	}
	return nil
}

// pause returns how long it took until the snapshot was there and until the sandbox said Paused.
func (n *node) pause(ctx context.Context, name, snapshot string) (committed, paused time.Duration, err error) {
	isCommitted, err := see(ctx, n.snapshots().Watch, snapshot, snapshotSucceeded)
	if err != nil {
		return 0, 0, err
	}
	isPaused, err := see(ctx, n.sandboxes().Watch, name, sandboxPaused)
	if err != nil {
		return 0, 0, err
	}
	began, err := n.moment(ctx)
	if err != nil {
		return 0, 0, err
	}
	if _, err := n.sandboxes().Pause(ctx, name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{}); err != nil {
		return 0, 0, err
	}
	committedAt, err := isCommitted(ctx)
	if err != nil {
		return 0, 0, err
	}
	pausedAt, err := isPaused(ctx)
	return committedAt.Sub(began), pausedAt.Sub(began), err
}

func (n *node) resume(ctx context.Context, name string) (time.Duration, error) {
	isReady, err := see(ctx, n.sandboxes().Watch, name, sandboxReady)
	if err != nil {
		return 0, err
	}
	began, err := n.moment(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := n.sandboxes().Resume(ctx, name, &v1alpha1.SandboxResume{}, metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	at, err := isReady(ctx)
	return at.Sub(began), err
}

func (n *node) delete(ctx context.Context, name string) error {
	isGone, err := see(ctx, n.sandboxes().Watch, name, deleted)
	if err != nil {
		return err
	}
	if err := n.sandboxes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete the sandbox: %w", err)
	}
	_, err = isGone(ctx)
	return err
}
