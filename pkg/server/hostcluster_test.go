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

package server

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/admission"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

var (
	errRefused = errors.New("connect: connection refused")
	kube135    = hostFacts{version: "v1.35.4", served: sets.New(validatingPolicies)}
	kube136    = hostFacts{version: "v1.36.3", served: sets.New(validatingPolicies, mutatingPolicies)}
)

// scriptedHost answers what it is told to.
type scriptedHost struct {
	*hostCluster
	facts hostFacts
	err   error
	asked int
	told  []string
}

func newScriptedHost() *scriptedHost {
	s := &scriptedHost{hostCluster: newHostCluster(fake.NewClientset().Discovery(), mutatingPolicies, validatingPolicies), err: errRefused}
	s.ask = func(context.Context) (hostFacts, error) { s.asked++; return s.facts, s.err }
	s.tell = func(what string) { s.told = append(s.told, what) }
	return s
}

func TestTheServerWaitsForTheKubeApiserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := newScriptedHost()
		ready := host.readyzCheck()
		go host.run(t.Context())
		time.Sleep(time.Hour)
		if host.isReached() {
			t.Fatal("it was reached though it is not there")
		}
		if err := ready.Check(nil); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("readiness says %v, want what is waited for", err)
		}
		if len(host.told) != 1 {
			t.Errorf("an hour of the same was told %d times: %q", len(host.told), host.told)
		}
		if host.asked > 800 || host.asked < 600 {
			t.Errorf("in an hour it was asked %d times, want one in 5 s", host.asked)
		}
		host.err = errors.New("x509: certificate signed by unknown authority")
		time.Sleep(10 * time.Second)
		if len(host.told) != 2 || !strings.Contains(host.told[1], "x509") {
			t.Errorf("another reason was told as %q", host.told)
		}
		host.facts, host.err = kube136, nil
		time.Sleep(10 * time.Second)
		if !host.isReached() || ready.Check(nil) != nil {
			t.Errorf("it is there, and readiness says %v", ready.Check(nil))
		}
		asked := host.asked
		time.Sleep(time.Hour)
		if host.asked != asked {
			t.Errorf("with all answers it was asked %d times more", host.asked-asked)
		}
	})
}

func TestAnUpgradeOfTheClusterBringsPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := newScriptedHost()
		host.facts, host.err = kube135, nil
		go host.run(t.Context())
		time.Sleep(time.Second)
		if !host.lacks(mutatingPolicies) || host.lacks(validatingPolicies) {
			t.Fatal("Kubernetes 1.35 has ValidatingAdmissionPolicies and no MutatingAdmissionPolicies")
		}
		// While it is upgraded it is away; one that answers without the policies changes nothing.
		host.err = errRefused
		time.Sleep(5 * time.Minute)
		if !host.isReached() || !host.lacks(mutatingPolicies) || host.readyzCheck().Check(nil) != nil {
			t.Error("a kube-apiserver that is away for a while is as if it had never been there")
		}
		host.facts, host.err = kube136, nil
		time.Sleep(2 * hostRecheck)
		if host.lacks(mutatingPolicies) {
			t.Error("after the upgrade its MutatingAdmissionPolicies are still passed by")
		}
	})
}

// TestWhoMayNotAskTakesAllForServed: clusters that take discovery away from service accounts exist; a policy must not be
// passed by there. A kube-apiserver that has just started refuses everything for a moment, and is asked again.
func TestWhoMayNotAskTakesAllForServed(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("no"))
	synctest.Test(t, func(t *testing.T) {
		host := newScriptedHost()
		host.err = forbidden
		host.run(t.Context())
		if !host.isReached() || host.lacks(mutatingPolicies) || host.lacks(validatingPolicies) {
			t.Error("policies are passed by")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		host := newScriptedHost()
		host.err = forbidden
		go host.run(t.Context())
		time.Sleep(hostForbidden / 2)
		if host.isReached() {
			t.Fatal("a kube-apiserver that knows no roles yet is taken at its word")
		}
		host.facts, host.err = kube135, nil
		time.Sleep(2 * hostMaxWait)
		if !host.lacks(mutatingPolicies) {
			t.Error("what a Kubernetes 1.35 has not is waited for, since it refused to say so at first")
		}
	})
}

