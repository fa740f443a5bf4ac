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

package move

import (
	"context"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)

// in is a sandbox in a phase, in the Pod "p".
func in(phase v1alpha1.SandboxPhase, paused string, options ...func(*v1alpha1.Sandbox)) *v1alpha1.Sandbox {
	s := &v1alpha1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "demo", UID: "uid"},
		Spec:       v1alpha1.SandboxSpec{DesiredState: v1alpha1.DesiredStateRunning, EvictionPolicy: v1alpha1.EvictionPolicySave},
		Status:     v1alpha1.SandboxStatus{Phase: phase, PodName: "demo", PodUID: "p", NodeName: "n"},
	}
	meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionPaused, Status: metav1.ConditionFalse, Reason: paused})
	for _, option := range options {
		option(s)
	}
	return s
}

func wantsPaused(s *v1alpha1.Sandbox) { s.Spec.DesiredState = v1alpha1.DesiredStatePaused }

func moving(reason string) func(*v1alpha1.Sandbox) {
	return func(s *v1alpha1.Sandbox) {
		s.Status.Move = &v1alpha1.SandboxMove{PodUID: "p", Reason: reason, RequestTime: metav1.NewMicroTime(now.Add(-time.Hour))}
	}
}

var evicted = Request{PodUID: "p", NodeName: "n", Reason: v1alpha1.ReasonEvicted}

func TestDecide(t *testing.T) {
	of := func(pod types.UID, reason string) Request { return Request{PodUID: pod, Reason: reason} }
	for name, test := range map[string]struct {
		sandbox *v1alpha1.Sandbox
		request Request
		want    Answer
	}{
		"it runs":                              {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning), evicted, Moves},
		"of an older server, without a policy": {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning, func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = "" }), evicted, Moves},
		"it moves":                             {in(v1alpha1.SandboxPausing, v1alpha1.ReasonMoving, moving(v1alpha1.ReasonEvicted)), evicted, Moves},
		// https://github.com/kubevirt/kubevirt/issues/2196: there, an eviction was granted just before a migration was over.
		"it moves, and all is saved":         {in(v1alpha1.SandboxPausing, v1alpha1.ReasonRemovingPod, moving(v1alpha1.ReasonEvicted)), evicted, Moves},
		"its pause is being cancelled":       {in(v1alpha1.SandboxPausing, v1alpha1.ReasonCanceling), evicted, Moves},
		"it is being paused":                 {in(v1alpha1.SandboxPausing, v1alpha1.ReasonPausing, wantsPaused), evicted, Pauses},
		"it is paused, and all is saved":     {in(v1alpha1.SandboxPausing, v1alpha1.ReasonRemovingPod, wantsPaused), evicted, Pauses},
		"a pause is tried again":             {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRegistryUnavailable, wantsPaused), evicted, Pauses},
		"a pause waits for a person":         {in(v1alpha1.SandboxRunning, v1alpha1.ReasonFilesLost, wantsPaused), evicted, Moves},
		"it leaves, though a pause waited":   {in(v1alpha1.SandboxPausing, v1alpha1.ReasonMoving, wantsPaused, moving(v1alpha1.ReasonEvicted)), evicted, Moves},
		"it is Failed, and its Pod is there": {in(v1alpha1.SandboxFailed, v1alpha1.ReasonNoSnapshot), evicted, Moves},
		"nothing has run":                    {in(v1alpha1.SandboxResuming, v1alpha1.ReasonResuming), evicted, NothingToSave},
		"it is paused, and has no Pod":       {in(v1alpha1.SandboxPaused, v1alpha1.ReasonPaused, func(s *v1alpha1.Sandbox) { s.Status.PodUID = "" }), of("", v1alpha1.ReasonEvicted), OtherPod},
		"another Pod":                        {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning), of("q", v1alpha1.ReasonEvicted), OtherPod},
		"nobody wants it saved":              {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning, func(s *v1alpha1.Sandbox) { s.Spec.EvictionPolicy = v1alpha1.EvictionPolicyNone }), evicted, NotWanted},
		"it is being deleted":                {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning, func(s *v1alpha1.Sandbox) { s.DeletionTimestamp = &metav1.Time{} }), evicted, Deleting},
		"a container has ended":              {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning), of("p", v1alpha1.ReasonContainerEnded), NotWanted},
		"a container has ended, and is to be restored": {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning, func(s *v1alpha1.Sandbox) {
			s.Spec.OnExit, s.Spec.EvictionPolicy = v1alpha1.ExitPolicyRestore, v1alpha1.EvictionPolicyNone
		}), of("p", v1alpha1.ReasonContainerEnded), Moves},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Decide(test.sandbox, test.request); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestTheFirstRecordStays(t *testing.T) {
	for name, test := range map[string]struct {
		sandbox *v1alpha1.Sandbox
		reason  string
		want    string
		is      bool
	}{
		"none yet":               {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning), v1alpha1.ReasonEvicted, v1alpha1.ReasonEvicted, true},
		"once more":              {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning, moving(v1alpha1.ReasonEvicted)), v1alpha1.ReasonEvicted, v1alpha1.ReasonEvicted, false},
		"for another reason":     {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning, moving(v1alpha1.ReasonNodeDraining)), v1alpha1.ReasonEvicted, v1alpha1.ReasonNodeDraining, false},
		"of a Pod before":        {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning, moving(v1alpha1.ReasonEvicted), func(s *v1alpha1.Sandbox) { s.Status.Move.PodUID = "o" }), v1alpha1.ReasonNodeDeleted, v1alpha1.ReasonNodeDeleted, true},
		"it waits to come back":  {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning, moving(v1alpha1.ReasonContainerEnded)), v1alpha1.ReasonEvicted, v1alpha1.ReasonEvicted, true},
		"and so once more":       {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning, moving(v1alpha1.ReasonContainerEnded)), v1alpha1.ReasonContainerEnded, v1alpha1.ReasonContainerEnded, false},
		"it leaves, and ends so": {in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning, moving(v1alpha1.ReasonEvicted)), v1alpha1.ReasonContainerEnded, v1alpha1.ReasonEvicted, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, is := Next(test.sandbox, Request{PodUID: "p", Reason: test.reason}, now)
			if got.Reason != test.want || is != test.is || got.PodUID != "p" {
				t.Errorf("got %+v, %t", got, is)
			}
		})
	}
}

