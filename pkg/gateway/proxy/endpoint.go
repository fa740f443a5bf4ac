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

package proxy

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/inbound"
)

// Endpoints are the document's operations on the addresses of ports.
type Endpoints struct{ proxy *Proxy }

// Endpoints returns the handlers.
func (p *Proxy) Endpoints() Endpoints { return Endpoints{p} }

// GetSandboxEndpoint implements getSandboxEndpoint. Whoever may get a sandbox is told where its ports are, whatever it does
// just now: clients ask before it runs, and keep what they are told. Where expires is set the address has a route token in it,
// with the rights that the caller has on the ports now.
func (e Endpoints) GetSandboxEndpoint(ctx context.Context, params httpapi.GetSandboxEndpointParams) (*httpapi.Endpoint, error) {
	p := e.proxy
	expires, signed := params.Expires.Get()
	if signed {
		if err := checkExpires(expires, p.config.Clock.Now()); err != nil {
			return nil, err
		}
		if params.UseServerProxy.Or(false) {
			return nil, answer.InvalidParameter("expires", "is not for use_server_proxy=true: leave one of them out")
		}
	}
	caller := identity.From(ctx)
	sandbox, err := caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace).Get(ctx, params.SandboxId, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	port := uint16(params.Port) // from 1 to 65535, by the document
	endpoint := &httpapi.Endpoint{Endpoint: address(inbound.From(ctx), p.public, sandbox.Name, port)}
	secure := sandbox.Annotations[v1alpha1.AnnotationSecureAccess] == "true"
	if !signed && !secure {
		return endpoint, nil
	}
	key, err := p.key.get()
	if err != nil {
		return nil, err
	}
	rights, err := p.mayAny(ctx, caller.User, caller.Namespace, podName(sandbox.Name, sandbox))
	if err != nil {
		return nil, err
	}
	if rights == 0 {
		return nil, notFound(sandbox.Name, caller.Namespace, verbGet)
	}
	granted := grant{namespace: sandbox.Namespace, sandbox: sandbox.Name, uid: sandbox.UID, port: port, verbs: rights, expires: expires}
	if signed {
		endpoint.Endpoint += "/" + pathTokenMark + granted.sign(key)
		return endpoint, nil
	}
	// Clients keep it for as long as they have the sandbox, and it is for that sandbox alone.
	granted.expires = math.MaxInt64
	endpoint.Headers = httpapi.NewOptEndpointHeaders(httpapi.EndpointHeaders{HeaderSecureAccess: granted.sign(key)})
	return endpoint, nil
}

// address is what a client puts behind a scheme to reach a port of a sandbox: always the gateway's own, because the
// addresses of Pods are not to be reached from everywhere, and change with every resume. A public address takes the place
// of the host that the client named.
func address(reached inbound.Request, public, id string, port uint16) string {
	host := reached.Host
	if public != "" {
		host = public
	}
	return fmt.Sprintf("%s%s/sandboxes/%s/proxy/%d", host, reached.Base, id, port)
}

// ParsePublicAddress reads host, host:port or host/path, with a scheme or without: clients put one before it themselves.
func ParsePublicAddress(address string) (string, error) {
	if address == "" {
		return "", nil
	}
	_, bare, ok := strings.Cut(address, "://")
	if !ok {
		bare = address
	}
	u, err := url.Parse("http://" + bare)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("public address %q must be host, host:port or host:port/path", address)
	}
	return strings.TrimSuffix(u.Host+u.EscapedPath(), "/"), nil
}

// checkExpires checks when a route token is to expire, in seconds since 1970.
func checkExpires(expires uint64, now time.Time) error {
	if expires <= uint64(now.Unix()) {
		return answer.Errorf(http.StatusBadRequest, answer.CodeInvalidExpiration,
			"expires: %d is in the past: it is %d now (seconds since 1970, UTC)", expires, now.Unix())
	}
	return nil
}
