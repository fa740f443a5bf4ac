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
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// awayHost is a kube-apiserver that comes and goes: what the server reads and writes of one, in memory, at an address
// that stays the same. Watches see nothing happen.
type awayHost struct {
	t       *testing.T
	address string
	// serves are the kinds of admission policies that it has.
	serves []string

	mutex   sync.Mutex
	server  *httptest.Server
	objects map[string]map[string]any
	// created are the paths of what was created, with names.
	created []string
}

// newAwayHost finds an address where nobody is.
func newAwayHost(t *testing.T) *awayHost {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := &awayHost{
		t: t, address: listener.Addr().String(), objects: map[string]map[string]any{},
		serves: []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"},
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	host.objects["/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"] = host.object("v1", "ConfigMap", map[string]any{
		"metadata": map[string]any{"name": "extension-apiserver-authentication", "namespace": "kube-system"},
		"data": map[string]any{
			"client-ca-file":               testAuthority(t),
			"requestheader-client-ca-file": testAuthority(t), "requestheader-username-headers": `["X-Remote-User"]`,
			"requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-allowed-names": `["front-proxy-client"]`,
		},
	})
	host.objects["/api/v1/namespaces/default"] = host.object("v1", "Namespace", map[string]any{
		"metadata": map[string]any{"name": "default", "uid": "default"}, "status": map[string]any{"phase": "Active"},
	})
	t.Cleanup(host.leave)
	return host
}

// arrive has it answer.
func (h *awayHost) arrive() {
	h.t.Helper()
	var listener net.Listener
	var err error
	for end := time.Now().Add(deadline); ; time.Sleep(20 * time.Millisecond) {
		if listener, err = net.Listen("tcp", h.address); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: h}}
	h.server.Start()
}

