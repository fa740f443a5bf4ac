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

package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/lru"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
)

const (
	// HeaderKey has a key.
	HeaderKey = "OPEN-SANDBOX-API-KEY"
	// HeaderNamespace says in which namespace the sandboxes of a token's user are.
	HeaderNamespace = "OPEN-SANDBOX-NAMESPACE"
)

const (
	// Whose a token is is asked so often at most: for so long one that was revoked works on here, though not behind.
	knownTTL, unknownTTL = 10 * time.Second, 10 * time.Second
	// reviewTimeout is for how long a TokenReview may be waited for.
	reviewTimeout = 10 * time.Second
	// keptCallers is of how many tokens the clients are kept.
	keptCallers = 1000
)

// Config is what an Authenticator needs.
type Config struct {
	// Config is the gateway's own way to kube-apiserver. Its user impersonates those of the keys, and creates TokenReviews.
	Config *rest.Config
	// KeysNamespace and KeysName are the Secret of the keys; without a name there are no keys.
	KeysNamespace, KeysName string
	// DefaultNamespace is for keys and tokens that come without one.
	DefaultNamespace string
	// Open is the user that requests without a key or a token are let in as; empty: they are refused.
	Open string
}

// Authenticator finds out who requests are from.
type Authenticator struct {
	defaultNamespace string
	clients          *clients
	keys             *keys // nil: there are none
	tokens           authenticator.Token
	callers          *lru.Cache // of tokens, by tokenKey
	open             *Caller    // nil: closed
}

// New returns an Authenticator that works once it runs.
func New(config Config) (*Authenticator, error) {
	clients, err := newClients(config.Config)
	if err != nil {
		return nil, err
	}
	own, err := kubernetes.NewForConfigAndClient(clients.config, &http.Client{Transport: clients.own})
	if err != nil {
		return nil, fmt.Errorf("preparing the gateway's client of Kubernetes: %w", err)
	}
	a := &Authenticator{defaultNamespace: config.DefaultNamespace, clients: clients, callers: lru.New(keptCallers)}
	if config.KeysName != "" {
		if a.keys, err = newKeys(own, clients, config.KeysNamespace, config.KeysName, config.DefaultNamespace); err != nil {
			return nil, err
		}
	}
	if config.Open != "" {
		if a.open, err = clients.impersonating(&user.DefaultInfo{Name: config.Open}, config.DefaultNamespace); err != nil {
			return nil, err
		}
	}
	reviews, err := webhook.NewFromInterface(own.AuthenticationV1(), nil,
		wait.Backoff{Duration: 200 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 3}, reviewTimeout, webhook.AuthenticatorMetrics{
			RecordRequestTotal:   func(context.Context, string) {},
			RecordRequestLatency: func(context.Context, string, float64) {},
		})
	if err != nil {
		return nil, fmt.Errorf("preparing to ask whose tokens are: %w", err)
	}
	a.tokens = cache.New(reviews, false, knownTTL, unknownTTL)
	return a, nil
}

// Run watches the keys until the context ends.
func (a *Authenticator) Run(ctx context.Context) {
	if a.keys == nil {
		<-ctx.Done()
		return
	}
	var running sync.WaitGroup
	running.Go(func() { a.keys.run(ctx) })
	running.Wait()
}

// Ready says why nobody can be let in yet; nil: everybody can who may.
func (a *Authenticator) Ready() error {
	if a.keys != nil && !a.keys.synced() {
		return fmt.Errorf("the keys in Secret %s/%s have not been read yet", a.keys.namespace, a.keys.name)
	}
	return nil
}

// ErrNoKeys is why a gateway does not start.
var ErrNoKeys = errors.New("there are no keys")

