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
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// OldestKubernetes is the oldest version that this server is tested with.
const OldestKubernetes = "1.35"

const (
	// hostAttempt bounds one look at the kube-apiserver, hostMaxWait the wait between two while it is away.
	hostAttempt = 10 * time.Second
	hostMaxWait = 5 * time.Second
	// hostRecheck is how often it is asked for resources that it did not serve: an upgrade brings them.
	hostRecheck = time.Minute
	// hostForbidden is for how long a refusal is not believed: a kube-apiserver that starts knows no roles yet.
	hostForbidden = time.Minute
)

// hostCluster is what the server knows of the kube-apiserver in front of it. It may start before that, as after a power
// failure, or while a control plane is upgraded: whatever needs the kube-apiserver waits here, and the server says for what.
type hostCluster struct {
	// ask finds out the version, and which of the resources in optional are served.
	ask      func(context.Context) (hostFacts, error)
	optional sets.Set[string]
	clock    clock.WithTicker
	// tell, if not nil, is told what is waited for, before the kube-apiserver is reached.
	tell func(what string)

	// reached is closed when it has answered once.
	reached chan struct{}
	// serves has a channel for each optional resource, closed when it is served.
	serves map[string]chan struct{}
	// synced says of an optional resource that is served whether the server has read it. Set before the server serves.
	synced map[string]func() bool

	mutex sync.Mutex
	// waiting says for what; empty when nothing is waited for.
	waiting string
	// tooOld says that this Kubernetes is; empty where it is not, or has not answered yet.
	tooOld string
}

// hostFacts is an answer of the kube-apiserver.
type hostFacts struct {
	version string
	// served are the optional resources that it has.
	served sets.Set[string]
}