// hang has connections accepted, and nothing answered.
func (h *awayHost) hang() (end func()) {
	h.t.Helper()
	listener, err := net.Listen("tcp", h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	return func() { _ = listener.Close() }
}

// leave has every connection end, and refuses others.
func (h *awayHost) leave() {
	h.mutex.Lock()
	server := h.server
	h.server = nil
	h.mutex.Unlock()
	if server == nil {
		return
	}
	_ = server.Listener.Close()
	server.CloseClientConnections()
	server.Close()
}

func (h *awayHost) object(version, kind string, content map[string]any) map[string]any {
	content["apiVersion"], content["kind"] = version, kind
	return content
}

// ServeHTTP implements http.Handler.
func (h *awayHost) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	answer := func(code int, body map[string]any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	path := strings.TrimSuffix(req.URL.Path, "/")
	switch {
	case path == "/version":
		answer(http.StatusOK, map[string]any{"major": "1", "minor": "36", "gitVersion": "v1.36.3"})
		return
	case path == "/api":
		answer(http.StatusOK, map[string]any{"kind": "APIVersions", "versions": []string{"v1"}})
		return
	case path == "/apis":
		groups := []any{}
		for _, group := range []string{"batch", "admissionregistration.k8s.io"} {
			version := map[string]any{"groupVersion": group + "/v1", "version": "v1"}
			groups = append(groups, map[string]any{"name": group, "versions": []any{version}, "preferredVersion": version})
		}
		answer(http.StatusOK, map[string]any{"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
		return
	case path == "/openapi/v3":
		answer(http.StatusOK, map[string]any{"paths": map[string]any{}})
		return
	case strings.HasPrefix(path, "/openapi"):
		answer(http.StatusNotFound, h.status(http.StatusNotFound, path))
		return
	case h.resources(path) != nil:
		answer(http.StatusOK, map[string]any{
			"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": strings.TrimPrefix(strings.TrimPrefix(path, "/apis/"), "/api/"), "resources": h.resources(path),
		})
		return
	}
	isList, version := h.lists(path)
	switch {
	case req.URL.Query().Get("watch") != "":
		policies := strings.HasPrefix(path, "/apis/admissionregistration.k8s.io/v1/") && strings.Contains(path, "policies")
		if policies && !slices.Contains(h.serves, path[strings.LastIndex(path, "/")+1:]) {
			answer(http.StatusNotFound, h.status(http.StatusNotFound, path))
			return
		}
		h.watch(w, req, path)
	case req.Method == http.MethodGet && isList:
		if strings.Contains(path, "mutatingadmission") && !slices.Contains(h.serves, path[strings.LastIndex(path, "/")+1:]) {
			answer(http.StatusNotFound, h.status(http.StatusNotFound, path))
			return
		}
		answer(http.StatusOK, map[string]any{"kind": "List", "apiVersion": version, "metadata": map[string]any{"resourceVersion": "1"}, "items": h.below(path)})
	case req.Method == http.MethodGet:
		h.mutex.Lock()
		object, found := h.objects[path]
		h.mutex.Unlock()
		if !found {
			answer(http.StatusNotFound, h.status(http.StatusNotFound, path))
			return
		}
		answer(http.StatusOK, object)
	case req.Method == http.MethodPost, req.Method == http.MethodPut:
		object, err := decoded(req)
		if err != nil {
			h.t.Logf("%s %s: %v", req.Method, path, err)
			answer(http.StatusUnsupportedMediaType, h.status(http.StatusUnsupportedMediaType, path))
			return
		}
		if strings.HasSuffix(path, "accessreviews") {
			object["status"] = map[string]any{"allowed": true}
			answer(http.StatusCreated, object)
			return
		}
		h.store(req, path, object)
		answer(http.StatusCreated, object)
	default:
		answer(http.StatusOK, h.status(http.StatusOK, path))
	}
}

// decoded is what a request brings: JSON, or protobuf of what Kubernetes itself has.
func decoded(req *http.Request) (map[string]any, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	object, kind, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return nil, err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	content["apiVersion"], content["kind"] = kind.GroupVersion().String(), kind.Kind
	return content, nil
}

// resources are what discovery says of a group and version; nil where it is none of those asked for.
func (h *awayHost) resources(path string) []any {
	kinds := map[string][]string{
		"/api/v1":                               {"pods", "events", "configmaps", "secrets", "nodes", "namespaces"},
		"/apis/batch/v1":                        {"jobs"},
		"/apis/admissionregistration.k8s.io/v1": h.serves,
	}[path]
	var resources []any
	for _, name := range kinds {
		resources = append(resources, map[string]any{
			"name": name, "singularName": strings.TrimSuffix(name, "s"), "kind": kindOf(name), "namespaced": !slices.Contains([]string{"nodes", "namespaces"}, name),
			"verbs": []string{"get", "list", "watch", "create", "update", "delete"},
		})
	}
	return resources
}

func (h *awayHost) store(req *http.Request, path string, object map[string]any) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	u := unstructured.Unstructured{Object: object}
	u.SetResourceVersion(fmt.Sprint(time.Now().UnixNano()))
	if req.Method == http.MethodPost {
		path += "/" + u.GetName()
		if len(req.URL.Query()["dryRun"]) == 0 {
			h.created = append(h.created, path)
		}
	}
	h.objects[path] = object
}

// lists says whether a path is that of a list, and of which version.
func (h *awayHost) lists(path string) (bool, string) {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	version := parts[1:2]
	if parts[0] == "apis" && len(parts) > 2 {
		version = parts[1:3]
	}
	rest := parts[1+len(version):]
	if len(rest) > 1 && rest[0] == "namespaces" {
		return len(rest) == 3, strings.Join(version, "/")
	}
	return len(rest) == 1, strings.Join(version, "/")
}

func (h *awayHost) below(path string) []any {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	items := []any{}
	for at, object := range h.objects {
		if filepath.Dir(at) == path {
			items = append(items, object)
		}
	}
	return items
}

// watch sends what there is, where that is asked for, and a bookmark, and nothing more.
func (h *awayHost) watch(w http.ResponseWriter, req *http.Request, path string) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	if req.URL.Query().Get("sendInitialEvents") == "true" {
		_, version := h.lists(path)
		for _, object := range h.below(path) {
			_ = encoder.Encode(map[string]any{"type": "ADDED", "object": object})
		}
		_ = encoder.Encode(map[string]any{"type": "BOOKMARK", "object": map[string]any{
			"apiVersion": version, "kind": kindOf(path),
			"metadata": map[string]any{"resourceVersion": "1", "annotations": map[string]any{"k8s.io/initial-events-end": "true"}},
		}})
	}
	if flusher, ok := w.(http.Flusher); ok {
		flusher.Flush()
	}
	<-req.Context().Done()
}

// kindOf is the kind of what is in a list.
func kindOf(path string) string {
	resource := path[strings.LastIndex(path, "/")+1:]
	return map[string]string{
		"namespaces": "Namespace", "nodes": "Node", "secrets": "Secret", "configmaps": "ConfigMap", "resourcequotas": "ResourceQuota", "pods": "Pod", "jobs": "Job", "events": "Event",
		"mutatingwebhookconfigurations": "MutatingWebhookConfiguration", "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
		"mutatingadmissionpolicies": "MutatingAdmissionPolicy", "mutatingadmissionpolicybindings": "MutatingAdmissionPolicyBinding",
		"validatingadmissionpolicies": "ValidatingAdmissionPolicy", "validatingadmissionpolicybindings": "ValidatingAdmissionPolicyBinding",
		"flowschemas": "FlowSchema", "prioritylevelconfigurations": "PriorityLevelConfiguration",
	}[resource]
}

func (h *awayHost) status(code int, path string) map[string]any {
	reason := metav1.StatusReasonNotFound
	if code == http.StatusOK {
		reason = ""
	}
	return map[string]any{"apiVersion": "v1", "kind": "Status", "code": code, "reason": reason, "message": path}
}