func TestAMessageThatIsTooLongIsCut(t *testing.T) {
	for _, letter := range []string{"x", "ä", "…", "😀"} {
		got, _ := Next(in(v1alpha1.SandboxRunning, ""), Request{PodUID: "p", Message: strings.Repeat(letter, 1500)}, now)
		if len(got.Message) > maxMessage || len(got.Message) < maxMessage-8 || !utf8.ValidString(got.Message) || !strings.HasSuffix(got.Message, "…") {
			t.Errorf("of %q there are %d bytes left: %.20s", letter, len(got.Message), got.Message)
		}
	}
}

// Several replicas of the server hear of the same eviction, and the controller writes beside them.
func TestRecord(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKey{Namespace: "ns", Name: "demo"}
	stored := in(v1alpha1.SandboxRunning, v1alpha1.ReasonRunning)
	others := 2
	api := fake.NewClientBuilder().WithScheme(scheme).WithObjects(stored).WithStatusSubresource(stored).WithInterceptorFuncs(interceptor.Funcs{
		SubResourceUpdate: func(ctx context.Context, c client.Client, subresource string, o client.Object, options ...client.SubResourceUpdateOption) error {
			if others > 0 {
				others-- // the controller is faster
				other := &v1alpha1.Sandbox{}
				if err := c.Get(ctx, key, other); err != nil {
					return err
				}
				other.Status.FailedPods++
				if err := c.SubResource(subresource).Update(ctx, other); err != nil {
					return err
				}
			}
			return c.SubResource(subresource).Update(ctx, o, options...)
		},
	}).Build()
	look := func() *v1alpha1.Sandbox {
		t.Helper()
		now := &v1alpha1.Sandbox{}
		if err := api.Get(t.Context(), key, now); err != nil {
			t.Fatal(err)
		}
		return now
	}

	if answer, err := Record(t.Context(), api, api, key, evicted, now); err != nil || answer != Moves {
		t.Fatalf("got %q, %v", answer, err)
	}
	first := look()
	if move := first.Status.Move; move == nil || move.Reason != v1alpha1.ReasonEvicted || move.NodeName != "n" || !move.RequestTime.Equal(&metav1.MicroTime{Time: now}) || first.Status.FailedPods != 2 {
		t.Fatalf("the status is %+v", first.Status)
	}
	if answer, err := Record(t.Context(), api, api, key, evicted, now.Add(time.Minute)); err != nil || answer != Moves {
		t.Errorf("once more: got %q, %v", answer, err)
	}
	if again := look(); again.ResourceVersion != first.ResourceVersion {
		t.Errorf("once more it is written: %+v", again.Status.Move)
	}
	if answer, err := Record(t.Context(), api, api, client.ObjectKey{Namespace: "ns", Name: "other"}, evicted, now); err != nil || answer != Deleting {
		t.Errorf("of no sandbox: got %q, %v", answer, err)
	}
	if answer, err := Record(t.Context(), api, api, key, Request{PodUID: "q", Reason: v1alpha1.ReasonEvicted}, now); err != nil || answer != OtherPod || look().ResourceVersion != first.ResourceVersion {
		t.Errorf("of another Pod: got %q, %v", answer, err)
	}
}
