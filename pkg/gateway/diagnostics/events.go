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

package diagnostics

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/pager"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// events are the newest of what Kubernetes has of the sandbox: as long as it keeps events, which is an hour mostly.
func (s *scene) events(ctx context.Context, limit int, scope string) (text, error) {
	var found text
	var events []corev1.Event
	add := func(selector fields.Set, wanted func(*corev1.Event) bool) error {
		return s.eachEvent(ctx, selector, func(event *corev1.Event) {
			if wanted == nil || wanted(event) {
				events = append(events, *event)
			}
		})
	}
	if scope != scopeRuntime {
		if err := add(fields.Set{"involvedObject.uid": string(s.sandbox.UID)}, nil); err != nil {
			return text{}, err
		}
		snapshots, err := s.snapshots(ctx)
		if apierrors.IsForbidden(err) {
			found.warnings = append(found.warnings, forbidden(err))
		} else if err != nil {
			return text{}, err
		}
		if len(snapshots) > 0 {
			if err := add(fields.Set{"involvedObject.kind": "SandboxSnapshot"}, func(event *corev1.Event) bool {
				return slices.Contains(snapshots, event.InvolvedObject.UID)
			}); err != nil {
				return text{}, err
			}
		}
	}
	if scope != scopeLifecycle {
		// Of all Pods that it has had: what became of the last one is asked for when there is none.
		name := cmp.Or(s.sandbox.Status.PodName, s.sandbox.Name)
		since := s.sandbox.CreationTimestamp.Time
		if err := add(fields.Set{"involvedObject.kind": "Pod", "involvedObject.name": name}, func(event *corev1.Event) bool {
			return !happened(event).Before(since)
		}); err != nil {
			return text{}, err
		}
	}
	found.content, found.truncated = newest(events, limit)
	return found, nil
}

// eachEvent reads the events of the caller's namespace that a selector names.
func (s *scene) eachEvent(ctx context.Context, selector fields.Set, do func(*corev1.Event)) error {
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return s.caller.Kube.CoreV1().Events(s.caller.Namespace).List(ctx, options)
	})
	return pages.EachListItem(ctx, metav1.ListOptions{FieldSelector: selector.AsSelector().String()}, func(object runtime.Object) error {
		if event, is := object.(*corev1.Event); is {
			do(event)
		}
		return nil
	})
}

// snapshots are those of the sandbox.
func (s *scene) snapshots(ctx context.Context) ([]types.UID, error) {
	list, err := s.caller.Lifecycle.LifecycleV1alpha1().SandboxSnapshots(s.caller.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(v1alpha1.FieldSpecSandboxName, s.sandbox.Name).String(),
	})
	if err != nil {
		return nil, err
	}
	var uids []types.UID
	for i := range list.Items {
		uids = append(uids, list.Items[i].UID)
	}
	return uids, nil
}

// newest has the last events as lines, the newest at the end, and says whether there were more.
func newest(events []corev1.Event, limit int) (string, bool) {
	slices.SortFunc(events, func(a, b corev1.Event) int {
		return cmp.Or(happened(&a).Compare(happened(&b)), cmp.Compare(a.Name, b.Name))
	})
	more := len(events) > limit
	if more {
		events = events[len(events)-limit:]
	}
	var lines strings.Builder
	for i := range events {
		event := &events[i]
		fmt.Fprintf(&lines, "%s %-7s %s %s/%s: %s", happened(event).UTC().Format(time.RFC3339), event.Type, event.Reason,
			event.InvolvedObject.Kind, event.InvolvedObject.Name, strings.Join(strings.Fields(event.Message), " "))
		if times := max(event.Count, seriesOf(event).Count); times > 1 {
			fmt.Fprintf(&lines, " (%d times)", times)
		}
		lines.WriteByte('\n')
	}
	return lines.String(), more
}

// happened is when an event was last seen. Events of the older and of the newer API have it in different fields.
func happened(event *corev1.Event) time.Time {
	for _, at := range []time.Time{seriesOf(event).LastObservedTime.Time, event.LastTimestamp.Time, event.EventTime.Time, event.FirstTimestamp.Time} {
		if !at.IsZero() {
			return at
		}
	}
	return event.CreationTimestamp.Time
}

func seriesOf(event *corev1.Event) corev1.EventSeries {
	if event.Series == nil {
		return corev1.EventSeries{}
	}
	return *event.Series
}
