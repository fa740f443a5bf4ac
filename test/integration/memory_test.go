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
	"net/http"
	"sort"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// selection is what a list or a watch is of.
type selection struct {
	resource  apischema.GroupVersionResource
	namespace string
	labels    labels.Selector
	fields    fields.Selector
}

func selected(req *http.Request, info *request.RequestInfo) (selection, error) {
	query := req.URL.Query()
	s := selection{resource: resourceOf(info), namespace: info.Namespace}
	var err error
	if s.labels, err = labels.Parse(query.Get("labelSelector")); err != nil {
		return s, err
	}
	s.fields, err = fields.ParseSelector(query.Get("fieldSelector"))
	return s, err
}

func resourceOf(info *request.RequestInfo) apischema.GroupVersionResource {
	return apischema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}
}

func (s selection) has(at place, object *unstructured.Unstructured) bool {
	if at.resource != s.resource || s.namespace != "" && at.namespace != s.namespace || !s.labels.Matches(labels.Set(object.GetLabels())) {
		return false
	}
	for _, requirement := range s.fields.Requirements() {
		value, _, _ := unstructured.NestedString(object.Object, strings.Split(requirement.Field, ".")...)
		if value != requirement.Value {
			return false
		}
	}
	return true
}

// serve answers reads and writes of objects.
func (m *memory) serve(w http.ResponseWriter, req *http.Request, info *request.RequestInfo) {
	at := place{resourceOf(info), info.Namespace, info.Name}
	known := map[string]bool{"secrets": true, "pods": true, "events": true, "persistentvolumeclaims": true, "configmaps": true}
	if !known[info.Resource] || info.Subresource != "" {
		answerError(w, apierrors.NewGenericServerResponse(http.StatusNotFound, info.Verb, at.resource.GroupResource(), info.Name, "the server could not find the requested resource", 0, true))
		return
	}
	switch info.Verb {
	case "watch":
		m.watch(w, req, info)
	case "list":
		of, err := selected(req, info)
		if err != nil {
			answerError(w, apierrors.NewBadRequest(err.Error()))
			return
		}
		answerJSON(w, http.StatusOK, m.list(of))
	case "get":
		m.lock.Lock()
		object := m.objects[at]
		m.lock.Unlock()
		if object == nil {
			answerError(w, apierrors.NewNotFound(at.resource.GroupResource(), at.name))
			return
		}
		answerJSON(w, http.StatusOK, object.Object)
	case "create":
		m.create(w, req, at)
	case "update", "patch":
		m.change(w, req, at)
	case "delete":
		m.lock.Lock()
		found := m.erase(at)
		m.lock.Unlock()
		if !found {
			answerError(w, apierrors.NewNotFound(at.resource.GroupResource(), at.name))
			return
		}
		answerJSON(w, http.StatusOK, map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Success"})
	default:
		answerError(w, apierrors.NewMethodNotSupported(at.resource.GroupResource(), info.Verb))
	}
}

func (m *memory) create(w http.ResponseWriter, req *http.Request, at place) {
	content, err := decoded(req)
	if err != nil {
		answerError(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	object := &unstructured.Unstructured{Object: content}
	if object.GetName() == "" && object.GetGenerateName() != "" {
		object.SetName(object.GetGenerateName() + utilrand.String(5))
	}
	object.SetNamespace(at.namespace)
	at.name = object.GetName()
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.objects[at] != nil {
		answerError(w, apierrors.NewAlreadyExists(at.resource.GroupResource(), at.name))
		return
	}
	if len(req.URL.Query()["dryRun"]) == 0 {
		m.write(at, object)
	}
	answerJSON(w, http.StatusCreated, object.Object)
}

// change replaces an object, or merges a patch into it.
func (m *memory) change(w http.ResponseWriter, req *http.Request, at place) {
	m.lock.Lock()
	defer m.lock.Unlock()
	was := m.objects[at]
	if was == nil {
		answerError(w, apierrors.NewNotFound(at.resource.GroupResource(), at.name))
		return
	}
	content := map[string]any{}
	var err error
	if req.Method == http.MethodPatch {
		patch := map[string]any{}
		if err = json.NewDecoder(req.Body).Decode(&patch); err == nil {
			content = merged(was.DeepCopy().Object, patch)
		}
	} else {
		content, err = decoded(req)
	}
	if err != nil {
		answerError(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	object := &unstructured.Unstructured{Object: content}
	if version := object.GetResourceVersion(); version != "" && version != was.GetResourceVersion() {
		answerError(w, apierrors.NewConflict(at.resource.GroupResource(), at.name, fmt.Errorf("the object has been modified")))
		return
	}
	m.write(at, object)
	answerJSON(w, http.StatusOK, object.Object)
}

// merged is what a merge patch makes of an object.
func merged(object, patch map[string]any) map[string]any {
	for key, value := range patch {
		inner, isObject := value.(map[string]any)
		switch was, _ := object[key].(map[string]any); {
		case value == nil:
			delete(object, key)
		case isObject && was != nil:
			object[key] = merged(was, inner)
		default:
			object[key] = value
		}
	}
	return object
}

// list is a list of what is selected, in the order of names.
func (m *memory) list(of selection) map[string]any {
	m.lock.Lock()
	defer m.lock.Unlock()
	items := []any{}
	for _, at := range m.places(of) {
		items = append(items, m.objects[at].Object)
	}
	return map[string]any{
		"apiVersion": of.resource.GroupVersion().String(), "kind": listKindOf(of.resource.Resource),
		"metadata": map[string]any{"resourceVersion": strconv.Itoa(len(m.history))}, "items": items,
	}
}

func (m *memory) places(of selection) []place {
	var places []place
	for at, object := range m.objects {
		if of.has(at, object) {
			places = append(places, at)
		}
	}
	sort.Slice(places, func(i, j int) bool {
		return places[i].namespace+"/"+places[i].name < places[j].namespace+"/"+places[j].name
	})
	return places
}

func listKindOf(resource string) string {
	if resource == "persistentvolumeclaims" {
		return "PersistentVolumeClaimList"
	}
	return kindOf(resource) + "List"
}

// watch tells of what there is, where that is asked for, and then of each change until the caller goes.
func (m *memory) watch(w http.ResponseWriter, req *http.Request, info *request.RequestInfo) {
	of, err := selected(req, info)
	if err != nil {
		answerError(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	w.Header().Set("Content-Type", asJSON)
	encoder := json.NewEncoder(w)
	m.lock.Lock()
	seen, _ := strconv.Atoi(req.URL.Query().Get("resourceVersion"))
	var first []change
	if initial := req.URL.Query().Get("sendInitialEvents") == "true"; initial || seen == 0 {
		seen = len(m.history)
		for _, at := range m.places(of) {
			first = append(first, change{"ADDED", at, m.objects[at].DeepCopy()})
		}
		if initial {
			mark := &unstructured.Unstructured{}
			mark.SetGroupVersionKind(of.resource.GroupVersion().WithKind(strings.TrimSuffix(listKindOf(of.resource.Resource), "List")))
			mark.SetResourceVersion(strconv.Itoa(seen))
			mark.SetAnnotations(map[string]string{"k8s.io/initial-events-end": "true"})
			first = append(first, change{"BOOKMARK", place{resource: of.resource}, mark})
		}
	}
	m.lock.Unlock()
	for _, event := range first {
		_ = encoder.Encode(map[string]any{"type": event.kind, "object": event.object.Object})
	}
	for {
		if flusher, ok := w.(http.Flusher); ok {
			flusher.Flush()
		}
		m.lock.Lock()
		news, more := m.history[min(seen, len(m.history)):], m.more
		seen = len(m.history)
		m.lock.Unlock()
		for _, event := range news {
			if of.has(event.at, event.object) {
				_ = encoder.Encode(map[string]any{"type": event.kind, "object": event.object.Object})
			}
		}
		if len(news) > 0 {
			continue
		}
		select {
		case <-more:
		case <-req.Context().Done():
			return
		}
	}
}
