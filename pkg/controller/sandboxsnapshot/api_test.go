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

package sandboxsnapshot

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sort"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// api is an API server in memory, as far as controllers can tell, a thousand times as fast as the fake client: a
// million steps of the world have to end. Every request of theirs may be answered otherwise first.
type api struct {
	client.Client // what is not here nobody asks for
	now           func() metav1.Time
	objects       map[string]client.Object
	version       int
	indexes       map[string]client.IndexerFunc
	// before is asked before each request of a controller; an error is the answer.
	before func(verb string, object client.Object) error
	// created hears of each Job that a controller wants to create.
	created func(*batchv1.Job)
}

func newAPI(now func() metav1.Time) *api {
	return &api{now: now, objects: map[string]client.Object{}, indexes: map[string]client.IndexerFunc{}}
}

func (a *api) key(object client.Object, name client.ObjectKey) string {
	return fmt.Sprintf("%T %s", object, name)
}

func (a *api) IndexField(_ context.Context, object client.Object, field string, values client.IndexerFunc) error {
	a.indexes[fmt.Sprintf("%T %s", object, field)] = values
	return nil
}

func (a *api) asks(verb string, object client.Object) error {
	if a.before == nil {
		return nil
	}
	return a.before(verb, object)
}

func notFound(object client.Object, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: fmt.Sprintf("%T", object)}, name)
}

func (a *api) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	if err := a.asks("get", object); err != nil {
		return err
	}
	return a.read(key, object)
}

// read is the world's own look, which nothing comes between.
func (a *api) read(key client.ObjectKey, object client.Object) error {
	stored := a.objects[a.key(object, key)]
	if stored == nil {
		return notFound(object, key.Name)
	}
	reflect.ValueOf(object).Elem().Set(reflect.ValueOf(stored.DeepCopyObject()).Elem())
	return nil
}

func (a *api) List(_ context.Context, list client.ObjectList, options ...client.ListOption) error {
	item := reflect.New(reflect.TypeOf(list).Elem().Field(2).Type.Elem()).Interface().(client.Object)
	if err := a.asks("list", item); err != nil {
		return err
	}
	selected := client.ListOptions{}
	selected.ApplyOptions(options)
	items := reflect.ValueOf(list).Elem().FieldByName("Items")
	for _, stored := range a.all(item) {
		if selected.Namespace != "" && stored.GetNamespace() != selected.Namespace || selected.LabelSelector != nil && !selected.LabelSelector.Matches(labelsOf(stored)) {
			continue
		}
		fits := true
		if selected.FieldSelector != nil {
			for _, required := range selected.FieldSelector.Requirements() {
				fits = fits && slices.Contains(a.indexes[fmt.Sprintf("%T %s", item, required.Field)](stored), required.Value)
			}
		}
		if fits {
			items.Set(reflect.Append(items, reflect.ValueOf(stored.DeepCopyObject()).Elem()))
		}
	}
	return nil
}

// all are the stored objects of a kind, in their order.
func (a *api) all(kind client.Object) []client.Object {
	var names []string
	prefix := fmt.Sprintf("%T ", kind)
	for name := range a.objects {
		if len(name) > len(prefix) && name[:len(prefix)] == prefix {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	found := make([]client.Object, 0, len(names))
	for _, name := range names {
		found = append(found, a.objects[name])
	}
	return found
}

func (a *api) Create(_ context.Context, object client.Object, _ ...client.CreateOption) error {
	if job, is := object.(*batchv1.Job); is && a.created != nil {
		a.created(job)
	}
	if err := a.asks("create", object); err != nil {
		return err
	}
	return a.store(object)
}

// store is a creation that nothing comes between.
func (a *api) store(object client.Object) error {
	key := a.key(object, client.ObjectKeyFromObject(object))
	if a.objects[key] != nil {
		return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "objects"}, object.GetName())
	}
	if object.GetUID() == "" {
		object.SetUID(types.UID(fmt.Sprintf("%s-%d", object.GetName(), a.version)))
	}
	object.SetCreationTimestamp(a.now())
	a.put(object)
	return nil
}

func (a *api) put(object client.Object) {
	a.version++
	object.SetResourceVersion(fmt.Sprint(a.version))
	a.objects[a.key(object, client.ObjectKeyFromObject(object))] = object.DeepCopyObject().(client.Object)
	if object.GetDeletionTimestamp() != nil && len(object.GetFinalizers()) == 0 {
		if _, pod := object.(*corev1.Pod); !pod { // the kubelet's to remove
			a.remove(object)
		}
	}
}

