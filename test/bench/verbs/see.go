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
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// see watches an object from now on and returns a function that waits until it is as wanted, and
// says when that was seen.
func see(ctx context.Context, start func(context.Context, metav1.ListOptions) (watch.Interface, error), name string, wanted func(watch.Event) bool) (func(context.Context) (time.Time, error), error) {
	stream, err := start(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", name, err)
	}
	type sight struct {
		at  time.Time
		err error
	}
	seen := make(chan sight, 1)
	go func() {
		defer stream.Stop()
		for event := range stream.ResultChan() {
			if event.Type == watch.Error {
				seen <- sight{err: fmt.Errorf("watch %s: %w", name, apierrors.FromObject(event.Object))}
				return
			}
			if wanted(event) {
				seen <- sight{at: time.Now()}
				return
			}
		}
		seen <- sight{err: errors.Join(fmt.Errorf("the watch of %s ended before it was as wanted", name), context.Cause(ctx))}
	}()
	return func(ctx context.Context) (time.Time, error) {
		select {
		case s := <-seen:
			return s.at, s.err
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		}
	}, nil
}

// exists is for what only has to be there.
func exists(event watch.Event) bool { return event.Type != watch.Deleted }

func deleted(event watch.Event) bool { return event.Type == watch.Deleted }

func podReady(event watch.Event) bool {
	pod, ok := event.Object.(*corev1.Pod)
	if !ok {
		return false
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func sandboxReady(event watch.Event) bool {
	sandbox, ok := event.Object.(*v1alpha1.Sandbox)
	return ok && sandbox.Status.Phase == v1alpha1.SandboxRunning && meta.IsStatusConditionTrue(sandbox.Status.Conditions, v1alpha1.ConditionReady)
}

func sandboxPaused(event watch.Event) bool {
	sandbox, ok := event.Object.(*v1alpha1.Sandbox)
	return ok && meta.IsStatusConditionTrue(sandbox.Status.Conditions, v1alpha1.ConditionPaused)
}

func snapshotSucceeded(event watch.Event) bool {
	snapshot, ok := event.Object.(*v1alpha1.SandboxSnapshot)
	return ok && snapshot.Status.Phase == v1alpha1.SnapshotSucceed
}
