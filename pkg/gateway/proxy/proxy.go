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

// Package proxy is the way into sandboxes: the addresses of their ports, and the proxy that they lead to.
package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
)

// rightsTTL is how long an answer about somebody's rights is taken to hold.
const rightsTTL = 10 * time.Second

// Config is what a Proxy needs.
type Config struct {
	// Kube and Lifecycle are the gateway's own clients. They watch Pods, Sandboxes and the Secret, create SubjectAccessReviews
	// and the Secret, and get Sandboxes.
	Kube      kubernetes.Interface
	Lifecycle versioned.Interface
	// Authorizer says who may open which ports; nil: SubjectAccessReviews.
	Authorizer authorizer.Authorizer
	// Authenticate lets a request through whose caller it knows (see package identity), and answers any other.
	Authenticate func(http.Handler) http.Handler
	// PublicAddress is handed out instead of the host by which the gateway was reached; see ParsePublicAddress.
	PublicAddress string
	// KeyNamespace and KeyName are the Secret of the route tokens' key.
	KeyNamespace, KeyName string
	// Dial connects to Pods; nil: net.Dialer.
	Dial DialFunc
	// Clock says when tokens expire; nil: the machine's.
	Clock clock.PassiveClock
}

// Proxy hands out the addresses of sandboxes' ports, and leads requests for these into their Pods.
type Proxy struct {
	config     Config
	public     string
	authorizer authorizer.Authorizer
	cluster    *cluster
	key        *signingKey
	forwarder  *forwarder
	// known is for callers that show what they have to the gateway.
	known http.Handler
}

// New returns a Proxy that works once it runs.
func New(config Config) (*Proxy, error) {
	p := &Proxy{config: config, authorizer: config.Authorizer}
	var err error
	if p.public, err = ParsePublicAddress(config.PublicAddress); err != nil {
		return nil, err
	}
	if p.config.Clock == nil {
		p.config.Clock = clock.RealClock{}
	}
	if p.authorizer == nil {
		if p.authorizer, err = (authorizerfactory.DelegatingAuthorizerConfig{
			SubjectAccessReviewClient: config.Kube.AuthorizationV1(),
			AllowCacheTTL:             rightsTTL, DenyCacheTTL: rightsTTL,
			WebhookRetryBackoff: &wait.Backoff{Duration: 100 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 2},
		}).New(); err != nil {
			return nil, fmt.Errorf("preparing to ask for callers' rights: %w", err)
		}
	}
	if p.cluster, err = newCluster(config.Kube, config.Lifecycle); err != nil {
		return nil, fmt.Errorf("preparing to watch sandboxes and Pods: %w", err)
	}
	if p.key, err = newSigningKey(config.Kube, config.KeyNamespace, config.KeyName); err != nil {
		return nil, fmt.Errorf("preparing to watch the key of route tokens: %w", err)
	}
	dial := config.Dial
	if dial == nil {
		// Probes find a peer that went without a word; nothing else ends a silent stream.
		dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	p.forwarder = newForwarder(p.cluster, dial)
	p.known = config.Authenticate(http.HandlerFunc(p.serveCaller))
	return p, nil
}

// Run watches what requests are decided by, until the context ends.
func (p *Proxy) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { p.cluster.run(ctx) })
	running.Go(func() { p.key.run(ctx) })
	running.Wait()
}

// Ready says why requests cannot be answered yet; nil: they can.
func (p *Proxy) Ready() error {
	if !p.cluster.synced() {
		return errors.New("sandboxes and Pods have not been listed yet")
	}
	return nil
}

// Seen is a sandbox as it was seen last, which may be a moment ago, without its template; nil where none of the name was.
func (p *Proxy) Seen(namespace, name string) *v1alpha1.Sandbox {
	return p.cluster.known(namespace, name)
}

// Before leads requests for ports of sandboxes into these, and leaves all others to the next handler.
func (p *Proxy) Before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !matches(escapedPath(r)) {
			next.ServeHTTP(w, r)
			return
		}
		p.ServeHTTP(w, r)
	})
}

// ServeHTTP answers a request below …/sandboxes/{id}/proxy. Whoever has a route token needs nothing else.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route, err := parseRoute(escapedPath(r))
	if err != nil {
		answer.Write(w, r, err)
		return
	}
	token, shown := strings.CutPrefix(route.token, pathTokenMark)
	if !shown {
		token = cmp.Or(r.Header.Get(HeaderRouteToken), r.Header.Get(HeaderSecureAccess))
		shown = token != ""
	}
	if !shown {
		p.known.ServeHTTP(w, r)
		return
	}
	if err := p.serveToken(w, r, route, token); err != nil {
		answer.Write(w, r, err)
	}
}