// NeedKeys says, once the Authenticator is ready, whether it lets anybody in by a key, where it is to.
func (a *Authenticator) NeedKeys() error {
	if a.keys == nil || a.open != nil || a.keys.count() > 0 {
		return nil
	}
	return fmt.Errorf("%w in Secret %s/%s: add one, as docs/install.md says; or take tokens of the cluster alone (--keys-secret=); or let everybody in (--open-as)",
		ErrNoKeys, a.keys.namespace, a.keys.name)
}

// Authenticate is who a request is from, or the answer to one that is from nobody.
func (a *Authenticator) Authenticate(r *http.Request) (*Caller, error) {
	if presented := r.Header.Get(HeaderKey); presented != "" {
		return a.byKey(presented, r.Header.Get(HeaderNamespace))
	}
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return a.byToken(r.Context(), strings.TrimSpace(token), r.Header.Get(HeaderNamespace))
	}
	if a.open != nil {
		return a.inScope(a.open, r.Header.Get(HeaderNamespace))
	}
	return nil, answer.Errorf(http.StatusUnauthorized, answer.CodeMissingKey,
		"%s: the request has no key; send one in this header, or a token of the cluster as Authorization: Bearer", HeaderKey)
}

func (a *Authenticator) byKey(presented, namespace string) (*Caller, error) {
	if a.keys == nil {
		return nil, answer.Errorf(http.StatusUnauthorized, answer.CodeInvalidKey,
			"%s: this server takes no keys; send a token of the cluster as Authorization: Bearer", HeaderKey)
	}
	if err := a.Ready(); err != nil {
		return nil, answer.Unavailable(err.Error(), nil)
	}
	caller := a.keys.caller(presented)
	if caller == nil {
		return nil, answer.Errorf(http.StatusUnauthorized, answer.CodeInvalidKey,
			"%s: the key is not known; it may have been removed, or have a space or a line's end too much", HeaderKey)
	}
	return a.inScope(caller, namespace)
}

// inScope refuses a namespace that is not the key's.
func (a *Authenticator) inScope(caller *Caller, namespace string) (*Caller, error) {
	if namespace != "" && namespace != caller.Namespace {
		return nil, answer.Errorf(http.StatusForbidden, answer.CodeOutOfScope,
			"%s: the key is for namespace %s alone; leave the header out", HeaderNamespace, caller.Namespace)
	}
	return caller, nil
}

func (a *Authenticator) byToken(ctx context.Context, token, namespace string) (*Caller, error) {
	if namespace == "" {
		namespace = a.defaultNamespace
	}
	if causes := validation.ValidateNamespaceName(namespace, false); len(causes) > 0 {
		return nil, answer.InvalidParameter(HeaderNamespace, "%q is no name of a namespace: %s", namespace, strings.Join(causes, ", "))
	}
	response, ok, err := a.tokens.AuthenticateToken(ctx, token)
	if err != nil {
		return nil, answer.Unavailable("kube-apiserver could not be asked whose the token is", err)
	}
	if !ok {
		return nil, answer.Errorf(http.StatusUnauthorized, answer.CodeInvalidKey,
			"Authorization: the token is none of this cluster's, or has expired")
	}
	return a.presenting(token, response.User, namespace)
}

// presenting returns the caller of a token; the same for as long as the token is the same user's: a client of Kubernetes is
// some hundred objects.
func (a *Authenticator) presenting(token string, who user.Info, namespace string) (*Caller, error) {
	key := tokenKey{sha256.Sum256([]byte(token)), namespace}
	if kept, ok := a.callers.Get(key); ok && reflect.DeepEqual(kept.(*Caller).User, who) {
		return kept.(*Caller), nil
	}
	caller, err := a.clients.presenting(token, who, namespace)
	if err != nil {
		return nil, err
	}
	a.callers.Add(key, caller)
	return caller, nil
}

type tokenKey struct {
	sum       [sha256.Size]byte
	namespace string
}

// Middleware lets requests through whose caller is known, and has From know it.
func (a *Authenticator) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := a.Authenticate(r)
		if err != nil {
			answer.Write(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(With(r.Context(), caller)))
	})
}