func TestWhatAKubeApiserverIsAskedFor(t *testing.T) {
	kube := fake.NewClientset()
	discovery, _ := kube.Discovery().(*fakediscovery.FakeDiscovery)
	discovery.FakedServerVersion = &apimachineryversion.Info{GitVersion: "v1.35.4"}
	discovery.Resources = []*metav1.APIResourceList{{GroupVersion: "admissionregistration.k8s.io/v1", APIResources: []metav1.APIResource{{Name: validatingPolicies}}}}
	host := newHostCluster(discovery, mutatingPolicies, validatingPolicies)
	facts, err := host.ask(t.Context())
	if err != nil || facts.version != "v1.35.4" || !facts.served.Has(validatingPolicies) || facts.served.Has(mutatingPolicies) {
		t.Errorf("%+v, %v", facts, err)
	}
}

func TestAFailedConnectionIsToldWithoutOurPort(t *testing.T) {
	local, remote := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 43212}, &net.TCPAddr{IP: net.IPv4(10, 96, 0, 1), Port: 443}
	err := withoutOwnAddress(&net.OpError{Op: "read", Net: "tcp", Source: local, Addr: remote, Err: errors.New("connection reset by peer")})
	if got := err.Error(); strings.Contains(got, "43212") || !strings.Contains(got, "10.96.0.1:443") || !strings.Contains(got, "reset by peer") {
		t.Error(got)
	}
}

// TestATooOldKubernetesIsToldOf once, when it has answered.
func TestATooOldKubernetesIsToldOf(t *testing.T) {
	for version, want := range map[string]int{"v1.34.9": 1, "v1.36.3": 0} {
		synctest.Test(t, func(t *testing.T) {
			host := newScriptedHost()
			host.facts = hostFacts{version: version, served: kube136.served}
			var reasons []string
			go host.tellWarning(t.Context(), func(_ context.Context, reason, message string) {
				reasons = append(reasons, reason)
				if !strings.Contains(message, version) {
					t.Errorf("it says %q", message)
				}
			})
			go host.run(t.Context())
			time.Sleep(time.Minute)
			if len(reasons) != 0 || host.warning() != "" {
				t.Errorf("before it has answered: %q", reasons)
			}
			host.err = nil
			time.Sleep(time.Minute)
			if len(reasons) != want || want > 0 && reasons[0] != ReasonKubernetesTooOld || (host.warning() != "") != (want > 0) {
				t.Errorf("of %s: told %q, and to be said: %q", version, reasons, host.warning())
			}
		})
	}
}

func TestTooOld(t *testing.T) {
	for have, warns := range map[string]bool{
		"v1.34.9": true, "v1.29.0": true, "v1.34.1-eks-abcdef": true,
		"v1.35.0": false, "v1.35.4+k3s1": false, "v1.37.2": false, "v2.0.0": false, "v1.35.0-alpha.1": false,
		"unknown": false, "": false,
	} {
		if got := tooOld(have); (got != "") != warns {
			t.Errorf("%s: %q", have, got)
		}
	}
}

// brokenPolicies is a plugin whose watch never succeeds.
type brokenPolicies struct{ *admission.Handler }

func (brokenPolicies) Admit(context.Context, admission.Attributes, admission.ObjectInterfaces) error {
	return errors.New("not yet ready to handle request")
}

func (brokenPolicies) Validate(context.Context, admission.Attributes, admission.ObjectInterfaces) error {
	return errors.New("not yet ready to handle request")
}

type mutatingOnly struct{ admission.MutationInterface }

type validatingOnly struct{ admission.ValidationInterface }

