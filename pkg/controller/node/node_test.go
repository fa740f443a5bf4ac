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

package node

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	testingclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/draining"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func running(change func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	sandbox := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo", UID: "s"},
		Spec:       v1alpha1.SandboxSpec{DesiredState: v1alpha1.DesiredStateRunning, EvictionPolicy: v1alpha1.EvictionPolicySave},
		Status:     v1alpha1.SandboxStatus{Phase: v1alpha1.SandboxRunning, PodName: "demo", PodUID: "p", NodeName: "node-a"},
	}
	if change != nil {
		change(sandbox)
	}
	return sandbox
}

func runs(change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo", UID: "p", Labels: map[string]string{v1alpha1.LabelSandboxUID: "s"}},
		Spec:       corev1.PodSpec{NodeName: "node-a"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if change != nil {
		change(pod)
	}
	return pod
}

func moving(pod, reason string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		s.Status.Move = &v1alpha1.SandboxMove{PodUID: s.Status.PodUID, NodeName: "node-a", Reason: reason}
		if pod != "" {
			s.Status.Move.PodUID = "other"
		}
	}
}

var drained = []draining.Cause{{Reason: v1alpha1.ReasonNodeDraining, Message: "Karpenter is taking node node-a away"}}

func TestDue(t *testing.T) {
	taint := &corev1.Taint{Key: "a", Effect: corev1.TaintEffectNoExecute}
	for name, test := range map[string]struct {
		sandbox func(*v1alpha1.Sandbox)
		pod     func(*corev1.Pod)
		causes  []draining.Cause
		none    bool
		want    string
	}{
		"runs":                                     {causes: drained, want: v1alpha1.ReasonNodeDraining},
		"runs, and nobody wants it gone":           {},
		"its Pod is not there":                     {causes: drained, none: true},
		"its Pod is another's":                     {causes: drained, pod: func(p *corev1.Pod) { p.Labels = nil }},
		"its Pod is one that it does not know yet": {causes: drained, pod: func(p *corev1.Pod) { p.UID = "q" }},
		"its Pod is on its way out":                {causes: drained, pod: func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }},
		"is let go":                                {causes: drained, sandbox: func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone }},
		"is being deleted":                         {causes: drained, sandbox: func(s *v1alpha1.Sandbox) { s.DeletionTimestamp = &metav1.Time{Time: now} }},
		"starts":                                   {causes: drained, sandbox: func(s *v1alpha1.Sandbox) { s.Status.Phase = v1alpha1.SandboxResuming }},
		"is being paused": {causes: drained, sandbox: func(s *v1alpha1.Sandbox) {
			s.Status.Phase, s.Spec.DesiredState = v1alpha1.SandboxPausing, v1alpha1.DesiredStatePaused
		}},
		"is moved already": {causes: drained, sandbox: moving("", v1alpha1.ReasonEvicted)},
		"was moved":        {causes: drained, sandbox: moving("other", v1alpha1.ReasonEvicted), want: v1alpha1.ReasonNodeDraining},
		"a taint":          {causes: []draining.Cause{{Reason: v1alpha1.ReasonNodeTainted, Taint: taint}}, want: v1alpha1.ReasonNodeTainted},
		"a taint that it tolerates": {causes: []draining.Cause{{Reason: v1alpha1.ReasonNodeTainted, Taint: taint}},
			pod: func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }},
	} {
		t.Run(name, func(t *testing.T) {
			pod := runs(test.pod)
			if test.none {
				pod = nil
			}
			got := due(running(test.sandbox), pod, test.causes)
			if (got == nil) != (test.want == "") || got != nil && (got.Reason != test.want || got.PodUID != "p" || got.NodeName != "node-a") {
				t.Errorf("%+v, want %q", got, test.want)
			}
		})
	}
}

