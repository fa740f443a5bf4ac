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

// Package collector knows whether the cluster keeps its garbage collector from what belongs to sandboxes: artifacts/base/collector.yaml
// has the policies, docs/ownership.md says what for.
package collector

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// Names of the policies, and of their bindings.
const (
	// PodsPolicy denies the collector the Pods of sandboxes.
	PodsPolicy = "sandbox-pods-not-collected"
	// DependentsPolicy denies it what else belongs to sandboxes that a store does not know which was taken.
	DependentsPolicy = "sandbox-dependents-not-collected"
)

// Reason is that of the event about policies that are missing.
const Reason = "CollectorNotGuarded"

const (
	// attempt bounds one look.
	attempt = 10 * time.Second
	// lookEvery is how often somebody looks who has found all of it, missingEvery who has not.
	lookEvery    = time.Minute
	missingEvery = 10 * time.Second
)

// Missing says what is not there, or does not do its work.
func Missing(policies []*admissionv1.ValidatingAdmissionPolicy, bindings []*admissionv1.ValidatingAdmissionPolicyBinding) []string {
	var missing []string
	for _, name := range []string{PodsPolicy, DependentsPolicy} {
		if !slices.ContainsFunc(policies, func(p *admissionv1.ValidatingAdmissionPolicy) bool { return p.Name == name }) {
			missing = append(missing, "ValidatingAdmissionPolicy "+name)
		}
		if !slices.ContainsFunc(bindings, func(b *admissionv1.ValidatingAdmissionPolicyBinding) bool { return b.Name == name && denies(b, name) }) {
			missing = append(missing, "ValidatingAdmissionPolicyBinding "+name+" (of that policy, with the action Deny, and for everything)")
		}
	}
	return missing
}

func denies(binding *admissionv1.ValidatingAdmissionPolicyBinding, policy string) bool {
	return binding.Spec.PolicyName == policy && binding.Spec.MatchResources == nil && slices.Contains(binding.Spec.ValidationActions, admissionv1.Deny)
}

// Guard looks for the policies, again and again.
type Guard struct {
	Client kubernetes.Interface
	// Tell leaves an event where an operator looks.
	Tell  func(ctx context.Context, reason, message string)
	Clock clock.WithTicker

	known chan struct{}
	told  string

	mutex   sync.Mutex
	holds   bool
	changed chan struct{}
}

// NewGuard knows nothing before it runs, and takes nothing for granted.
func NewGuard(client kubernetes.Interface, tell func(ctx context.Context, reason, message string)) *Guard {
	return &Guard{Client: client, Tell: tell, Clock: clock.RealClock{}, known: make(chan struct{}), changed: make(chan struct{})}
}

// Holds says whether the collector is known to be kept from the Pods of sandboxes.
func (g *Guard) Holds() bool {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return g.holds
}

// Changed is closed when Holds says something else than now.
func (g *Guard) Changed() <-chan struct{} {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return g.changed
}

func (g *Guard) set(holds bool) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.holds != holds {
		g.holds = holds
		close(g.changed)
		g.changed = make(chan struct{})
	}
}

// Known is closed once somebody has looked.
func (g *Guard) Known() <-chan struct{} { return g.known }

// Run looks until ctx ends.
func (g *Guard) Run(ctx context.Context) {
	for {
		again := lookEvery
		missing, err := g.Look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			// What was known stays so: that the API does not answer changes no policy.
			again = missingEvery
		default:
			if len(missing) > 0 {
				again = missingEvery
			}
			g.found(ctx, missing)
		}
		timer := g.Clock.NewTimer(again)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (g *Guard) found(ctx context.Context, missing []string) {
	g.set(len(missing) == 0)
	select {
	case <-g.known:
	default:
		close(g.known)
	}
	what := strings.Join(missing, ", ")
	if what == g.told {
		return
	}
	g.told = what
	if what == "" {
		klog.InfoS("The garbage collector is kept from the Pods of sandboxes")
		return
	}
	message := fmt.Sprintf("nothing keeps the garbage collector from what belongs to sandboxes that a store does not know: the cluster lacks %s. "+
		"Apply artifacts/base/collector.yaml; until then the Namespace is the owner of the Pods of sandboxes, and no store is accepted that the cluster does not know", what)
	klog.ErrorS(nil, "The cluster does not keep its garbage collector from sandboxes", "missing", missing)
	g.Tell(ctx, Reason, message)
}

// Look asks the API what is missing.
func (g *Guard) Look(ctx context.Context) (missing []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	api := g.Client.AdmissionregistrationV1()
	var policies []*admissionv1.ValidatingAdmissionPolicy
	var bindings []*admissionv1.ValidatingAdmissionPolicyBinding
	for _, name := range []string{PodsPolicy, DependentsPolicy} {
		policy, err := api.ValidatingAdmissionPolicies().Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			policies = append(policies, policy)
		} else if !isNone(err) {
			return nil, fmt.Errorf("reading ValidatingAdmissionPolicy %s: %w", name, err)
		}
		binding, err := api.ValidatingAdmissionPolicyBindings().Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			bindings = append(bindings, binding)
		} else if !isNone(err) {
			return nil, fmt.Errorf("reading ValidatingAdmissionPolicyBinding %s: %w", name, err)
		}
	}
	return Missing(policies, bindings), nil
}

// isNone takes a policy that may not be read for one that is not there.
func isNone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) }
