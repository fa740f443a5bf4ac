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

package integration

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericfilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
)

// aggregating is a kube-apiserver with our API behind it, as far as a gateway needs one: it knows who calls, lets them act as
// others and asks what they may, as the real one does and with its own code; it keeps Secrets, Pods, Events and claims in memory, with
// watches that tell of them; and it hands what is asked of our group to the real server, which sees who calls in the
// same way. It comes and goes at an address that stays the same.
type aggregating struct {
	*memory
	t        *testing.T
	address  string
	handler  http.Handler
	sandbox  *httputil.ReverseProxy
	resolver request.RequestInfoFactory

	mutex sync.Mutex
	// serving is nil while it is away, and withoutOurs while only our server is.
	serving     *httptest.Server
	withoutOurs bool
	// logs are what Pods have written, by namespace and name.
	logs map[string]string
	// lost is the next answer that does not arrive.
	lost *lostAnswer
	// asked are the requests that were let through, as "verb resource/subresource namespace/name by user".
	asked []string
}

// newAggregating has one answer, with the server behind it.
func newAggregating(t *testing.T, behind *running) *aggregating {
	t.Helper()
	h := &aggregating{
		memory: newMemory(), t: t, logs: map[string]string{},
		resolver: request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")},
	}
	h.sandbox = proxyTo(t, behind.server.Loopback())
	handler := genericfilters.WithAuthorization(http.HandlerFunc(h.serve), authorizer.AuthorizerFunc(authorize), scheme.Codecs)
	handler = impersonation.WithImpersonation(handler, authorizer.AuthorizerFunc(authorize), scheme.Codecs)
	handler = genericfilters.WithAuthentication(handler, authenticator.RequestFunc(authenticate), genericfilters.Unauthorized(scheme.Codecs), nil, nil)
	h.handler = genericfilters.WithRequestInfo(handler, &h.resolver)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.address = listener.Addr().String()
	h.serveAt(listener)
	t.Cleanup(h.leave)
	return h
}

// proxyTo hands requests on as they came, with who calls and whom they act as.
func proxyTo(t *testing.T, config *rest.Config) *httputil.ReverseProxy {
	t.Helper()
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	anonymous := rest.AnonymousClientConfig(config)
	settings, err := anonymous.TransportConfig()
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := transport.TLSConfigFor(settings)
	if err != nil {
		t.Fatal(err)
	}
	if trusted == nil {
		trusted = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     &http.Transport{TLSClientConfig: trusted, ForceAttemptHTTP2: true},
		FlushInterval: -1,
	}
}

// as is the connection of a user to it; the token is the user's name.
func (h *aggregating) as(name string) *rest.Config {
	return &rest.Config{Host: "http://" + h.address, BearerToken: name, QPS: 1000, Burst: 1000}
}

// serveAt answers at a listener.
func (h *aggregating) serveAt(listener net.Listener) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.serving = &httptest.Server{Listener: listener, Config: &http.Server{Handler: h}}
	h.serving.Start()
}

// arrive has it answer again.
func (h *aggregating) arrive() {
	h.t.Helper()
	listener, err := net.Listen("tcp", h.address)
	for end := time.Now().Add(deadline); err != nil && time.Now().Before(end); listener, err = net.Listen("tcp", h.address) {
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.serveAt(listener)
}

// leave has every connection end, and refuses others.
func (h *aggregating) leave() {
	h.mutex.Lock()
	serving := h.serving
	h.serving = nil
	h.mutex.Unlock()
	if serving == nil {
		return
	}
	_ = serving.Listener.Close()
	serving.CloseClientConnections()
	serving.Close()
}

// hang has connections accepted, and nothing answered.
func (h *aggregating) hang() (end func()) {
	h.t.Helper()
	listener, err := net.Listen("tcp", h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	return func() { _ = listener.Close() }
}

// without says whether our server is away behind it.
func (h *aggregating) without(ours bool) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.withoutOurs = ours
}

// writes are what Pods have written to their logs.
func (h *aggregating) writes(namespace, pod, text string) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.logs[namespace+"/"+pod] = text
}

