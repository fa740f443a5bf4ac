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

package collector

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"
)

func policy(name string) *admissionv1.ValidatingAdmissionPolicy {
	return &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func binding(name string, change func(*admissionv1.ValidatingAdmissionPolicyBindingSpec)) *admissionv1.ValidatingAdmissionPolicyBinding {
	b := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
	if change != nil {
		change(&b.Spec)
	}
	return b
}

func TestMissing(t *testing.T) {
	policies := []*admissionv1.ValidatingAdmissionPolicy{policy(PodsPolicy), policy(DependentsPolicy)}
	second := binding(DependentsPolicy, nil)
	for name, test := range map[string]struct {
		policies []*admissionv1.ValidatingAdmissionPolicy
		first    *admissionv1.ValidatingAdmissionPolicyBinding
		missing  int
	}{
		"all is there":     {policies, binding(PodsPolicy, nil), 0},
		"a policy is gone": {policies[1:], binding(PodsPolicy, nil), 1},
		"it only warns": {policies, binding(PodsPolicy, func(b *admissionv1.ValidatingAdmissionPolicyBindingSpec) {
			b.ValidationActions = []admissionv1.ValidationAction{admissionv1.Warn, admissionv1.Audit}
		}), 1},
		"it is for some alone": {policies, binding(PodsPolicy, func(b *admissionv1.ValidatingAdmissionPolicyBindingSpec) {
			b.MatchResources = &admissionv1.MatchResources{}
		}), 1},
		"it binds another":    {policies, binding(PodsPolicy, func(b *admissionv1.ValidatingAdmissionPolicyBindingSpec) { b.PolicyName = "another" }), 1},
		"none of it is there": {nil, binding("another", nil), 3},
	} {
		if missing := Missing(test.policies, []*admissionv1.ValidatingAdmissionPolicyBinding{test.first, second}); len(missing) != test.missing {
			t.Errorf("%s: missing is %q", name, missing)
		}
	}
}

// A guard that somebody removes is missed within a minute, and one that comes is found; an API that does not answer changes nothing.
func TestAGuardThatComesAndGoes(t *testing.T) {
	kube := fake.NewClientset(policy(PodsPolicy), policy(DependentsPolicy), binding(DependentsPolicy, nil))
	var mutex sync.Mutex
	var told []string
	var answer error
	kube.PrependReactor("get", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		mutex.Lock()
		defer mutex.Unlock()
		return answer != nil, nil, answer
	})
	guard := NewGuard(kube, func(_ context.Context, reason, message string) {
		mutex.Lock()
		defer mutex.Unlock()
		told = append(told, reason+": "+message)
	})
	clock := newClock(t)
	guard.Clock = clock.FakeClock
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { guard.Run(ctx) })
	defer func() { cancel(); running.Wait() }()

	clock.untilWaiting()
	<-guard.Known()
	mutex.Lock()
	if guard.Holds() || len(told) != 1 || !strings.HasPrefix(told[0], Reason) || !strings.Contains(told[0], "PolicyBinding "+PodsPolicy) || !strings.Contains(told[0], "collector.yaml") {
		t.Errorf("without a binding it holds: %v, and %q is told", guard.Holds(), told)
	}
	mutex.Unlock()
	bindings := kube.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	if _, err := bindings.Create(t.Context(), binding(PodsPolicy, nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	changed := guard.Changed()
	clock.pass(missingEvery)
	if !guard.Holds() {
		t.Error("the binding that came is not found")
	}
	select {
	case <-changed:
	default:
		t.Error("whoever waits for the binding is not told")
	}
	mutex.Lock()
	answer = errors.New("connection refused")
	mutex.Unlock()
	clock.pass(lookEvery)
	if !guard.Holds() {
		t.Error("an API that does not answer is taken for one without policies")
	}
	mutex.Lock()
	answer = nil
	mutex.Unlock()
	if err := bindings.Delete(t.Context(), PodsPolicy, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	clock.pass(missingEvery)
	mutex.Lock()
	defer mutex.Unlock()
	if guard.Holds() || len(told) != 2 {
		t.Errorf("the binding that went is not missed: %q", told)
	}
}

type steps struct {
	*clocktesting.FakeClock
	t *testing.T
}

func newClock(t *testing.T) steps {
	return steps{clocktesting.NewFakeClock(time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)), t}
}

// untilWaiting returns when the guard has looked.
func (s steps) untilWaiting() {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !s.HasWaiters(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("the guard does not wait")
		}
	}
}

// pass lets time go by, until the guard has looked again.
func (s steps) pass(d time.Duration) {
	s.t.Helper()
	s.Step(d)
	s.untilWaiting()
}
