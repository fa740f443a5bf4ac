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

// Package identity says who a request is from: by a key that an operator has listed in a Secret, or by a token of the cluster.
package identity

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"github.com/opensandbox-io/sandbox-apiserver/generated/clientset/versioned"
)

// Caller is who a request is from. It may be shared by requests, and is never changed.
type Caller struct {
	// User is the user of the cluster that the caller is, or that its key stands for.
	User user.Info
	// Namespace is where the caller's sandboxes are.
	Namespace string
	// Lifecycle and Kube ask as the user: what it may do is for the cluster to decide.
	Lifecycle versioned.Interface
	Kube      kubernetes.Interface
}

type key struct{}

// With returns a context that has a caller.
func With(ctx context.Context, caller *Caller) context.Context {
	return context.WithValue(ctx, key{}, caller)
}

// From returns the caller; nil: the request has not passed an Authenticator.
func From(ctx context.Context) *Caller {
	caller, _ := ctx.Value(key{}).(*Caller)
	return caller
}

// clients makes the clients of callers. All share the gateway's connections.
type clients struct {
	// own has the gateway's credentials, anonymous none.
	own, anonymous http.RoundTripper
	config         *rest.Config
}

func newClients(config *rest.Config) (*clients, error) {
	shared := rest.CopyConfig(config)
	// Nobody waits for another's turn here: kube-apiserver has its own priorities and fairness, by user.
	shared.QPS = -1
	own, err := rest.TransportFor(shared)
	if err != nil {
		return nil, fmt.Errorf("preparing the gateway's connection to kube-apiserver: %w", err)
	}
	bare := rest.AnonymousClientConfig(shared)
	anonymous, err := rest.TransportFor(bare)
	if err != nil {
		return nil, fmt.Errorf("preparing callers' connection to kube-apiserver: %w", err)
	}
	return &clients{own: own, anonymous: anonymous, config: bare}, nil
}

// impersonating returns a caller whose clients act as a user by the gateway's right to.
func (c *clients) impersonating(who user.Info, namespace string) (*Caller, error) {
	as := transport.ImpersonationConfig{UserName: who.GetName(), Groups: who.GetGroups()}
	return c.caller(impersonated(who), namespace, transport.NewImpersonatingRoundTripper(as, c.own))
}

// impersonated is the user that kube-apiserver makes of one that is impersonated, by what it adds to its groups
// (k8s.io/apiserver/pkg/endpoints/filters/impersonation): whoever asks for the user's rights has to ask for theirs, too.
func impersonated(who user.Info) user.Info {
	groups := slices.Clone(who.GetGroups())
	if namespace, _, err := serviceaccount.SplitUsername(who.GetName()); err == nil && len(groups) == 0 {
		groups = serviceaccount.MakeGroupNames(namespace)
	}
	if who.GetName() != user.Anonymous && !slices.Contains(groups, user.AllAuthenticated) {
		groups = append(groups, user.AllAuthenticated)
	}
	return &user.DefaultInfo{Name: who.GetName(), Groups: groups}
}

// presenting returns a caller whose clients show its own token.
func (c *clients) presenting(token string, who user.Info, namespace string) (*Caller, error) {
	return c.caller(who, namespace, transport.NewBearerAuthRoundTripper(token, c.anonymous))
}

func (c *clients) caller(who user.Info, namespace string, through http.RoundTripper) (*Caller, error) {
	client := &http.Client{Transport: through}
	lifecycle, err := versioned.NewForConfigAndClient(c.config, client)
	if err != nil {
		return nil, fmt.Errorf("preparing a caller's client of the Sandbox API: %w", err)
	}
	kube, err := kubernetes.NewForConfigAndClient(c.config, client)
	if err != nil {
		return nil, fmt.Errorf("preparing a caller's client of Kubernetes: %w", err)
	}
	return &Caller{User: who, Namespace: namespace, Lifecycle: lifecycle, Kube: kube}, nil
}
