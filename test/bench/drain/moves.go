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
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// measure fills the second node with new sandboxes, has them moved to the first, and returns how long that took until all
// were Ready there, and how many commits ran at a time at most.
func (c *cluster) measure(ctx context.Context, o options, move func(context.Context, []string) error) (took time.Duration, most int, err error) {
	names := make([]string, o.sandboxes)
	for i := range names {
		names[i] = fmt.Sprintf("sandbox-%02d", i+1)
	}
	if err := c.fill(ctx, o, names); err != nil {
		return 0, 0, fmt.Errorf("fill the node: %w", err)
	}
	counting, stop := context.WithCancel(ctx)
	defer stop()
	count, err := c.countCommits(counting)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := move(ctx, names); err != nil {
		return 0, 0, err
	}
	took = time.Since(began)
	stop()
	if most, err = count(); err != nil {
		return 0, 0, err
	}
	for _, name := range names {
		if err := c.exec(ctx, name, "md5sum -c /root/sums >/dev/null"); err != nil {
			return 0, 0, fmt.Errorf("the files of %s: %w", name, err)
		}
	}
	return took, most, c.empty(ctx)
}

// fill starts the sandboxes on the second node and has them write their files.
func (c *cluster) fill(ctx context.Context, o options, names []string) error {
	if err := c.cordon(ctx, firstNode, true); err != nil {
		return err
	}
	script := fmt.Sprintf("cd /root; for i in $(seq %d); do dd if=/dev/urandom of=/root/$i bs=1M count=1 2>/dev/null; done; md5sum /root/* > /tmp/sums; mv /tmp/sums /root/sums", o.megabytes)
	return errors.Join(forEach(names, func(name string) error {
		sandbox := &v1alpha1.Sandbox{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.SandboxSpec{Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](1),
			Containers: []corev1.Container{{
				Name: "main", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"},
			}},
		}}}}
		if _, err := c.sandboxes().Create(ctx, sandbox, metav1.CreateOptions{}); err != nil {
			return err
		}
		if err := c.awaitOn(ctx, name, c.second); err != nil {
			return err
		}
		return c.exec(ctx, name, script)
	}), c.cordon(ctx, firstNode, false))
}

// byHand moves them as a careful person would: no new Pods for the node, and each is paused and, once it is, resumed.
func (c *cluster) byHand(ctx context.Context, names []string) error {
	if err := c.cordon(ctx, c.second, true); err != nil {
		return err
	}
	return forEach(names, func(name string) error {
		if _, err := c.sandboxes().Pause(ctx, name, &v1alpha1.SandboxPause{}, metav1.CreateOptions{}); err != nil {
			return err
		}
		if err := c.await(ctx, name, func(s *v1alpha1.Sandbox) bool {
			return meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionPaused)
		}); err != nil {
			return err
		}
		if _, err := c.sandboxes().Resume(ctx, name, &v1alpha1.SandboxResume{}, metav1.CreateOptions{}); err != nil {
			return err
		}
		return c.awaitOn(ctx, name, firstNode)
	})
}

// drain has kubectl do it, and waits for both: its end, and all sandboxes.
func (c *cluster) drain(ctx context.Context, names []string) error {
	drained := make(chan error, 1)
	go func() {
		out, err := exec.CommandContext(ctx, c.kubectl, "--kubeconfig", c.kubeconfig, "drain", c.second,
			"--ignore-daemonsets", "--delete-emptydir-data", "--timeout=20m").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("kubectl drain %s: %w\n%s", c.second, err, out)
		}
		drained <- err
	}()
	err := forEach(names, func(name string) error { return c.awaitOn(ctx, name, firstNode) })
	return errors.Join(err, <-drained)
}

// forEach does something for all at once.
func forEach(names []string, do func(string) error) error {
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			if err := do(name); err != nil {
				errs[i] = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (c *cluster) awaitOn(ctx context.Context, name, node string) error {
	return c.await(ctx, name, func(s *v1alpha1.Sandbox) bool {
		return s.Status.NodeName == node && s.Status.Phase == v1alpha1.SandboxRunning && meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady)
	})
}

// await watches a sandbox until it is as wanted.
func (c *cluster) await(ctx context.Context, name string, wanted func(*v1alpha1.Sandbox) bool) error {
	for {
		sandbox, err := c.sandboxes().Get(ctx, name, metav1.GetOptions{})
		if err != nil || wanted(sandbox) {
			return err
		}
		stream, err := c.sandboxes().Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name, ResourceVersion: sandbox.ResourceVersion})
		if err != nil {
			return err
		}
		for event := range stream.ResultChan() {
			if sandbox, ok := event.Object.(*v1alpha1.Sandbox); ok && wanted(sandbox) {
				stream.Stop()
				return nil
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w; last seen as %s on %q", context.Cause(ctx), sandbox.Status.Phase, sandbox.Status.NodeName)
		}
	}
}

// countCommits watches how many snapshots are being committed at a time, until ctx ends.
func (c *cluster) countCommits(ctx context.Context) (most func() (int, error), err error) {
	list, err := c.snapshots().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	// The server may be on the node that is drained: the watch goes on with its next Pod, where it was.
	stream, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return c.snapshots().Watch(ctx, options)
		},
	})
	if err != nil {
		return nil, err
	}
	type count struct {
		most int
		err  error
	}
	counted := make(chan count, 1)
	go func() {
		defer stream.Stop()
		highest, now := 0, map[string]bool{}
		for {
			select {
			case <-ctx.Done():
				counted <- count{most: highest}
				return
			case event, open := <-stream.ResultChan():
				if !open && ctx.Err() == nil {
					counted <- count{err: errors.New("the watch of the snapshots ended, so nobody knows how many commits ran")}
					return
				}
				snapshot, ok := event.Object.(*v1alpha1.SandboxSnapshot)
				if !ok {
					continue
				}
				delete(now, snapshot.Name)
				if snapshot.Status.Phase == v1alpha1.SnapshotCommitting {
					now[snapshot.Name] = true
				}
				highest = max(highest, len(now))
			}
		}
	}()
	return func() (int, error) { c := <-counted; return c.most, c.err }, nil
}
