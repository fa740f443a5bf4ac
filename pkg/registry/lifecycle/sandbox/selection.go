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

package sandbox

import (
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// GetAttrs returns what sandboxes can be selected by.
func GetAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	sandbox, ok := obj.(*lifecycle.Sandbox)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not a Sandbox", obj)
	}
	return sandbox.Labels, generic.AddObjectMetaFieldsSet(fields.Set{
		v1alpha1.FieldStatusPhase:    string(sandbox.Status.Phase),
		v1alpha1.FieldStatusNodeName: sandbox.Status.NodeName,
	}, &sandbox.ObjectMeta, true), nil
}

// Match makes the predicate of a list or watch.
func Match(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	return storage.SelectionPredicate{
		Label:       label,
		Field:       field,
		GetAttrs:    GetAttrs,
		IndexFields: []string{v1alpha1.FieldStatusNodeName},
	}
}

// Indexers let the watch cache answer lists by node without looking at every sandbox.
func Indexers() *cache.Indexers {
	return &cache.Indexers{
		storage.FieldIndex(v1alpha1.FieldStatusNodeName): func(obj any) ([]string, error) {
			sandbox, ok := obj.(*lifecycle.Sandbox)
			if !ok {
				return nil, fmt.Errorf("%T is not a Sandbox", obj)
			}
			return []string{sandbox.Status.NodeName}, nil
		},
	}
}
