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

package sandbox

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

var theNamespace = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, UID: "namespace-1"}}

// mustBeOf wants a controller that the collector waits for nobody because of, and as many owners in all.
func mustBeOf(t *testing.T, pod *corev1.Pod, kind string, owners int) {
	t.Helper()
	by := metav1.GetControllerOf(pod)
	want := map[string]metav1.OwnerReference{
		"Sandbox":   {APIVersion: "lifecycle.opensandbox.io/v1alpha1", Kind: "Sandbox", Name: name, UID: "sandbox-1"},
		"Namespace": {APIVersion: "v1", Kind: "Namespace", Name: namespace, UID: "namespace-1"},
	}[kind]
	if by == nil || by.APIVersion != want.APIVersion || by.Kind != want.Kind || by.Name != want.Name || by.UID != want.UID || ptr.Deref(by.BlockOwnerDeletion, false) || len(pod.OwnerReferences) != owners {
		t.Errorf("the Pod's owners are %+v, want the controller %+v among %d", pod.OwnerReferences, want, owners)
	}
}

const runsOn = "Running Ready=True/PodReady Paused=False/Running pod=demo/pod-1"

func TestAPodOfAnOlderVersionGetsItsOwner(t *testing.T) {
	helper := func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "a", UID: "1"}}
	}
	for what, pod := range map[string]*corev1.Pod{
		"nobody's":              podOf(unowned, func(p *corev1.Pod) { p.Annotations = nil }),
		"held by the Namespace": podOf(takenBy("Namespace", namespace)),
		"owned beside that":     podOf(helper),
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod), pod)
			f.visits(runsOn)
			owners := 1
			if what == "owned beside that" {
				owners = 2
			}
			mustBeOf(t, f.pod(), "Sandbox", owners)
			if f.pod().Annotations[safeToEvict] != "true" {
				t.Errorf("the Pod has the annotations %v", f.pod().Annotations)
			}
			f.visits(runsOn)
		})
	}
}

func TestAPodThatWasAdoptedIsTakenBack(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod), podOf(takenBy("ReplicaSet", "web")))
	const told = "Running Ready=True/PodReady Paused=False/Running PodAdopted=True/PodAdopted pod=demo/pod-1"
	f.visits(told)
	mustBeOf(t, f.pod(), "Sandbox", 1)
	f.visits(told)
}

// The collector deletes what has an owner that an empty store does not know. The Namespace is known as long as the Pod is there.
func TestWhereTheCollectorIsNotKeptFromPodsTheirNamespaceHoldsThem(t *testing.T) {
	guard := &aGuard{changed: make(chan struct{})}
	f := newFixture(t, sandboxIn(v1alpha1.SandboxPending), theNamespace)
	f.r.Guard = guard
	f.visits("Pending pod=demo")
	mustBeOf(t, f.pod(), "Namespace", 1)

	f = newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod), podOf(), theNamespace)
	f.r.Guard = guard
	f.visits(runsOn)
	mustBeOf(t, f.pod(), "Namespace", 1)
	guard.holds = true
	f.visits(runsOn)
	mustBeOf(t, f.pod(), "Sandbox", 1)
}

type aGuard struct {
	holds   bool
	changed chan struct{}
}

func (g *aGuard) Holds() bool              { return g.holds }
func (g *aGuard) Changed() <-chan struct{} { return g.changed }

// All of them are visited: nothing else may ever happen to a sandbox that runs.
func TestAGuardThatChangesHasAllSandboxesVisited(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning), sandboxIn(v1alpha1.SandboxPaused, func(s *v1alpha1.Sandbox) { s.Name = "other" }))
	guard := &aGuard{changed: make(chan struct{})}
	regards := &regards{guard: guard, sandboxes: f.own, woken: make(chan event.GenericEvent)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- regards.Start(ctx) }()
	close(guard.changed)
	woken := map[string]bool{}
	for range 2 {
		woken[(<-regards.woken).Object.GetName()] = true
	}
	if !woken[name] || !woken["other"] {
		t.Errorf("visited are %v", woken)
	}
	cancel()
	go func() {
		for range regards.woken {
		}
	}()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(regards.woken)
}

// Whoever forbids it holds up nothing, and a person hears of it.
func TestAPodThatCannotBeGivenItsOwner(t *testing.T) {
	f := newFixture(t, sandboxIn(v1alpha1.SandboxRunning, onPod), podOf(unowned))
	f.r.Host = interceptor.NewClient(f.host.(client.WithWatch), interceptor.Funcs{
		Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, name, errors.New("a webhook says no"))
		},
	})
	f.visits(runsOn)
	f.tells(`Warning PodNotOwned Pod demo cannot be made this sandbox's, which is tried again: until then drains refuse it, and other controllers may take it: pods "demo" is forbidden: a webhook says no`)
}

// https://github.com/kubernetes/autoscaler/issues/3300: a Pod of a custom controller keeps its node.
func TestAutoscalersMayEvictWhatIsSaved(t *testing.T) {
	savesNothing := func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone }
	saysSo := withTemplate(func(template *corev1.PodTemplateSpec) { template.Annotations = map[string]string{safeToEvict: "true"} })
	for name, test := range map[string]struct {
		sandbox   *v1alpha1.Sandbox
		has, want map[string]string
	}{
		"nobody has said anything":                             {sandboxIn(""), map[string]string{"a": "b"}, map[string]string{"a": "b", safeToEvict: "true"}},
		"a Pod without annotations":                            {sandboxIn(""), nil, map[string]string{safeToEvict: "true"}},
		"somebody forbids it":                                  {sandboxIn(""), map[string]string{safeToEvict: "false"}, map[string]string{safeToEvict: "false"}},
		"nothing is saved":                                     {sandboxIn("", savesNothing), map[string]string{"a": "b"}, map[string]string{"a": "b"}},
		"nothing is saved any more":                            {sandboxIn("", savesNothing), map[string]string{safeToEvict: "true"}, nil},
		"nothing is saved, and somebody allows it":             {sandboxIn("", savesNothing, saysSo), map[string]string{safeToEvict: "true"}, map[string]string{safeToEvict: "true"}},
		"nothing is saved, of a template that nobody has read": {sandboxIn("", savesNothing, func(s *v1alpha1.Sandbox) { s.Spec.Template = nil }), map[string]string{safeToEvict: "true"}, map[string]string{safeToEvict: "true"}},
	} {
		if got := openToAutoscalers(test.sandbox, test.has); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestALossByAdoptionSaysSo(t *testing.T) {
	view := viewPod(podOf(takenBy("ReplicaSet", "web"), terminating(30)))
	if !strings.HasSuffix(view.message, "ReplicaSet web has taken it for one of its own") {
		t.Errorf("%q", view.message)
	}
}
