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

package server

import (
	"context"
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
)

// answering is an admission plugin that gives one answer after the other, the last for ever.
type answering struct {
	answers []error
	asked   int
}

func (a *answering) Handles(admission.Operation) bool { return true }

func (a *answering) Validate(context.Context, admission.Attributes, admission.ObjectInterfaces) error {
	a.asked++
	return a.answers[min(a.asked, len(a.answers))-1]
}

func TestAConflictOfTheQuotaIsNotTheClients(t *testing.T) {
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "resourcequotas"}, "small", errors.New("another was faster"))
	exceeded := apierrors.NewForbidden(schema.GroupResource{Resource: "sandboxes"}, "demo", errors.New("exceeded quota"))
	for name, test := range map[string]struct {
		plugin  string
		answers []error
		want    func(error) bool
		asked   int
	}{
		"admitted":                     {resourcequota.PluginName, []error{nil}, func(err error) bool { return err == nil }, 1},
		"refused":                      {resourcequota.PluginName, []error{exceeded}, apierrors.IsForbidden, 1},
		"admitted after conflicts":     {resourcequota.PluginName, []error{conflict, conflict, nil}, func(err error) bool { return err == nil }, 3},
		"refused after conflicts":      {resourcequota.PluginName, []error{conflict, exceeded}, apierrors.IsForbidden, 2},
		"conflicts without end":        {resourcequota.PluginName, []error{conflict}, apierrors.IsTooManyRequests, 4},
		"a conflict of another plugin": {"NamespaceLifecycle", []error{conflict, nil}, apierrors.IsConflict, 1},
	} {
		t.Run(name, func(t *testing.T) {
			plugin := &answering{answers: test.answers}
			attributes := admission.NewAttributesRecord(nil, nil, schema.GroupVersionKind{}, "default", "demo", schema.GroupVersionResource{}, "", admission.Create, nil, false, nil)
			err := tryQuotaAgain(plugin, test.plugin).(admission.ValidationInterface).Validate(t.Context(), attributes, nil)
			if !test.want(err) || plugin.asked != test.asked {
				t.Errorf("asked %d times: %v", plugin.asked, err)
			}
		})
	}
}