func (a *api) remove(object client.Object) {
	delete(a.objects, a.key(object, client.ObjectKeyFromObject(object)))
}

func (a *api) stored(object client.Object) (client.Object, error) {
	stored := a.objects[a.key(object, client.ObjectKeyFromObject(object))]
	if stored == nil || stored.GetUID() != object.GetUID() {
		return nil, notFound(object, object.GetName())
	}
	if object.GetResourceVersion() != "" && object.GetResourceVersion() != stored.GetResourceVersion() {
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "objects"}, object.GetName(), nil)
	}
	return stored, nil
}

func (a *api) Update(_ context.Context, object client.Object, _ ...client.UpdateOption) error {
	if err := a.asks("update", object); err != nil {
		return err
	}
	if _, err := a.stored(object); err != nil {
		return err
	}
	a.put(object)
	return nil
}

// Patch has to be of the whole object: it is, of those that the controllers change by one.
func (a *api) Patch(ctx context.Context, object client.Object, _ client.Patch, _ ...client.PatchOption) error {
	return a.Update(ctx, object)
}

func (a *api) Delete(_ context.Context, object client.Object, options ...client.DeleteOption) error {
	if err := a.asks("delete", object); err != nil {
		return err
	}
	asked := client.DeleteOptions{}
	asked.ApplyOptions(options)
	stored := a.objects[a.key(object, client.ObjectKeyFromObject(object))]
	if stored == nil {
		return notFound(object, object.GetName())
	}
	if only := asked.Preconditions; only != nil && (only.UID != nil && *only.UID != stored.GetUID() || only.ResourceVersion != nil && *only.ResourceVersion != stored.GetResourceVersion()) {
		return apierrors.NewConflict(schema.GroupResource{Resource: "objects"}, object.GetName(), nil)
	}
	a.leave(stored)
	return nil
}

// leave begins the end of an object.
func (a *api) leave(stored client.Object) {
	pod, isPod := stored.(*corev1.Pod)
	if len(stored.GetFinalizers()) == 0 && (!isPod || pod.Spec.NodeName == "") {
		a.remove(stored)
		return
	}
	if stored.GetDeletionTimestamp() == nil {
		left := stored.DeepCopyObject().(client.Object)
		now := a.now()
		left.SetDeletionTimestamp(&now)
		a.put(left)
	}
}

func (a *api) Status() client.SubResourceWriter { return &apiStatus{a: a} }

type apiStatus struct {
	client.SubResourceWriter
	a *api
}

func (s *apiStatus) Update(_ context.Context, object client.Object, _ ...client.SubResourceUpdateOption) error {
	if err := s.a.asks("status", object); err != nil {
		return err
	}
	stored, err := s.a.stored(object)
	if err != nil {
		return err
	}
	next := stored.DeepCopyObject().(client.Object)
	switch next := next.(type) {
	case *v1alpha1.SandboxSnapshot:
		object.(*v1alpha1.SandboxSnapshot).Status.DeepCopyInto(&next.Status)
	case *v1alpha1.Sandbox:
		object.(*v1alpha1.Sandbox).Status.DeepCopyInto(&next.Status)
	}
	s.a.put(next)
	object.SetResourceVersion(next.GetResourceVersion())
	return nil
}

type labelSet map[string]string

func (l labelSet) Has(label string) bool              { _, has := l[label]; return has }
func (l labelSet) Get(label string) string            { return l[label] }
func (l labelSet) Lookup(label string) (string, bool) { value, has := l[label]; return value, has }

func labelsOf(object client.Object) labelSet { return object.GetLabels() }

// conditionOf is the reason of a condition.
func conditionOf(conditions []metav1.Condition, kind string) string {
	if found := meta.FindStatusCondition(conditions, kind); found != nil {
		return found.Reason
	}
	return ""
}

// informed reads from a cache, which knows all and never fails. What it does not know is a test of its own (cached_test.go).
type informed struct{ *api }

func (i informed) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	return i.read(key, object)
}

func (i informed) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	before := i.before
	i.api.before = nil
	defer func() { i.api.before = before }()
	return i.api.List(ctx, list, options...)
}
