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

// Package clustertest is for tests: as much of a kube-apiserver as the gateway needs to know who asks it.
package clustertest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Cluster has one Secret, tokens, and a handler for the rest.
type Cluster struct {
	server *httptest.Server

	mu      sync.Mutex
	down    bool
	version int
	secret  *corev1.Secret
	changed chan struct{} // closed at each change
	tokens  map[string]authenticationv1.UserInfo
	reviews int
	seen    []*http.Request
	rest    http.Handler
}

// New returns a Cluster that a test ends. What it does not know itself is for rest; nil: that is a 404 Status.
func New(t testing.TB, rest http.Handler) *Cluster {
	t.Helper()
	if rest == nil {
		rest = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			Refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "", "not found")
		})
	}
	c := &Cluster{changed: make(chan struct{}), tokens: map[string]authenticationv1.UserInfo{}, rest: rest}
	c.server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(func() {
		c.server.CloseClientConnections()
		c.server.Close()
	})
	return c
}

// Config is the gateway's way here: with a token of its own.
func (c *Cluster) Config() *rest.Config {
	return &rest.Config{Host: c.server.URL, BearerToken: "the-gateways-own"}
}

// Keys replaces the Secret sandbox-system/keys; nil: there is none.
func (c *Cluster) Keys(entries map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	c.secret = nil
	if entries != nil {
		c.secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Namespace: "sandbox-system", Name: "keys", UID: "1", ResourceVersion: strconv.Itoa(c.version),
		}, Data: map[string][]byte{}}
		for name, entry := range entries {
			c.secret.Data[name] = []byte(entry)
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// Token has a token be somebody's.
func (c *Cluster) Token(token, user string, groups ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[token] = authenticationv1.UserInfo{Username: user, Groups: groups}
}

// Down has the cluster answer nothing but 503, or again what it has.
func (c *Cluster) Down(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

// Reviews is how many tokens have been asked about.
func (c *Cluster) Reviews() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reviews
}

// Seen are the requests for the rest, so far.
func (c *Cluster) Seen() []*http.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*http.Request(nil), c.seen...)
}

func (c *Cluster) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	down := c.down
	c.mu.Unlock()
	own := r.Header.Get("Authorization") == "Bearer the-gateways-own" && r.Header.Get("Impersonate-User") == ""
	switch {
	case down:
		Refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "", "away")
	case own && strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/sandbox-system/secrets"):
		c.serveSecret(w, r)
	case own && r.URL.Path == "/apis/authentication.k8s.io/v1/tokenreviews":
		c.serveReview(w, r)
	default:
		c.mu.Lock()
		c.seen = append(c.seen, r)
		c.mu.Unlock()
		c.rest.ServeHTTP(w, r)
	}
}

func (c *Cluster) serveReview(w http.ResponseWriter, r *http.Request) {
	review := &authenticationv1.TokenReview{}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		Refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "", err.Error())
		return
	}
	c.mu.Lock()
	c.reviews++
	review.Status.User, review.Status.Authenticated = c.tokens[review.Spec.Token], c.tokens[review.Spec.Token].Username != ""
	c.mu.Unlock()
	write(w, http.StatusCreated, review)
}

func (c *Cluster) serveSecret(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if query.Get("sendInitialEvents") == "true" || !strings.Contains(query.Get("fieldSelector"), "metadata.name=keys") {
		// An older server; client-go lists then.
		Refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "", "sendInitialEvents is not known")
		return
	}
	c.mu.Lock()
	secret, version, changed := c.secret, c.version, c.changed
	c.mu.Unlock()
	if query.Get("watch") == "" {
		list := &corev1.SecretList{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "SecretList"},
			ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(version)}, Items: []corev1.Secret{},
		}
		if secret != nil {
			list.Items = append(list.Items, *secret)
		}
		write(w, http.StatusOK, list)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	since, _ := strconv.Atoi(query.Get("resourceVersion"))
	for {
		if version > since {
			since = version
			event := "MODIFIED"
			if secret == nil {
				event, secret = "DELETED", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "sandbox-system", Name: "keys", UID: "1"}}
			}
			shown := secret.DeepCopy()
			shown.APIVersion, shown.Kind, shown.ResourceVersion = "v1", "Secret", strconv.Itoa(version)
			_ = json.NewEncoder(w).Encode(map[string]any{"type": event, "object": shown})
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		c.mu.Lock()
		secret, version, changed = c.secret, c.version, c.changed
		c.mu.Unlock()
	}
}

// Refuse answers as a kube-apiserver does.
func Refuse(w http.ResponseWriter, code int32, reason metav1.StatusReason, kind, message string) {
	write(w, int(code), &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
		Code: code, Reason: reason, Message: message, Details: &metav1.StatusDetails{Kind: kind},
	})
}

func write(w http.ResponseWriter, status int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(object)
}