// hostConnection is that of a kubeconfig, or of the Pod that the server runs in.
func hostConnection(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// newHostCluster knows nothing before it runs.
func newHostCluster(client discovery.DiscoveryInterface, optional ...string) *hostCluster {
	h := &hostCluster{
		optional: sets.New(optional...),
		clock:    clock.RealClock{},
		reached:  make(chan struct{}),
		serves:   map[string]chan struct{}{},
		synced:   map[string]func() bool{},
		waiting:  "the kube-apiserver has not been asked yet",
	}
	for _, resource := range optional {
		h.serves[resource] = make(chan struct{})
	}
	asking := discovery.ToDiscoveryInterfaceWithContext(client)
	h.ask = func(ctx context.Context) (hostFacts, error) { return discoverHost(ctx, asking) }
	return h
}

// discoverHost asks for the version, and for the resources of the group that the optional ones belong to.
func discoverHost(ctx context.Context, client discovery.DiscoveryInterfaceWithContext) (hostFacts, error) {
	ctx, cancel := context.WithTimeout(ctx, hostAttempt)
	defer cancel()
	info, err := client.ServerVersionWithContext(ctx)
	if err != nil {
		return hostFacts{}, fmt.Errorf("the kube-apiserver does not answer: %w", withoutOwnAddress(err))
	}
	resources, err := client.ServerResourcesForGroupVersionWithContext(ctx, admissionv1.SchemeGroupVersion.String())
	if apierrors.IsNotFound(err) {
		return hostFacts{version: info.GitVersion}, nil
	}
	if err != nil {
		return hostFacts{}, fmt.Errorf("the kube-apiserver does not say which kinds of admission policies it has: %w", withoutOwnAddress(err))
	}
	facts := hostFacts{version: info.GitVersion, served: sets.New[string]()}
	for i := range resources.APIResources {
		facts.served.Insert(resources.APIResources[i].Name)
	}
	return facts, nil
}

// withoutOwnAddress leaves out of a failed connection the port of our side, which is another one at every try: what stays
// the same is told once.
func withoutOwnAddress(err error) error {
	var failed *net.OpError
	if errors.As(err, &failed) && failed.Addr != nil {
		return fmt.Errorf("%s %s: %w", failed.Op, failed.Addr, failed.Err)
	}
	return err
}

// run asks until it has been answered, and then for what was not served, until ctx ends.
func (h *hostCluster) run(ctx context.Context) {
	backoff := wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 1 << 30, Cap: hostMaxWait}
	next := backoff.DelayFunc()
	began := h.clock.Now()
	for {
		delay := hostRecheck
		facts, err := h.ask(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case apierrors.IsForbidden(err) && h.clock.Since(began) > hostForbidden:
			// Whoever took away what everybody may ask has all of it, as far as can be known.
			klog.ErrorS(err, "The server may not ask which Kubernetes this is; taking it for a new one")
			h.found(hostFacts{version: "unknown", served: h.optional})
			return
		case err != nil:
			h.waitFor(err.Error())
			if !h.isReached() {
				delay = next()
			}
		default:
			if h.found(facts) {
				return
			}
		}
		timer := h.clock.NewTimer(delay)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// waitFor notes what is waited for, and tells once.
func (h *hostCluster) waitFor(what string) {
	if h.isReached() {
		return
	}
	h.mutex.Lock()
	told := h.waiting == what
	h.waiting = what
	h.mutex.Unlock()
	if told {
		return
	}
	klog.InfoS("Waiting for the kube-apiserver", "why", what)
	if h.tell != nil {
		h.tell(what)
	}
}

// found notes an answer, and says whether there is nothing left to ask.
func (h *hostCluster) found(facts hostFacts) (all bool) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	missing := sets.New[string]()
	for resource, served := range h.serves {
		switch {
		case !facts.served.Has(resource):
			missing.Insert(resource)
		case !closed(served):
			close(served)
			if h.isReached() {
				klog.InfoS("The kube-apiserver has begun to serve a kind of admission policies", "resource", resource, "version", facts.version)
			}
		}
	}
	if !h.isReached() {
		h.waiting = ""
		klog.InfoS("The kube-apiserver answers", "version", facts.version)
		if h.tooOld = tooOld(facts.version); h.tooOld != "" {
			klog.InfoS("WARNING: " + h.tooOld)
		}
		if len(missing) > 0 {
			klog.InfoS("This Kubernetes does not serve every kind of admission policies in v1; none of these are heeded, and nothing waits for them", "missing", sets.List(missing))
		}
		close(h.reached)
	}
	return len(missing) == 0
}

// tooOld warns of a Kubernetes that nobody has tried; empty where it is supported, or unknown.
func tooOld(gitVersion string) string {
	have, err := version.ParseGeneric(gitVersion)
	if err != nil || have.AtLeast(version.MustParseGeneric(OldestKubernetes)) {
		return ""
	}
	return fmt.Sprintf("Kubernetes %s is older than %s, the oldest that this server supports and is tested with; upgrade the cluster before you rely on it", gitVersion, OldestKubernetes)
}

// warning is what is to be said of this Kubernetes, empty where there is nothing.
func (h *hostCluster) warning() string {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return h.tooOld
}

// ReasonKubernetesTooOld is the reason of the event about a Kubernetes that is older than those that this server is tested with.
const ReasonKubernetesTooOld = "KubernetesTooOld"

// tellWarning tells once what is to be said of this Kubernetes, as soon as that is known.
func (h *hostCluster) tellWarning(ctx context.Context, tell func(ctx context.Context, reason, message string)) {
	if !h.await(ctx.Done()) {
		return
	}
	if warning := h.warning(); warning != "" {
		tell(ctx, ReasonKubernetesTooOld, warning)
	}
}

func closed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}

func (h *hostCluster) isReached() bool { return closed(h.reached) }

// await returns when the kube-apiserver has answered once: false where done came first.
func (h *hostCluster) await(done <-chan struct{}) bool { return awaitEither(h.reached, done) }

// awaitServed returns when an optional resource is served: false where done came first.
func (h *hostCluster) awaitServed(resource string, done <-chan struct{}) bool {
	return awaitEither(h.serves[resource], done)
}

func awaitEither(channel, done <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	case <-done:
		return false
	}
}

// lacks says whether the kube-apiserver is known not to serve an optional resource.
func (h *hostCluster) lacks(resource string) bool {
	return h.isReached() && !closed(h.serves[resource])
}

// readyzCheck fails until the kube-apiserver has answered. One that goes away later takes no replica out of service:
// watches go on, and who was authenticated stays so for a while.
func (h *hostCluster) readyzCheck() healthz.HealthChecker {
	return healthz.NamedCheck("kube-apiserver", func(*http.Request) error {
		h.mutex.Lock()
		defer h.mutex.Unlock()
		if h.waiting != "" {
			return errors.New(h.waiting)
		}
		return nil
	})
}