func (p *Proxy) serveCaller(w http.ResponseWriter, r *http.Request) {
	route, err := parseRoute(escapedPath(r))
	if err == nil {
		err = p.forCaller(w, r, route)
	}
	if err != nil {
		answer.Write(w, r, err)
	}
}

func (p *Proxy) forCaller(w http.ResponseWriter, r *http.Request, route route) error {
	if err := p.Ready(); err != nil {
		return answer.Unavailable(err.Error(), nil)
	}
	sandbox, err := p.reachable(r.Context(), identity.From(r.Context()), route.id, verbOf(r.Method))
	if err != nil {
		return err
	}
	if sandbox.Annotations[v1alpha1.AnnotationSecureAccess] == "true" {
		return answer.Errorf(http.StatusUnauthorized, answer.CodeInvalidKey,
			"sandbox %q was made with secureAccess: send the header %s that its endpoint for port %d has", route.id, HeaderSecureAccess, route.port)
	}
	return p.into(w, r, route, sandbox) //nolint:contextcheck // what is not the request's is the Pod's life
}

// reachable is a sandbox whose ports a caller may open. One that there is not looks like one that it may not.
func (p *Proxy) reachable(ctx context.Context, caller *identity.Caller, id string, verb verbs) (*v1alpha1.Sandbox, error) {
	sandbox := p.cluster.known(caller.Namespace, id)
	may, err := p.mayReach(ctx, caller.User, caller.Namespace, podName(id, sandbox), verb)
	if err != nil {
		return nil, err
	}
	if may && sandbox == nil {
		if sandbox, err = p.cluster.read(ctx, caller.Namespace, id); err != nil {
			return nil, err
		}
	}
	if !may || sandbox == nil {
		return nil, notFound(id, caller.Namespace, verb)
	}
	return sandbox, nil
}

// podName is what a sandbox's Pod is called, or would be.
func podName(id string, sandbox *v1alpha1.Sandbox) string {
	if sandbox != nil && sandbox.Status.PodName != "" {
		return sandbox.Status.PodName
	}
	return id
}

func (p *Proxy) serveToken(w http.ResponseWriter, r *http.Request, route route, token string) error {
	key, err := p.key.get()
	if err != nil {
		return err
	}
	granted, err := verify(token, route.id, route.port, key, p.config.Clock.Now())
	if err != nil {
		return err
	}
	if verb := verbOf(r.Method); granted.verbs&verb == 0 {
		return notFound(route.id, granted.namespace, verb)
	}
	if err := p.Ready(); err != nil {
		return answer.Unavailable(err.Error(), nil)
	}
	sandbox := p.cluster.known(granted.namespace, route.id)
	if sandbox == nil || sandbox.UID != granted.uid {
		if sandbox, err = p.cluster.read(r.Context(), granted.namespace, route.id); err != nil {
			return err
		}
	}
	if sandbox == nil || sandbox.UID != granted.uid {
		return answer.Errorf(http.StatusNotFound, answer.CodeSandboxNotFound, "sandbox %q, which the route token is for, is gone", route.id)
	}
	return p.into(w, r, route, sandbox) //nolint:contextcheck // what is not the request's is the Pod's life
}

// into leads a request into the Pod of a sandbox that it may enter.
func (p *Proxy) into(w http.ResponseWriter, r *http.Request, route route, sandbox *v1alpha1.Sandbox) error {
	pod, err := target(sandbox, p.cluster.podOf(sandbox))
	if err != nil {
		return err
	}
	p.forwarder.forward(w, r, route, pod, func(w http.ResponseWriter, err error) {
		answer.Write(w, r, p.explain(sandbox, route.port, err))
	})
	return nil
}

// explain says why a Pod has not answered: most often because it has just been paused.
func (p *Proxy) explain(sandbox *v1alpha1.Sandbox, port uint16, err error) error {
	var refusal *answer.Error
	if errors.As(err, &refusal) {
		return refusal
	}
	if now := p.cluster.known(sandbox.Namespace, sandbox.Name); now != nil && now.UID == sandbox.UID {
		if _, err := target(now, p.cluster.podOf(now)); err != nil {
			return err
		}
	}
	if errors.Is(err, errPodGone) {
		return later(sandbox.Name, string(sandbox.Status.Phase), "its Pod has just gone", 1)
	}
	if errors.Is(err, errSwitched) {
		return unreachable(sandbox.Name, err.Error())
	}
	return couldNotConnect(sandbox.Name, port, err)
}

func notFound(id, namespace string, verb verbs) *answer.Error {
	return answer.Errorf(http.StatusNotFound, answer.CodeSandboxNotFound,
		"sandbox %q was not found in namespace %q, or you may not open its ports: that takes the verb %q on pods/proxy", id, namespace, verb.name())
}