func TestPoliciesThatTheClusterHasNotAreNotWaitedFor(t *testing.T) {
	broken := brokenPolicies{admission.NewHandler(admission.Create)}
	for name, test := range map[string]struct {
		plugin  string
		facts   *hostFacts // nil: nothing is known yet
		refuses string
	}{
		"mutating on 1.35":   {plugin: mutatingpolicy.PluginName, facts: &kube135},
		"mutating on 1.36":   {plugin: mutatingpolicy.PluginName, facts: &kube136, refuses: "not yet ready"},
		"mutating, unknown":  {plugin: mutatingpolicy.PluginName, refuses: "not known yet"},
		"validating on 1.35": {plugin: validatingpolicy.PluginName, facts: &kube135, refuses: "not yet ready"},
		"validating on 1.29": {plugin: validatingpolicy.PluginName, facts: &hostFacts{version: "v1.29.0"}},
		"validating unknown": {plugin: validatingpolicy.PluginName, refuses: "not known yet"},
		"another plugin":     {plugin: "ValidatingAdmissionWebhook", refuses: "not yet ready"},
	} {
		t.Run(name, func(t *testing.T) {
			host := newScriptedHost()
			if test.facts != nil {
				host.found(*test.facts)
			}
			var err error
			if test.plugin == mutatingpolicy.PluginName {
				mutating, _ := leaveOutUnserved(host.hostCluster)(mutatingOnly{broken}, test.plugin).(admission.MutationInterface)
				err = mutating.Admit(t.Context(), nil, nil)
			} else {
				validating, _ := leaveOutUnserved(host.hostCluster)(validatingOnly{broken}, test.plugin).(admission.ValidationInterface)
				err = validating.Validate(t.Context(), nil, nil)
			}
			if (err == nil) != (test.refuses == "") || err != nil && !strings.Contains(err.Error(), test.refuses) {
				t.Errorf("it answers %v, want %q", err, test.refuses)
			}
			if test.facts == nil && test.plugin != "ValidatingAdmissionWebhook" && !apierrors.IsServiceUnavailable(err) {
				t.Errorf("while nothing is known it answers %v, want a 503 that clients repeat", err)
			}
		})
	}
}

// TestAServerThatMayNotReadPoliciesSaysSo: an image that is newer than the ClusterRole it was installed with.
// https://github.com/carvel-dev/kapp-controller/issues/1841
func TestAServerThatMayNotReadPoliciesSaysSo(t *testing.T) {
	kube := fake.NewClientset()
	kube.PrependReactor("list", mutatingPolicies, func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: mutatingPolicies}, "", errors.New("no rule"))
	})
	host := newScriptedHost()
	factory := newHostInformers(informers.NewSharedInformerFactory(kube, 0), kube, host.hostCluster)
	factory.Admissionregistration().V1().MutatingAdmissionPolicies().Informer()
	host.found(kube136)
	factory.Start(t.Context().Done())
	plugin, _ := leaveOutUnserved(host.hostCluster)(mutatingOnly{brokenPolicies{admission.NewHandler(admission.Create)}}, mutatingpolicy.PluginName).(admission.MutationInterface)
	await(t, "a refusal that names the right that is missing", func() bool {
		err := plugin.Admit(t.Context(), nil, nil)
		return apierrors.IsServiceUnavailable(err) && strings.Contains(err.Error(), "list and watch")
	})
}

func TestReadinessWaitsForWhatTheClusterServes(t *testing.T) {
	kube := fake.NewClientset()
	host := newScriptedHost()
	factory := newHostInformers(informers.NewSharedInformerFactory(kube, 0), kube, host.hostCluster)
	policies := factory.Admissionregistration().V1()
	synced := map[string]func() bool{
		"mutating":   policies.MutatingAdmissionPolicies().Informer().HasSynced,
		"bindings":   policies.MutatingAdmissionPolicyBindings().Informer().HasSynced,
		"validating": policies.ValidatingAdmissionPolicies().Informer().HasSynced,
		"webhooks":   policies.MutatingWebhookConfigurations().Informer().HasSynced,
		"namespaces": factory.Core().V1().Namespaces().Informer().HasSynced,
	}
	var _ informers.SharedInformerFactory = factory
	factory.Start(t.Context().Done())
	for kind, ready := range factory.WaitForCacheSync(t.Context().Done()) {
		if ready {
			t.Errorf("before the kube-apiserver answers, %s is synced", kind)
		}
	}
	host.found(kube135)
	await(t, "the informers of Kubernetes 1.35 to sync", func() bool {
		return synced["validating"]() && synced["webhooks"]() && synced["namespaces"]()
	})
	waitsFor := factory.WaitForCacheSync(t.Context().Done())
	for kind, ready := range waitsFor {
		if !ready || strings.Contains(kind.String(), "Mutating") && strings.Contains(kind.String(), "Policy") {
			t.Errorf("on Kubernetes 1.35 readiness waits for %s", kind)
		}
	}
	if len(waitsFor) != 3 {
		t.Errorf("readiness waits for %v, want namespaces, webhooks and validating policies", waitsFor)
	}
	if synced["mutating"]() {
		t.Error("what is not served is watched")
	}
	host.found(kube136)
	await(t, "the informers that came with the upgrade to sync", func() bool { return synced["mutating"]() && synced["bindings"]() })
}

// await polls until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}