// lostAnswer is of a request of our group, by its method and how its path ends.
type lostAnswer struct {
	method, suffix string
	reaches        bool
}

// loseAnswer has the next such request end without an answer, having reached our server or not.
func (h *aggregating) loseAnswer(method, suffix string, reaches bool) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.lost = &lostAnswer{method, suffix, reaches}
}

// requests are those that were let through since the last call, of our group's as well.
func (h *aggregating) requests() []string {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	asked := h.asked
	h.asked = nil
	return asked
}

// ServeHTTP implements http.Handler.
func (h *aggregating) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !strings.HasPrefix(req.URL.Path, group) {
		h.handler.ServeHTTP(w, req)
		return
	}
	h.mutex.Lock()
	away, lost := h.withoutOurs, h.lost
	if lost != nil && (req.Method != lost.method || !strings.HasSuffix(req.URL.Path, lost.suffix)) {
		lost = nil
	}
	if lost != nil {
		h.lost = nil
	}
	if info, err := h.resolver.NewRequestInfo(req); err == nil {
		h.asked = append(h.asked, asked(info, req.Header.Get(authenticationv1.ImpersonateUserHeader)))
	}
	h.mutex.Unlock()
	if away {
		// What the aggregator says: no Status.
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	if lost != nil {
		if lost.reaches {
			h.sandbox.ServeHTTP(httptest.NewRecorder(), req)
		}
		panic(http.ErrAbortHandler)
	}
	h.sandbox.ServeHTTP(w, req)
}

func asked(info *request.RequestInfo, who string) string {
	resource := info.Resource
	if info.Subresource != "" {
		resource += "/" + info.Subresource
	}
	return fmt.Sprintf("%s %s %s/%s by %s", info.Verb, resource, info.Namespace, info.Name, who)
}

// serve answers whoever may ask.
func (h *aggregating) serve(w http.ResponseWriter, req *http.Request) {
	info, _ := request.RequestInfoFrom(req.Context())
	caller, _ := request.UserFrom(req.Context())
	h.mutex.Lock()
	h.asked = append(h.asked, asked(info, caller.GetName()))
	h.mutex.Unlock()
	if !info.IsResourceRequest {
		answerJSON(w, http.StatusOK, map[string]any{"major": "1", "minor": "37", "gitVersion": "v1.37.2"})
		return
	}
	switch {
	case info.Resource == "tokenreviews":
		h.review(w, req, reviewToken)
	case info.Resource == "subjectaccessreviews":
		h.review(w, req, reviewAccess)
	case info.Resource == "pods" && info.Subresource == "log":
		h.serveLog(w, req, info)
	default:
		h.memory.serve(w, req, info)
	}
}

// serveLog answers with the last lines of what a Pod has written.
func (h *aggregating) serveLog(w http.ResponseWriter, req *http.Request, info *request.RequestInfo) {
	h.mutex.Lock()
	text, written := h.logs[info.Namespace+"/"+info.Name]
	h.mutex.Unlock()
	if !written {
		answerError(w, apierrors.NewNotFound(apischema.GroupResource{Resource: "pods"}, info.Name))
		return
	}
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n")+"\n", "\n")
	lines = lines[:len(lines)-1]
	var tail int
	if _, err := fmt.Sscan(req.URL.Query().Get("tailLines"), &tail); err == nil && tail < len(lines) {
		lines = lines[len(lines)-tail:]
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write([]byte(strings.Join(lines, "")))
}

// review answers a review of a token or of rights.
func (h *aggregating) review(w http.ResponseWriter, req *http.Request, answer func(map[string]any) (runtime.Object, error)) {
	content, err := decoded(req)
	if err != nil {
		answerError(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	reviewed, err := answer(content)
	if err != nil {
		answerError(w, apierrors.NewInternalError(err))
		return
	}
	answerJSON(w, http.StatusCreated, reviewed)
}

func reviewToken(content map[string]any) (runtime.Object, error) {
	var review authenticationv1.TokenReview
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &review); err != nil {
		return nil, err
	}
	response, known, err := authenticate(&http.Request{Header: http.Header{"Authorization": {"Bearer " + review.Spec.Token}}})
	if err == nil && known {
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{
			Username: response.User.GetName(), Groups: response.User.GetGroups(),
		}}
	}
	review.Spec.Token = ""
	return &review, err
}

func reviewAccess(content map[string]any) (runtime.Object, error) {
	var review authorizationv1.SubjectAccessReview
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &review); err != nil {
		return nil, err
	}
	attributes := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: review.Spec.User, Groups: review.Spec.Groups}}
	if resource := review.Spec.ResourceAttributes; resource != nil {
		attributes.ResourceRequest = true
		attributes.Verb, attributes.Namespace, attributes.Name = resource.Verb, resource.Namespace, resource.Name
		attributes.APIGroup, attributes.APIVersion, attributes.Resource, attributes.Subresource = resource.Group, resource.Version, resource.Resource, resource.Subresource
	}
	decision, reason, err := authorize(context.Background(), attributes)
	review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: decision == authorizer.DecisionAllow, Reason: reason}
	return &review, err
}