// https://github.com/kubevirt/kubevirt/issues/5177: who drains a node may think better of it.
func TestMoot(t *testing.T) {
	for name, test := range map[string]struct {
		sandbox func(*v1alpha1.Sandbox)
		causes  []draining.Cause
		moot    bool
	}{
		"nothing moves":               {},
		"the node is as others again": {sandbox: moving("", v1alpha1.ReasonNodeDraining), moot: true},
		"the taint is gone":           {sandbox: moving("", v1alpha1.ReasonNodeTainted), moot: true},
		"it is drained still":         {sandbox: moving("", v1alpha1.ReasonNodeDraining), causes: drained},
		"somebody has evicted it":     {sandbox: moving("", v1alpha1.ReasonEvicted)},
		"the Pod was gone anyway":     {sandbox: moving("", v1alpha1.ReasonNodeShutdown)},
		"it is of a Pod before":       {sandbox: moving("other", v1alpha1.ReasonNodeDraining)},
		"its files are being saved": {sandbox: func(s *v1alpha1.Sandbox) {
			moving("", v1alpha1.ReasonNodeDraining)(s)
			s.Status.Phase = v1alpha1.SandboxPausing
		}},
		"it waits for its turn": {sandbox: func(s *v1alpha1.Sandbox) {
			moving("", v1alpha1.ReasonNodeDraining)(s)
			s.Status.Phase, s.Status.Conditions = v1alpha1.SandboxPausing, []metav1.Condition{{Type: v1alpha1.ConditionPaused, Reason: v1alpha1.ReasonQueued}}
		}, moot: true},
		"a pause of it waits for its turn": {sandbox: func(s *v1alpha1.Sandbox) {
			moving("", v1alpha1.ReasonNodeDraining)(s)
			s.Spec.DesiredState = v1alpha1.DesiredStatePaused
			s.Status.Phase, s.Status.Conditions = v1alpha1.SandboxPausing, []metav1.Condition{{Type: v1alpha1.ConditionPaused, Reason: v1alpha1.ReasonQueued}}
		}},
	} {
		if got := moot(running(test.sandbox), runs(nil), test.causes); got != test.moot {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestKeep: a heartbeat is no news, and what a decision looks at is all that is kept.
func TestKeep(t *testing.T) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-a", UID: "n", ResourceVersion: "3", Annotations: map[string]string{"a": "b"}, DeletionTimestamp: &metav1.Time{Time: now}},
		Spec:       corev1.NodeSpec{Unschedulable: true, Taints: []corev1.Taint{{Key: "karpenter.sh/disrupted", Effect: corev1.TaintEffectNoSchedule}}, PodCIDR: "10.0.0.0/24"},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeDiskPressure}, {Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Time{Time: now}}},
			Images:     []corev1.ContainerImage{{Names: []string{"busybox"}}},
		},
	}
	before := node.DeepCopy()
	kept, err := Keep(node)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(node, before) {
		t.Error("it changes what others may look at")
	}
	got := kept.(*corev1.Node)
	if !reflect.DeepEqual(draining.Causes(got, true), draining.Causes(node, true)) || len(draining.Causes(got, true)) != 3 {
		t.Errorf("decided on %+v", got)
	}
	if len(got.Status.Images) != 0 || len(got.Annotations) != 0 || len(got.Status.Conditions) != 1 || !got.Status.Conditions[0].LastHeartbeatTime.IsZero() {
		t.Errorf("kept %+v", got)
	}
	if differ(before, node) {
		t.Error("the same node differs from itself")
	}
	if node.Spec.Unschedulable = false; !differ(before, node) {
		t.Error("an uncordon is no news")
	}
	if other, err := Keep("no node"); other != "no node" || err != nil {
		t.Errorf("%v, %v", other, err)
	}
}

type world struct {
	*testing.T
	client.Client
	reconciler *Reconciler
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	all := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.Sandbox{}).
		WithIndex(&v1alpha1.Sandbox{}, IndexNode, func(o client.Object) []string { return []string{o.(*v1alpha1.Sandbox).Status.NodeName} }).Build()
	return &world{T: t, Client: all, reconciler: &Reconciler{Client: all, Live: all, Host: all, Clock: testingclock.NewFakePassiveClock(now)}}
}

