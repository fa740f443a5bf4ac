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

package apiserver

import (
	"maps"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/lru"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

// rememberedParts is of how many objects the large parts are remembered: those that are written to now.
const rememberedParts = 256

// sharedHistory makes stores whose watch cache has the parts of an object that do not change once. It
// keeps each version of the last 75 seconds, whole: a template of 64 KiB and what its field managers own
// of it take 140 kB each time that a label changes.
type sharedHistory struct {
	generic.RESTOptionsGetter
}

// GetRESTOptions returns the options of a resource.
func (s sharedHistory) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := s.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err != nil {
		return options, err
	}
	decorate := options.Decorator
	options.Decorator = func(config *storagebackend.ConfigForResource, resourcePrefix string, keyFunc func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, attributes storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		return decorate(config, resourcePrefix, keyFunc, newFunc, newListFunc, sharing(attributes), triggers, indexers)
	}
	return options, nil
}

// sharing has an object take over what it has in common with its last version. The cache asks for the
// attributes of an object once, when it has just decoded it: nobody else can see it yet, and nobody
// changes one that the cache has.
func sharing(attributes storage.AttrFunc) storage.AttrFunc {
	last := lru.New(rememberedParts)
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		if now, uid := partsOf(obj); uid != "" {
			if before, found := last.Get(uid); found {
				now.takeOver(before.(parts))
			}
			last.Add(uid, now)
		}
		return attributes(obj)
	}
}

// parts are what of an object can be large.
type parts struct {
	meta *metav1.ObjectMeta
	// template is where the object has its template.
	template reflect.Value
}

func partsOf(obj runtime.Object) (parts, types.UID) {
	switch obj := obj.(type) {
	case *lifecycle.Sandbox:
		return parts{&obj.ObjectMeta, reflect.ValueOf(&obj.Spec.Template).Elem()}, obj.UID
	case *lifecycle.SandboxSnapshot:
		return parts{&obj.ObjectMeta, reflect.ValueOf(&obj.Status.Template).Elem()}, obj.UID
	}
	return parts{}, ""
}

// takeOver shares what is exactly the same, to the way in which a quantity is written.
func (p parts) takeOver(before parts) {
	if reflect.DeepEqual(p.template.Interface(), before.template.Interface()) {
		p.template.Set(before.template)
	}
	if maps.Equal(p.meta.Annotations, before.meta.Annotations) {
		p.meta.Annotations = before.meta.Annotations
	}
	for i, entry := range p.meta.ManagedFields {
		for _, owned := range before.meta.ManagedFields {
			if entry.FieldsV1 != nil && owned.FieldsV1 != nil && entry.FieldsV1.Equal(*owned.FieldsV1) {
				p.meta.ManagedFields[i].FieldsV1 = owned.FieldsV1
				break
			}
		}
	}
}