// memory is objects of Kubernetes' own, with their history.
type memory struct {
	lock    sync.Mutex
	objects map[place]*unstructured.Unstructured
	history []change
	// more is closed at the next change.
	more chan struct{}
}

// place is where an object is.
type place struct {
	resource        apischema.GroupVersionResource
	namespace, name string
}

// change is one that a watch tells of; its number is the version of the object after it.
type change struct {
	kind   string
	at     place
	object *unstructured.Unstructured
}

func newMemory() *memory {
	return &memory{objects: map[place]*unstructured.Unstructured{}, more: make(chan struct{})}
}

// put stores an object as if somebody else had.
func (m *memory) put(t *testing.T, resource string, object runtime.Object) {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		t.Fatal(err)
	}
	kinds, _, err := scheme.Scheme.ObjectKinds(object)
	if err != nil {
		t.Fatal(err)
	}
	stored := &unstructured.Unstructured{Object: content}
	stored.SetGroupVersionKind(kinds[0])
	m.lock.Lock()
	defer m.lock.Unlock()
	m.write(place{kinds[0].GroupVersion().WithResource(resource), stored.GetNamespace(), stored.GetName()}, stored)
}

// named are the names of the objects of a resource in a namespace.
func (m *memory) named(resource, namespace string) []string {
	m.lock.Lock()
	defer m.lock.Unlock()
	var names []string
	for at := range m.objects {
		if at.resource.Resource == resource && at.namespace == namespace {
			names = append(names, at.name)
		}
	}
	slices.Sort(names)
	return names
}

func (m *memory) write(at place, object *unstructured.Unstructured) {
	kind := "ADDED"
	if was := m.objects[at]; was != nil {
		kind = "MODIFIED"
		object.SetUID(was.GetUID())
		object.SetCreationTimestamp(was.GetCreationTimestamp())
	} else {
		if object.GetUID() == "" {
			object.SetUID(uuid.NewUUID())
		}
		if stamp := object.GetCreationTimestamp(); stamp.IsZero() {
			object.SetCreationTimestamp(metav1.Now())
		}
	}
	m.tell(kind, at, object)
	m.objects[at] = object
}

func (m *memory) erase(at place) bool {
	was := m.objects[at]
	if was == nil {
		return false
	}
	delete(m.objects, at)
	m.tell("DELETED", at, was.DeepCopy())
	return true
}

func (m *memory) tell(kind string, at place, object *unstructured.Unstructured) {
	object.SetResourceVersion(fmt.Sprint(len(m.history) + 1))
	m.history = append(m.history, change{kind, at, object.DeepCopy()})
	close(m.more)
	m.more = make(chan struct{})
}

// answerJSON sends a body.
func answerJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", asJSON)
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

// answerError sends a Status.
func answerError(w http.ResponseWriter, err *apierrors.StatusError) {
	status := err.Status()
	status.APIVersion, status.Kind = "v1", "Status"
	answerJSON(w, int(status.Code), &status)
}