func (w *world) visit(node string) {
	w.Helper()
	if result, err := w.reconciler.Reconcile(context.Background(), ctrl.Request{NamespacedName: client.ObjectKey{Name: node}}); err != nil || result != (ctrl.Result{}) {
		w.Fatalf("%+v, %v", result, err)
	}
}

func (w *world) move(name string) *v1alpha1.SandboxMove {
	w.Helper()
	sandbox := &v1alpha1.Sandbox{}
	if err := w.Get(context.Background(), client.ObjectKey{Namespace: "team", Name: name}, sandbox); err != nil {
		w.Fatal(err)
	}
	return sandbox.Status.Move
}

// TestANodeThatIsEmptied: every sandbox of the node and none of another; taken back when the node is as others again.
func TestANodeThatIsEmptied(t *testing.T) {
	var objects []client.Object
	for name, node := range map[string]string{"demo": "node-a", "second": "node-a", "elsewhere": "node-b"} {
		objects = append(objects,
			running(func(s *v1alpha1.Sandbox) { s.Name, s.UID, s.Status.NodeName = name, "s", node }),
			runs(func(p *corev1.Pod) { p.Name, p.Spec.NodeName = name, node }))
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}
	w := newWorld(t, append(objects, node)...)
	taint := func(taints ...corev1.Taint) {
		node.Spec.Taints = taints
		if err := w.Update(context.Background(), node); err != nil {
			t.Fatal(err)
		}
		w.visit("node-a")
		w.visit("node-b") // which is gone
	}

	taint()
	if w.move("demo") != nil {
		t.Errorf("a node as others: %+v", w.move("demo"))
	}
	taint(corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Value: "1", Effect: corev1.TaintEffectNoSchedule})
	for _, name := range []string{"demo", "second"} {
		if move := w.move(name); move == nil || move.Reason != v1alpha1.ReasonNodeDraining || move.PodUID != "p" || move.NodeName != "node-a" || !move.RequestTime.Time.Equal(now) {
			t.Errorf("%s: %+v", name, move)
		}
	}
	if w.move("elsewhere") != nil {
		t.Errorf("another node's: %+v", w.move("elsewhere"))
	}
	w.visit("node-a") // once more, and nothing is written
	taint()
	if w.move("demo") != nil || w.move("second") != nil {
		t.Errorf("the node is as others again: %+v, %+v", w.move("demo"), w.move("second"))
	}

	node.Spec.Unschedulable = true
	taint()
	if w.move("demo") != nil {
		t.Errorf("a cordon alone: %+v", w.move("demo"))
	}
	w.reconciler.Cordons = true
	w.visit("node-a")
	if w.move("demo") == nil {
		t.Error("a cordon, where it counts, moves nothing")
	}
}

func TestWhatBringsAVisit(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*v1alpha1.Sandbox)
		visit  bool
	}{
		"nothing":     {func(*v1alpha1.Sandbox) {}, false},
		"a condition": {func(s *v1alpha1.Sandbox) { s.Status.Conditions = []metav1.Condition{{Type: "Ready"}} }, false},
		"it runs":     {func(s *v1alpha1.Sandbox) { s.Status.Phase = v1alpha1.SandboxRunning }, true},
		"it is to be saved": {func(s *v1alpha1.Sandbox) {
			s.Status.Phase = v1alpha1.SandboxRunning
			s.Spec.EvictionPolicy = v1alpha1.EvictionPolicySave
		}, true},
		"it is paused": {func(s *v1alpha1.Sandbox) { s.Status.Phase = v1alpha1.SandboxPaused }, false},
	} {
		before := running(func(s *v1alpha1.Sandbox) { s.Status.Phase = v1alpha1.SandboxResuming })
		after := before.DeepCopy()
		test.change(after)
		if got := comes(before, after); got != test.visit {
			t.Errorf("%s: %v", name, got)
		}
	}
}
